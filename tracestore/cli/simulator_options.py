"""The word for a simulator on the command line, and the options of programs that speak PPX."""

import argparse
import math
import shlex
from typing import TYPE_CHECKING

from tracestore.cli.words import parse_positive
from tracestore.errors import InvalidInputError

if TYPE_CHECKING:
    from tracestore.simulators.base import Simulator

__all__ = ["BUNDLED", "MAX_SITES", "add_length_cap", "add_simulator_options", "load_simulator"]

BUNDLED = (
    "gum",
    "gum-marsaglia",
    "branching",
    "hmm",
    "geometric",
    "tau",
    "tau-stack",
    "pythia-tau",
    "pythia-ee",
    "shower",
    "shower-angle",
    "cross-section",
    "cross-section-torch",
)
"""Names of the bundled simulators, known without loading one."""
MAX_SITES = 100_000
"""That of `tracestore.simulators`, known without loading it."""
PROGRAM = "ppx:"
"""Begins the word for a program that is to be started."""
SURROGATE = "surrogate:"
"""Begins the word for the folder of a surrogate that stands in for a simulator."""
TRANSPORTS = ("tcp://", "ipc://")
"""Begin the word for a program that runs already."""


def add_simulator_options(parser: argparse.ArgumentParser) -> None:
    """Give a verb the word for a simulator.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_simulator_options(parser)
    >>> parser.parse_args(["ppx:./gum", "--instances", "8"]).instances
    8
    """
    text = (
        f"module:object, or {', '.join(BUNDLED)}, or 'ppx:COMMAND' to start a program that speaks PPX, or the endpoint"
        " tcp://HOST:PORT or ipc://PATH of one that runs, or 'surrogate:FOLDER' for images of a trained surrogate"
    )
    parser.add_argument("simulator", metavar="SIMULATOR", help=text)
    text = "programs to start of ppx:COMMAND, for each worker (default 1)"
    parser.add_argument("--instances", metavar="N", type=parse_positive, help=text)
    text = "seconds of silence after which a PPX program counts as hung (default 30)"
    parser.add_argument("--silence", metavar="SECONDS", type=_parse_seconds, default=30.0, help=text)


def add_length_cap(parser: argparse.ArgumentParser) -> None:
    """Give a verb the option that limits the length of a trace.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_length_cap(parser)
    >>> parser.parse_args(["--max-sites", "300"]).max_sites
    300
    """
    text = f"sites at which a run is ended and recorded as failed (default {MAX_SITES:,})"
    parser.add_argument("--max-sites", metavar="N", type=parse_positive, default=MAX_SITES, help=text)


def load_simulator(args: argparse.Namespace) -> "Simulator":
    """Find the simulator that the words name.

    Parameters
    ----------
    args
        What the parser has read.

    Raises
    ------
    SimulatorNotFoundError
        When there is none of this name.
    InvalidInputError
        When ``ppx:`` is followed by no command, or an option belongs to another kind of simulator.
    StoreNotFoundError, CheckpointMismatchError
        When there is no surrogate in the folder behind ``surrogate:``, or a damaged one.
    MissingExtraError
        When it needs a package that is not installed.
    """
    word: str = args.simulator
    if args.instances is not None and not word.startswith(PROGRAM):
        message = f"`--instances` belongs to 'ppx:COMMAND', which starts programs; got the simulator {word!r}."
        raise InvalidInputError(message, found=word)
    if word.startswith(SURROGATE):
        from tracestore.surrogates.stand_in import surrogate_simulator

        return surrogate_simulator(word.removeprefix(SURROGATE))
    if not word.startswith((PROGRAM, *TRANSPORTS)):
        from tracestore.simulators.catalog import resolve

        return resolve(word)
    from tracestore.ppx.simulator import PPXSimulator

    if word.startswith(TRANSPORTS):
        return PPXSimulator(endpoints=[word], timeout=args.silence)
    try:
        command = shlex.split(word.removeprefix(PROGRAM))
    except ValueError as error:
        raise InvalidInputError(f"The command in {word!r} cannot be read: {error}.", found=word) from error
    if not command:
        raise InvalidInputError("`ppx:` needs a command, such as 'ppx:./program'; got none.", found=word)
    return PPXSimulator(command, instances=args.instances or 1, timeout=args.silence)


def _parse_seconds(text: str) -> float:
    seconds = float(text)
    if not 0.0 < seconds < math.inf:
        message = f"must be a positive number of seconds; got {text}"
        raise argparse.ArgumentTypeError(message)
    return seconds
