"""How evenly plans load many ranks, with costs measured on real tau traces, beside other loaders' schemes.

    python -m benchmarks.imbalance STORE [--json FILE] [--small]

STORE is a sorted store of tau decays, such as `FOLDER/sorted` of `benchmarks.convergence`. No ranks run here: imbalance
is the sum over the steps of an epoch of the costliest rank's cost, over that of the mean. It is 1 when nobody waits.

Costs are fitted to CPU seconds of training steps, reading included, on batches of different sizes and lengths, for two
networks: `example`, that of `examples/tau.py`, which leaves all draws but the first four of a base address to the
prior, and `every-draw`. The fit (`fit_costs`) is `step + a traces + b sites`; policies get `a` and `b`. The step's own
share, the same on all ranks, is left out, which makes every imbalance look larger.

For `every-draw` at 64 ranks there is a second figure, by a cost that no policy knows: a third term, the sites of the
longest trace, because the recurrent pass over a minibatch has as many steps.

The same three terms tell what a step of one rank costs in the orders that `benchmarks.convergence` compares.

The store's run directory is repeated until there are enough traces for a realistic global batch; each copy has trace
types of its own, so that rare types stay rare.
"""

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.convergence import ORDERS, make_plan
from tracestore import TraceStore
from tracestore.errors import PlanError
from tracestore.samplers import schemes
from tracestore.samplers.cost_fit import fit_costs
from tracestore.samplers.plan import BatchPlan
from tracestore.samplers.policy import BatchPolicy, CostModel
from tracestore.samplers.trace_dataset import TraceDataset
from tracestore.samplers.world import World
from tracestore.training import NetworkConfig, ProposalNetwork, TrainConfig, Trainer

NETWORKS = {"example": NetworkConfig(max_instance=4), "every-draw": NetworkConfig(max_instance=16_384)}
WORLDS = ((64, 64, 1_000_000), (1024, 128, 15_000_000))
"""Ranks, traces of each at a step, traces of the store."""
NUM_MEASURED = 120
MOST_SITES = 60_000
"""Of a measured batch."""
GOAL = 1.05


def measure_steps(store, config):
    """Traces, sites, sites of the longest trace and CPU seconds of training steps on various batches."""
    rng = np.random.default_rng(1)
    dataset = TraceDataset(store)
    sites = np.repeat(store.runs.num_sites, store.runs.num_traces).astype(float)
    by_length = np.argsort(sites, kind="stable")
    network = ProposalNetwork(store.observation_shapes, config)
    first = dataset[np.sort(rng.choice(len(store), 1024, replace=False))]
    network.observation.fit(first.observations)
    network.grow(network.unknown_sites(first))
    trainer = Trainer(network, TrainConfig(), num_steps=NUM_MEASURED)
    rows = []
    for number in range(NUM_MEASURED):
        size = int(rng.choice([8, 16, 32, 64, 128]))
        tail = len(store) - size - int(rng.integers(600))
        start = int(rng.integers(len(store) - size)) if number % 3 == 1 else tail
        chosen = by_length[start : start + size] if number % 3 else rng.choice(len(store), size, replace=False)
        if sites[chosen].sum() > MOST_SITES:
            continue
        begin = time.process_time()
        trainer.train_step(dataset[np.sort(chosen)])
        rows.append((size, sites[chosen].sum(), sites[chosen].max(), time.process_time() - begin))
    return np.array(rows[5:])


def fit_longest(rows):
    """Microseconds of a step, a trace, a site and a site of the longest trace, and the typical relative error."""
    design = np.column_stack([np.ones(len(rows)), rows[:, :3]]) / rows[:, 3:]
    coefficients = np.linalg.lstsq(design, np.full(len(rows), 1e6), rcond=None)[0]
    return coefficients, float(np.std(1e-6 * design @ coefficients - 1))


def repeat_runs(runs, num_traces):
    """At least so many traces: copies of a run directory with trace types of their own, in sorted order."""
    copies = -(-num_traces // int(runs.num_traces.sum()))
    sizes, sites = np.tile(runs.num_traces, copies), np.tile(runs.num_sites, copies)
    stride = np.uint64(0x9E3779B97F4A7C15)
    types = np.tile(runs.trace_type, copies) + np.repeat(np.arange(copies, dtype=np.uint64), len(runs.first)) * stride
    order = np.lexsort((types, sites))
    sizes = sizes[order]
    first = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
    return SimpleNamespace(first=first, num_traces=sizes, num_sites=sites[order], trace_type=types[order])


def our_policies(batch, mean_cost, cost):
    yield "default", BatchPolicy(global_batch=batch, cost=cost)
    for micro in (1, 2, 4, 8, 16):
        yield f"atoms of {micro}", BatchPolicy(global_batch=batch, micro=micro, cost=cost)
    yield "mixing 0, atoms of 8", BatchPolicy(global_batch=batch, mixing=0.0, cost=cost, micro=8)
    yield "random, atoms of 1", BatchPolicy(global_batch=batch, micro=1, order="random", cost=cost)
    yield "equal cost, atoms of 1", BatchPolicy(budget=batch * mean_cost, micro=1, cost=cost)
    yield "4 x the cost, atoms of 1", BatchPolicy(budget=4 * batch * mean_cost, micro=1, cost=cost)


def their_schemes(table, per_rank, num_ranks):
    yield schemes.deal_random_chunks(table, per_rank, num_ranks)
    for num_buckets in (1, 10, None):
        yield schemes.deal_pyprob(table, per_rank, num_ranks, num_buckets=num_buckets)
    yield schemes.deal_synchronized_buckets(table, per_rank, num_ranks)


def imbalance(costs):
    """Of a table of steps and ranks."""
    return float(costs.max(axis=1).sum() / costs.mean(axis=1).sum())


def rank_seconds(traces, sites, coefficients):
    """Cost of one minibatch, its longest trace included."""
    _, per_trace, per_site, per_longest = coefficients
    if not len(traces):
        return 0.0
    chosen = sites[traces]
    return per_trace * len(traces) + per_site * chosen.sum() + per_longest * chosen.max()


def evaluate(runs, num_ranks, per_rank, cost, longest):
    """A row per policy and scheme: imbalance by the cost model and, with coefficients, by that of the longest trace."""
    num_traces = int(runs.num_traces.sum())
    mean_cost = float((cost.of(runs.num_sites) * runs.num_traces).sum() / num_traces)
    sites = np.repeat(runs.num_sites, runs.num_traces).astype(float) if longest is not None else None
    for name, policy in our_policies(num_ranks * per_rank, mean_cost, cost):
        try:
            plan = BatchPlan(runs, policy, seed=1)
        except PlanError as error:
            yield {"scheme": name, "refused": str(error)}
            continue
        costs = np.stack([plan.rank_costs(0, step, num_ranks) for step in range(plan.num_steps)])
        row = {"scheme": name, "imbalance": imbalance(costs), "steps": plan.num_steps, "dropped": 0.0}
        if longest is not None:
            seconds = [
                [rank_seconds(plan.step(0, step, World(rank, num_ranks)), sites, longest) for rank in range(num_ranks)]
                for step in range(plan.num_steps)
            ]
            row["with_longest"] = imbalance(np.array(seconds))
        yield row
    table = schemes.TraceTable.select(runs, cost)
    for dealing in their_schemes(table, per_rank, num_ranks):
        costs = dealing.rank_costs(table)
        dropped = 1 - dealing.num_dealt / num_traces
        row = {"scheme": dealing.name, "imbalance": imbalance(costs), "steps": len(costs), "dropped": dropped}
        if longest is not None:
            seconds = [
                [rank_seconds(dealing.traces_of(step, rank), sites, longest) for rank in range(num_ranks)]
                for step in range(len(costs))
            ]
            row["with_longest"] = imbalance(np.array(seconds))
        yield row


def print_steps(store, coefficients):
    """What the steps of one rank cost in each order, their longest traces included."""
    sites = np.repeat(store.runs.num_sites, store.runs.num_traces).astype(float)
    types = np.repeat(store.runs.trace_type, store.runs.num_traces)
    reference = None
    print(" one rank, batches of 64 of the training traces: ms per step, traces/s against the first, types per step")
    for order in ORDERS:
        plan = make_plan(store, order, 0)
        steps = [plan.step(0, step) for step in range(plan.num_steps)]
        total = sum(coefficients[0] + rank_seconds(traces, sites, coefficients) for traces in steps)
        speed = sum(map(len, steps)) / total
        reference = reference or speed
        num_types = np.mean([len(np.unique(types[traces])) for traces in steps])
        print(f"  {order:<26} {1e-3 * total / len(steps):7.1f} {speed / reference:7.2f} {num_types:6.1f}", flush=True)


def print_row(row):
    if "refused" in row:
        print(f"  {row['scheme']:<26} refused: {row['refused']}", flush=True)
        return
    line = f"  {row['scheme']:<26} {row['imbalance']:7.3f}"
    line += f" {row['with_longest']:7.3f}" if "with_longest" in row else " " * 8
    line += f"   {row['steps']:4} steps"
    print(line + (f", {row['dropped']:.2%} of the traces dropped" if row["dropped"] else ""), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--small", action="store_true", help="a tenth of the traces")
    args = parser.parse_args()
    torch.set_num_threads(1)
    store = TraceStore.open(args.store)
    results = []
    for name, config in NETWORKS.items():
        measured = measure_steps(store, config)
        fitted = fit_costs(measured[:, 0], measured[:, 1], np.zeros(len(measured)), measured[:, 3])
        cost = CostModel(per_trace=1e6 * fitted.cost.per_trace, per_site=1e6 * fitted.cost.per_site)
        longest, error = fit_longest(measured)
        print(
            f"network {name}, {fitted.num_steps} steps, microseconds: {1e6 * fitted.per_step:.0f} + "
            f"{cost.per_trace:.1f} per trace + {cost.per_site:.3f} per site (R2 {fitted.r_squared:.2f}); "
            f"with the longest trace {' + '.join(f'{number:.3g}' for number in longest)} ({error:.0%} off)",
            flush=True,
        )
        print_steps(store, longest)
        for num_ranks, per_rank, num_traces in WORLDS:
            runs = repeat_runs(store.runs, num_traces // 10 if args.small else num_traces)
            print(
                f" {num_ranks} ranks x {per_rank} traces, {runs.num_traces.sum():,} traces in {len(runs.first):,} runs",
                flush=True,
            )
            coefficients = longest if (name, num_ranks) == ("every-draw", 64) else None
            for row in evaluate(runs, num_ranks, per_rank, cost, coefficients):
                print_row(row)
                results.append({"network": name, "ranks": num_ranks, "per_rank": per_rank, **row})
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    ours = [row for row in results if row["scheme"] == "default"]
    print(f"default at most {max(row['imbalance'] for row in ours):.3f}; goal {GOAL}")


if __name__ == "__main__":
    main()
