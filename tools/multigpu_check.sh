#!/usr/bin/env bash
# Tests and times the multi-GPU code on a machine with 2 or more GPUs, from programs packed elsewhere.
#
#   multigpu_check.sh PACK_DIR OUT_DIR [RANKS...]
#
# PACK_DIR holds env and bin/{nccl_communicator_multigpu_tests,all_reduce_bench}. RANKS default to 2,
# and 4 where there are as many GPUs. Logs go to OUT_DIR; a summary is printed last. Fails when a
# test failed or was skipped. Takes about a minute per rank count and half a minute for
# compute-sanitizer (memcheck, 2 ranks); SKIP_SANITIZER=1 leaves that out.
set -uo pipefail
pack=$(cd "$1" && pwd); out=$2; shift 2
mkdir -p "$out"
# NVLink multicast can put a shared host's GPUs out of service.
export NCCL_NVLS_ENABLE=0 NVSHMEM_DISABLE_NVLS=1 TORCH_SYMM_MEM_DISABLE_MULTICAST=1
gpus=$(nvidia-smi -L | grep -c '^GPU')
if [ $# -eq 0 ]; then
  [ "$gpus" -ge 2 ] && set -- 2
  [ "$gpus" -ge 4 ] && set -- 2 4
fi
if [ $# -eq 0 ]; then echo "multigpu_check: $gpus GPUs, needs 2"; exit 1; fi
nvidia-smi topo -m > "$out/topology.txt" 2>&1
failed=0

# launch SECONDS LOG RANKS COMMAND...: under mpirun, stopped when it takes too long.
launch() {
  local seconds=$1 log=$2 ranks=$3 status; shift 3
  timeout -k 5 "$seconds" mpirun --allow-run-as-root --oversubscribe --bind-to none -n "$ranks" \
    -x NCCL_NVLS_ENABLE "$pack/env" "$@" > "$log" 2>&1
  status=$?
  [ $status -eq 0 ] || { echo "exit $status: $* on $ranks ranks (see $(basename "$log"))"; failed=1; }
}

for ranks in "$@"; do
  launch 100 "$out/tests_$ranks.log" "$ranks" nccl_communicator_multigpu_tests --gtest_color=no
  grep -aE 'SKIPPED' "$out/tests_$ranks.log" && failed=1
  launch 60 "$out/bench_$ranks.log" "$ranks" all_reduce_bench
done
if [ "${SKIP_SANITIZER:-0}" != 1 ]; then
  launch 60 "$out/sanitizer.log" 2 compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$pack/bin/nccl_communicator_multigpu_tests" --gtest_color=no \
    --gtest_filter='Ways/NcclTest.*OnlyTheResidual*/Peers:Ways/NcclTest.Gathers*/Peers'
fi

for ranks in "$@"; do
  echo "== $ranks ranks"
  grep -aE 'FAILED|PASSED|Failure|actual' "$out/tests_$ranks.log" | sort | uniq -c | head -30
  cat "$out/bench_$ranks.log"
done
[ -f "$out/sanitizer.log" ] && { echo "== sanitizer"; grep -aE 'ERROR SUMMARY|PASSED|FAILED' "$out/sanitizer.log"; }
exit $failed
