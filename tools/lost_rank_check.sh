#!/usr/bin/env bash
# Kills one rank (kill -9) while a stream runs: the stream must end UNAVAILABLE in time, and nothing may be left.
#   tools/lost_rank_check.sh first|last LIMIT_MS LAUNCH_FLAGS...
#   first: the model's leader; last: a rank that follows. LAUNCH_FLAGS: launch/local.sh's, with one model named m
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

now_ms() { date +%s%3N; }
ranks_of() { pgrep -f "^[^ ]*tessera-worker .*--coordinator=$1( |$)"; }

# Under local.sh: starts the stream, kills, measures. Its findings go to the file $3.
inside() {
  local which=$1 limit=$2 findings=$3 work tenths=300 stream victim start ended gone
  work=$(dirname "$findings")
  tessera generate --model m --prompt-ids 1,2,3 --ignore-eos >"$work/out" 2>"$work/err" &
  stream=$!
  until [[ $(stat -c %s "$work/out") -gt 100 ]]; do
    if ! kill -0 "$stream" 2>/dev/null || ((tenths-- == 0)); then
      echo "no tokens came: $(<"$work/err")" >"$findings"
      exit 1
    fi
    sleep 0.1
  done
  # Ranks start in order, so process ids tell them apart.
  victim=$(ranks_of "$TESSERA_COORDINATOR" | sort -n | sed -n "$([[ $which == first ]] && echo 1 || echo '$')p")
  start=$(now_ms)
  kill -KILL "$victim"
  wait "$stream" && echo "the stream ended well" >>"$findings"
  ended=$(($(now_ms) - start))
  until [[ -z $(ranks_of "$TESSERA_COORDINATOR") ]] || (($(now_ms) - start > 4 * limit)); do sleep 0.05; done
  gone=$(($(now_ms) - start))
  grep -q UNAVAILABLE "$work/err" || echo "no UNAVAILABLE: $(<"$work/err")" >>"$findings"
  ((ended <= limit)) || echo "the stream ended after $ended ms" >>"$findings"
  ((gone <= limit)) || echo "the last rank ended after $gone ms" >>"$findings"
  echo "lost rank ($which): the stream ended after $ended ms, the last rank after $gone ms" >&2
  echo measured >>"$findings"
}

if [[ ${1:-} == --inside ]]; then
  shift
  inside "$@"
  exit 0
fi
which=$1 limit=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tmp" # local.sh's files, and what its processes are found by
TMPDIR=$work/tmp "$root/launch/local.sh" "$@" -- "$root/tools/lost_rank_check.sh" --inside "$which" "$limit" \
  "$work/findings" 2>"$work/log"
grep -a 'lost rank' "$work/log"
findings=$(cat "$work/findings" 2>/dev/null)
left=$(pgrep -f "$work/tmp")
[[ -z $left ]] || findings+=" processes left: $left"
[[ -z $(ls -A "$work/tmp") ]] || findings+=" files left: $(ls -A "$work/tmp")"
[[ $findings == measured ]] && exit 0
echo "lost rank ($which): ${findings:-nothing was found out}"
tail -n 40 "$work/log"
exit 1
