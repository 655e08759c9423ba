#!/bin/bash
# Sort a store with dask inside one MPI job: two ranks are scheduler and client, all others work.
#
#     sbatch --account=m1234 sort_dask_mpi.sh traces sorted
#
#SBATCH --job-name=sort
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=32
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=4G
#SBATCH --time=02:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=sort-%j.log

set -euo pipefail
export OMP_NUM_THREADS=1

# Slurm runs a copy of this file, so the folder of the Python script is where the job was submitted
script=${SCRIPT:-sort_dask_mpi.py}

trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

${LAUNCH:-srun} python "$script" "$@" --memory 4GB &
wait "$!"
