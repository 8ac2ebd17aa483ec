# Sourced by local.sh and mpirun.sh: a coordinator and a pool of ranks around one command.
# shellcheck shell=bash
#
# Every program runs in a session of its own (setsid), so that all it started can be found and
# stopped; what the command moves into yet another session is found by a mark in its environment.
# The caller sets `launcher` (its name for messages) and `root` (the source tree) before it sources
# this, defines print_help, extra_flag and prepare (called once cleanup will happen), calls
# parse_flags, then run_cluster.

: "${launcher:?}" "${root:?}"

ranks=''
backend=''
build_dir=''
threads=''
trace_context=''
listen_host=127.0.0.1
run_parent=${TMPDIR:-/tmp}
start_seconds=120
grace_seconds=5
logs_dir=''
tls_cert=''
tls_key=''
tls_ca=''
models=()
load_flags=()
mpirun_flags=()
command=()

run_dir=''
shm_dir=''
coordinator_pid=''
workers_pid=''
command_pid=''
registered=no

# Starts a program in a session of its own, to be told when this script dies. Shells start background
# programs with SIGINT ignored; these want the default.
own_session=(setsid env "--default-signal=INT,QUIT")
if command -v setpriv >/dev/null; then own_session=(setpriv --pdeathsig TERM "${own_session[@]}"); fi

say() { printf '%s: %s\n' "$launcher" "$*" >&2; }

usage_error() {
  say "$*; see $launcher --help"
  exit 2
}

# For the launchers' --help.
shared_flags_help() {
  cat <<'END'
  --ranks N             GPUs or CPU ranks of the pool (required)
  --backend cpu|cuda    what ranks compute on [cuda when there is a GPU and the build has it]
  --model NAME=DIR      load DIR, or a model named in benchmarks/models, as NAME; repeat for more
                        models, each on ranks of its own
  --tp N, --pp N        tensor-parallel ranks and pipeline stages of each model [the planner chooses]
  --context TOKENS      longest sequence [the model's]
  --max-sequences N     sequences decoded together [64]
  --max-step-tokens N   tokens computed in one step at most [2048, on the CPU 512]
  --block-size TOKENS   tokens per KV block [64]
  --device-memory BYTES cap per rank, as in 8G [92 % of what is free]
  --dtype TYPE          float32, bfloat16 or float16 [the checkpoint's]
  --load-format FORMAT  auto or dummy (random weights) [auto]
  --quant FORMAT        none, gptq-int8, gptq-int4 or awq: what dummy weights are stored as [config.json's]
  --chat-template NAME  a built-in chat template [recognised from the model]
  --threads N           CPU threads of a rank [cores / ranks]
  --trace-context N     log each op's device time in one decode step at N cached tokens (see --logs) [off]
  --build-dir DIR       where the programs were built [the newest build*]
  --start-seconds N     how long ranks may take to register [120]
  --grace-seconds N     how long the command may go on after a program was lost [5]
  --logs DIR            keep the logs of coordinator and workers there [removed at the end]
  --tls-cert F, --tls-key F  serve with TLS: PEM files with the certificate of the address that the
                        coordinator listens on, and its key [no TLS]
  --tls-ca F            certificates that ranks and users trust [the file of --tls-cert]
  --help                this text
END
}

# parse_flag FLAG VALUE: takes one flag of the table above; false: unknown. Every flag has a value.
parse_flag() {
  case $1 in
    --ranks) ranks=$2 ;;
    --backend) backend=$2 ;;
    --model) models+=("$2") ;;
    --tp | --pp | --context | --max-sequences | --max-step-tokens | --block-size | \
      --device-memory | --dtype | --load-format | --quant | --chat-template) load_flags+=("$1" "$2") ;;
    --threads) threads=$2 ;;
    --trace-context) trace_context=$2 ;;
    --build-dir) build_dir=$2 ;;
    --start-seconds) start_seconds=$2 ;;
    --grace-seconds) grace_seconds=$2 ;;
    --logs) logs_dir=$2 ;;
    --tls-cert) tls_cert=$2 ;;
    --tls-key) tls_key=$2 ;;
    --tls-ca) tls_ca=$2 ;;
    *) return 1 ;;
  esac
}

# parse_flags ARG...: reads flags up to `--`, then the command. `extra_flag FLAG VALUE` of the
# caller takes its own flags.
parse_flags() {
  while (($#)); do
    case $1 in
      --help | -h)
        print_help
        exit 0
        ;;
      --)
        shift
        command=("$@")
        break
        ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
      --*)
        (($# >= 2)) || usage_error "$1: its value is missing"
        parse_flag "$1" "$2" || extra_flag "$1" "$2" || usage_error "$1: unknown flag"
        shift 2
        ;;
      *) usage_error "\"$1\": unexpected argument" ;;
    esac
  done
  ((${#command[@]})) || usage_error "no command: want -- COMMAND..."
  local name
  for name in ranks start_seconds grace_seconds; do
    [[ ${!name} =~ ^[1-9][0-9]{0,5}$ ]] || usage_error "--${name//_/-} \"${!name}\": want a count"
  done
  [[ -z $trace_context || $trace_context =~ ^[1-9][0-9]{0,7}$ ]] ||
    usage_error "--trace-context \"$trace_context\": want a count of tokens"
  [[ -z $threads || $threads =~ ^[1-9][0-9]{0,3}$ ]] || usage_error "--threads \"$threads\": want a count"
  [[ $backend =~ ^(cpu|cuda|)$ ]] || usage_error "--backend \"$backend\": want cpu or cuda"
  for name in ${models[@]+"${models[@]}"}; do
    [[ $name == ?*=?* ]] || usage_error "--model \"$name\": want NAME=DIR"
  done
  check_tls
}

# TLS takes a certificate and its key. The files become absolute paths.
check_tls() {
  [[ -n $tls_cert$tls_key$tls_ca ]] || return 0
  tls_ca=${tls_ca:-$tls_cert}
  local flag file
  for flag in cert key ca; do
    file=tls_$flag
    [[ -n ${!file} ]] || usage_error "TLS: --tls-$flag is missing"
    [[ -r ${!file} && ! -d ${!file} ]] || usage_error "--tls-$flag ${!file}: not a readable file"
    printf -v "$file" %s "$(realpath "${!file}")"
  done
}

has_programs() { [[ -x $1/bin/tessera && -x $1/bin/tessera-coordinator && -x $1/bin/tessera-worker ]]; }

find_build_dir() {
  if [[ -n $build_dir ]]; then
    has_programs "$build_dir" || usage_error "--build-dir $build_dir: no bin/tessera{,-coordinator,-worker}"
    build_dir=$(cd "$build_dir" && pwd)
    return
  fi
  local dir
  for dir in "$root"/build*; do
    has_programs "$dir" || continue
    [[ -z $build_dir || $dir/bin/tessera-worker -nt $build_dir/bin/tessera-worker ]] && build_dir=$dir
  done
  [[ -n $build_dir ]] || usage_error "no build of tessera in $root/build*: build it, or give --build-dir"
}

choose_backend() {
  [[ -z $backend ]] || return 0
  backend=cpu
  # A build with CUDA links NCCL.
  if ldd "$build_dir/bin/tessera-worker" 2>/dev/null | grep -q libnccl &&
    nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
    backend=cuda
  fi
}

# Live processes with this run's mark in their environment, one id a line.
marked_pids() {
  local file
  while read -r file; do
    file=${file#/proc/}
    printf '%s\n' "${file%/environ}"
  done < <(grep -lszxF -- "TESSERA_RUN=$run_dir" /proc/[0-9]*/environ)
}

# Live processes of session $1, one id a line; if it is the command's, those it moved elsewhere too.
session_pids() {
  local stat text fields
  for stat in /proc/[0-9]*/stat; do
    { text=$(<"$stat"); } 2>/dev/null || continue
    read -ra fields <<<"${text##*) }" # state parent group session ...; the name may hold spaces
    ((${#fields[@]} > 3)) || continue # it ended between the open and the read: empty text
    [[ ${fields[3]} == "$1" && ${fields[0]} != Z ]] || continue
    printf '%s\n' "${text%% *}"
  done
  if [[ $1 == "$command_pid" ]]; then marked_pids; fi
}

# wait_session SID SECONDS: until no process of it lives; false: some still do.
wait_session() {
  local tenths=$(($2 * 10))
  while [[ -n $(session_pids "$1") ]]; do
    ((tenths-- > 0)) || return 1
    sleep 0.1
  done
}

# signal_session SID SIGNAL: to every process of it.
signal_session() {
  local pid
  for pid in $(session_pids "$1"); do kill "-$2" "$pid" 2>/dev/null || true; done
}

# end_session SID SECONDS: whatever still lives after SECONDS is killed. Orphans that a process
# leaves behind while dying stay in its session, so this repeats until there are none.
end_session() {
  wait_session "$1" "$2" && return
  while ! wait_session "$1" 1; do signal_session "$1" KILL; done
}

# spawn LOG COMMAND...: the process id, which is the session's too, goes to $spawned.
spawn() {
  "${own_session[@]}" "${@:2}" </dev/null >"$1" 2>&1 3<&- &
  spawned=$!
}

show_logs() {
  local log
  for log in coordinator workers; do
    [[ -s $run_dir/$log.log ]] || continue
    printf -- '---- last lines of %s.log ----\n' "$log" >&2
    tail -n 25 "$run_dir/$log.log" >&2
  done
}

fail() {
  say "$*"
  show_logs
  exit 1
}

# Runs once, however the script ends.
cleanup() {
  local code=$?
  trap '' INT TERM HUP
  trap - EXIT
  set +e
  if [[ -n $command_pid ]]; then
    signal_session "$command_pid" TERM
    end_session "$command_pid" 3
  fi
  # The coordinator ends the ranks it knows on its way out; mpirun is asked only if that does not do.
  [[ -z $coordinator_pid ]] || kill -TERM "$coordinator_pid" 2>/dev/null
  if [[ -n $workers_pid ]]; then
    if [[ $registered == no ]] || ! wait_session "$workers_pid" 5; then
      kill -TERM "$workers_pid" 2>/dev/null
      end_session "$workers_pid" 5
    fi
  fi
  [[ -z $coordinator_pid ]] || end_session "$coordinator_pid" 5
  wait 2>/dev/null
  if [[ -n $run_dir && -n $logs_dir ]]; then
    mkdir -p "$logs_dir" && cp "$run_dir"/*.log "$logs_dir"/
  fi
  [[ -z $run_dir ]] || rm -rf "$run_dir"
  [[ -z $shm_dir ]] || rm -rf "$shm_dir"
  exit "$code"
}

make_run_dir() {
  umask 077
  mkdir -p "$run_parent"
  run_dir=$(mktemp -d "$run_parent/tessera.XXXXXXXX")
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$run_dir/secret"
}

start_coordinator() {
  local model dir dirs='' flags=()
  # On loopback, which is this machine's users only, any model directory may be loaded and no token
  # is asked for.
  if [[ $listen_host != 127.* ]]; then
    for model in ${models[@]+"${models[@]}"}; do
      dir=${model#*=}
      if [[ -d $dir ]]; then dirs+=",$(cd "$dir" && pwd -P)"; fi
    done
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$run_dir/token"
    export TESSERA_TOKEN_FILE=$run_dir/token
    flags+=("--bearer_token_file=$run_dir/token" "--allow_model_dir=${dirs#,}")
  fi
  if [[ -n $tls_cert ]]; then
    flags+=("--tls_cert=$tls_cert" "--tls_key=$tls_key")
    export TESSERA_TLS_CA=$tls_ca
  else
    unset TESSERA_TLS_CA
  fi
  spawn "$run_dir/coordinator.log" "$build_dir/bin/tessera-coordinator" \
    "--listen=$listen_host:0" "--address_file=$run_dir/address" \
    "--launch_secret_file=$run_dir/secret" "--models_config_dir=$root/benchmarks/models" \
    ${flags[@]+"${flags[@]}"}
  coordinator_pid=$spawned
  local tenths=$((start_seconds * 10))
  until [[ -s $run_dir/address ]]; do
    kill -0 "$coordinator_pid" 2>/dev/null || fail "the coordinator ended while it started"
    ((tenths-- > 0)) || fail "the coordinator has no address after $start_seconds s"
    sleep 0.1
  done
  TESSERA_COORDINATOR=$(<"$run_dir/address")
  export TESSERA_COORDINATOR
}

start_workers() {
  local flags=("--coordinator=$TESSERA_COORDINATOR" "--launch_secret_file=$run_dir/secret" "--backend=$backend")
  if [[ -n $threads ]]; then flags+=("--threads=$threads"); fi
  if [[ -n $trace_context ]]; then flags+=("--trace_context=$trace_context"); fi
  if [[ -n $tls_ca ]]; then flags+=("--tls_ca=$tls_ca"); fi
  # NVLink multicast stays off: on some hosts it hangs, and the peer-to-peer path does not need it.
  export NCCL_NVLS_ENABLE=0
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  spawn "$run_dir/workers.log" mpirun -n "$ranks" --tag-output --bind-to none \
    --mca mpi_yield_when_idle 1 --mca btl_vader_single_copy_mechanism none \
    --mca orte_abort_print_stack 0 -x NCCL_NVLS_ENABLE \
    "${mpirun_flags[@]}" "$build_dir/bin/tessera-worker" "${flags[@]}"
  workers_pid=$spawned
}

# Fails when the coordinator or mpirun is gone.
check_alive() {
  kill -0 "$coordinator_pid" 2>/dev/null || fail "the coordinator ended while $1"
  kill -0 "$workers_pid" 2>/dev/null || fail "the workers ended while $1"
}

wait_for_ranks() {
  local status end=$((SECONDS + start_seconds)) seen=0
  while true; do
    check_alive 'ranks registered'
    status=$("$build_dir/bin/tessera" status --json --timeout 5 2>/dev/null) || status=''
    if [[ $status =~ \"pool_ranks\":([0-9]+) ]]; then seen=${BASH_REMATCH[1]}; fi
    ((seen < ranks)) || return 0
    ((SECONDS < end)) || fail "$seen of $ranks ranks registered in $start_seconds s"
    sleep 0.1
  done
}

# run_watched COMMAND...: runs it with this script's input and output; returns its exit code, or
# fails when the coordinator or the workers are lost meanwhile. A coordinator that ends with 0 was
# drained, and the workers went with it: the command may go on.
run_watched() {
  "${own_session[@]}" "TESSERA_RUN=$run_dir" "$@" <&3 3<&- &
  command_pid=$!
  local ended code watched=("$command_pid" "$coordinator_pid" "$workers_pid") lost=''
  while true; do
    code=0
    # Its standard error would tell of a killed program in bash's own words.
    wait -n -p ended "${watched[@]}" 2>/dev/null || code=$?
    case ${ended:-} in
      "$command_pid")
        end_session "$command_pid" 0
        command_pid=''
        return "$code"
        ;;
      "$coordinator_pid") watched=("$command_pid" "$workers_pid") ;;
      "$workers_pid") watched=("$command_pid" "$coordinator_pid") ;;
      *) continue ;;
    esac
    if ((code != 0)); then
      lost='the coordinator'
      [[ $ended != "$workers_pid" ]] || lost='the workers'
      break
    fi
    # Both have ended well: only the command is left.
    if ((${#watched[@]} == 2)) && ! kill -0 "${watched[1]}" 2>/dev/null; then
      watched=("$command_pid")
    fi
  done
  say "$lost ended with exit code $code while \"$1\" ran"
  wait_session "$command_pid" "$grace_seconds" || say "\"$1\" still runs after $grace_seconds s: stopping it"
  show_logs
  exit 1
}

# Starts all, loads the models, runs the command and exits with its code.
run_cluster() {
  # The command's standard input; an empty one if this script has none.
  if [[ -e /proc/$$/fd/0 ]]; then exec 3<&0; else exec 3</dev/null; fi
  find_build_dir
  choose_backend
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
  make_run_dir
  prepare
  export PATH="$build_dir/bin:$PATH"
  start_coordinator
  start_workers
  wait_for_ranks
  registered=yes
  say "$ranks $backend ranks at $TESSERA_COORDINATOR"
  local model code
  for model in ${models[@]+"${models[@]}"}; do
    code=0
    run_watched "$build_dir/bin/tessera" load --model "$model" \
      ${load_flags[@]+"${load_flags[@]}"} >&2 || code=$?
    ((code == 0)) || fail "loading $model ended with exit code $code"
  done
  code=0
  run_watched "${command[@]}" || code=$?
  exit "$code"
}
