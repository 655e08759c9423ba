#!/bin/bash
# Sort a store with all cores of one node.
#
#     sbatch --account=m1234 sort_node.sh traces sorted --segment-bytes 1GiB
#
#SBATCH --job-name=sort
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=32
#SBATCH --mem-per-cpu=4G
#SBATCH --time=02:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=sort-%j.log

set -euo pipefail
export OMP_NUM_THREADS=1

trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

tracestore sort "$@" --workers "${SLURM_CPUS_PER_TASK:-2}" &
wait "$!"
