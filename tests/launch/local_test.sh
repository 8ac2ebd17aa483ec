#!/usr/bin/env bash
# launch/local.sh end to end on CPU ranks: usage: local_test.sh BUILD_DIR [CASE...]
# Each case is a function case_NAME; all run unless named. Exits 77 (skipped) without the programs.
set -uo pipefail

build=$(cd "$1" && pwd)
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
model=$root/tests/data/tiny-qwen2
for program in tessera tessera-coordinator tessera-worker; do
  [[ -x $build/bin/$program ]] || {
    echo "skipped: no $build/bin/$program"
    exit 77
  }
done

work=$(mktemp -d)
TESSERA_SHM_DIR=$(mktemp -d /dev/shm/local_test.XXXXXXXX)
export TESSERA_SHM_DIR TMPDIR=$work/tmp
trap 'rm -rf "$work" "$TESSERA_SHM_DIR"' EXIT
mkdir "$TMPDIR"
failures=0

# A number no other process has on its command line: how leftovers of the command are found.
mark=$((100000 + $$))

local_sh() { "$root/launch/local.sh" --build-dir "$build" --backend cpu "$@"; }

broken() {
  echo "  $*" >&2
  failures=$((failures + 1))
}

expect_code() { [[ $1 == "$2" ]] || broken "exit code $1, want $2"; }
expect_text() { grep -q -- "$2" "$1" || { broken "no \"$2\" in $1:" && sed 's/^/    /' "$1" >&2; }; }

# Nothing of a run may be left: no process that names its directory or the command, no file.
expect_clean() {
  local left
  left=$(pgrep -f "$TMPDIR/tessera|^sleep $mark$" || true)
  [[ -z $left ]] || broken "processes left: $(ps -o pid,args -p "$(tr '\n' , <<<"$left" | sed 's/,$//')" | tail -n +2)"
  [[ -z $(ls -A "$TMPDIR") ]] || broken "files left in TMPDIR: $(ls -A "$TMPDIR")"
  [[ -z $(ls -A "$TESSERA_SHM_DIR") ]] || broken "files left in /dev/shm: $(ls -A "$TESSERA_SHM_DIR")"
}

# start_background ARGS...: local.sh with a long command; returns when that runs. $launched: its id.
start_background() {
  "$root/launch/local.sh" --build-dir "$build" --backend cpu --grace-seconds 1 --ranks 2 "$@" \
    >"$work/out" 2>"$work/err" &
  launched=$!
  local tenths=600
  until pgrep -fx "sleep $mark" >/dev/null; do
    if ! kill -0 "$launched" 2>/dev/null || ((tenths-- == 0)); then
      broken "the command did not start:"
      cat "$work/err" >&2
      return 1
    fi
    sleep 0.1
  done
}

# The greedy continuation that transformers computes in fp32, first ids; tests/data/tiny-qwen2/golden.json.
golden='"tokens":\[258,530,1525,296,258,1525,2614,85,273,'

golden_run() {
  local_sh "$@" --model "tiny=$model" -- tessera generate --model tiny --prompt-ids 324,4019,938 \
    --max-tokens 48 --temperature 0 --json >"$work/out" 2>"$work/err"
  expect_code $? 0
  expect_text "$work/out" "$golden"
  expect_text "$work/out" '"timing":{"queue_ms":[0-9.]*,"ttft_ms":[0-9.]*,"tpot_ms":0*[.]*0*[1-9]'
}

case_one_rank() { golden_run --ranks 1; }
case_tensor_parallel() { golden_run --ranks 2 --tp 2; }
case_three_stages() { golden_run --ranks 3 --pp 3; }
case_more_ranks_than_cores() { golden_run --ranks 4 --tp 2 --pp 2 --threads 1; }

# mpirun.sh with this machine as its only host; the coordinator listens beyond loopback, so users
# need the token.
case_hostfile() {
  echo "localhost slots=2" >"$work/hosts"
  "$root/launch/mpirun.sh" --build-dir "$build" --backend cpu --hostfile "$work/hosts" \
    --shared-dir "$TMPDIR" --ranks 2 --tp 2 --model "tiny=$model" -- bash -c '
      tessera generate --model tiny --prompt-ids 324,4019,938 --max-tokens 48 --temperature 0 --json
      env -u TESSERA_TOKEN_FILE tessera status' >"$work/out" 2>"$work/err"
  expect_code $? 1
  expect_text "$work/out" "$golden"
  expect_text "$work/err" 'UNAUTHENTICATED'
}

# The certificate is of localhost and 127.0.0.1.
tls=(--tls-cert "$root/tests/coordinator/testdata/cert.pem" --tls-key "$root/tests/coordinator/testdata/key.pem")

case_tls() {
  golden_run --ranks 2 --tp 2 "${tls[@]}"
  # Users without the certificate get nowhere.
  local_sh --ranks 1 "${tls[@]}" -- env -u TESSERA_TLS_CA tessera status --timeout 5 >"$work/out" 2>"$work/err"
  expect_code $? 1
  expect_text "$work/err" 'UNAVAILABLE'
}

# TLS and the token together, both given on the command line; "localhost" counts as an address that
# others reach, so that a token is made.
case_tls_and_token() {
  echo "localhost slots=1" >"$work/hosts"
  "$root/launch/mpirun.sh" --build-dir "$build" --backend cpu --hostfile "$work/hosts" --listen-host localhost \
    --shared-dir "$TMPDIR" --ranks 1 "${tls[@]}" --model "tiny=$model" -- bash -c '
      ca=$TESSERA_TLS_CA token=$TESSERA_TOKEN_FILE
      unset TESSERA_TLS_CA TESSERA_TOKEN_FILE
      tessera generate --model tiny --prompt-ids 324,4019,938 --max-tokens 48 --temperature 0 --json \
        --tls-ca "$ca" --token-file "$token"
      tessera status --tls-ca "$ca"' >"$work/out" 2>"$work/err"
  expect_code $? 1
  expect_text "$work/out" "$golden"
  expect_text "$work/err" 'UNAUTHENTICATED'
}

case_models_share_the_pool() {
  local_sh --ranks 3 --model "a=$model" --model "b=$model" -- tessera status --json >"$work/out" 2>"$work/err"
  expect_code $? 0
  expect_text "$work/out" '"name":"a"'
  expect_text "$work/out" '"name":"b"'
}

# Real weights are not converted: the second load is refused.
case_dummy_weights_of_a_format() {
  local_sh --ranks 2 --load-format dummy --quant gptq-int4 --tp 2 --model "tiny=$model" -- bash -c '
    tessera models --json
    tessera generate --model tiny --prompt-ids 324,4019,938 --max-tokens 8 --temperature 0 --ignore-eos --json
    tessera load --model "real='"$model"'" --quant gptq-int4 --tp 1' >"$work/out" 2>"$work/err"
  expect_code $? 1
  expect_text "$work/out" '"format":"gptq-int4"'
  expect_text "$work/out" '"completion_tokens":8'
  expect_text "$work/err" 'INVALID_ARGUMENT: options.quant: gptq-int4'
}

case_code_of_the_command() {
  local_sh --ranks 1 -- bash -c 'exit 7' 2>"$work/err"
  expect_code $? 7
}

# A child in a session of its own ends with the command.
case_child_that_left_the_session() {
  local_sh --ranks 1 -- bash -c "setsid sleep $mark & until pgrep -fx 'sleep $mark' >/dev/null; do sleep 0.1; done" \
    >"$work/out" 2>"$work/err"
  expect_code $? 0
}

case_input_reaches_the_command() {
  echo "hello there" | local_sh --ranks 1 -- cat >"$work/out" 2>"$work/err"
  expect_code $? 0
  expect_text "$work/out" '^hello there$'
}

case_missing_model() {
  local_sh --ranks 1 --model nope=/no/such/dir -- true >"$work/out" 2>"$work/err"
  expect_code $? 1
  expect_text "$work/err" '/no/such/dir'
}

case_too_few_ranks() {
  local_sh --ranks 1 --tp 2 --model "tiny=$model" -- true >"$work/out" 2>"$work/err"
  expect_code $? 1
  expect_text "$work/err" 'needs 2'
}

case_heads_refuse() {
  local_sh --ranks 3 --tp 3 --model "tiny=$model" -- true >"$work/out" 2>"$work/err"
  expect_code $? 1
  expect_text "$work/err" 'tp'
}

case_usage() {
  local args
  for args in "--ranks 1" "--ranks 0 -- true" "--ranks x -- true" "-- true" "--rnks 1 -- true" \
    "--ranks 1 --model tiny -- true" "--ranks 1 --backend tpu -- true" \
    "--ranks 1 --tls-cert $0 -- true" "--ranks 1 --tls-cert /no/cert --tls-key $0 -- true"; do
    # shellcheck disable=SC2086  # words on purpose
    local_sh $args >"$work/out" 2>"$work/err"
    expect_code $? 2
  done
}

stopped_by() {
  start_background --model "tiny=$model" -- sleep $mark || return
  kill "-$1" "$launched"
  wait "$launched"
  expect_code $? "$2"
}
case_interrupt() { stopped_by TERM 143; }
case_hangup() { stopped_by HUP 129; }

# As at a terminal, where Ctrl-C goes to the foreground group: a background shell ignores SIGINT, so
# it is started with the default.
case_ctrl_c() {
  env --default-signal=INT "$root/launch/local.sh" --build-dir "$build" --backend cpu --ranks 2 -- \
    sleep $mark >"$work/out" 2>"$work/err" &
  launched=$!
  until pgrep -fx "sleep $mark" >/dev/null; do sleep 0.1; done
  kill -INT "$launched"
  wait "$launched"
  expect_code $? 130
}

case_interrupt_while_starting() {
  "$root/launch/local.sh" --build-dir "$build" --backend cpu --ranks 2 --model "tiny=$model" -- sleep $mark \
    >"$work/out" 2>"$work/err" &
  launched=$!
  sleep 0.2
  kill -TERM "$launched"
  wait "$launched"
  expect_code $? 143
}

lost() {
  start_background --model "tiny=$model" -- sleep $mark || return
  kill -KILL "$(pgrep -n -f "^[^ ]*$1 .*$TMPDIR/tessera")"
  wait "$launched"
  expect_code $? 1
  expect_text "$work/err" 'ended with exit code'
}
case_rank_killed() { lost tessera-worker; }
case_coordinator_killed() { lost tessera-coordinator; }

# Files stay when the launcher itself is killed, but no process does.
case_launcher_killed() {
  start_background --model "tiny=$model" -- sleep $mark || return
  kill -KILL "$launched"
  wait "$launched" 2>/dev/null
  local tenths=150
  while pgrep -f "$TMPDIR/tessera|^sleep $mark$" >/dev/null && ((tenths-- > 0)); do sleep 0.1; done
  rm -rf "$TMPDIR"/tessera.* "$TESSERA_SHM_DIR"/tessera.*
}

case_stopped_rank_is_killed() {
  start_background --model "tiny=$model" -- sleep $mark || return
  kill -STOP "$(pgrep -n -f "^[^ ]*tessera-worker .*$TMPDIR/tessera")"
  kill -TERM "$launched"
  wait "$launched"
  expect_code $? 143
}

case_stream_ends_when_a_rank_is_lost() {
  start_background --load-format dummy --model big=qwen2-0.5b --context 4096 -- \
    bash -c "tessera generate --model big --prompt-ids 1,2,3 --max-tokens 4000 --ignore-eos > /dev/null & sleep $mark; wait" ||
    return
  sleep 1
  kill -KILL "$(pgrep -n -f "^[^ ]*tessera-worker .*$TMPDIR/tessera")"
  wait "$launched"
  expect_code $? 1
  expect_text "$work/err" 'UNAVAILABLE'
}

cases=("$@")
((${#cases[@]})) || mapfile -t cases < <(declare -F | sed -n 's/^declare -f case_//p')
for name in "${cases[@]}"; do
  before=$failures
  started=$SECONDS
  "case_$name"
  expect_clean
  if ((failures == before)); then result=ok; else result=FAILED; fi
  echo "$result: $name ($((SECONDS - started)) s)"
done
((failures == 0))
