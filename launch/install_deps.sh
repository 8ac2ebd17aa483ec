#!/usr/bin/env bash
# Installs what building and running Tessera needs on Debian 12 and Ubuntu 24.04; does nothing when
# all of it is there. Needs root or sudo. CUDA, NCCL and cuDNN are not installed: without nvcc the
# build has no CUDA back end.
#   launch/install_deps.sh [--tools]     --tools: what the format and layer checks of .ci/run need, too
set -euo pipefail

packages=(
  build-essential cmake ninja-build ccache pkg-config git
  libabsl-dev libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  libopenmpi-dev openmpi-bin nlohmann-json3-dev libutf8proc-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  procps util-linux hostname
)
case ${1:-} in
  '') ;;
  --tools) packages+=(clang-format python3) ;;
  --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "install_deps.sh: unknown argument \"$1\" (--help)" >&2; exit 2 ;;
esac

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=''
  [[ $state == installed ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

if ! command -v apt-get >/dev/null; then
  echo "install_deps.sh: no apt-get here; install these by hand: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || {
    echo "install_deps.sh: neither root nor sudo; install as root: ${missing[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi
echo "install_deps.sh: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
