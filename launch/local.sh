#!/usr/bin/env bash
# Runs a whole recipe on this machine: launch/local.sh [RECIPE.cfg] [--section.key=value]...
#
# RANKS    processes (default 2)
# RECIPE   configuration file, if the first argument is none (default configs/recipes/shapes-quick.cfg)
# COMMAND  another command than run
# SURGERY_BINARY  the program, if it is built already (default: build/release/bin/surgery, built here first)
# Exit code: the program's own (0 done; 64 bad configuration; 65 bad data; 70 internal; 74 input or output; 75 stopped
# cleanly with work left: call again). SIGTERM and Ctrl-C ask for such a clean stop.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
recipe=${RECIPE:-$root/configs/recipes/shapes-quick.cfg}
if (($#)) && [[ $1 != -* ]]; then
  recipe=$1
  shift
fi
[[ -r $recipe ]] || { echo "local.sh: $recipe cannot be read: give a recipe's file (configs/recipes/ has some)" >&2; exit 64; }
recipe=$(realpath "$recipe")
binary=${SURGERY_BINARY:-$root/build/release/bin/surgery}
[[ -n ${SURGERY_BINARY:-} ]] || "$root/launch/build.sh" surgery
[[ -f $binary && -x $binary ]] || { echo "local.sh: $binary is no program: correct SURGERY_BINARY, or leave it out" >&2; exit 64; }
binary=$(realpath "$binary")

cd "$root"
ranks=${RANKS:-2}
cores=$(nproc)
threads=$((cores / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
launcher=()
if ((ranks > 1)); then
  launcher=(mpirun -n "$ranks")
  if mpirun --version 2>/dev/null | grep -q 'Open MPI'; then
    # Ranks bring their own threads, so no binding; a rank that waits should leave its core to one that works.
    launcher+=(--bind-to none --mca mpi_yield_when_idle 1)
    ((ranks <= cores)) || launcher+=(--oversubscribe)
    if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
  fi
fi

"${launcher[@]}" "$binary" "${COMMAND:-run}" --config "$recipe" "$@" &
program=$!
# mpirun answers SIGTERM by killing its ranks; SIGUSR2 it passes on, and they commit and stop.
trap 'kill -USR2 $program 2>/dev/null || true' TERM INT
code=0
wait "$program" || code=$?
while kill -0 "$program" 2>/dev/null; do  # a trapped signal ends `wait` before the program
  code=0
  wait "$program" || code=$?
done
case $code in
  0) ;;
  64) echo "local.sh: the configuration was refused (64)" >&2 ;;
  65) echo "local.sh: input data are bad (65)" >&2 ;;
  74) echo "local.sh: input or output failed (74)" >&2 ;;
  75) echo "local.sh: stopped cleanly with work left (75): the same command goes on from there" >&2 ;;
  *) echo "local.sh: the program failed ($code)" >&2 ;;
esac
exit "$code"
