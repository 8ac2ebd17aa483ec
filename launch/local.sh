#!/usr/bin/env bash
# Runs a command beside a coordinator and ranks on this machine; see --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # cluster.sh reads it
launcher=launch/local.sh
# shellcheck source=launch/cluster.sh
. "$root/launch/cluster.sh"

print_help() {
  cat <<END
usage: launch/local.sh --ranks N [FLAGS] --model NAME=DIR -- COMMAND...

Starts a coordinator on a free port of 127.0.0.1 and N ranks under mpirun, loads the models, and runs
COMMAND with \`tessera\` on its PATH and the address in TESSERA_COORDINATOR. Then stops everything and
exits with COMMAND's code; with 1 when something else went wrong, 2 for a wrong flag, 128 + the signal
when interrupted. COMMAND runs in a session of its own: Ctrl-C ends it and everything else.

flags, with what holds without them in brackets:
$(shared_flags_help)

example:
  launch/local.sh --ranks 2 --model tiny=tests/data/tiny-qwen2 -- \\
    tessera generate --model tiny --prompt "def main():" --max-tokens 48 --temperature 0
END
}

extra_flag() { return 1; }

# Open MPI's own temporary files go where cleanup finds them, even after kill -9.
prepare() {
  local parent=${TESSERA_SHM_DIR:-/dev/shm}
  [[ -d $parent && -w $parent ]] || return 0
  shm_dir=$(mktemp -d "$parent/tessera.XXXXXXXX")
  mpirun_flags+=(--mca btl_vader_backing_directory "$shm_dir" --mca osc_sm_backing_directory "$shm_dir")
}

parse_flags "$@"
# All ranks are here: more of them than cores is fine, and nothing needs a network, ssh or the batch
# system that this may run under.
mpirun_flags+=(--oversubscribe --host "localhost:$ranks" --mca plm isolated --mca ras "^slurm"
  --mca pml ob1 --mca btl "self,vader" --mca oob_tcp_if_include lo)
run_cluster
