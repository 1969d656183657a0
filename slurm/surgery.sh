#!/usr/bin/env bash
# Runs a recipe in a Slurm allocation, and goes on by itself after a time limit or a preemption:
#
#   sbatch [--nodes=2 --ntasks-per-node=4 --gpus-per-node=4 ...] slurm/surgery.sh [RECIPE.cfg] [--section.key=value]...
#   bash slurm/surgery.sh [RECIPE.cfg]      # the same on this machine, without Slurm
#
# Without a recipe it is configs/recipes/shapes-quick.cfg, as for launch/local.sh.
#
# First `surgery plan`, which refuses in seconds what cannot work; then the recipe over all tasks. Five minutes before the
# time limit, or on SIGTERM, the ranks commit what they have and the program exits with 75: the job is put back in the
# queue, at most SURGERY_MAX_REQUEUES times, and goes on from what the run directory holds; not where the plan is refused
# by then, as it is while the run directory holds a file STOP.
#
# Settings, all by environment (sbatch --export=ALL, its default, hands them on):
#   SURGERY_ROOT           the project's folder (default: where this script was submitted from)
#   SURGERY_BINARY         the program (default build/release/bin/surgery, built by launch/build.sh)
#   SURGERY_COMMAND        run (default), or one stage: cache, distill, tables, select, finetune, generate, ...
#   SURGERY_PLAN           1 (default): plan first; 0: do not
#   SURGERY_MAX_REQUEUES   how often a job goes back in the queue by itself (default 20)
#   SURGERY_LAUNCHER       auto (default), srun, mpirun, none; auto tries srun's PMIx on the allocation
#   SURGERY_SRUN_FLAGS     default "--unbuffered --kill-on-bad-exit=1 --cpu-bind=cores"
#   SURGERY_MPIRUN_FLAGS   default "--bind-to none --mca btl tcp,self --mca mpi_yield_when_idle 1"
#   SURGERY_ENV            file that sets up modules and paths (default slurm/env/$SLURM_CLUSTER_NAME.sh if there is one)
#   RANKS                  without Slurm: processes (default 1)
#
# Exit code: the program's (0 done; 64 bad configuration; 65 bad data; 70 internal; 74 input or output; 75 stopped with
# work left and not queued again); a job that was queued again ends with 0.
#SBATCH --job-name=surgery
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#SBATCH --signal=B:USR2@300
set -euo pipefail

say() { echo "surgery.sh: $*" >&2; }

# Slurm runs a copy of this script, so its own place says nothing.
find_root() {
  local folder command
  command=$(scontrol show job -o "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n 's/.* Command=\([^ ]*\).*/\1/p' || true)
  for folder in "${SURGERY_ROOT:-}" "$(dirname "${BASH_SOURCE[0]}")/.." "${command:+$(dirname "$command")/..}" \
    "${SLURM_SUBMIT_DIR:-}"; do
    [[ -n $folder && -e $folder/slurm/surgery.sh ]] && { realpath "$folder"; return; }
  done
  say "the project's folder is not where the job was submitted from: set SURGERY_ROOT"
  exit 64
}

# Whether tasks that srun starts find each other. Where PMIx is missing or broken each would run the whole job alone.
srun_works() {
  command -v srun >/dev/null && srun --mpi=list 2>&1 | grep -q pmix || return 1
  timeout -k 5 60 srun --mpi=pmix "${srun_flags[@]}" "$binary" info >/dev/null 2>&1
}

choose_launcher() {
  local tasks=$1 choice=${SURGERY_LAUNCHER:-auto}
  if [[ $choice == auto ]]; then
    if ((tasks == 1)); then choice=none
    elif [[ -n ${SLURM_JOB_ID:-} ]] && srun_works; then choice=srun
    elif command -v mpirun >/dev/null; then choice=mpirun
    else
      say "neither srun --mpi=pmix nor mpirun starts $tasks connected ranks: load an MPI module in slurm/env/, or set SURGERY_LAUNCHER"
      exit 64
    fi
  fi
  case $choice in
    srun) launcher=(srun --mpi=pmix "${srun_flags[@]}") ;;
    mpirun)
      launcher=(mpirun -n "$tasks" "${mpirun_flags[@]}")
      ((EUID != 0)) || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
      ;;
    none)
      launcher=()
      export SURGERY_SINGLE_RANK=1
      ;;
    *) say "SURGERY_LAUNCHER=$choice: auto, srun, mpirun and none are known"; exit 64 ;;
  esac
  say "$tasks ranks, launcher $choice"
}

# Runs in the background so that signals are handled at once, and passes them on as SIGUSR2: mpirun forwards that one
# to its ranks (it would answer SIGTERM by killing them), and so does srun.
run_forwarding_signals() {
  "$@" &
  local child=$! result=0
  trap 'say "asked to stop"; kill -USR2 '"$child"' 2>/dev/null || true' USR2 TERM INT
  wait "$child" || result=$?
  while kill -0 "$child" 2>/dev/null; do  # a trapped signal ends `wait` before the program
    result=0
    wait "$child" || result=$?
  done
  trap - USR2 TERM INT
  return "$result"
}

# Puts this job back in the queue, if it is still running by its own will and has not been too often. A job that was
# cancelled, or that Slurm requeues itself after a preemption, is no longer RUNNING.
requeue() {
  local state count=${SLURM_RESTART_COUNT:-0} limit=${SURGERY_MAX_REQUEUES:-20}
  [[ -n ${SLURM_JOB_ID:-} ]] || return 1
  state=$(scontrol show job -o "$SLURM_JOB_ID" | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p')
  [[ $state == RUNNING ]] || { say "the job is $state: not queued again"; return 1; }
  if ((count >= limit)); then
    say "queued again $count times already (SURGERY_MAX_REQUEUES=$limit): submit again to go on"
    return 1
  fi
  say "work is left: back in the queue (time $((count + 1)) of at most $limit)"
  scontrol requeue "$SLURM_JOB_ID"
}

root=$(find_root)
cd "$root"
environment=${SURGERY_ENV:-$root/slurm/env/${SLURM_CLUSTER_NAME:-local}.sh}
if [[ -e $environment ]]; then
  say "environment $environment"
  # shellcheck disable=SC1090
  source "$environment"
elif [[ -n ${SURGERY_ENV:-} ]]; then
  say "SURGERY_ENV=$SURGERY_ENV does not exist"
  exit 64
fi

recipe=$root/configs/recipes/shapes-quick.cfg
if (($#)) && [[ $1 != -* ]]; then
  recipe=$1
  shift
fi
[[ -r $recipe || ! -r ${SLURM_SUBMIT_DIR:-$PWD}/$recipe ]] || recipe=$SLURM_SUBMIT_DIR/$recipe
[[ -r $recipe ]] || { say "$recipe cannot be read: give a recipe's file (configs/recipes/ has some)"; exit 64; }
binary=${SURGERY_BINARY:-$root/build/release/bin/surgery}
[[ -x $binary ]] || { say "$binary does not exist: run launch/build.sh on a login node first, or set SURGERY_BINARY"; exit 64; }

tasks=${SLURM_NTASKS:-${SLURM_NNODES:-${RANKS:-1}}}
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}; fi
read -r -a srun_flags <<<"${SURGERY_SRUN_FLAGS:---unbuffered --kill-on-bad-exit=1 --cpu-bind=cores}"
srun_flags+=("--ntasks=$tasks")
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || srun_flags+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
read -r -a mpirun_flags <<<"${SURGERY_MPIRUN_FLAGS:---bind-to none --mca btl tcp,self --mca mpi_yield_when_idle 1}"

say "job ${SLURM_JOB_ID:-none}, start $((${SLURM_RESTART_COUNT:-0} + 1)), on ${SLURM_JOB_NODELIST:-$(hostname)}," \
  "commit $(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)"
if [[ -n ${LOADEDMODULES:-} ]]; then say "modules $LOADEDMODULES"; fi

arguments=(--config "$recipe" "$@")
if [[ ${SURGERY_PLAN:-1} == 1 ]]; then
  code=0
  SURGERY_SINGLE_RANK=1 "$binary" plan "${arguments[@]}" || code=$?
  ((code == 0)) || { say "the plan was refused ($code): nothing was started"; exit "$code"; }
fi

choose_launcher "$tasks"
code=0
run_forwarding_signals "${launcher[@]}" "$binary" "${SURGERY_COMMAND:-run}" "${arguments[@]}" || code=$?
case $code in
  0) say "done" ;;
  64) say "the configuration was refused (64): correct it and submit again" ;;
  65) say "input data are bad (65): the message above names them" ;;
  74) say "input or output failed (74): finished work is kept; make room and submit again" ;;
  75) if [[ ${SURGERY_PLAN:-1} == 1 ]] && ! SURGERY_SINGLE_RANK=1 "$binary" plan "${arguments[@]}" >/dev/null; then
        say "the plan is refused now (above): not queued again"
      elif requeue; then
        exit 0
      fi
      say "stopped cleanly with work left (75)" ;;
  *) say "the program failed ($code): finished work is kept; submit again to go on" ;;
esac
exit "$code"
