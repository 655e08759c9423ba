"""Say what a plan does before it is used: atoms, reads, padding, balance beside other loaders' schemes, shuffle."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.samplers.plan import BatchPlan, Runs
from tracestore.samplers.plan_measures import (
    AtomPurity,
    ShuffleQuality,
    StepTable,
    measure_atoms,
    measure_steps,
)
from tracestore.samplers.policy import BatchPolicy
from tracestore.samplers.schemes import SCHEMES, TraceTable

__all__ = ["PlanReport", "SchemeReport", "examine_plan"]

MAX_STEPS = 256
"""Steps that are looked at one by one, if an epoch has more."""

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))

Words = tuple[tuple[str, str], ...]
"""What something is called, and what is said of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeReport:
    """What a way to deal traces to ranks would give."""

    name: str
    imbalance: float
    """Sum of the largest cost over the sum of the mean cost per step."""
    worst: float
    """Largest over mean cost, in the worst step."""
    padding: float
    """Share of the sites that would be padding, when each rank pads its traces to its longest."""
    num_steps: int
    num_dropped: int
    """Traces that no rank gets in an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlanReport:
    """What a plan does; its text is for people, `to_dict` for programs."""

    policy: BatchPolicy
    seed: int
    epoch: int
    num_traces: int
    """Traces that take part."""
    num_steps: int
    """Steps of an epoch."""
    num_ranks: int
    allowed_ranks: tuple[int, ...] | None
    """Numbers of ranks that can share a step; None when any can."""
    atoms: AtomPurity
    steps: StepTable
    """Steps that were looked at: all, or evenly spread ones of a long epoch."""
    shuffle: ShuffleQuality
    schemes: tuple[SchemeReport, ...]
    """This plan first; then the other schemes on the same traces, if those suffice for one of their steps."""

    def to_dict(self) -> dict[str, object]:
        """Give all numbers as JSON-like values; arrays become their least, mean and largest value."""
        steps = self.steps
        spread = ("num_traces", "num_sites", "num_bytes", "num_segments", "num_rank_segments", "num_stretches")
        shuffle = asdict(self.shuffle)
        del shuffle["grid"]
        return {
            "policy": asdict(self.policy),
            "seed": self.seed,
            "epoch": self.epoch,
            "num_traces": self.num_traces,
            "num_steps": self.num_steps,
            "num_ranks": self.num_ranks,
            "allowed_ranks": None if self.allowed_ranks is None else list(self.allowed_ranks),
            "num_examined_steps": len(steps.step),
            "atoms": asdict(self.atoms),
            "per_step": {name: _spread_of(getattr(steps, name)) for name in spread},
            "mean_stretch": float(steps.num_traces.sum() / steps.num_stretches.sum()),
            "types_per_rank": _spread_of(steps.types_per_rank),
            "shuffle": shuffle,
            "schemes": [asdict(scheme) for scheme in self.schemes],
        }

    def __str__(self) -> str:
        lines = [f"{self.num_traces:,} traces, {self.num_steps:,} steps of {self.step_words}, {_ranks(self.num_ranks)}"]
        if len(self.steps.step) < self.num_steps:
            lines.append(f"measured on {len(self.steps.step):,} steps, evenly spread over epoch {self.epoch}")
        for title, words in (("", self.batch_words()), ("shuffle, beside a random order", self.shuffle_words())):
            lines += [title] * bool(title) + [f"  {name:<36}{text}" for name, text in words]
        lines.append(
            f"cost of a step, {_ranks(self.num_ranks):<22}{'max/mean':>9}{'worst':>8}{'padding':>9}{'dropped':>10}"
        )
        lines += [
            f"  {one.name:<36}{one.imbalance:>9.4f}{one.worst:>8.3f}{one.padding:>9.1%}{one.num_dropped:>10,}"
            for one in self.schemes
        ]
        allowed = "any number" if self.allowed_ranks is None else ", ".join(map(str, self.allowed_ranks))
        return "\n".join((*lines, f"ranks that can share a step: {allowed}"))

    @property
    def step_words(self) -> str:
        """Size of a step, for people."""
        policy = self.policy
        return f"cost {policy.budget:,.6g} at most" if policy.global_batch is None else _traces(policy.global_batch)

    def batch_words(self) -> Words:
        """Describe atoms and steps for people."""
        atoms, steps = self.atoms, self.steps
        stretch = steps.num_traces.sum() / steps.num_stretches.sum()
        return (
            ("atoms", f"{atoms.num_atoms:,} of {_traces(atoms.micro)}"),
            ("traces in atoms of one trace type", f"{atoms.pure_share:.1%}; an atom has {atoms.mean_types:.2f} types"),
            ("trace types of a rank's batch", _range(steps.types_per_rank, "{:,.1f}")),
            ("traces of a step", _range(steps.num_traces, "{:,.0f}")),
            ("bytes read in a step, as stored", _bytes(steps.num_bytes)),
            (
                "segments of a step",
                f"{_range(steps.num_segments, '{:,.0f}')}; {steps.num_rank_segments.mean():,.1f} a rank",
            ),
            ("contiguous reads of a step", f"{_range(steps.num_stretches, '{:,.0f}')}; {stretch:,.1f} traces each"),
        )

    def shuffle_words(self) -> Words:
        """Describe how shuffled an epoch is for people."""
        found = self.shuffle
        return (
            ("correlation with the store's order", f"{found.correlation:+.3f}; random 0"),
            ("distance from the store's order", f"{found.displacement:.3f}; random 1"),
            ("store neighbors in one step", f"{found.neighbors:.3%}; random {found.neighbors_expected:.3%}"),
            ("step mates together next epoch", f"{found.reunion:.3%}; random {found.reunion_expected:.3%}"),
        )


def examine_plan(
    plan: BatchPlan,
    runs: Runs,
    num_ranks: int = 1,
    *,
    selected: NDArray[np.bool_] | None = None,
    observation_bytes: ArrayLike = 0.0,
    segments: NDArray[np.integer] | None = None,
    trace_bytes: ArrayLike = 0.0,
    epoch: int = 0,
    max_steps: int = MAX_STEPS,
) -> PlanReport:
    """Measure what a plan does at some number of ranks, and what other schemes would do with the same traces.

    Parameters
    ----------
    plan
        The batches.
    runs, selected, observation_bytes
        What the plan was made from.
    num_ranks
        Ranks that share each step.
    segments
        Segment of each run; None for one segment.
    trace_bytes
        Bytes of a trace as it is stored, sites and observations: one number, or one per run.
    epoch
        Pass over the traces, from 0.
    max_steps
        Most steps to look at one by one; of a longer epoch they are evenly spread.

    Raises
    ------
    PlanError
        When the number of ranks does not divide the slots of a step.
    InvalidInputError
        When ``epoch`` is negative, ``max_steps`` less than 1, or the plan was made from other traces.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from tracestore.samplers import BatchPolicy
    >>> from tracestore.simulators.toys import branching
    >>> store = ts.simulate(branching, tempfile.mkdtemp() + "/traces", num_traces=1000, seed=1)
    >>> plan = BatchPlan(store.runs, BatchPolicy(global_batch=80), seed=1)
    >>> report = examine_plan(plan, store.runs, num_ranks=5)
    >>> report.num_steps, report.schemes[0].imbalance < report.schemes[1].imbalance
    (13, True)
    """
    plan.require_ranks(num_ranks)
    plan.require_position(epoch, 0)
    if max_steps < 1:
        message = f"`max_steps` must be at least 1; got {max_steps}."
        raise InvalidInputError(message, argument="max_steps", found=max_steps)
    table = TraceTable.select(runs, plan.policy.cost, selected=selected, observation_bytes=observation_bytes)
    if len(table) != plan.num_traces:
        message = f"The plan has {plan.num_traces} traces, `runs` and `selected` {len(table)}; pass those of the plan."
        raise InvalidInputError(message, expected=plan.num_traces, found=len(table))
    chosen = np.unique(np.linspace(0, plan.num_steps - 1, min(max_steps, plan.num_steps)).round().astype(np.int64))
    segment_of = np.zeros(len(runs.first), np.int64) if segments is None else segments
    bytes_of = np.broadcast_to(np.asarray(trace_bytes, np.float64), runs.first.shape)
    steps = measure_steps(plan, epoch, chosen, num_ranks, table, segment_of, bytes_of)
    own = SchemeReport(
        name="this plan",
        imbalance=steps.imbalance,
        worst=float((steps.max_cost / steps.mean_cost).max()),
        padding=steps.padding,
        num_steps=plan.num_steps,
        num_dropped=0,
    )
    atoms, step_of = measure_atoms(plan, epoch, table), plan.epoch(epoch).steps_of_traces()
    return PlanReport(
        policy=plan.policy,
        seed=plan.seed,
        epoch=epoch,
        num_traces=plan.num_traces,
        num_steps=plan.num_steps,
        num_ranks=num_ranks,
        allowed_ranks=plan.policy.allowed_ranks,
        atoms=atoms,
        steps=steps,
        shuffle=ShuffleQuality.measure(step_of, plan.epoch(epoch + 1).steps_of_traces(), chosen),
        schemes=(own, *_examine_schemes(plan, table, num_ranks)),
    )


def _examine_schemes(plan: BatchPlan, table: TraceTable, num_ranks: int) -> list[SchemeReport]:
    step_size = plan.policy.global_batch or plan.num_traces / plan.num_steps
    batch = max(1, round(step_size / num_ranks))
    if batch * num_ranks > len(table):
        return []
    found = []
    for scheme in SCHEMES:
        dealing = scheme(table, batch, num_ranks)
        costs = dealing.rank_costs(table)
        most, mean = costs.max(axis=1), costs.mean(axis=1)
        found.append(
            SchemeReport(
                name=dealing.name,
                imbalance=float(most.sum() / mean.sum()),
                worst=float((most / mean).max()),
                padding=dealing.padding(table),
                num_steps=len(costs),
                num_dropped=len(table) - dealing.num_dealt,
            )
        )
    return found


def _spread_of(numbers: NDArray[np.int64] | NDArray[np.float64]) -> dict[str, float]:
    return {"min": float(numbers.min()), "mean": float(numbers.mean()), "max": float(numbers.max())}


def _range(numbers: NDArray[np.int64] | NDArray[np.float64], form: str) -> str:
    least, mean, most = (form.format(float(number)) for number in (numbers.min(), numbers.mean(), numbers.max()))
    return mean if least == most else f"{mean} ({least} to {most})"


def _bytes(numbers: NDArray[np.float64]) -> str:
    factor, unit = next((step for step in _UNITS if numbers.max() >= step[0]), (1.0, "B"))
    return f"{_range(numbers / factor, '{:,.2f}')} {unit}"


def _traces(number: int) -> str:
    return f"{number:,} trace" if number == 1 else f"{number:,} traces"


def _ranks(number: int) -> str:
    return f"{number:,} rank" if number == 1 else f"{number:,} ranks"
