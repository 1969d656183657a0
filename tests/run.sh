#!/usr/bin/env bash
# Builds the program and its tests and runs them all; further arguments go to ctest (-R NAME, -L mpi, ...).
#
# SURGERY_TESTS_NO_PARITY=1   leaves out what compares with the Python reference implementations (and their download)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
if [[ ${SURGERY_TESTS_NO_PARITY:-0} == 1 ]]; then
  exports=$(launch/setup.sh)
else
  exports=$(launch/setup.sh --tests)
fi
eval "$exports"
launch/build.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Most tests use one core; those that use more say so (PROCESSORS).
exec ctest --test-dir "build/${SURGERY_PRESET:-release}" --parallel "$(nproc)" --output-on-failure "$@"
