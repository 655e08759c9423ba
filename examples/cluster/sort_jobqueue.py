"""Sort a store with workers in Slurm jobs that dask-jobqueue submits.

The script itself is the dask scheduler and hands out the tasks, which takes one core and little memory. It has to
live as long as the sort: start it where long processes are allowed, or in a small job of its own.

    python sort_jobqueue.py traces sorted --jobs 10 --cores 32 --memory 128GB --account m1234
    python sort_jobqueue.py traces sorted --local         the same on this machine, without Slurm

When it ends before its time, start it again: outputs that are in place are kept.
"""

import argparse
from typing import Any

from dask.utils import parse_bytes
from dask_jobqueue.local import LocalCluster
from dask_jobqueue.slurm import SLURMCluster
from distributed import Client

import tracestore as ts
from tracestore.progress import Progress


def main() -> None:
    """Start a cluster that follows the number of tasks, and sort on it."""
    args = parse_arguments()
    with make_cluster(args) as cluster:
        if args.show_job:
            print(cluster.job_script())
            return
        cluster.adapt(minimum_jobs=1, maximum_jobs=args.jobs)
        with Client(cluster) as client, Progress() as progress:
            print(f"dashboard: {client.dashboard_link}", flush=True)
            client.wait_for_workers(1)  # jobs wait in the queue; the memory of a worker is known when one is there
            store = ts.sort_store(
                args.source,
                args.destination,
                executor=ts.DaskExecutor(client),
                segment_bytes=args.segment_bytes,
                observer=progress,
            )
    print(f"{len(store):,} traces in {len(store.segments):,} segments of {store.storage.url}")


def make_cluster(args: argparse.Namespace) -> Any:  # noqa: ANN401  # its classes carry no types
    """Describe one job; none is submitted yet."""
    job = {
        "cores": args.cores,
        "processes": args.cores,  # one worker per core, with one thread
        "memory": args.memory,  # of the job; each worker gets its share
        "local_directory": args.local_directory,
        "interface": args.interface,
        "scheduler_options": {"dashboard_address": ":0"},  # any free port: others have dashboards, too
    }
    if args.local:
        return LocalCluster(**job)
    return SLURMCluster(
        **job, queue=args.queue, account=args.account, walltime=args.walltime, job_extra_directives=args.directive
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Sort a store with workers in Slurm jobs.")
    parser.add_argument("source", help="the store to sort")
    parser.add_argument("destination", nargs="?", help="the store to write (default: the source, in place)")
    parser.add_argument("--segment-bytes", type=parse_bytes, default=2**30, help="raw size of a segment (default 1GiB)")
    parser.add_argument("--jobs", type=int, default=2, help="jobs at most (default 2)")
    parser.add_argument("--cores", type=int, default=1, help="cores, and workers, of a job (default 1)")
    parser.add_argument("--memory", default="6GB", help="memory of a job (default 6GB)")
    parser.add_argument("--walltime", default="01:00:00", help="time limit of a job (default one hour)")
    parser.add_argument("--queue", help="partition")
    parser.add_argument("--account", help="account to charge")
    parser.add_argument("--directive", action="append", default=[], help="one more #SBATCH option, such as -C=cpu")
    parser.add_argument("--interface", help="network between nodes, such as ib0 or hsn0")
    parser.add_argument("--local-directory", help="fast disk of a node, such as $TMPDIR, for files of dask")
    parser.add_argument("--show-job", action="store_true", help="print the script of a job, and submit nothing")
    parser.add_argument("--local", action="store_true", help="jobs are processes of this machine; no Slurm")
    return parser.parse_args()


if __name__ == "__main__":
    main()
