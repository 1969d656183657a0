#!/usr/bin/env bash
# Runs variants of a recipe as one job array, each in its own run directory:
#
#   sbatch --array=1-4%2 slurm/ablations.sh configs/ablations/VARIANTS.txt RECIPE.cfg [--section.key=value]...
#
# Line n of the variants file is the array's task n: a name, then options. Lines that are empty or begin with # do not
# count.   phi-degree-3   --distill.phi_degree=3
# Every setting of slurm/surgery.sh holds; the run directory is SURGERY_RUNS (default runs/ablations)/NAME. What a variant
# shares with a run that is there already (trajectories, blocks, the teacher's clips) it takes from SURGERY_BASE, that run's
# directory, if given. Without Slurm: SLURM_ARRAY_TASK_ID=1 RANKS=2 bash slurm/ablations.sh ...
#SBATCH --job-name=surgery-ablation
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.out
#SBATCH --signal=B:USR2@300
set -euo pipefail
variants=${1:?variants file} recipe=${2:?recipe file}
shift 2
task=${SLURM_ARRAY_TASK_ID:?this is a job array: sbatch --array=1-N slurm/ablations.sh ...}
[[ -r $variants ]] || { echo "ablations.sh: $variants cannot be read" >&2; exit 64; }
line=$(grep -vE '^[[:space:]]*(#|$)' "$variants" | sed -n "${task}p")
[[ -n $line ]] || { echo "ablations.sh: $variants has no variant $task: give --array=1-N, N its number of variants" >&2; exit 64; }
read -r name options <<<"$line"
echo "ablations.sh: variant $task is $name: $options" >&2
root=${SURGERY_ROOT:-${SLURM_SUBMIT_DIR:-$PWD}}
# shellcheck disable=SC2086  # the options are words
exec bash "$root/slurm/surgery.sh" "$recipe" "--run.directory=${SURGERY_RUNS:-runs/ablations}/$name" \
  ${SURGERY_BASE:+"--run.base=$SURGERY_BASE"} $options "$@"
