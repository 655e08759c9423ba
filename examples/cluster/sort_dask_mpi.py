"""Sort a store with dask inside one MPI job, through dask-mpi.

Rank 0 is the scheduler, rank 1 runs this script, all others are workers: ``-n 34`` gives 32 of them.

    srun -n 34 python sort_dask_mpi.py traces sorted
    mpiexec -n 3 python sort_dask_mpi.py traces sorted
"""

import argparse
import logging

import dask_mpi
from dask.utils import parse_bytes
from distributed import Client

import tracestore as ts
from tracestore.progress import Progress


def main() -> None:
    """Become scheduler, worker or client, by rank; only the client comes out of `initialize`."""
    args = parse_arguments()
    logging.getLogger("distributed").setLevel(logging.WARNING)  # all ranks write into one log
    dask_mpi.initialize(
        nthreads=1,
        interface=args.interface,
        local_directory=args.local_directory,
        memory_limit=args.memory,
        dashboard_address=":0",
    )
    with Client() as client, Progress() as progress:
        print(f"dashboard: {client.dashboard_link}", flush=True)
        client.wait_for_workers(1)
        store = ts.sort_store(
            args.source,
            args.destination,
            executor=ts.DaskExecutor(client),
            segment_bytes=args.segment_bytes,
            observer=progress,
        )
    print(f"{len(store):,} traces in {len(store.segments):,} segments of {store.storage.url}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Sort a store with dask inside one MPI job.")
    parser.add_argument("source", help="the store to sort")
    parser.add_argument("destination", nargs="?", help="the store to write (default: the source, in place)")
    parser.add_argument("--segment-bytes", type=parse_bytes, default=2**30, help="raw size of a segment (default 1GiB)")
    parser.add_argument("--memory", type=parse_bytes, default="4GB", help="memory of each worker (default 4GB)")
    parser.add_argument("--interface", help="network between nodes, such as ib0 or hsn0")
    parser.add_argument("--local-directory", help="fast disk of a node, such as $TMPDIR, for files of dask")
    return parser.parse_args()


if __name__ == "__main__":
    main()
