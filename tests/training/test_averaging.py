import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from tracestore.errors import CheckpointMismatchError, InvalidInputError
from tracestore.training.averaging import WIDE_ROW, WeightAverage
from tracestore.training.optimizers import Optimizer

DECAY = 0.9


class Network(nn.Module):
    def __init__(self, num_rows=4, width=3):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(num_rows, width, generator=generator))
        self.head = nn.Parameter(torch.randn(2, width, generator=generator))
        self.scale = nn.Parameter(torch.ones(()))

    def grow(self, num_rows):
        self.table = nn.Parameter(torch.cat([self.table.detach(), torch.ones(num_rows, self.table.shape[1])]))


def set_gradients(network, rows, seed):
    """Touch some rows of the table and the head; the scale has a gradient at even steps only."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(rows), network.table.shape[1], generator=generator)
    network.table.grad = torch.sparse_coo_tensor(
        torch.as_tensor(rows)[None], values, network.table.shape, check_invariants=True
    )
    network.head.grad = torch.randn(network.head.shape, generator=generator)
    network.scale.grad = torch.ones(()) if seed % 2 == 0 else None


class Reference:
    """The definition: a list of all values after each step, averaged at the end."""

    def __init__(self):
        self.values = []

    def add(self, network):
        self.values.append({name: p.detach().clone().double() for name, p in network.named_parameters()})

    def average(self, name, row=None):
        values = [found[name] for found in self.values]
        if row is not None:
            values = [found[row] for found in values if row < len(found)]
        weights = [DECAY ** (len(values) - 1 - step) for step in range(len(values))]
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def train(network, average, optimizer, schedule, reference=None, first=0):
    for step, rows in enumerate(schedule, first):
        set_gradients(network, rows, step)
        average.before_step()
        optimizer.step(0.1)
        if reference is not None:
            reference.add(network)


TOUCHES = [[0, 1], [1], [1, 1, 3], [3], [0], [1], [1]]
"""Row 2 is never touched; rows wait for up to four steps, and for some at the end."""


@pytest.mark.parametrize("width", [3, WIDE_ROW], ids=["narrow", "wide"])
def test_the_average_is_that_over_all_steps_touched_or_not(width):
    network, reference = Network(width=width), Reference()
    average = WeightAverage(network, DECAY)
    train(network, average, Optimizer(network), TOUCHES, reference)
    with average.applied():
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.detach().double(), reference.average(name), rtol=1e-5, atol=1e-6)


def test_the_average_follows_the_optimizer_for_many_steps():
    network, reference = Network(), Reference()
    average = WeightAverage(network, DECAY)
    train(network, average, Optimizer(network), 20 * TOUCHES, reference)
    with average.applied():
        torch.testing.assert_close(network.table.detach().double(), reference.average("table"), rtol=1e-5, atol=1e-6)


def test_rows_that_join_later_count_from_the_step_that_brought_them():
    network, reference = Network(num_rows=2), Reference()
    average, optimizer = WeightAverage(network, DECAY), Optimizer(network)
    train(network, average, optimizer, [[0, 1], [1]], reference)
    network.grow(2)
    train(network, average, optimizer, [[2], [0], [0, 2]], reference, first=2)
    with average.applied():
        for row in range(4):
            torch.testing.assert_close(
                network.table[row].detach().double(), reference.average("table", row), rtol=1e-5, atol=1e-6
            )


def test_looking_at_the_average_does_not_change_it():
    network, reference = Network(), Reference()
    average, optimizer = WeightAverage(network, DECAY), Optimizer(network)
    for step, rows in enumerate(TOUCHES):
        train(network, average, optimizer, [rows], reference, first=step)
        with average.applied():
            pass
    with average.applied():
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.detach().double(), reference.average(name), rtol=1e-5, atol=1e-6)


def test_the_trained_weights_come_back_bit_for_bit_even_after_an_error():
    network = Network()
    average = WeightAverage(network, DECAY)
    train(network, average, Optimizer(network), TOUCHES)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}

    def fail():
        with average.applied():
            assert not torch.equal(network.table, before["table"])
            raise RuntimeError("validation")

    with pytest.raises(RuntimeError, match="validation"):
        fail()
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_before_the_first_step_the_average_is_the_network():
    network = Network()
    before = network.table.detach().clone()
    average = WeightAverage(network, DECAY)
    with average.applied():
        assert torch.equal(network.table, before)
    network.grow(1)
    with average.applied():
        assert torch.equal(network.table[:4], before)


def test_rows_that_have_just_joined_are_their_own_average():
    network = Network()
    average = WeightAverage(network, DECAY)
    train(network, average, Optimizer(network), TOUCHES)
    network.grow(2)
    with average.applied():
        assert network.table[4:].eq(1.0).all()


def test_the_averages_can_be_copied_to_another_network():
    network, other = Network(), Network()
    average = WeightAverage(network, DECAY)
    train(network, average, Optimizer(network), TOUCHES)
    average.copy_to(other)
    with average.applied():
        for name, parameter in network.named_parameters():
            assert torch.equal(parameter, other.get_parameter(name)), name


def test_a_network_of_another_shape_is_refused():
    average = WeightAverage(Network(), DECAY)
    with pytest.raises(InvalidInputError, match=r"has shape \(4, 3\); the other network has shape \(5, 3\)"):
        average.copy_to(Network(num_rows=5))


def test_a_loaded_state_continues_with_the_same_bits():
    first, second = Network(), Network()
    average, resumed = WeightAverage(first, DECAY), WeightAverage(second, DECAY)
    optimizer, other = Optimizer(first), Optimizer(second)
    train(first, average, optimizer, TOUCHES)
    second.load_state_dict(first.state_dict())
    other.load_state_tensors(optimizer.state_tensors())
    resumed.load_state_tensors({key: x.clone() for key, x in average.state_tensors().items()})
    train(first, average, optimizer, TOUCHES, first=7)
    train(second, resumed, other, TOUCHES, first=7)
    found = resumed.state_tensors()
    assert all(torch.equal(x, found[key]) for key, x in average.state_tensors().items())
    with average.applied(), resumed.applied():
        for name, parameter in first.named_parameters():
            assert torch.equal(parameter, second.get_parameter(name)), name


def test_saving_does_not_change_the_averages():
    first, second = Network(), Network()
    average, watched = WeightAverage(first, DECAY), WeightAverage(second, DECAY)
    optimizer, other = Optimizer(first), Optimizer(second)
    for step, rows in enumerate(TOUCHES):
        train(first, average, optimizer, [rows], first=step)
        train(second, watched, other, [rows], first=step)
        watched.state_tensors()
    with average.applied(), watched.applied():
        assert torch.equal(first.table, second.table)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"other/average": torch.zeros(1)}, "'other' does not fit"),
        ({"table/average": torch.zeros(5, 3)}, "'table' does not fit"),
        ({"table/folded": None}, "'table' does not fit"),
        ({"num_steps": None}, "no `num_steps`"),
    ],
    ids=["name", "shape", "part", "steps"],
)
def test_a_state_that_does_not_fit_is_refused(change, words):
    network = Network()
    average = WeightAverage(network, DECAY)
    train(network, average, Optimizer(network), TOUCHES)
    state = {**average.state_tensors(), **change}
    with pytest.raises(CheckpointMismatchError, match=words):
        average.load_state_tensors({key: x for key, x in state.items() if x is not None})


@pytest.mark.parametrize("call", ["before_step", "state_tensors"])
def test_while_the_averages_are_in_the_network_it_is_not_trained_or_saved(call):
    average = WeightAverage(Network(), DECAY)
    with average.applied(), pytest.raises(InvalidInputError, match="leave `applied`"):
        getattr(average, call)()


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(InvalidInputError, match="`decay` must lie between 0 and 1"):
        WeightAverage(Network(), decay)
