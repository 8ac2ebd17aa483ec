#!/usr/bin/env bash
# Everything that CI cannot run: GPU and multi-GPU tests, compute-sanitizer, and the benchmarks, on the machine it is
# started on. Writes one dated record under benchmarks/results/ (or OUT_DIR).
#   tools/gpu_check.sh [--build-dir DIR] [--out OUT_DIR] [--skip-benchmarks] [--skip-sanitizer]
#   DIR: a CUDA build (default: build-cuda, then build-release), or a folder packed by tools/pack.sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

build='' out='' benchmarks=1 sanitizer=1
while (($#)); do
  case $1 in
    --build-dir) build=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --skip-benchmarks) benchmarks=0; shift ;;
    --skip-sanitizer) sanitizer=0; shift ;;
    --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "gpu_check.sh: unknown argument \"$1\" (--help)" >&2; exit 2 ;;
  esac
done
for candidate in build-cuda build-release; do
  [[ -n $build ]] || { [[ -d $candidate/tests ]] && build=$candidate; }
done
[[ -n $build && -d $build ]] || { echo "gpu_check.sh: no CUDA build; cmake --preset cuda first" >&2; exit 2; }

gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU') || true
((gpus > 0)) || { echo "gpu_check.sh: no GPU on this machine; nothing was checked" >&2; exit 1; }
name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | sed 's/NVIDIA //; s/ /-/g' | tr '[:upper:]' '[:lower:]')
stamp=$(date -u +%Y-%m-%d)
out=${out:-benchmarks/results}
mkdir -p "$out"
record=$out/$stamp-$name-${gpus}gpu-check.txt
run() { if [[ -x $build/env ]]; then "$build/env" "$@"; else "$@"; fi; }
program() { if [[ -x $build/bin/$1 ]]; then echo "$build/bin/$1"; else echo "$build/tests/$1"; fi; }

exec > >(tee "$record") 2>&1
echo "commit: $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
failures=0
check() { echo "==> $*"; "$@" || { echo "FAILED: $*"; failures=$((failures + 1)); }; }

for suite in kernels_runtime kernels_gemm kernels_attention kernels_sampling kernels_comm worker; do
  check run "$(program ${suite}_gpu_tests)" --gtest_brief=1
done
if ((sanitizer)); then
  for suite in kernels_gemm kernels_attention kernels_sampling; do
    check run compute-sanitizer --tool memcheck --error-exitcode 9 "$(program ${suite}_gpu_tests)" \
      --gtest_brief=1 --gtest_filter='*Small*:*Odd*'
  done
fi
for ranks in 2 4; do
  ((ranks <= gpus)) || { echo "not run: tests on $ranks GPUs (this machine has $gpus)"; continue; }
  check mpirun --allow-run-as-root --bind-to none -x NCCL_NVLS_ENABLE=0 -n "$ranks" \
    $([[ -x $build/env ]] && echo "$build/env") "$(program nccl_communicator_multigpu_tests)" --gtest_brief=1
done
if ((benchmarks)); then
  for bench in gemm_bench attention_bench; do
    check run "$(program $bench)"
  done
  if ((gpus >= 2)); then
    check mpirun --allow-run-as-root --bind-to none -x NCCL_NVLS_ENABLE=0 -n 2 \
      $([[ -x $build/env ]] && echo "$build/env") "$(program all_reduce_bench)"
  fi
  speed() {  # MODEL RANKS TP PP: batch 1, 2048 output tokens, dummy weights
    check run launch/local.sh --build-dir "$build" --backend cuda --ranks "$2" --tp "$3" --pp "$4" --load-format dummy \
      --context 8448 --max-sequences 4 --model "$1=$1" -- tessera bench speed --model "$1" --inputs 1,6144 \
      --output 2048 --json-out "$out/$stamp-$name-speed-$1-${2}gpu-tp$3-pp$4.json"
  }
  for model in qwen2-0.5b qwen2-1.5b qwen2-7b; do speed $model 1 1 1; done
  ((gpus >= 2)) && speed qwen2-72b 2 2 1
  ((gpus >= 3)) && speed qwen2-72b 3 1 3
  ((gpus >= 4)) && speed qwen2-72b 4 4 1
fi
echo "failures: $failures"
exit $((failures > 0))
