"""Moves on tiny programs: the acceptance ratio from first principles, under changing trace dimension."""

import math
from typing import Any

import numpy as np
import pytest

from tracestore.inference.kernels import site_kernel
from tracestore.inference.moves import BlockMove, Entry, Fresh, Move, Replay, Role, SingleSite, role_of
from tracestore.simulators.base import Simulator, run_trace, simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.traces.distributions import Bernoulli, Distribution, Normal, Poisson, Uniform, from_parameters
from tracestore.traces.layout import SiteKind
from tracestore.traces.trace import RESULT, Trace, TraceStatus

OBSERVATIONS = {"y": np.array(1.3)}


@simulator
def growing() -> float:
    """A count decides how many draws follow, and the scale of a draw that is always there."""
    count = sample(Poisson(1.5))
    total = sample(Normal(0.0, 1.0 + count), name="base")
    for _ in range(count):
        total += sample(Normal(0.5, 1.0))
    observe(Normal(total, 1.0), name="y")
    return total


@simulator
def shrinking_support() -> float:
    """One address whose support depends on an earlier draw."""
    narrow = sample(Bernoulli(0.5), name="narrow")
    x = sample(Uniform(0.0, 1.0 if narrow else 2.0), address="x")
    observe(Normal(x, 1.0), name="y")
    return x


def run(program: Simulator, move: Move, rng: np.random.Generator) -> Trace:
    return run_trace(program, move, rng, observations=OBSERVATIONS)


def start(program: Simulator, rng: np.random.Generator) -> tuple[Trace, dict[int, Entry]]:
    move = Fresh(None)
    return run(program, move, rng), move.entries


def draws(trace: Trace) -> dict[int, tuple[Any, float]]:
    """Value and log probability of each draw, read back from the recorded trace."""
    return {
        site.id: (trace.value(position), float(trace.log_probs[position]))
        for position, site in enumerate(trace.sites)
        if site.kind is SiteKind.SAMPLE
    }


def prior_at(trace: Trace, ident: int) -> Distribution:
    position = next(position for position, site in enumerate(trace.sites) if site.id == ident)
    site, offsets = trace.sites[position], trace.layout.parameter_offsets
    return from_parameters(site.family, trace.parameters[offsets[position] : offsets[position + 1]], site.shape)


def log_site_density(trace: Trace, ident: int, origin: float, value: float, log_prob: float, share: float) -> float:
    """Log of ``a K(value | origin) + (1 - a) p(value)`` at one site."""
    kernel = site_kernel(prior_at(trace, ident), origin, 1.0)
    if kernel is None:
        return log_prob
    return math.log(share * math.exp(kernel.log_prob(value)) + (1 - share) * math.exp(log_prob))


@pytest.mark.parametrize("kernel_share", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(12))
def test_single_site_ratio_from_first_principles(seed: int, kernel_share: float) -> None:
    rng = np.random.default_rng(seed)
    current, entries = start(growing, rng)
    chosen = list(entries)[seed % len(entries)]
    move = SingleSite(None, entries, chosen, kernel_share, 1.0)
    proposed = run(growing, move, rng)
    assert not move.is_rejected
    old, new = draws(current), draws(proposed)
    there = sum(log_prob for ident, (_, log_prob) in new.items() if ident not in old) - math.log(len(old))
    back = sum(log_prob for ident, (_, log_prob) in old.items() if ident not in new) - math.log(len(new))
    there += log_site_density(current, chosen, old[chosen][0], *new[chosen], kernel_share)
    back += log_site_density(proposed, chosen, new[chosen][0], *old[chosen], kernel_share)
    expected = proposed.log_joint - current.log_joint + back - there
    found = move.log_ratio + proposed.log_likelihood - current.log_likelihood + math.log(len(old) / len(new))
    assert found == pytest.approx(expected, abs=1e-10)


BLOCKS = [(True, False, False), (False, True, False), (True, True, False), (False, True, True)]


@pytest.mark.parametrize(("walk", "redraw_unnamed", "redraw_named"), BLOCKS)
@pytest.mark.parametrize("seed", range(6))
def test_block_ratio_from_first_principles(seed: int, walk: bool, redraw_unnamed: bool, redraw_named: bool) -> None:
    rng = np.random.default_rng(seed)
    current, entries = start(growing, rng)
    base = next(ident for ident, entry in entries.items() if entry.role == Role.WALKED)
    move = BlockMove(None, entries, {base: 0.7}, walk=walk, redraw_unnamed=redraw_unnamed, redraw_named=redraw_named)
    proposed = run(growing, move, rng)
    old, new = draws(current), draws(proposed)
    redrawn = {ident for ident, entry in entries.items() if (redraw_named if entry.role else redraw_unnamed)}
    fresh = {ident for ident in new if ident not in old or ident in redrawn}
    undone = {ident for ident in old if ident not in new or ident in redrawn}
    # the walk is symmetric and drops out
    expected = proposed.log_joint - current.log_joint
    expected += sum(old[ident][1] for ident in undone) - sum(new[ident][1] for ident in fresh)
    found = move.log_ratio + proposed.log_likelihood - current.log_likelihood
    assert found == pytest.approx(expected, abs=1e-10)
    assert (new[base][0] != old[base][0]) == (walk or redraw_named)


def test_values_before_the_chosen_site_are_taken_over_unscored() -> None:
    rng = np.random.default_rng(1)
    _, entries = start(growing, rng)
    last = list(entries)[-1]
    move = SingleSite(None, entries, last, 0.5, 1.0)
    run(growing, move, rng)
    assert all(move.entries[ident] is entry for ident, entry in entries.items() if ident != last)


def wide_start(rng: np.random.Generator) -> tuple[Trace, dict[int, Entry]]:
    while True:
        trace, entries = start(shrinking_support, rng)
        if trace["narrow"] == 0 and np.greater(trace[RESULT], 1.2):
            return trace, entries


def test_a_reused_value_outside_its_new_support_rejects_at_once() -> None:
    rng = np.random.default_rng(2)
    current, entries = wide_start(rng)
    narrow = next(iter(entries))
    outcomes = set()
    for _ in range(50):
        move = SingleSite(None, entries, narrow, 0.0, 1.0)
        proposed = run(shrinking_support, move, rng)
        outcomes.add(move.is_rejected)
        if move.is_rejected:
            assert proposed.status is TraceStatus.FAILED
            assert len(proposed) == 1  # nothing after the value that cannot be scored
        else:
            assert proposed.result == current.result
    assert outcomes == {True, False}


def test_replay_gives_the_same_trace() -> None:
    rng = np.random.default_rng(3)
    current, entries = start(growing, rng)
    replay = Replay(None, {ident: entry.value for ident, entry in entries.items()})
    again = run(growing, replay, np.random.default_rng(99))
    assert again.log_joint == current.log_joint
    np.testing.assert_array_equal(again.values, current.values)
    assert replay.entries == entries


def test_replay_of_an_unknown_draw_ends_the_run() -> None:
    replay = Replay(None, {})
    run(growing, replay, np.random.default_rng(0))
    assert replay.is_rejected


def test_rejection_stands_when_the_simulator_swallows_it() -> None:
    @simulator
    def greedy() -> object:
        try:
            return growing()
        except BaseException:  # noqa: BLE001  # the case under test
            return 0.0

    replay = Replay(None, {})
    run(greedy, replay, np.random.default_rng(0))
    assert replay.is_rejected


class TestRoles:
    @staticmethod
    def roles(program: Simulator, joint_names: frozenset[str] | None) -> list[Role]:
        trace, _ = start(program, np.random.default_rng(0))
        sites = [site for site in trace.sites if site.kind is SiteKind.SAMPLE]
        return [role_of(site, prior_at(trace, site.id), joint_names) for site in sites]

    def test_named_continuous_draws_walk(self) -> None:
        assert self.roles(growing, None)[:2] == [Role.UNNAMED, Role.WALKED]

    def test_named_discrete_draws_stay(self) -> None:
        assert self.roles(shrinking_support, None) == [Role.NAMED, Role.UNNAMED]

    def test_only_joint_names_walk(self) -> None:
        assert self.roles(growing, frozenset({"other"}))[1] is Role.NAMED

    def test_uncontrolled_draws_walk_only_when_asked_for(self) -> None:
        @simulator
        def free() -> None:
            sample(Normal(0.0, 1.0), name="x", control=False)
            observe(Normal(0.0, 1.0), name="y")

        assert self.roles(free, None) == [Role.NAMED]
        assert self.roles(free, frozenset({"x"})) == [Role.WALKED]


def test_one_address_under_two_roles_is_rejected() -> None:
    rng = np.random.default_rng(4)
    _, entries = start(growing, rng)
    swapped = {ident: entry._replace(role=Role.NAMED) for ident, entry in entries.items()}
    move = BlockMove(None, swapped, {}, walk=True, redraw_unnamed=False, redraw_named=False)
    run(growing, move, rng)
    assert move.is_rejected
