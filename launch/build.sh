#!/usr/bin/env bash
# Installs what is missing and builds: launch/build.sh [TARGET]...   The program is build/release/bin/surgery.
#
# SURGERY_PRESET       release (default), dev, asan
# SURGERY_JOBS         compilers at once (default: cores)
# SURGERY_CMAKE_FLAGS  options for cmake, e.g. "-DSURGERY_CUDA=ON -DSURGERY_TESTS=OFF" (README: the build's options); the
#                      build folder keeps them until others are given
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
preset=${SURGERY_PRESET:-release}
jobs=${SURGERY_JOBS:-$(nproc)}
if [[ -z ${SURGERY_TORCH_DIR:-} ]]; then
  exports=$("$root/launch/setup.sh")
  eval "$exports"
fi
cd "$root"
cache=build/$preset/CMakeCache.txt
read -r -a flags <<<"${SURGERY_CMAKE_FLAGS:-}"
if ((${#flags[@]})) || [[ ! -e build/$preset/build.ninja ]] || ! grep -qF ":PATH=$SURGERY_TORCH_DIR" "$cache"; then
  cmake --preset "$preset" -DSURGERY_TORCH_DIR="$SURGERY_TORCH_DIR" "${flags[@]}" >&2
fi
ninja -C "build/$preset" -j "$jobs" "$@" >&2
