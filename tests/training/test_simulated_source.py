"""Steps of fresh prior traces: which streams, shared by any number of ranks, made by any number of workers."""

import numpy as np
import pytest

pytest.importorskip("torch")

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.execution.ahead import AheadWorkers
from tracestore.samplers.world import World
from tracestore.simulators import Simulator, toys
from tracestore.training.simulated_source import OnlinePlan, PriorTraces, SimulatedSource, Stretch, to_tensors

GUM = {"obs0": (), "obs1": ()}
PLANS = [
    OnlinePlan(1000, 64),
    OnlinePlan(1000, 256, accumulate=3),
    OnlinePlan(150, 64, accumulate=2),
    OnlinePlan(513, 192),
    OnlinePlan(3, 7),
]


@pytest.mark.parametrize("plan", PLANS, ids=repr)
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_ranks_share_the_streams_of_every_step(plan, num_ranks):
    for step in range(plan.num_steps):
        found = []
        for minibatch in plan.minibatches_of(step):
            shares = [plan.share(minibatch, World(rank, num_ranks)) for rank in range(num_ranks)]
            found += [number for share in shares for number in range(share.first, share.first + share.num_traces)]
            sizes = [share.num_traces for share in shares]
            assert max(sizes) - min(sizes) <= 2 * plan.chunk_size
        assert found == list(range(plan.first_stream(step), plan.first_stream(step + 1)))
        assert plan.step_of(plan.first_stream(step)) == step
    assert plan.first_stream(plan.num_steps) == plan.num_traces
    assert plan.step_of(plan.num_traces) == plan.num_steps


@pytest.mark.parametrize("plan", PLANS, ids=repr)
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_shares_are_whole_chunks(plan, num_ranks):
    for minibatch in range(plan.num_minibatches):
        for rank in range(num_ranks):
            share = plan.share(minibatch, World(rank, num_ranks))
            chunks = [plan.chunk(number) for number in plan.chunks_of(share)] if share.num_traces else []
            assert sum(chunk.num_traces for chunk in chunks) == share.num_traces
            assert [chunk.first for chunk in chunks[:1]] == ([share.first] if share.num_traces else [])
    every = [plan.chunk(number) for number in plan.chunks_before(plan.num_traces)]
    assert sum(chunk.num_traces for chunk in every) == plan.num_traces


def steps_of(source):
    """Streams and values of each step, and whether a validation follows."""
    steps = []
    while source.step < source.num_steps:
        for parts in source:
            streams = [number for part in parts for number in part.trace_index.tolist()]
            values = [value for part in parts for value in part.values.tolist()]
            steps.append((streams, values, source.is_at_validation))
    return steps


def make_source(plan, crew, world=None, shapes=GUM):
    return SimulatedSource(plan, World() if world is None else world, crew, lambda: shapes)


def test_traces_are_those_that_simulate_makes(tmp_path):
    plan = OnlinePlan(50, 16)
    with AheadWorkers(PriorTraces(toys.gum, 3, 100), workers=0) as crew:
        steps = steps_of(make_source(plan, crew))
    store = ts.simulate(toys.gum, tmp_path / "s", num_traces=50, seed=3)
    everything = store.take(np.argsort(store.column("stream")))
    assert [number for streams, _, _ in steps for number in streams] == list(range(50))
    np.testing.assert_array_equal([value for _, values, _ in steps for value in values], everything.values)


@pytest.mark.processes
def test_workers_and_ranks_do_not_change_the_steps():
    plan = OnlinePlan(150, 32, accumulate=2)
    with AheadWorkers(PriorTraces(toys.gum, 3, 100), workers=0) as crew:
        alone = steps_of(make_source(plan, crew))
        ranks = [steps_of(make_source(plan, crew, World(rank, 3))) for rank in range(3)]
    with AheadWorkers(PriorTraces(toys.gum, 3, 100), workers=2) as crew:
        assert steps_of(make_source(plan, crew)) == alone
    for step, (streams, values, is_validated) in enumerate(alone):
        assert sorted(number for rank in ranks for number in rank[step][0]) == streams
        assert sorted(number for rank in ranks for number in rank[step][1]) == sorted(values)
        assert all(rank[step][2] == is_validated for rank in ranks)


def test_a_source_goes_on_where_another_one_stopped():
    plan = OnlinePlan(100, 8, accumulate=2)
    with AheadWorkers(PriorTraces(toys.gum, 3, 100), workers=0) as crew:
        whole = steps_of(make_source(plan, crew))
        first = make_source(plan, crew)
        next(iter(first))
        state = first.state_dict()
        second = make_source(plan, crew)
        second.load_state_dict(state)
        assert steps_of(second) == whole[1:]
    assert state == {"next_stream": 16}


def test_validations_are_spread_over_the_training():
    plan = OnlinePlan(1000, 10)
    assert plan.validation_interval == 5
    with AheadWorkers(PriorTraces(toys.gum, 3, 100), workers=0) as crew:
        validated = [place for place, step in enumerate(steps_of(make_source(plan, crew)), 1) if step[2]]
    assert validated == list(range(5, 101, 5))


def test_failed_traces_are_left_out():
    def fragile():
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        ts.observe(ts.Normal(x, 1.0), name="y")
        if x > 0.0:
            raise ValueError("too far")

    make = PriorTraces(Simulator(fragile), 3, 100)
    batch = make(Stretch("simulate", 0, 64))
    plan = OnlinePlan(64, 4)
    with AheadWorkers(make, workers=0) as crew:
        steps = steps_of(make_source(plan, crew, shapes={"y": ()}))
    assert 0 < len(batch.failures) < 64
    assert [number for streams, _, _ in steps for number in streams] == np.flatnonzero(batch.status == 0).tolist()
    assert len(steps) == 16


def test_an_observation_that_appears_late_is_refused():
    batch = PriorTraces(toys.gum, 3, 100)(Stretch("simulate", 7, 2))
    with pytest.raises(InvalidInputError, match=r"'obs1' has .* stream 7; .* no such observation"):
        to_tensors(batch, {"obs0": ()})
    with pytest.raises(InvalidInputError, match=r"have shape \(2,\)"):
        to_tensors(batch, {"obs0": (), "obs1": (2,)})


def test_an_observation_that_is_absent_is_zero():
    batch = PriorTraces(toys.gum, 3, 100)(Stretch("simulate", 7, 2))
    tensors = to_tensors(batch, {**GUM, "rare": (2, 3)})
    assert tensors.observations["rare"].shape == (2, 2, 3)
    assert not tensors.observations["rare"].any()
