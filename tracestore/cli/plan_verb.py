"""The verb that shows what batches a policy makes of a store. Rooms are imported inside the verb."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from tracestore.cli.words import parse_positive, parse_whole

if TYPE_CHECKING:
    from tracestore.samplers.plan_report import PlanReport
    from tracestore.samplers.policy import BatchPolicy
    from tracestore.store.trace_store import TraceStore

__all__ = ["add_plan_options", "run_plan"]

OK = 0


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb its words.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_plan_options(parser)
    >>> parser.parse_args(["traces", "--global-batch", "4096"]).ranks
    1
    """
    parser.add_argument("store", metavar="STORE", help="the store to make batches of")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--global-batch", metavar="N", type=parse_positive, help="traces of a step, all ranks together")
    size.add_argument("--budget", metavar="COST", type=float, help="largest cost of a step, all ranks together")
    parser.add_argument("--ranks", metavar="R", type=parse_positive, default=1, help="ranks to measure at (default 1)")
    text = "traces of an atom, which no two ranks share (default: at most 8, and 64 of them or more in a step)"
    parser.add_argument("--micro", metavar="N", type=parse_positive, help=text)
    text = "bands of alike cost (default 8)"
    parser.add_argument("--buckets", metavar="N", type=parse_positive, default=8, help=text)
    text = "deck: steps from one bucket each, in turns; random: from all traces; sequential: store order (default deck)"
    parser.add_argument("--order", choices=("deck", "random", "sequential"), default="deck", help=text)
    text = "how far a step of the deck reaches within its bucket, from 0 (alike atoms) to 1 (any; the default)"
    parser.add_argument("--mixing", metavar="X", type=float, default=1.0, help=text)
    for name, unit, default in (("trace", "a trace", 1.0), ("site", "a site", 1.0), ("byte", "an observed byte", 0.0)):
        text = f"cost of {unit}, in any unit (default {default:g})"
        parser.add_argument(f"--cost-per-{name}", metavar="COST", type=float, default=default, help=text)
    parser.add_argument("--seed", metavar="S", type=parse_whole, default=0, help="of the order (default 0)")
    parser.add_argument("--epoch", metavar="E", type=parse_whole, default=0, help="epoch to look at (default 0)")
    text = "traces that take part (default all); failed ones never do"
    parser.add_argument("--subset", choices=("train", "validation", "all"), default="all", help=text)
    text = "share of the traces for validation, with --subset (default 0.1)"
    parser.add_argument("--validation-fraction", metavar="X", type=float, default=0.1, help=text)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--html", metavar="FILE", help="also write a page with pictures")


def run_plan(args: argparse.Namespace) -> int:
    """Show what batches a policy makes of a store: atoms, reads, padding, balance beside other schemes, shuffle."""
    from tracestore.store.trace_store import TraceStore

    if args.html is not None:
        from tracestore.samplers.plan_page import write_plan_page  # first of all: it may not be installed
    policy = _policy(args)
    report = _examine(TraceStore.open(args.store), policy, args)
    print(json.dumps({"store": args.store, **report.to_dict()}, indent=2) if args.json else f"{args.store}: {report}")
    if args.html is not None:
        write_plan_page(report, args.html, title=f"Batches of {args.store}")
        print(f"page in {args.html}", file=sys.stderr if args.json else sys.stdout)
    return OK


def _policy(args: argparse.Namespace) -> "BatchPolicy":
    from tracestore.samplers.policy import BatchPolicy, CostModel

    cost = CostModel(
        per_trace=args.cost_per_trace, per_site=args.cost_per_site, per_observation_byte=args.cost_per_byte
    )
    micro = args.micro
    if micro is None:
        micro = 1 if args.global_batch is None else BatchPolicy.local(args.global_batch).micro
    return BatchPolicy(
        global_batch=args.global_batch,
        budget=args.budget,
        micro=micro,
        num_buckets=args.buckets,
        order=args.order,
        mixing=args.mixing,
        cost=cost,
    )


def _examine(store: "TraceStore", policy: "BatchPolicy", args: argparse.Namespace) -> "PlanReport":
    import numpy as np

    from tracestore.samplers.plan import BatchPlan
    from tracestore.samplers.plan_report import examine_plan
    from tracestore.samplers.selection import select_traces
    from tracestore.sorting.sizes import estimate_sizes

    status, stream = (np.asarray(store.column(name), np.int64) for name in ("status", "stream"))
    chosen = select_traces(status, stream, args.subset, args.validation_fraction)
    selected = None if chosen.all() else chosen
    runs = store.runs
    observed = np.array([entry.observation_bytes for entry in store.segments], np.float64)[runs.segment]
    plan = BatchPlan(runs, policy, args.seed, selected=selected, observation_bytes=observed)
    return examine_plan(
        plan,
        runs,
        args.ranks,
        selected=selected,
        observation_bytes=observed,
        segments=runs.segment,
        trace_bytes=estimate_sizes(store).stored,
        epoch=args.epoch,
    )
