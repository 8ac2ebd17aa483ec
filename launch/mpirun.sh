#!/usr/bin/env bash
# Runs a command beside a coordinator here and ranks on the hosts of a hostfile; see --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # cluster.sh reads it
launcher=launch/mpirun.sh
# shellcheck source=launch/cluster.sh
. "$root/launch/cluster.sh"

hostfile=''
run_parent=$root/.run
listen_host=''

print_help() {
  cat <<END
usage: launch/mpirun.sh --hostfile F --ranks N [FLAGS] --model NAME=DIR -- COMMAND...

Like launch/local.sh, with the ranks spread by mpirun over the hosts of F ("HOST slots=GPUS" a line).
The coordinator runs on this machine and listens on a free port of --listen-host; the command runs
here too. The source tree with its build, and the model directories, must be at the same paths on
every host. mpirun reaches the hosts by ssh or by the batch system, as Open MPI is set up.

The launch secret and a bearer token for users lie in a new directory of mode 700 below --shared-dir,
which every host must see; they are removed at the end. Without TLS (--tls-cert) they cross the
network as plain text: use a network you trust. The certificates of --tls-ca must be at the same path
on every host.

  --hostfile F          hosts and their slots (required)
  --listen-host ADDR    this machine's address that the other hosts reach [the first of hostname -I]
  --shared-dir DIR      seen by every host [.run of the source tree]
  --mpirun-flag FLAG    one more word for mpirun; repeat for more
$(shared_flags_help)
END
}

extra_flag() {
  case $1 in
    --hostfile) hostfile=$2 ;;
    --listen-host) listen_host=$2 ;;
    --shared-dir) run_parent=$2 ;;
    --mpirun-flag) mpirun_flags+=("$2") ;;
    *) return 1 ;;
  esac
}

prepare() { :; }

parse_flags "$@"
[[ -n $hostfile ]] || usage_error "--hostfile is missing"
[[ -r $hostfile ]] || usage_error "--hostfile $hostfile: not readable"
if [[ -z $listen_host ]]; then
  listen_host=$(hostname -I 2>/dev/null | cut -d' ' -f1)
  [[ -n $listen_host ]] || usage_error "no address of this machine is known: give --listen-host"
fi
mkdir -p "$run_parent"
run_parent=$(cd "$run_parent" && pwd)
mpirun_flags+=(--hostfile "$hostfile" -x PATH -x "LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}")
run_cluster
