#!/usr/bin/env bash
# From a fresh clone to a streamed answer: installs packages, builds, plans, and asks the small model
# of the test data. Takes no flags. TESSERA_BUILD_JOBS limits the compilers that run at once.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
if (($#)); then
  echo "usage: launch/quickstart.sh (no flags; launch/local.sh --help lists how to run more)" >&2
  [[ $1 == --help ]] && exit 0
  exit 2
fi
step() { printf '\n==> %s\n' "$*" >&2; }

step "Packages"
launch/install_deps.sh

cuda=OFF
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
if nvidia-smi -L 2>/dev/null | grep -q '^GPU' && [[ -x $nvcc ]]; then cuda=ON; fi
step "Build in build-release (CUDA back end: $cuda)"
cmake --preset release "-DTESSERA_CUDA=$cuda" -DTESSERA_BUILD_TESTS=OFF >&2
cmake --build build-release -j "${TESSERA_BUILD_JOBS:-$(nproc)}" \
  --target tessera tessera-coordinator tessera-worker >&2

model=tests/data/tiny-qwen2
gpu=cpu
backend=cpu
gpus=0
if [[ $cuda == ON ]]; then
  gpus=$(nvidia-smi -L | grep -c '^GPU')
  backend=cuda
  gpu=h200
fi
ranks=2
if [[ $backend == cuda ]] && ((gpus < 2)); then ranks=1; fi

step "tessera plan --model $model --gpu $gpu"
build-release/bin/tessera plan --model "$model" --gpu "$gpu"

step "An answer from $ranks $backend ranks"
launch/local.sh --build-dir build-release --ranks "$ranks" --backend "$backend" --tp "$ranks" \
  --model "tiny=$model" -- \
  tessera generate --model tiny --prompt "def main():" --max-tokens 48 --temperature 0
step "Done. Next: launch/local.sh --help, docs/cli.md"
