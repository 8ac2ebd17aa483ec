#!/usr/bin/env bash
# Runs clang-tidy with the project's checks on the given files, or on those that differ from BASE.
#   tools/tidy.sh FILE...        tools/tidy.sh --base main~1
# Needs a configured build-cpu (cmake --preset cpu) for its compile_commands.json.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ${1:-} == --help || $# -eq 0 ]]; then
  sed -n '2,4s/^# \{0,1\}//p' "$0"
  exit 0
fi
files=("$@")
if [[ $1 == --base ]]; then
  mapfile -t files < <(git diff --name-only --diff-filter=d "$2" -- '*.cc')
fi
((${#files[@]})) || { echo "tidy: no files"; exit 0; }
clang-tidy -p build-cpu --quiet "${files[@]}"
