#!/usr/bin/env bash
# Everything that CI cannot run, on the machine it is started on: GPU and multi-GPU tests, compute-sanitizer and the
# benchmarks. Writes one dated record under benchmarks/results/ (or OUT_DIR) as it goes; exits 1 when anything failed.
#   tools/gpu_check.sh [--build-dir DIR] [--only PART[,PART...]] [--match REGEX] [--out OUT_DIR] [--commit TEXT]
#   DIR: a CUDA build (default: build-cuda, then build-release), or a folder packed by tools/pack.sh
#   PART, all by default, in minutes on an H200:
#     tests      every *_gpu_tests program (1)
#     multigpu   ranks over 2 and, where there are as many, 4 GPUs: communicators, whole models against
#                transformers under TP and PP, a killed rank (1 for each count)
#     sanitizer  compute-sanitizer: memcheck over all *_gpu_tests, other tools over small cases (4)
#     kernels    benchmarks of GEMM, attention and all-reduce (4)
#     speed      tokens/s of whole models at batch 1, dummy weights (BF16 and quantized)
#   REGEX: of these, only the steps whose name matches (names follow "==>" in a record)
# On several GPUs, parts that need one can run side by side: CUDA_VISIBLE_DEVICES=1 tools/gpu_check.sh --only kernels
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 2
all_parts=(tests multigpu sanitizer kernels speed)

# Programs whose name ends in $1, as the tests' CMakeLists name them: a suite is never forgotten here.
suites() { grep -rhoE --include=CMakeLists.txt "tessera_${2:-}test\(\w+$1\b" tests | sed 's/.*(//' | sort; }
gpu_suites=$(suites _gpu_tests)
shared_gpu_suites=$(suites _gpu_tests mpi_) # ranks may share a GPU
multigpu_suites=$(suites _multigpu_tests mpi_)

bad_usage() { echo "gpu_check.sh: $* (--help)" >&2; exit 2; }
build='' out=benchmarks/results commit='' match='' parts=()
while (($#)); do
  case $1 in
    --help) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --list-programs) # for tools/pack.sh
      printf '%s\n' "$gpu_suites" "$shared_gpu_suites" "$multigpu_suites" gemm_bench packed_gemm_bench packed_rows_bench \
        attention_bench all_reduce_bench \
        tessera tessera-coordinator tessera-worker
      exit 0 ;;
    --build-dir | --only | --match | --out | --commit) (($# >= 2)) || bad_usage "$1: its value is missing" ;;&
    --build-dir) build=$2 ;;
    --out) out=$2 ;;
    --commit) commit=$2 ;;
    --match) match=$2 ;;
    --only) IFS=, read -ra parts <<<"$2" ;;
    *) bad_usage "unknown argument \"$1\"" ;;
  esac
  shift 2
done
((${#parts[@]})) || parts=("${all_parts[@]}")
for part in "${parts[@]}"; do
  [[ " ${all_parts[*]} " == *" $part "* ]] || bad_usage "--only \"$part\": want some of ${all_parts[*]}"
done
for candidate in build-cuda build-release; do
  [[ -z $build && -d $candidate/tests ]] && build=$candidate
done
[[ -n $build && -d $build ]] || bad_usage 'no CUDA build: cmake --preset cuda first, or --build-dir'
build=$(cd "$build" && pwd)
[[ -z $commit && -f $build/COMMIT ]] && commit=$(<"$build/COMMIT")
commit=${commit:-$(git describe --always --dirty 2>/dev/null || echo unknown)}

gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then gpus=$(tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .); fi
((gpus > 0)) || { echo 'gpu_check.sh: no GPU on this machine; nothing was checked' >&2; exit 1; }
gpu_name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | sed 's/NVIDIA //; s/ /-/g; s/.*/\L&/')
stem=$(date -u +%Y-%m-%d)-$gpu_name
suffix=''
((${#parts[@]} == ${#all_parts[@]})) || suffix=$(printf -- '-%s' "${parts[@]}")
mkdir -p "$out" || exit 2
record=$out/$stem-${gpus}gpu-check$suffix.txt
: >"$record" || exit 2
logs=$(mktemp -d)

# A packed program looks for test data where it was built.
data_link=''
if [[ -f $build/SOURCE_DIR ]]; then
  built_at=$(<"$build/SOURCE_DIR")
  if [[ ! -e $built_at ]] && mkdir -p "$(dirname "$built_at")" && ln -s "$root" "$built_at"; then
    data_link=$built_at
  fi
fi
step_pid='' passed=0 failed=()
say() { printf '%s\n' "$*" | tee -a "$record"; }
clean_up() {
  [[ -z $step_pid ]] || pkill -KILL -s "$step_pid"
  [[ -z $data_link ]] || rm -f "$data_link"
  rm -rf "$logs"
}
trap clean_up EXIT
trap 'say "interrupted after $passed passed, ${#failed[@]} failed"; exit 130' INT TERM HUP

# NVLink multicast can put a shared host's GPUs out of service.
export NCCL_NVLS_ENABLE=0 NVSHMEM_DISABLE_NVLS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export GTEST_COLOR=no NCCL_DEBUG=${NCCL_DEBUG:-VERSION}
env_prefix=()
[[ ! -x $build/env ]] || env_prefix=("$build/env")
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)

program() { if [[ -x $build/bin/$1 ]]; then echo "$build/bin/$1"; else echo "$build/tests/$1"; fi; }
on_ranks() { echo "mpirun --oversubscribe --bind-to none -x NCCL_NVLS_ENABLE -x NCCL_DEBUG -n $1 ${env_prefix[*]}"; }

fail() { failed+=("$1"); say "FAILED: $1${2:+: $2}"; }

# step SECONDS NAME COMMAND...: one check. Its output goes to the record as it comes; what still runs after SECONDS is
# killed, with all it started (they share a session). A skipped test has not passed.
step() {
  local seconds=$1 name=$2 log=$logs/log start=$SECONDS code=0
  shift 2
  [[ $name =~ $match ]] || return 0
  say "==> $name: ${*//"$build/"/}"
  : >"$log"
  setsid timeout -k 5 "$seconds" "${env_prefix[@]}" "$@" >"$log" 2>&1 </dev/null &
  step_pid=$!
  tail -n +1 -s 0.2 -f --pid="$step_pid" "$log" | tee -a "$record"
  wait "$step_pid" || code=$?
  pkill -KILL -s "$step_pid"
  step_pid=''
  say "    $((SECONDS - start)) s"
  if ((code != 0 && SECONDS - start >= seconds)); then fail "$name" "still ran after $seconds s"
  elif ((code != 0)); then fail "$name" "exit code $code"
  elif grep -qa '\[  SKIPPED \]' "$log"; then fail "$name" 'skipped tests'
  else passed=$((passed + 1)); fi
}

# checked TOOL SECONDS SUITE FILTER: tests of a suite under compute-sanitizer. Each pattern of FILTER must match a test,
# so that a renamed test is not left out in silence. API errors are not reported: tests provoke them.
checked() {
  local tool=$1 seconds=$2 suite=$3 filter=$4 binary pattern patterns
  binary=$(program "$suite")
  [[ "$tool $suite" =~ $match ]] || return 0
  IFS=: read -ra patterns <<<"${filter/-/:}"
  for pattern in "${patterns[@]}"; do
    "${env_prefix[@]}" "$binary" --gtest_list_tests --gtest_filter="$pattern" 2>/dev/null | grep -q '^  ' && continue
    fail "$tool $suite" "no test matches $pattern"
    return
  done
  step "$seconds" "$tool $suite" "$sanitizer" --tool "$tool" --report-api-errors no --error-exitcode 9 \
    "$binary" --gtest_brief=1 --gtest_filter="$filter"
}

run_tests() {
  local suite ranks
  for suite in $gpu_suites; do step 240 "$suite" "$(program "$suite")" --gtest_brief=1; done
  for suite in $shared_gpu_suites; do
    for ranks in 2 3; do
      # shellcheck disable=SC2046  # words on purpose
      step 90 "$suite on $ranks ranks" $(on_ranks $ranks) "$(program "$suite")" --gtest_brief=1
    done
  done
}

run_multigpu() {
  local suite ranks data=tests/data models shapes which
  ((gpus >= 2)) || { say 'not run: multigpu, which needs 2 GPUs'; return; }
  for ranks in 2 4; do
    ((ranks <= gpus)) || { say "not run: tests on $ranks GPUs"; continue; }
    for suite in $multigpu_suites; do
      # shellcheck disable=SC2046  # words on purpose
      step 120 "$suite on $ranks ranks" $(on_ranks $ranks) "$(program "$suite")" --gtest_brief=1
    done
  done
  models=$data/tiny-qwen2,$data/models/llama3-f16-sharded,$data/models/qwen3-bf16
  models+=$(printf ",$data/models/%s" gptq-int4-act-g32-qwen3 gptq-int4-asym-act-g32-llama3 gptq-int8-column-qwen3 \
    gptq-v2-int4-asym-act-g32-qwen3 awq-int4-g32-llama3 round-mixed-asym-llama3)
  shapes=("2x1=$models" "1x2=$models")
  ((gpus < 3)) || shapes+=("1x3=$data/tiny-qwen2")
  ((gpus < 4)) || shapes+=("4x1=$models" "2x2=$models")
  ranks=$((gpus < 4 ? gpus : 4))
  step 300 "golden on $ranks ranks" launch/local.sh --build-dir "$build" --backend cuda --ranks "$ranks" \
    -- tools/golden_check.py "${shapes[@]}"
  for which in first last; do
    step 90 "$which rank killed" tools/lost_rank_check.sh $which 2000 --build-dir "$build" --backend cuda --ranks 2 \
      --tp 2 --load-format dummy --context 16384 --max-sequences 4 --model m=qwen2-1.5b
  done
}

run_sanitizer() {
  [[ -n $sanitizer ]] || { fail sanitizer 'no compute-sanitizer here'; return; }
  local suite tool filter small=(
    kernels_gemm 'RmsNormGpu.*:EmbedGpu.*:LinearGpu.FewRows*:LinearGpu.AddsBias*:LinearGpu.Normalises*:LinearGpu.Gates*'
    kernels_attention '*AroundEveryTileEdge:*.DecodeAndPrefillMix*:RopeKvWriteCudaTest.*'
    kernels_sampling '*.AgreesOnFlatRows:TokenLogprobs*:CountTokens*:PrepareStep*:RandomFill*'
  )
  for suite in $gpu_suites; do
    filter='*'
    [[ $suite != kernels_comm_gpu_tests ]] || filter='*-OneShotDeathTest.*' # traps on purpose
    checked memcheck 300 "$suite" "$filter"
  done
  for tool in racecheck synccheck initcheck; do
    for ((i = 0; i < ${#small[@]}; i += 2)); do checked $tool 240 "${small[i]}_gpu_tests" "${small[i + 1]}"; done
  done
  checked racecheck 240 kernels_packed_gemm_gpu_tests \
    'PackedGemmGpu.FusesGateBiasAndResidual:PackedGemmGpu.OutputsThatEndInsideTilesMatch'
  if ((gpus >= 2)); then
    # shellcheck disable=SC2046  # words on purpose
    step 120 'memcheck nccl_communicator_multigpu_tests' $(on_ranks 2) "$sanitizer" --tool memcheck \
      --report-api-errors no --error-exitcode 9 "$(program nccl_communicator_multigpu_tests)" --gtest_brief=1 \
      --gtest_filter='Ways/NcclTest.*OnlyTheResidual*/Peers:Ways/NcclTest.Gathers*/Peers'
  fi
}

run_kernels() {
  local ranks
  step 300 gemm_bench "$(program gemm_bench)"
  step 300 packed_gemm_bench "$(program packed_gemm_bench)"
  step 300 packed_rows_bench "$(program packed_rows_bench)" table
  step 300 attention_bench "$(program attention_bench)"
  for ranks in 2 4; do
    ((ranks <= gpus)) || continue
    # shellcheck disable=SC2046  # words on purpose
    step 120 "all_reduce_bench on $ranks ranks" $(on_ranks $ranks) "$(program all_reduce_bench)"
  done
}

# speed MODEL RANKS TP PP REPEATS [FORMAT]: batch 1, 1 and 6144 tokens in, 2048 out; weights of the
# format, BF16 without one.
speed() {
  ((gpus >= $2)) || { say "not run: $1 on $2 GPUs"; return; }
  local format=${6:-}
  step 600 "speed $1${format:+ $format} tp $3 pp $4" launch/local.sh --build-dir "$build" --backend cuda --ranks "$2" --tp "$3" --pp "$4" \
    --load-format dummy ${format:+--quant "$format"} --context 8448 --max-sequences 4 --model "$1=$1" -- \
    tessera bench speed --model "$1" --inputs 1,6144 --output 2048 --repeats "$5" \
    --json-out "$out/$stem-speed-$1${format:+-$format}-${2}gpu-tp$3-pp$4.json"
}
run_speed() {
  local model
  for model in qwen2-0.5b qwen2-1.5b qwen2-7b; do speed $model 1 1 1 5; done
  speed qwen2-72b 2 2 1 1
  speed qwen2-72b 3 1 3 1
  speed qwen2-72b 4 4 1 1
  local format
  for format in gptq-int4 awq gptq-int8; do speed qwen2-7b 1 1 1 5 "$format"; done
  for format in gptq-int4 gptq-int8; do speed qwen2-72b 1 1 1 1 "$format"; done
  speed qwen2-72b 2 2 1 1 gptq-int4
}

say "date: $(date -u +%Y-%m-%dT%H:%M:%SZ)"
say "commit: $commit"
say "command: tools/gpu_check.sh --only $(IFS=,; echo "${parts[*]}")${match:+ --match \"$match\"}, programs of $build"
say "GPUs: $gpus used of $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | sort | uniq -c | xargs)"
for part in "${parts[@]}"; do "run_$part"; done
((passed + ${#failed[@]} > 0)) || fail 'nothing ran' "--match \"$match\""
say "passed: $passed, failed: ${#failed[@]}, in $SECONDS s"
for name in ${failed[@]+"${failed[@]}"}; do say "failed: $name"; done
echo "record: $record"
((${#failed[@]} == 0))
