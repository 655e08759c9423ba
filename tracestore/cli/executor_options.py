"""Options that say where the tasks of a verb run, and the executor that they stand for. Executors are imported late."""

import argparse
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from tracestore.cli.words import parse_positive, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracestore.executors import Executor

__all__ = ["add_executor_options", "open_executor"]

EXECUTORS = ("serial", "processes", "dask", "mpi")
DEFAULT_WORKERS = 2


def add_executor_options(parser: argparse.ArgumentParser) -> None:
    """Give a verb ``--executor``, ``--workers``, ``--scheduler`` and ``--memory-limit``.

    Parameters
    ----------
    parser
        The parser of the verb, which is also its default ``parser``.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_executor_options(parser)
    >>> parser.parse_args(["--scheduler", "tcp://node17:8786"]).scheduler
    'tcp://node17:8786'
    """
    group = parser.add_argument_group("where tasks run")
    text = (
        "in this process, in processes of this machine, on a dask cluster, or on the ranks of mpiexec (default dask "
        "with --scheduler, processes with --workers above 1, else serial)"
    )
    group.add_argument("--executor", choices=EXECUTORS, help=text)
    text = f"processes, also those of a dask cluster that is started here (default {DEFAULT_WORKERS} of them)"
    group.add_argument("--workers", metavar="N", type=parse_positive, help=text)
    text = "of a dask cluster, such as tcp://node17:8786; without it, --executor dask starts workers on this machine"
    group.add_argument("--scheduler", metavar="ADDRESS", help=text)
    text = "memory of each dask worker started here, such as 4GiB (default: its share of this machine)"
    group.add_argument("--memory-limit", metavar="SIZE", type=parse_size, help=text)


@contextmanager
def open_executor(
    args: argparse.Namespace, *, start_method: Literal["fork", "spawn"] = "fork"
) -> "Iterator[Executor | None]":
    """Open the executor that the words ask for; refuse words that contradict each other.

    Yields None on the ranks of an MPI job that have served rank 0: their verb prints nothing and returns 0.

    Parameters
    ----------
    args
        The parsed words, with ``parser`` for errors of usage.
    start_method
        How processes start: ``spawn`` when a store is on an object store.

    Raises
    ------
    MissingExtraError
        When dask or mpi4py is not installed.
    ExecutorError
        When the scheduler does not answer, or workers do not start.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> parser.set_defaults(parser=parser)
    >>> add_executor_options(parser)
    >>> with open_executor(parser.parse_args(["--workers", "3"])) as executor:
    ...     executor.workers
    3
    """
    kind = _kind(args)
    _check_words(args, kind)
    if kind == "dask":
        from tracestore.executors.dask import DaskExecutor

        if args.scheduler is not None:
            opened = DaskExecutor.connect(args.scheduler)
        else:
            opened = DaskExecutor.local(workers=args.workers or DEFAULT_WORKERS, memory_limit=args.memory_limit)
        with opened as executor:
            if executor.dashboard_link is not None:
                print(f"dask dashboard: {executor.dashboard_link}", file=sys.stderr)
            yield executor
    elif kind == "mpi":
        from tracestore.executors.mpi import MPIExecutor

        with MPIExecutor() as ranks:
            yield ranks
    elif kind == "processes":
        from tracestore.executors import ProcessExecutor

        yield ProcessExecutor(args.workers or DEFAULT_WORKERS, start_method=start_method)
    else:
        from tracestore.executors import SerialExecutor

        yield SerialExecutor()


def _kind(args: argparse.Namespace) -> str:
    if args.executor is not None:
        return str(args.executor)
    if args.scheduler is not None:
        return "dask"
    return "processes" if (args.workers or 1) > 1 else "serial"


def _check_words(args: argparse.Namespace, kind: str) -> None:
    if args.scheduler is not None and kind != "dask":
        args.parser.error(f"--scheduler belongs to the executor dask; the executor {kind} has none")
    if args.memory_limit is not None and kind != "dask":
        args.parser.error(f"--memory-limit belongs to the executor dask; the executor {kind} sets none")
    if args.scheduler is not None and args.workers is not None:
        args.parser.error("--workers starts processes here; the workers of --scheduler run already")
    if args.scheduler is not None and args.memory_limit is not None:
        args.parser.error("--memory-limit is for workers started here; those of --scheduler have theirs already")
    if kind == "mpi" and args.workers is not None:
        args.parser.error("--workers does not go with the executor mpi; mpiexec -n says how many ranks there are")
    if kind == "serial" and (args.workers or 1) > 1:
        args.parser.error("--workers above 1 does not go with the executor serial; take processes")
