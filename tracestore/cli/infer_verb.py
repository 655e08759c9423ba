"""The verbs that infer: one observation with one engine, or in rounds with a network that learns from its draws."""

import argparse
import sys
from typing import TYPE_CHECKING

from tracestore.cli.executor_options import add_executor_options, open_executor
from tracestore.cli.simulator_options import add_length_cap, add_simulator_options, load_simulator
from tracestore.cli.words import parse_codec, parse_positive, parse_whole
from tracestore.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracestore.executors import Executor
    from tracestore.inference import Posterior

__all__ = ["add_infer_options", "add_refine_options", "run_infer", "run_refine"]

OK = 0
ENGINES = ("prior", "is", "ic", "lmh", "rmh", "hmc", "mala")
MARKOV_ENGINES = ("lmh", "rmh", "hmc", "mala")
GRADIENT_ENGINES = ("hmc", "mala")
MARKOV_WORDS = ", ".join(MARKOV_ENGINES)
DEFAULT_CHAINS = 4
OBSERVE = "JSON object or npz archive, name to numbers; or NAME=NUMBER, which may be repeated"


def add_infer_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb ``infer`` its words.

    Parameters
    ----------
    parser
        The parser of the verb.
    """
    add_simulator_options(parser)
    parser.add_argument("output", metavar="OUT", help="the posterior to write")
    parser.add_argument("--engine", choices=ENGINES, required=True, help="how to infer")
    parser.add_argument("--observe", metavar="FILE|NAME=NUMBER", action="append", help=OBSERVE)
    text = "a trained network (engine ic; with rmh it proposes whole traces now and then)"
    parser.add_argument("--network", metavar="NETWORK", help=text)
    parser.add_argument(
        "--num-draws", metavar="N", type=parse_positive, required=True, help="draws, all chains together"
    )
    parser.add_argument(
        "--chains", metavar="C", type=parse_positive, help=f"Markov chains (engines {MARKOV_WORDS}; default 4)"
    )
    text = f"steps of each chain before its first draw (engines {MARKOV_WORDS}; default 1000, hmc 500)"
    parser.add_argument("--warmup", metavar="N", type=parse_whole, help=text)
    text = f"steps from one draw of a chain to the next (engines {MARKOV_WORDS}; default 1)"
    parser.add_argument("--thinning", metavar="N", type=parse_positive, help=text)
    text = "share of whole traces from the prior (engine ic; default 0.1)"
    parser.add_argument("--defensive", metavar="SHARE", type=float, help=text)
    text = (
        "let the network propose inside rejection loops, too (engine ic; of traces simulated with --collapse-rejection)"
    )
    parser.add_argument("--amortize-rejection", action="store_true", help=text)
    add_length_cap(parser)
    text = "run the simulator in so many processes of its own: one that dies costs one draw (engines prior, is, ic)"
    parser.add_argument("--simulator-processes", metavar="N", type=parse_positive, default=0, help=text)
    text = "seconds after which a run in such a process is a recorded failure"
    parser.add_argument("--timeout", metavar="SECONDS", type=float, help=text)
    _add_seed(parser)
    _add_format(parser)
    add_executor_options(parser)


def add_refine_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb ``refine`` its words.

    Parameters
    ----------
    parser
        The parser of the verb.
    """
    add_simulator_options(parser)
    parser.add_argument("output", metavar="OUT", help="folder for rounds, networks and the posterior")
    parser.add_argument("--network", metavar="NETWORK", required=True, help="the trained network to begin with")
    parser.add_argument("--observe", metavar="FILE|NAME=NUMBER", action="append", required=True, help=OBSERVE)
    parser.add_argument("--rounds", metavar="R", type=parse_positive, default=4, help="rounds at most (default 4)")
    text = "draws of each round (default 4000)"
    parser.add_argument("--num-draws", metavar="N", type=parse_positive, default=4000, help=text)
    text = "share of effective draws in a round that is enough (default 0.5)"
    parser.add_argument("--goal", metavar="SHARE", type=float, default=0.5, help=text)
    parser.add_argument("--workers", metavar="W", type=parse_positive, default=1, help="processes (default 1)")
    _add_seed(parser)


def run_infer(args: argparse.Namespace) -> int:
    """Infer what happened inside a simulator, given an observation."""
    _check_infer_words(args)
    from tracestore import inference
    from tracestore.cli.numbers_file import read_observations
    from tracestore.store.location import StoreLocation

    engines: dict[str, Callable[..., Posterior]] = {
        "prior": inference.prior,
        "is": inference.importance,
        "ic": inference.ic,
        "lmh": inference.lmh,
        "rmh": inference.rmh,
        "hmc": inference.hmc,
        "mala": inference.mala,
    }
    inputs: list[object] = [load_simulator(args)]
    if args.engine != "prior":
        inputs.append(read_observations(args.observe))
    elif args.observe is not None:
        print("the engine prior draws its own observations; --observe is not used", file=sys.stderr)
    with open_executor(args) as executor, Progress() as progress:
        if executor is None:
            return OK
        place = StoreLocation(args.output, backend=args.backend, codec=args.codec)
        posterior = engines[args.engine](*inputs, place, **_options(args, executor), observer=progress)
    _print_posterior(posterior)
    return OK


def run_refine(args: argparse.Namespace) -> int:
    """Infer one observation in rounds, with a network that learns from the draws of each."""
    from tracestore.cli.numbers_file import read_observations
    from tracestore.training import load_network
    from tracestore.workflows import refine

    with Progress() as progress:
        found = refine(
            load_simulator(args),
            read_observations(args.observe),
            args.output,
            network=load_network(args.network),
            num_rounds=args.rounds,
            num_draws=args.num_draws,
            goal=args.goal,
            seed=args.seed,
            workers=args.workers,
            observer=progress,
        )
    for each in found.rounds:
        print(f"round {each.number}: {each.ess:.0f} of {each.num_draws} draws effective, pooled {each.pooled_ess:.0f}")
    _print_posterior(found.posterior)
    return OK


def _options(args: argparse.Namespace, executor: "Executor") -> dict[str, object]:
    """Return the arguments of an engine that its words stand for."""
    from tracestore.executors import ProcessExecutor, SerialExecutor

    options: dict[str, object] = {"num_draws": args.num_draws, "seed": args.seed, "max_sites": args.max_sites}
    # on this machine workers are forked from this process, which has the simulator already
    if args.engine in GRADIENT_ENGINES:
        pass  # all chains step together, in this process
    elif isinstance(executor, SerialExecutor | ProcessExecutor):
        options["workers"] = executor.workers if isinstance(executor, ProcessExecutor) else 1
    else:
        options["executor"] = executor
    if args.engine in MARKOV_ENGINES:
        options["chains"] = args.chains or DEFAULT_CHAINS
        given = {"warmup": args.warmup, "thinning": args.thinning}
        steps = {name: number for name, number in given.items() if number is not None}
        if args.engine == "lmh":
            options |= steps
        else:
            from tracestore.inference import HMCConfig, MALAConfig, RMHConfig

            kinds = {"rmh": RMHConfig, "hmc": HMCConfig, "mala": MALAConfig}
            options["config"] = kinds[args.engine](**steps)
    else:
        options |= {"simulator_processes": args.simulator_processes, "timeout": args.timeout}
    if args.network is not None:
        from tracestore.training import load_network

        options["network"] = load_network(args.network)
    if args.engine == "ic":
        options["amortize_rejection"] = args.amortize_rejection
        if args.defensive is not None:
            options["defensive"] = args.defensive
    return options


def _check_infer_words(args: argparse.Namespace) -> None:
    engine = args.engine
    if engine != "prior" and args.observe is None:
        args.parser.error(f"the engine {engine} needs --observe FILE|NAME=NUMBER")
    if engine == "ic" and args.network is None:
        args.parser.error("the engine ic needs --network; train one with: tracestore train STORE NETWORK")
    if engine not in ("ic", "rmh") and args.network is not None:
        args.parser.error(f"--network belongs to the engines ic and rmh; the engine {engine} uses none")
    if engine not in MARKOV_ENGINES and args.chains is not None:
        args.parser.error(f"--chains belongs to the engines {MARKOV_WORDS}; the engine {engine} has none")
    if engine not in MARKOV_ENGINES and (args.warmup is not None or args.thinning is not None):
        args.parser.error(f"--warmup and --thinning belong to the engines {MARKOV_WORDS}; got the engine {engine}")
    is_spread = args.workers not in (None, 1) or args.executor not in (None, "serial") or args.scheduler is not None
    if engine in GRADIENT_ENGINES and is_spread:
        args.parser.error(
            f"the chains of the engine {engine} step together in one process; leave out --workers, --executor"
        )
    if engine != "ic" and (args.defensive is not None or args.amortize_rejection):
        args.parser.error(f"--defensive and --amortize-rejection belong to the engine ic; got the engine {engine}")
    if engine in MARKOV_ENGINES and (args.simulator_processes or args.timeout is not None):
        args.parser.error(f"--simulator-processes and --timeout belong to the engines prior, is and ic; got {engine}")


def _print_posterior(posterior: "Posterior") -> None:
    print(posterior)
    if posterior.engine == "prior":
        pass  # equal weights, no observation: nothing to judge
    elif posterior.is_weighted:
        evidence = f"{posterior.log_evidence:.4f} +- {posterior.log_evidence_se:.4f}"
        print(f"log evidence {evidence}, ESS {posterior.ess:.0f}, k-hat {posterior.khat:.2f}")
    else:
        print(f"{posterior.num_chains} chains, acceptance {posterior.acceptance:.2f}, ESS {posterior.ess:.0f}")
    print(posterior.summary())
    if posterior.num_failed:
        print(f"{posterior.num_failed:,} draws failed in the simulator and have weight zero", file=sys.stderr)


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", metavar="S", type=parse_whole, default=0, help="of all random draws (default 0)")


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=("arrow", "zarr"), default="arrow", help="format of the segments")
    text = "how observations are compressed: auto, none, lz4, zstd, or NAME=CODEC,..."
    parser.add_argument("--codec", metavar="CODEC", type=parse_codec, default="auto", help=text)
