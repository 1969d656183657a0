#!/usr/bin/env bash
# Installs what the build needs, once: Debian packages (as root, or by sudo without a password) and a Python environment
# that holds the pinned LibTorch. With --tests also what the tests compare with, clang and libFuzzer; with --fuzz also
# clang and libFuzzer alone. Repeated calls take a moment.
#
#   eval "$(launch/setup.sh [--tests|--fuzz])"      # sets SURGERY_TORCH_DIR and SURGERY_PYTHON
#
# SURGERY_DEPS         where the environment goes (default ${XDG_CACHE_HOME:-~/.cache}/surgery)
# SURGERY_SKIP_APT=1   never call apt-get: the system (or a module) has the compiler, MPI, HDF5, Boost, ...
# Standard output holds the exports and nothing else; progress goes to standard error.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
deps=${SURGERY_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/surgery}
venv=$deps/venv
requirements=("$root/launch/requirements.txt")
kind=build
packages=()
case "${1:-}" in
  "") ;;
  --tests) requirements+=("$root/tests/requirements.txt"); packages=(slurm-wlm munge clang-14 libclang-rt-14-dev); kind=tests ;;
  --fuzz) packages=(clang-14 libclang-rt-14-dev) ;;
  *) echo "setup.sh: unknown option $1 (--tests and --fuzz are known)" >&2; exit 64 ;;
esac

packages+=(g++ cmake ninja-build ccache mold git pkg-config python3-venv
          openmpi-bin libopenmpi-dev libhdf5-dev libboost-program-options-dev nlohmann-json3-dev libxxhash-dev
          libsentencepiece-dev libutf8proc-dev libavformat-dev libavcodec-dev libavutil-dev libswscale-dev libgtest-dev)

install_packages() {
  [[ ${SURGERY_SKIP_APT:-0} != 1 && -e /etc/debian_version ]] || return 0
  local package missing=() installed
  installed=" $(dpkg-query -W -f='${binary:Package}/${db:Status-Status} ' "${packages[@]}" 2>/dev/null || true)"
  for package in "${packages[@]}"; do
    [[ $installed =~ \ $(sed 's/+/\\+/g' <<<"$package")(:[a-z0-9]+)?/installed\  ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  local as_root=()
  if ((EUID != 0)); then
    if ! sudo -n true 2>/dev/null; then
      echo "setup.sh: packages are missing and this user may not install them: ${missing[*]}" >&2
      echo "setup.sh: going on; cmake will name what it cannot find (modules may provide it)" >&2
      return 0
    fi
    as_root=(sudo -n)
  fi
  echo "setup.sh: installing ${missing[*]}" >&2
  "${as_root[@]}" apt-get update -qq >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# Whether the environment holds every pinned version; reads the packages' metadata, imports nothing.
versions_match() {
  [[ -x $venv/bin/python3 ]] || return 1
  "$venv/bin/python3" - "${requirements[@]}" <<'PYTHON'
import importlib.metadata, sys
for path in sys.argv[1:]:
    for line in open(path):
        line = line.split("#")[0].strip()
        if line:
            name, version = line.split("==")
            try:
                found = importlib.metadata.version(name).split("+")[0]
            except importlib.metadata.PackageNotFoundError:
                sys.exit(1)
            if found != version:
                sys.exit(1)
PYTHON
}

install_environment() {
  local wanted stamp=$venv/.surgery-$kind
  wanted=$(cat "${requirements[@]}")
  [[ -e $stamp && $(<"$stamp") == "$wanted" ]] && return 0
  if ! versions_match; then
    local python=/usr/bin/python3 arguments=() file
    [[ -x $python ]] || python=python3
    for file in "${requirements[@]}"; do arguments+=(-r "$file"); done
    echo "setup.sh: installing the Python environment in $venv (5 GB, a minute or two)" >&2
    [[ -x $venv/bin/python3 ]] || "$python" -m venv "$venv" >&2
    "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check "${arguments[@]}" >&2
    versions_match || { echo "setup.sh: $venv does not hold the pinned versions after pip: remove it and try again" >&2; exit 74; }
  fi
  printf '%s\n' "$wanted" >"$stamp.new"
  mv "$stamp.new" "$stamp"
}

mkdir -p "$deps"
exec 9>"$deps/lock"
flock 9  # two calls at once would install into one folder
install_packages
install_environment
torch=$(echo "$venv"/lib/python3.*/site-packages/torch)
[[ -e $torch/lib/libtorch_cpu.so ]] || { echo "setup.sh: $torch holds no libtorch_cpu.so (damaged installation): remove $venv and try again" >&2; exit 74; }
echo "export SURGERY_TORCH_DIR=$torch"
echo "export SURGERY_PYTHON=$venv/bin/python3"
