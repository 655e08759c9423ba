#!/bin/bash
# Sort a store with MPI: rank 0 hands out tasks, all others work.
#
#     sbatch --account=m1234 sort_mpi.sh traces sorted --segment-bytes 1GiB
#
#SBATCH --job-name=sort
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=32
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=4G
#SBATCH --time=02:00:00
# ask for a signal to this script two minutes before the time limit; go back into the queue then, keeping the log
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=sort-%j.log

set -euo pipefail
export OMP_NUM_THREADS=1

# outside Slurm, give another launcher: LAUNCH="mpiexec -n 3" ./sort_mpi.sh traces sorted
launch=${LAUNCH:-srun}

go_on_later() {
    echo "time is nearly up; the job goes back into the queue and continues there"
    scontrol requeue "$SLURM_JOB_ID"
}
trap go_on_later USR1

# in the background, since a shell hears signals only when it waits
$launch tracestore sort "$@" --executor mpi &
wait "$!"
