"""The verb that judges posteriors and says what to do next. Rooms are imported inside the verb."""

import argparse
import json
from collections import Counter
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from tracestore.formats.document import JSON
    from tracestore.posteriors import Posterior
    from tracestore.posteriors.diagnosis import Diagnosis
    from tracestore.posteriors.posterior_set import PosteriorSet
    from tracestore.posteriors.proposal_quality import ProposalQuality, SiteScorer

__all__ = ["add_diagnose_options", "run_diagnose"]

OK, PROBLEM = 0, 1
RHAT_MAX = 1.01
ESS_PER_CHAIN = 100.0
MAX_SHOWN = 10
"""Observations of one posterior whose findings are printed, the worst first."""


def add_diagnose_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb its words.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_diagnose_options(parser)
    >>> parser.parse_args(["post-ic", "--rhat-max", "1.05"]).rhat_max
    1.05
    """
    parser.add_argument("posteriors", metavar="POSTERIOR", nargs="+", help="posteriors to judge, each for itself")
    text = "the network that proposed: also judge its proposals, address by address"
    parser.add_argument("--network", metavar="NETWORK", help=text)
    text = f"largest R-hat of chains that agree (default {RHAT_MAX:g})"
    parser.add_argument("--rhat-max", metavar="X", type=float, default=RHAT_MAX, help=text)
    text = f"smallest bulk and tail effective sample size of a chain (default {ESS_PER_CHAIN:g})"
    parser.add_argument("--ess-per-chain", metavar="N", type=float, default=ESS_PER_CHAIN, help=text)
    text = "a variable to judge, by name or address; may be repeated (default all)"
    parser.add_argument("--name", metavar="NAME", action="append", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run_diagnose(args: argparse.Namespace) -> int:
    """Judge posteriors by their own draws, and say what to do next; the exit status is 1 when one is bad."""
    network: SiteScorer | None = None
    if args.network is not None:
        from tracestore.training import load_network

        network = cast("SiteScorer", load_network(args.network))
    documents: list[dict[str, JSON]] = []
    is_bad = False
    for path in args.posteriors:
        found = _open(path)
        diagnoses = [_diagnose(posterior, network, args) for posterior in found]
        is_bad = is_bad or any(diagnosis.exit_code for diagnosis, _ in diagnoses)
        if args.json:
            documents += [
                _document(path, number if len(found) > 1 else None, *one) for number, one in enumerate(diagnoses)
            ]
        elif len(found) == 1:
            _print_one(path, *diagnoses[0])
        else:
            _print_many(path, [diagnosis for diagnosis, _ in diagnoses])
    if args.json:
        print(json.dumps(documents, indent=2))
    return PROBLEM if is_bad else OK


def _open(path: str) -> "PosteriorSet | list[Posterior]":
    """Open the posterior of one observation, or those of many."""
    from tracestore.posteriors import Posterior
    from tracestore.posteriors.origin import engine_fields
    from tracestore.posteriors.posterior_set import PosteriorSet
    from tracestore.store.trace_store import TraceStore

    store = TraceStore.open(path)
    return PosteriorSet(store) if "num_observations" in engine_fields(store) else [Posterior(store)]


def _diagnose(
    posterior: "Posterior", network: "SiteScorer | None", args: argparse.Namespace
) -> "tuple[Diagnosis, ProposalQuality | None]":
    from dataclasses import replace

    from tracestore.posteriors.diagnosis import diagnose
    from tracestore.posteriors.proposal_quality import proposal_quality

    diagnosis = diagnose(
        posterior, rhat_max=args.rhat_max, ess_per_chain=args.ess_per_chain, names=args.name, network=network
    )
    if network is None or diagnosis.of("no-weight") or diagnosis.of("no-draws"):
        return diagnosis, None
    quality = proposal_quality(posterior, network)
    return replace(diagnosis, findings=(*diagnosis.findings, *quality.findings())), quality


def _print_one(path: str, diagnosis: "Diagnosis", quality: "ProposalQuality | None") -> None:
    print(f"{path}: {diagnosis}")
    if quality is not None:
        print(f"proposals on {quality.num_traces:,} posterior draws:")
        print(quality)


def _print_many(path: str, diagnoses: "list[Diagnosis]") -> None:
    counts = Counter(diagnosis.verdict for diagnosis in diagnoses)
    words = ", ".join(
        f"{count:,} {verdict.words}" for verdict, count in sorted(counts.items(), key=lambda x: x[0].rank)
    )
    print(f"{path}: {len(diagnoses):,} observations: {words}")
    worst = sorted(range(len(diagnoses)), key=lambda number: -diagnoses[number].verdict.rank)
    for number in worst[:MAX_SHOWN]:
        if diagnoses[number].verdict.rank:
            print(f"  observation {number}: {diagnoses[number].findings[0]}")
    hidden = sum(diagnosis.verdict.rank > 0 for diagnosis in diagnoses) - MAX_SHOWN
    if hidden > 0:
        print(f"  and {hidden:,} more; --json prints all")


def _document(
    path: str, observation: int | None, diagnosis: "Diagnosis", quality: "ProposalQuality | None"
) -> "dict[str, JSON]":
    document: dict[str, JSON] = {"posterior": path, **diagnosis.to_json()}
    if observation is not None:
        document["observation"] = observation
    if quality is not None:
        document["proposals"] = quality.to_json()
    return document
