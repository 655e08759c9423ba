"""The verb that trains a surrogate, on one rank or on all that a launcher has started. Rooms are imported inside it."""

import argparse
import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tracestore.cli.rank_voice import open_ranks, rank_world, require_no_problem, speak_with_one_voice
from tracestore.cli.words import parse_duration, parse_positive, parse_whole
from tracestore.errors import InvalidInputError, TracestoreError
from tracestore.progress import Progress

if TYPE_CHECKING:
    from tracestore.store.trace_store import TraceStore
    from tracestore.surrogates.surrogate import Surrogate
    from tracestore.training.surrogate_config import SurrogateTrainConfig

__all__ = ["add_surrogate_options", "run_surrogate"]

OK = 0
MODELS = ("flow", "gan")


def add_surrogate_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb its words.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_surrogate_options(parser)
    >>> parser.parse_args(["showers", "surrogate", "--model", "gan", "--seconds", "10m"]).seconds
    600.0
    """
    parser.add_argument("store", metavar="STORE", help="the store to learn from")
    parser.add_argument("surrogate", metavar="FOLDER", help="folder for the surrogate; an unfinished one is continued")
    text = "what to train: a flow (default) or a generative adversarial network, each with settings that suit it"
    parser.add_argument("--model", choices=MODELS, help=text)
    text = "draws or tags to condition on, such as energy,angle (default: these two, where the store has them)"
    parser.add_argument("--labels", metavar="NAMES", help=text)
    text = "what to generate (default: the only observation of the store, or shower)"
    parser.add_argument("--observation", metavar="NAME", help=text)
    text = "passes over the store (default by the size of the store)"
    parser.add_argument("--epochs", metavar="N", type=parse_positive, help=text)
    text = "instead of epochs: time to train for, such as 600 or 10m; validation comes on top"
    parser.add_argument("--seconds", metavar="TIME", type=parse_duration, help=text)
    text = "traces of a minibatch, all ranks together (default 64)"
    parser.add_argument("--batch-size", metavar="N", type=parse_positive, help=text)
    text = "a finished surrogate to go on from, perhaps of narrower ranges"
    parser.add_argument("--start", metavar="FOLDER", help=text)
    parser.add_argument("--config", metavar="FILE", help="settings in TOML; see --print-config")
    text = "a setting, such as learning_rate=3e-4 or optimizer.kind=rmsprop; goes before the file, may be repeated"
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help=text)
    text = "of first weights, noise, the order of the traces and the validation split (default 0)"
    parser.add_argument("--seed", metavar="S", type=parse_whole, help=text)
    text = "cpu, cuda (each rank of a machine has one of its own) or cuda:N (default cpu)"
    parser.add_argument("--device", metavar="D", help=text)
    text = "type of products and convolutions (default float32)"
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help=text)
    text = "how ranks talk: torch, mpi, none, or what fits the launcher, torchrun, mpiexec or srun (auto, the default)"
    parser.add_argument("--ranks-by", choices=("auto", "none", "torch", "mpi"), default="auto", help=text)
    text = "print all settings as TOML, those that the store decides included, and exit"
    parser.add_argument("--print-config", action="store_true", help=text)


def run_surrogate(args: argparse.Namespace) -> int:
    """Train a generative model that stands in for a simulator's images; under torchrun or mpiexec, on all ranks."""
    return speak_with_one_voice(args, _train)


def _train(args: argparse.Namespace) -> int:
    from tracestore.training.config_file import to_toml
    from tracestore.training.surrogate import train_surrogate

    if args.print_config:
        if not rank_world(args).rank:
            print(to_toml(_prepare(args)[1]), end="")
        return OK
    prepared, problem = _prepare_or_tell(args)
    with ExitStack() as stack:
        communicator = stack.enter_context(open_ranks(args, "cpu" if prepared is None else prepared[1].device))
        require_no_problem(communicator, problem)
        assert prepared is not None
        store, config, start = prepared
        observer = stack.enter_context(Progress()) if not communicator.rank else None
        surrogate = train_surrogate(
            store, args.surrogate, config=config, start=start, observer=observer, communicator=communicator
        )
    if not communicator.rank:
        _print_surrogate(args, surrogate)
    return OK


def _prepare(args: argparse.Namespace) -> "tuple[TraceStore, SurrogateTrainConfig, Surrogate | None]":
    """Open the store and settle what to train; ranks do not talk yet."""
    from tracestore.store.trace_store import TraceStore
    from tracestore.surrogates.persistence import load_surrogate
    from tracestore.training.surrogate import resolve_surrogate_config

    start = None if args.start is None else load_surrogate(args.start)
    config, store = _read_settings(args, start), TraceStore.open(args.store)
    return store, resolve_surrogate_config(store, config, start), start


def _prepare_or_tell(
    args: argparse.Namespace,
) -> "tuple[tuple[TraceStore, SurrogateTrainConfig, Surrogate | None] | None, str]":
    """Prepare; on one of several ranks, what is wrong is kept for all of them."""
    try:
        return _prepare(args), ""
    except (TracestoreError, OSError) as error:
        if not rank_world(args).is_distributed:
            raise
        return None, str(error)


def _read_settings(args: argparse.Namespace, start: "Surrogate | None") -> "SurrogateTrainConfig":
    """Read the settings twice: which model they are for decides what they depart from."""
    from tracestore.training.config_file import read_config
    from tracestore.training.surrogate_config import RECIPES

    if start is not None and args.model not in {None, start.config.model}:
        message = (
            f"{args.start} is a {start.config.model!r}, and a training that starts from it cannot be a {args.model!r}; "
            "leave out `--start` or `--model`."
        )
        raise InvalidInputError(message, argument="model", found=args.model)
    labels = None if args.labels is None else [name.strip() for name in args.labels.split(",")]
    words = ("observation", "epochs", "seconds", "batch_size", "seed", "device", "precision")
    short = {"surrogate.model": args.model, "labels": labels, **{name: getattr(args, name) for name in words}}
    settings = [*args.set, *(f"{name}={json.dumps(value)}" for name, value in short.items() if value is not None)]
    model = read_config(args.config, settings, RECIPES["flow"]).surrogate.model if start is None else start.config.model
    return read_config(args.config, settings, RECIPES[model])


def _print_surrogate(args: argparse.Namespace, surrogate: "Surrogate") -> None:
    summary = surrogate.summary
    print(f"surrogate ({surrogate.config.model}) trained on {args.store} in {args.surrogate}")
    print(
        f"validation loss {summary['validation_loss']:.4f} after step {summary['best_step']:,} of "
        f"{summary['num_steps']:,}; {summary['num_parameters']:,} parameters"
    )
    ranges = zip(surrogate.labels, surrogate.label_ranges, strict=True)
    known = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges)
    print(f"{surrogate.observation} of {' x '.join(map(str, surrogate.shape))} cells, for {known}")
    failed = f", {summary['num_failed']:,} failed ones left out" if summary["num_failed"] else ""
    print(
        f"{summary['num_training_traces']:,} traces{failed}; {summary['traces_per_second']:,.0f} traces/s, "
        f"{summary['waiting_share']:.1%} of the time waiting for data"
    )
