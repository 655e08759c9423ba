"""Gradients summed over ranks against one process that has the minibatches of all."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from tests.training.rank_programs import (
    JOBS,
    SCENARIOS,
    SEGMENTS,
    SmallNetwork,
    follow_alone,
    minibatch,
    run_good_programs,
    scenario,
)
from tracestore.errors import InvalidInputError
from tracestore.networks.tables import Table
from tracestore.training.communicator import SoleProcess
from tracestore.training.gradient_sync import GradientSync, SyncRecord

NO_STATISTICS = torch.zeros(0, dtype=torch.float64)


@pytest.fixture(scope="module", params=JOBS, ids=lambda job: f"{job[0]}-{job[1]}")
def followed(request):
    return [result["follow_all"] for result in run_good_programs(*request.param)]


@pytest.fixture(params=SCENARIOS)
def steps(request, followed):
    """The steps of a scenario: what each rank has, and what one process has."""
    alone = follow_alone(request.param, len(followed))
    return list(zip(alone, *(result[request.param] for result in followed), strict=True))


def gradients(result):
    return {name: value for name, value in result.items() if name.endswith(("weight", "bias"))}


@pytest.mark.processes
def test_gradients_are_those_of_one_process(steps):
    for alone, first, *_ in steps:
        expected, found = gradients(alone), gradients(first)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert (found[name] is None) == (value is None), name
            if value is not None:
                torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.processes
def test_only_the_union_of_touched_rows_has_a_gradient(steps):
    for alone, first, *_ in steps:
        rows = {name: value.tolist() for name, value in alone.items() if name.startswith("rows of")}
        assert {name: value.tolist() for name, value in first.items() if name.startswith("rows of")} == rows


@pytest.mark.processes
def test_all_ranks_have_the_same_bits(steps):
    for _, first, *others in steps:
        for name, value in first.items():
            if name in ("bytes", "seconds"):
                continue
            for other in others:
                if isinstance(value, list):
                    assert all(map(torch.equal, value, other[name])), name
                else:
                    assert value is other[name] or torch.equal(value, other[name]), name


@pytest.mark.processes
def test_statistics_are_sums(steps):
    for alone, first, *_ in steps:
        torch.testing.assert_close(first["statistics"], alone["statistics"], rtol=1e-5, atol=1e-6)
        assert first["statistics"][1] == alone["statistics"][1]


@pytest.mark.processes
def test_reduced_bytes_are_those_of_the_touched_rows(followed):
    num_ranks = len(followed)
    rows = {row for rank in range(num_ranks) for row in (rank, 3 + rank)}
    network = SmallNetwork()
    dense = sum(
        parameter.nbytes
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and not name.startswith(("value", "heads"))
    )
    flags, present = 3 * 7, len([parameter for parameter in network.parameters() if parameter.requires_grad])
    expected = dense + 4 * len(rows) * (4 + 8 + 2) + flags + 8 * (2 + 1 + present)
    whole = dense + 4 * 7 * (4 + 8 + 2) + 8 * 2
    for result in followed:
        assert result["disjoint rows"][0]["bytes"] == (expected, whole)


@pytest.mark.processes
def test_waiting_is_a_part_of_the_time(followed):
    seconds = [step["seconds"] for result in followed for steps in result.values() for step in steps]
    assert all(0 <= waited <= total for waited, total in seconds)
    assert any(total > 0 for _, total in seconds)


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["torch", "mpi"])
def test_networks_that_differ_are_refused_on_all_ranks(kind):
    first, second = (result["different_networks"] for result in run_good_programs(kind, 2))
    assert first == second
    assert "the shape of value.weight is '(8, 4)' on rank 0, '(9, 4)' on rank 1" in first


@pytest.mark.processes
def test_rows_that_were_not_declared_are_refused_on_all_ranks():
    first, second = (result["undeclared_rows"] for result in run_good_programs("torch", 2))
    assert first == second
    assert first["no row"].startswith("3 rows of tables had a gradient, but were not among the touched rows")
    assert first["other rows"].startswith("2 rows of tables had a gradient")


# ------------------------------------------------------------------------------------ two ranks that do the same things


class Twin(SoleProcess):
    """Two ranks of which the other always says the same; notes what happens."""

    num_ranks = 2

    def __init__(self, events):
        self.events = events

    def sum_(self, tensor):
        self.events.append(f"sum of {len(tensor)}")
        tensor.mul_(2)
        return super().sum_(tensor)

    def gather(self, payload):
        return [payload, payload]


@pytest.fixture
def events():
    return []


def note_gradient(events, name, parameter):
    parameter.register_post_accumulate_grad_hook(lambda _: events.append(name))


def test_sums_begin_while_the_backward_pass_goes_on(events):
    network = SmallNetwork()
    sync = GradientSync(network, Twin(events), segments=SEGMENTS)
    batch = minibatch([1, 4], 0)
    sync.begin(network.touched([batch]))
    events.clear()
    note_gradient(events, "heads", network.heads.weight.weight)
    note_gradient(events, "observation", network.observation.weight)
    sync.backward(network.loss(batch))
    assert events[0] == "heads"
    assert events.index(f"sum of {2 * (8 + 2)}") < events.index("observation")
    # the last segment holds a parameter that never has a gradient, which must not hold it up
    assert events[-1] == f"sum of {2 * 4 + 16 + 6}"


def test_ranks_with_and_without_traces_start_the_same_sums(events):
    network = SmallNetwork()
    sync = GradientSync(network, Twin(events), segments=SEGMENTS)
    batch = minibatch([1, 4], 0)
    sync.begin(network.touched([batch]))
    sync.backward(network.loss(batch))
    sync.finish(NO_STATISTICS)
    with_traces = events.copy()
    events.clear()
    network.zero_grad()
    sync.begin(network.touched([batch]))  # stands in for rows that the other rank touches
    sync.finish(NO_STATISTICS)
    assert events == with_traces


def test_a_parameter_without_a_gradient_holds_up_no_other_segment(events):
    network = SmallNetwork()
    sync = GradientSync(network, Twin(events), segments=[["unused."], ["heads."], ["observation."]])
    batch = minibatch([0], 0)
    sync.begin(network.touched([batch]))
    note_gradient(events, "observation", network.observation.weight)
    sync.backward(network.loss(batch))
    assert events.index("sum of 10") < events.index("observation")


def test_hooks_are_gone_after_the_backward_pass(events):
    network = SmallNetwork()
    sync = GradientSync(network, Twin(events), segments=SEGMENTS)
    batch = minibatch([1, 4], 0)
    sync.begin(network.touched([batch]))
    sync.backward(network.loss(batch))
    sync.finish(NO_STATISTICS)
    network.zero_grad()
    events.clear()
    network.loss(batch).backward()
    assert events == []


def test_buffer_is_used_again_and_grows(events):
    network = SmallNetwork()
    sync = GradientSync(network, Twin(events), segments=SEGMENTS)
    places = []
    for rows in ([0], [1], list(range(7))):
        network.zero_grad()
        batch = minibatch(rows, 0)
        sync.begin(network.touched([batch]))
        sync.backward(network.loss(batch))
        sync.finish(NO_STATISTICS)
        places.append(network.observation.weight.grad.untyped_storage().data_ptr())
    assert places[0] == places[1] != places[2]


def test_gradients_of_tables_are_coalesced(events):
    network = SmallNetwork()
    sync = GradientSync(network, Twin(events))
    batch = minibatch([4, 1, 4], 0)
    sync.begin(network.touched([batch]))
    sync.backward(network.loss(batch))
    sync.finish(NO_STATISTICS)
    grad = network.heads.weight.weight.grad
    assert grad.is_coalesced()
    assert grad.indices().tolist() == [[1, 4]]
    network.zero_grad()
    network.loss(batch).backward()
    torch.testing.assert_close(grad.to_dense(), 2 * network.heads.weight.weight.grad.to_dense())


def test_one_rank_keeps_its_gradients_and_statistics():
    network = SmallNetwork()
    sync = GradientSync(network, SoleProcess(), segments=SEGMENTS)
    batch = minibatch([4, 1, 4], 0)
    statistics = torch.ones(2, dtype=torch.float64)
    sync.begin(network.touched([batch]))
    sync.backward(network.loss(batch))
    assert sync.finish(statistics) is statistics
    assert network.unused.weight.grad is None
    assert network.value.weight.grad.is_sparse
    assert sync.record == SyncRecord()


def test_large_counts_stay_exact(events):
    sync = GradientSync(nn.Linear(1, 1), Twin(events))
    sync.begin({})
    assert sync.finish(torch.tensor([2.0**52 - 1], dtype=torch.float64)).item() == 2**53 - 2


@pytest.mark.parametrize(
    ("touched", "text"),
    [
        ({"core.weight": torch.tensor([0])}, "given for core.weight, but the network has no such tables"),
        ({"value.weight": torch.tensor([2, 7])}, r"Touched rows of value.weight must be from 0 to 6; got \[2, 7\]"),
        ({"value.weight": torch.tensor([-1])}, r"Touched rows of value.weight must be from 0 to 6; got \[-1\]"),
    ],
)
def test_rows_that_do_not_fit_are_refused(events, touched, text):
    with pytest.raises(InvalidInputError, match=text):
        GradientSync(SmallNetwork(), Twin(events)).begin(touched)


def test_parameters_of_different_types_are_refused(events):
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double())
    with pytest.raises(InvalidInputError, match=r"found torch.float32 on cpu, torch.float64 on cpu"):
        GradientSync(network, Twin(events)).begin({})


def test_a_table_with_a_dense_gradient_is_refused(events):
    network = Table(2)
    network.append(torch.ones(3, 2))
    sync = GradientSync(network, Twin(events))
    sync.begin({"weight": torch.tensor([0, 1, 2])})
    with pytest.raises(InvalidInputError, match="gradient of weight must be sparse"):
        sync.backward(network.weight.sum())


def test_a_layer_with_a_sparse_gradient_is_refused(events):
    network = nn.Embedding(3, 2, sparse=True)
    sync = GradientSync(network, Twin(events))
    sync.begin({})
    with pytest.raises(InvalidInputError, match="gradient of weight must be dense"):
        sync.backward(network(torch.tensor([1])).sum())


def test_scenarios_are_the_same_wherever_they_are_made():
    first, second = (scenario("random 2", 3) for _ in range(2))
    assert [[len(batches) for batches in step.ranks] for step in first] == [
        [len(batches) for batches in step.ranks] for step in second
    ]
