"""One voice for all ranks that a launcher has started: what is wrong is said once, and by whom it concerns.

Rank 0 shows progress and results, and what all ranks say alike. What a rank alone has to complain about, it says
itself, with its number. Rooms are imported inside the functions.
"""

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from tracestore.errors import ExecutorError, InvalidInputError, TracestoreError, TrainingError, TrainingStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracestore.samplers.world import World
    from tracestore.training.communicator import Communicator

__all__ = ["open_ranks", "rank_world", "require_no_problem", "speak_with_one_voice"]

PROBLEM, INTERRUPTED, TERMINATED = 1, 130, 143


def speak_with_one_voice(args: argparse.Namespace, work: "Callable[[argparse.Namespace], int]") -> int:
    """Run a verb that all ranks run together; return its exit status.

    Parameters
    ----------
    args
        Words of the verb, with ``ranks_by``.
    work
        The verb.
    """
    rank = rank_world(args).rank
    if rank and not args.debug:
        logging.getLogger("tracestore").setLevel(logging.ERROR)  # rank 0 warns for all
    try:
        return work(args)
    except TrainingStoppedError as error:
        if not rank:
            print(f"Stopped after step {error.fields['step']:,}; the same command continues.", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        if not rank:
            raise
        return INTERRUPTED
    except (TracestoreError, OSError) as error:
        if not rank or args.debug:
            raise
        # all ranks have the first two; of the third, the rank that is lost tells the cause
        if not isinstance(error, TrainingError | InvalidInputError | ExecutorError):
            print(f"tracestore {args.command}: error on rank {rank}: {error}", file=sys.stderr)
        return PROBLEM


def rank_world(args: argparse.Namespace) -> "World":
    """Tell which rank this is before ranks talk."""
    from tracestore.samplers.world import World

    return World() if args.ranks_by == "none" else World.from_environment()


def open_ranks(args: argparse.Namespace, device: str) -> "Communicator":
    """Let the ranks find each other.

    Parameters
    ----------
    args
        Words of the verb, with ``ranks_by``.
    device
        Where they train.
    """
    from tracestore.training.communicator import open_communicator

    try:
        return open_communicator(args.ranks_by, device=device)
    except TracestoreError as error:
        if rank := rank_world(args).rank:
            print(f"tracestore {args.command}: error on rank {rank}: {error}", file=sys.stderr)
        raise


def require_no_problem(communicator: "Communicator", problem: str) -> None:
    """Refuse on all ranks what is wrong on any, and say it once."""
    problems = [payload.decode() for payload in communicator.gather(problem.encode())]
    if len(set(problems)) > 1:
        problem = " ".join(f"Rank {rank}: {one}" for rank, one in enumerate(problems) if one)
    if problem:
        raise InvalidInputError(problem)
