#!/usr/bin/env bash
# run.sh PYTHON FILE: one parity test under pytest. Exit code 77 tells ctest that it was left out on purpose; missing
# packages alone are a failure, so that parity is never skipped unnoticed.
set -euo pipefail
if [[ ${SURGERY_TESTS_NO_PARITY:-0} == 1 ]]; then
  echo "left out (SURGERY_TESTS_NO_PARITY=1)"
  exit 77
fi
exec "$1" -m pytest -q -p no:cacheprovider "$2"
