#!/usr/bin/env bash
# Installs what the build needs, builds everything, and runs every test that needs no GPU.
#   tests/run.sh [PRESET]     PRESET: cuda when nvcc is found, else cpu (CMakePresets.json lists them)
# TESSERA_BUILD_JOBS limits the compilers that run at once (default: the number of cores).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
if [[ ${1:-} == --help ]]; then
  sed -n '2,5s/^# \{0,1\}//p' "$0"
  exit 0
fi

launch/install_deps.sh

preset=${1:-}
if [[ -z $preset ]]; then
  if command -v nvcc >/dev/null || [[ -x /usr/local/cuda/bin/nvcc ]]; then preset=cuda; else preset=cpu; fi
fi
echo "==> build ($preset)"
cmake --preset "$preset"
cmake --build --preset "$preset" -j "${TESSERA_BUILD_JOBS:-$(nproc)}"

echo "==> tests that need no GPU"
# GPU tests are compiled but left to tools/gpu_check.sh: say how many, so that nobody takes them for passed.
gpu_tests=$(ctest --preset "$preset" -N -L gpu 2>/dev/null | sed -n 's/^Total Tests: //p')
echo "not run here, they need a GPU: ${gpu_tests:-0} tests"
ctest --preset "$preset" -LE gpu -j 2
