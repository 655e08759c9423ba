"""The verb that trains a network, on one rank or on all that a launcher has started. Rooms are imported inside it.

Rank 0 speaks for all: it alone shows progress and results, and what all ranks say alike. What a rank alone has to
complain about, it says itself, with its number.
"""

import argparse
import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tracestore.cli.rank_voice import open_ranks, rank_world, require_no_problem, speak_with_one_voice
from tracestore.cli.simulator_options import add_simulator_options, load_simulator
from tracestore.cli.words import parse_positive, parse_whole
from tracestore.errors import TracestoreError
from tracestore.progress import Progress

if TYPE_CHECKING:
    from tracestore.events import Observer
    from tracestore.networks.network import ProposalNetwork
    from tracestore.store.trace_store import TraceStore
    from tracestore.training.config import TrainConfig

__all__ = ["add_online_options", "add_train_options", "run_train", "run_train_online"]

OK, PROBLEM, INTERRUPTED, TERMINATED = 0, 1, 130, 143
PRESETS = ("light", "paper")


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb its words.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_train_options(parser)
    >>> parser.parse_args(["traces", "network", "--set", "network.core=gru", "--set", "epochs=3"]).set
    ['network.core=gru', 'epochs=3']
    """
    parser.add_argument("store", metavar="STORE", help="the store to learn from")
    _add_settings(parser)
    text = "passes over the store; short for --set epochs=N (default by the size of the store)"
    parser.add_argument("--epochs", metavar="N", type=parse_positive, help=text)


def add_online_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb that simulates while it trains its words.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_online_options(parser)
    >>> parser.parse_args(["gum", "network", "--num-traces", "1000"]).num_traces
    1000
    """
    add_simulator_options(parser)
    _add_settings(parser)
    text = "traces to simulate and train on, each once"
    parser.add_argument("--num-traces", metavar="N", type=parse_positive, required=True, help=text)
    parser.add_argument("--store", metavar="STORE", help="also write the traces into this store")
    text = "processes of each rank that simulate while the network learns (default 0: between the steps)"
    parser.add_argument("--workers", metavar="W", type=parse_positive, default=0, help=text)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK", help="folder for the network; an unfinished one is continued")
    parser.add_argument("--config", metavar="FILE", help="settings in TOML; see --print-config")
    text = "a setting, such as network.core=gru or optimizer.kind=adam_larc; goes before the file, may be repeated"
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help=text)
    text = "named network to begin with; short for --set network.preset=NAME (default light)"
    parser.add_argument("--preset", choices=PRESETS, help=text)
    text = "traces of a minibatch, all ranks together; short for --set batch_size=N (default by the number of traces)"
    parser.add_argument("--batch-size", metavar="N", type=parse_positive, help=text)
    text = "of the order of the traces and the validation split; short for --set seed=S (default 0)"
    parser.add_argument("--seed", metavar="S", type=parse_whole, help=text)
    text = "cpu, cuda (each rank of a machine has one of its own) or cuda:N; short for --set device=D (default cpu)"
    parser.add_argument("--device", metavar="D", help=text)
    text = "how ranks talk: torch, mpi, none, or what fits the launcher, torchrun, mpiexec or srun (auto, the default)"
    parser.add_argument("--ranks-by", choices=("auto", "none", "torch", "mpi"), default="auto", help=text)
    text = "also write event files for TensorBoard into NETWORK/tensorboard"
    parser.add_argument("--tensorboard", action="store_true", help=text)
    text = "when the training is complete, also write a page with pictures; costs nothing more for a finished network"
    parser.add_argument("--html", metavar="FILE", help=text)
    text = "print all settings as TOML, those that the number of traces decides included, and exit"
    parser.add_argument("--print-config", action="store_true", help=text)


def run_train(args: argparse.Namespace) -> int:
    """Train a proposal network on a store; under torchrun or mpiexec, on all ranks together."""
    return speak_with_one_voice(args, _train_together)


def run_train_online(args: argparse.Namespace) -> int:
    """Train a proposal network on traces that are simulated meanwhile; on all ranks that a launcher has started."""
    return speak_with_one_voice(args, _train_online)


def _train_together(args: argparse.Namespace) -> int:
    if args.print_config:
        return _print_config(args)
    from tracestore.training.run import train

    if args.html is not None:
        from tracestore.training.training_page import write_training_page  # first of all: it may not be installed
    prepared, problem = _prepare_or_tell(args)
    with ExitStack() as stack:
        communicator = stack.enter_context(open_ranks(args, "cpu" if prepared is None else prepared[1].device))
        require_no_problem(communicator, problem)
        assert prepared is not None
        store, config = prepared
        observer = _observer(args, stack) if not communicator.rank else None
        network = train(store, args.network, config=config, observer=observer, communicator=communicator)
    if not communicator.rank:
        _print_network(args, args.store, network)
        if args.html is not None:
            write_training_page(args.network, args.html)
            print(f"page in {args.html}")
    return OK


def _train_online(args: argparse.Namespace) -> int:
    from tracestore.training.config_file import to_toml
    from tracestore.training.online import resolve_online_config, train_online

    if args.html is not None:
        from tracestore.training.training_page import write_training_page  # first of all: it may not be installed
    rank, config = rank_world(args).rank, _read_settings(args)
    if args.print_config:
        if not rank:
            print(to_toml(resolve_online_config(config, args.num_traces)), end="")
        return OK
    with ExitStack() as stack:
        network = train_online(
            load_simulator(args),
            args.network,
            num_traces=args.num_traces,
            config=config,
            store=args.store,
            workers=args.workers,
            observer=_observer(args, stack) if not rank else None,
            ranks_by=args.ranks_by,
        )
    if not rank:
        _print_network(args, args.simulator, network)
        if args.html is not None:
            write_training_page(args.network, args.html)
            print(f"page in {args.html}")
    return OK


def _print_config(args: argparse.Namespace) -> int:
    from tracestore.training.config_file import to_toml

    if not rank_world(args).rank:
        print(to_toml(_prepare(args)[1]), end="")
    return OK


def _prepare(args: argparse.Namespace) -> "tuple[TraceStore, TrainConfig]":
    """Open the store and settle what to train; ranks do not talk yet."""
    from tracestore.store.trace_store import TraceStore
    from tracestore.training.job import resolve_config

    config, store = _read_settings(args), TraceStore.open(args.store)
    return store, resolve_config(config, store)


def _read_settings(args: argparse.Namespace) -> "TrainConfig":
    from tracestore.training.config_file import read_config

    short = {"network.preset": args.preset, "batch_size": args.batch_size, "seed": args.seed}
    short["epochs"] = getattr(args, "epochs", None)
    settings = [*args.set, *(f"{name}={value}" for name, value in short.items() if value is not None)]
    if args.device is not None:
        settings.append(f"device={json.dumps(args.device)}")
    return read_config(args.config, settings)


def _prepare_or_tell(args: argparse.Namespace) -> "tuple[tuple[TraceStore, TrainConfig] | None, str]":
    """Prepare; on one of several ranks, what is wrong is kept for all of them."""
    try:
        return _prepare(args), ""
    except (TracestoreError, OSError) as error:
        if not rank_world(args).is_distributed:
            raise
        return None, str(error)


def _observer(args: argparse.Namespace, stack: ExitStack) -> "Observer":
    progress = stack.enter_context(Progress())
    if not args.tensorboard:
        return progress
    from tracestore.training.tensorboard import HistoryToTensorBoard

    return stack.enter_context(HistoryToTensorBoard(args.network, progress))


def _print_network(args: argparse.Namespace, source: str, network: "ProposalNetwork") -> None:
    print(f"network trained on {source} in {args.network}")
    summary = network.summary
    print(
        f"validation loss {summary['validation_loss']:.4f} after step {summary['best_step']:,} of "
        f"{summary['num_steps']:,}; {summary['num_parameters']:,} parameters"
    )
    num_seen, num_proposing = summary["num_seen"], summary["num_proposing"]
    print(f"{num_proposing:,} of {num_seen:,} addresses have proposals, {num_seen - num_proposing:,} stay at the prior")
