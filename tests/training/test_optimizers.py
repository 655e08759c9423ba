import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from tracestore.errors import CheckpointMismatchError, InvalidInputError
from tracestore.training.optimizers import Optimizer, OptimizerConfig

KINDS = ("adam", "sgd", "adam_larc", "sgd_larc", "rmsprop")
RATE = 0.01


class Table(nn.Module):
    def __init__(self, num_rows, width, seed=0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed)))

    def append(self, num_rows):
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), torch.ones(num_rows, self.weight.shape[1])]))


def sparse(rows, values, table):
    indices = torch.as_tensor(rows)[None]
    return torch.sparse_coo_tensor(indices, values, table.weight.shape, check_invariants=True)


def random_gradients(shape, num, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(num)]


def touch(table, optimizer, rows, gradients):
    table.weight.grad = sparse(rows, gradients, table)
    optimizer.step(RATE)


def dense_network():
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"kind": "adam"}, lambda p, d: torch.optim.Adam(p, lr=RATE, weight_decay=d)),
        (
            {"kind": "adam", "beta1": 0.0, "beta2": 0.9},
            lambda p, d: torch.optim.Adam(p, lr=RATE, betas=(0.0, 0.9), weight_decay=d),
        ),
        (
            {"kind": "sgd"},
            lambda p, d: torch.optim.SGD(p, lr=RATE, momentum=0.9, nesterov=True, weight_decay=d),
        ),
        (
            {"kind": "sgd", "nesterov": False},
            lambda p, d: torch.optim.SGD(p, lr=RATE, momentum=0.9, weight_decay=d),
        ),
        (
            {"kind": "rmsprop", "beta2": 0.9},
            lambda p, d: torch.optim.RMSprop(p, lr=RATE, alpha=0.9, weight_decay=d),
        ),
        ({"kind": "sgd", "momentum": 0.0}, lambda p, d: torch.optim.SGD(p, lr=RATE, weight_decay=d)),
    ],
    ids=["adam", "adam-betas", "nesterov", "momentum", "rmsprop", "plain"],
)
def test_dense_parameters_move_as_with_torch(ours, theirs, weight_decay):
    network, other = dense_network(), dense_network()
    other.load_state_dict(network.state_dict())
    optimizer = Optimizer(network, OptimizerConfig(weight_decay=weight_decay, **ours))
    reference = theirs(other.parameters(), weight_decay)
    for step in range(20):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        for net in (network, other):
            net.zero_grad()
            net(x).square().sum().backward()
        optimizer.step(RATE)
        reference.step()
    for parameter, expected in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_table_touched_everywhere_moves_as_a_dense_parameter(kind, weight_decay):
    config = OptimizerConfig(kind=kind, weight_decay=weight_decay)
    table, dense = Table(4, 6), Table(4, 6)
    by_row, whole = Optimizer(table, config), Optimizer(dense, config)
    for gradient in random_gradients((4, 6), 20):
        touch(table, by_row, [2, 0, 3, 1], gradient[[2, 0, 3, 1]])
        dense.weight.grad = gradient
        whole.step(RATE)
    torch.testing.assert_close(table.weight, dense.weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_untouched_rows_keep_every_bit_of_weights_and_state(kind):
    table = Table(6, 3)
    optimizer = Optimizer(table, OptimizerConfig(kind=kind, weight_decay=0.1))
    for gradient in random_gradients((6, 3), 3):
        touch(table, optimizer, range(6), gradient)
    weights = table.weight.detach().clone()
    state = {key: x.clone() for key, x in optimizer.state_tensors().items()}
    for gradient in random_gradients((2, 3), 4):
        touch(table, optimizer, [1, 4], gradient)
    rest = [0, 2, 3, 5]
    assert torch.equal(table.weight[rest], weights[rest])
    assert not (table.weight[[1, 4]] == weights[[1, 4]]).any()
    for key, tensor in optimizer.state_tensors().items():
        assert torch.equal(tensor[rest], state[key][rest]), key


def test_a_row_touched_late_gets_the_update_of_a_fresh_adam():
    table = Table(2, 3)
    start = table.weight[1].detach().clone()
    optimizer = Optimizer(table)
    for gradient in random_gradients((1, 3), 50):
        touch(table, optimizer, [0], gradient)
    fresh = nn.Parameter(start)
    reference = torch.optim.Adam([fresh], lr=RATE)
    for gradient in random_gradients((3,), 3, seed=9):
        touch(table, optimizer, [0, 1], torch.stack([gradient, gradient]))
        fresh.grad = gradient
        reference.step()
    torch.testing.assert_close(table.weight[1], fresh.detach(), rtol=1e-6, atol=1e-7)
    assert optimizer.state_tensors()["weight/steps"].tolist() == [53, 3]


def test_repeated_rows_of_a_gradient_count_with_their_sum():
    table, other = Table(3, 2), Table(3, 2)
    optimizer, reference = Optimizer(table), Optimizer(other)
    (gradient,) = random_gradients((3, 2), 1)
    touch(table, optimizer, [2, 0, 2], gradient)
    touch(other, reference, [0, 2], torch.stack([gradient[1], gradient[0] + gradient[2]]))
    assert torch.equal(table.weight, other.weight)
    assert optimizer.state_tensors()["weight/steps"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_table_that_grows_keeps_its_old_rows_going(kind):
    table, roomy = Table(2, 3), Table(2, 3)
    roomy.append(2)
    config = OptimizerConfig(kind=kind)
    optimizer, reference = Optimizer(table, config), Optimizer(roomy, config)
    gradients = random_gradients((2, 3), 10)
    for step, gradient in enumerate(gradients):
        if step == 5:
            table.append(2)
        rows = [0, 1] if step < 5 else [1, 2]
        touch(table, optimizer, rows, gradient)
        touch(roomy, reference, rows, gradient)
    assert torch.equal(table.weight, roomy.weight)
    for key, tensor in reference.state_tensors().items():
        assert torch.equal(optimizer.state_tensors()[key], tensor), key


def test_growth_without_a_further_step_is_in_the_saved_state():
    table = Table(2, 3)
    optimizer = Optimizer(table)
    touch(table, optimizer, [0], torch.ones(1, 3))
    table.append(2)
    state = optimizer.state_tensors()
    assert state["weight/steps"].tolist() == [1, 0, 0, 0]
    assert state["weight/mean"].shape == (4, 3)


def test_new_rows_of_a_dense_parameter_start_as_fresh():
    table = Table(1, 2)
    optimizer = Optimizer(table)
    for gradient in random_gradients((1, 2), 30):
        table.weight.grad = gradient
        optimizer.step(RATE)
    table.append(1)
    table.weight.grad = torch.full((2, 2), 3.0)
    optimizer.step(RATE)
    torch.testing.assert_close(table.weight[1], torch.full((2,), 1.0 - RATE))  # Adam's first step has this length


def test_a_parameter_without_gradient_is_left_alone_and_starts_when_it_gets_one():
    network = dense_network()
    optimizer = Optimizer(network)
    network[0].weight.grad = torch.ones(5, 4)
    optimizer.step(RATE)
    before = network[2].weight.detach().clone()
    optimizer.step(RATE)
    assert torch.equal(network[2].weight, before)
    network.add_module("new", nn.Linear(1, 1))
    network.new.weight.grad = torch.ones(1, 1)
    start = network.new.weight.item()
    optimizer.step(RATE)
    assert network.new.weight.item() == pytest.approx(start - RATE, abs=1e-6)
    assert int(optimizer.state_tensors()["new.weight/steps"]) == 1
    assert int(optimizer.state_tensors()["0.weight/steps"]) == 3


def larc_reference(weight, gradient, *, weight_decay, coefficient=0.002, clips=True):
    weight_norm, gradient_norm = weight.norm().item(), gradient.norm().item()
    local = coefficient * weight_norm / (gradient_norm + weight_decay * weight_norm + 1e-8)
    if weight_norm == 0.0 or gradient_norm == 0.0:
        local = 1.0 / 16000.0
    factor = min(local / RATE, 1.0) if clips else local
    return factor * (gradient + weight_decay * weight)


@pytest.mark.parametrize("is_table", [True, False])
@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["adam_larc", "sgd_larc"])
def test_larc_scales_the_gradient_of_each_tensor_or_row(kind, weight_decay, clips, is_table):
    num_tensors, width = 4, 3
    table = Table(num_tensors, width)
    with torch.no_grad():
        table.weight[0] = 0.0  # a bias that starts from zero
        table.weight[1] *= 1e-3
        table.weight[2] *= 1e3  # not clipped
    tensors = [nn.Parameter(row.clone()) for row in table.weight.detach()]
    modules = nn.ParameterList([row.clone() for row in table.weight.detach()])
    config = OptimizerConfig(kind=kind, weight_decay=weight_decay, larc_clips=clips)
    optimizer = Optimizer(table if is_table else modules, config)
    reference: torch.optim.Optimizer = torch.optim.Adam(tensors, lr=RATE)
    if kind == "sgd_larc":
        reference = torch.optim.SGD(tensors, lr=RATE, momentum=0.9, nesterov=True)
    for gradient in random_gradients((num_tensors, width), 6):
        if is_table:
            touch(table, optimizer, range(num_tensors), gradient)
        else:
            for parameter, row in zip(modules, gradient, strict=True):
                parameter.grad = row
            optimizer.step(RATE)
        for tensor, row in zip(tensors, gradient, strict=True):
            tensor.grad = larc_reference(tensor.detach(), row, weight_decay=weight_decay, clips=clips)
        reference.step()
    found = table.weight if is_table else torch.stack([*modules])
    torch.testing.assert_close(found.detach(), torch.stack([*tensors]).detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_state_continues_with_the_same_bits(kind):
    config = OptimizerConfig(kind=kind)
    first, second = (nn.ModuleDict({"table": Table(3, 2), "head": nn.Linear(2, 1)}) for _ in range(2))
    optimizer, gradients = Optimizer(first, config), random_gradients((2, 2), 8)

    def train(network, chosen, some):
        for gradient in some:
            network.head.weight.grad = gradient[:1]
            touch(network.table, chosen, [0, 2], gradient)

    train(first, optimizer, gradients[:4])
    second.load_state_dict(first.state_dict())
    resumed = Optimizer(second, config)
    resumed.load_state_tensors({key: x.clone() for key, x in optimizer.state_tensors().items()})
    train(first, optimizer, gradients[4:])
    train(second, resumed, gradients[4:])
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name)), name
    for key, tensor in optimizer.state_tensors().items():
        assert torch.equal(tensor, resumed.state_tensors()[key]), key


def test_a_loaded_state_is_a_copy():
    table = Table(2, 3)
    optimizer = Optimizer(table)
    touch(table, optimizer, [0], torch.ones(1, 3))
    saved = {key: x.clone() for key, x in optimizer.state_tensors().items()}
    optimizer.load_state_tensors(saved)
    touch(table, optimizer, [0], torch.ones(1, 3))
    assert saved["weight/steps"].tolist() == [1, 0]
    assert saved["weight/mean"][0, 0].item() == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"other/mean": torch.zeros(2, 3)}, "'other/mean' does not fit the network"),
        ({"weight/mean": torch.zeros(3, 3)}, "'weight/mean' does not fit the network"),
        ({"weight/steps": torch.zeros(3)}, "'weight/steps' does not fit the network"),
        ({"weight/square": None}, "has mean, steps; 'adam' needs mean, square, steps"),
    ],
    ids=["name", "shape", "steps", "kind"],
)
def test_a_state_that_does_not_fit_is_refused(change, words):
    table = Table(2, 3)
    optimizer = Optimizer(table)
    touch(table, optimizer, [0], torch.ones(1, 3))
    state = {**optimizer.state_tensors(), **change}
    with pytest.raises(CheckpointMismatchError, match=words):
        optimizer.load_state_tensors({key: x for key, x in state.items() if x is not None})


def test_gradients_laid_out_differently_in_memory_are_read_right():
    weight, gradient = random_gradients((4, 3), 2)
    network, other = nn.ParameterList([weight.clone()]), nn.ParameterList([weight.clone()])
    network[0].grad = gradient.t().contiguous().t()
    other[0].grad = gradient
    for net in (network, other):
        Optimizer(net).step(RATE)
    assert torch.equal(network[0], other[0])


def test_a_parameter_moved_in_memory_takes_its_state_along():
    weight, *gradients = random_gradients((2, 3, 2, 2), 4)
    network, other = nn.ParameterList([weight.clone()]), nn.ParameterList([weight.clone()])
    optimizer, reference = Optimizer(network), Optimizer(other)
    for step, gradient in enumerate(gradients):
        if step == 1:
            network[0].data = network[0].data.to(memory_format=torch.channels_last)
        network[0].grad, other[0].grad = gradient.clone(), gradient.clone()
        optimizer.step(RATE)
        reference.step(RATE)
    assert torch.equal(network[0], other[0])


def test_replaced_weights_are_not_missed_by_the_kept_rows():
    table, other = Table(2, 3), Table(2, 3)
    optimizer, reference = Optimizer(table), Optimizer(other)
    for step, gradient in enumerate(random_gradients((1, 3), 3)):
        if step == 1:
            table.weight = nn.Parameter(table.weight.detach().clone())
        touch(table, optimizer, [1], gradient)
        touch(other, reference, [1], gradient)
    assert torch.equal(table.weight, other.weight)


def test_a_gradient_that_touches_no_row_changes_nothing():
    table = Table(2, 3)
    before = table.weight.detach().clone()
    touch(table, Optimizer(table), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3))
    assert torch.equal(table.weight, before)


def test_a_dense_gradient_of_a_table_touches_every_row():
    table, other = Table(2, 3), Table(2, 3)
    optimizer, reference = Optimizer(table), Optimizer(other)
    first, second = random_gradients((2, 3), 2)
    touch(table, optimizer, [0], first[:1])
    table.weight.grad = second
    optimizer.step(RATE)
    touch(other, reference, [0], first[:1])
    touch(other, reference, [0, 1], second)
    assert torch.equal(table.weight, other.weight)


@pytest.mark.parametrize(
    "shape",
    [(1, 3), (2, 4), (3,)],
    ids=["fewer rows", "wider", "fewer axes"],
)
def test_other_changes_of_shape_are_refused(shape):
    table = Table(2, 3)
    optimizer = Optimizer(table)
    table.weight.grad = torch.ones(2, 3)
    optimizer.step(RATE)
    table.weight = nn.Parameter(torch.zeros(shape))
    table.weight.grad = torch.ones(shape)
    with pytest.raises(InvalidInputError, match="may only gain rows"):
        optimizer.step(RATE)


def test_a_parameter_with_gaps_in_memory_is_refused():
    network = nn.ParameterList([nn.Parameter(torch.zeros(4, 6)[:, :3])])
    network[0].grad = torch.ones(4, 3)
    with pytest.raises(InvalidInputError, match="a view with gaps"):
        Optimizer(network).step(RATE)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "adagrad"}, "`kind` must be one of"),
        ({"beta2": 1.0}, "`beta2` must lie in"),
        ({"epsilon": 0.0}, "`epsilon` must be positive"),
        ({"weight_decay": -1.0}, "`weight_decay` must not be negative"),
    ],
    ids=["kind", "beta2", "epsilon", "decay"],
)
def test_a_configuration_checks_itself(fields, words):
    with pytest.raises(InvalidInputError, match=words):
        OptimizerConfig(**fields)


@pytest.mark.parametrize(("fields", "expected"), [({"kind": "adam_larc"}, 2), ({"kind": "sgd", "momentum": 0.0}, 0)])
def test_the_number_of_moments_is_that_of_the_state(fields, expected):
    table = Table(2, 3)
    optimizer = Optimizer(table, OptimizerConfig(**fields))
    touch(table, optimizer, [0], torch.ones(1, 3))
    moments = [x for x in optimizer.state_tensors().values() if x.shape == (2, 3)]
    assert len(moments) == optimizer.config.num_moments == expected
