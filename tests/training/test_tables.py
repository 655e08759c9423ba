import pytest

pytest.importorskip("torch")
import torch

from tracestore.training.optimizer import follow_growth
from tracestore.training.tables import MAX_TILE, StackedMLP, append_rows, group_rows


def generators(count, first=0):
    return [torch.Generator().manual_seed(first + row) for row in range(count)]


@pytest.mark.parametrize("rows", [[2], [0, 0, 0], [5, 1, 5, 5, 1], [3] * 1000 + [1] + [7] * 70])
def test_tiles_hold_every_site_once_and_one_row_each(rows):
    tiles = group_rows(torch.tensor(rows))
    assert tiles.size <= MAX_TILE
    assert len(set(tiles.place_P.tolist())) == len(rows)
    assert [int(tiles.rows_G[place // tiles.size]) for place in tiles.place_P.tolist()] == rows


def test_each_site_goes_through_the_perceptron_of_its_row():
    mlp = StackedMLP(3, 5, 2, torch.tensor([1.0, -1.0]))
    mlp.grow(generators(4))
    x, rows = torch.randn(50, 3, generator=generators(1)[0]), torch.arange(50) % 4
    hidden = torch.relu(torch.einsum("pi,pim->pm", x, mlp.weight_in[rows]) + mlp.bias_in[rows])
    expected = torch.einsum("pm,pmo->po", hidden, mlp.weight_out[rows]) + mlp.bias_out[rows]
    torch.testing.assert_close(mlp(x, rows), expected)


def test_a_row_starts_the_same_whenever_it_arrives():
    together, apart = StackedMLP(3, 5, 2, torch.zeros(2)), StackedMLP(3, 5, 2, torch.zeros(2))
    together.grow(generators(2))
    apart.grow(generators(1))
    apart.grow(generators(1, first=1))
    for one, two in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_optimizer_keeps_the_moments_of_old_rows():
    module = torch.nn.Module()
    module.table = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    (module.table**2).sum().backward()
    optimizer.step()
    before = {name: tensor.clone() for name, tensor in optimizer.state[module.table].items()}

    follow_growth(optimizer, append_rows(module, "table", torch.ones(1, 3)))

    state = optimizer.state[module.table]
    assert list(optimizer.state) == [module.table]
    assert torch.equal(state["exp_avg"][:2], before["exp_avg"])
    assert torch.equal(state["exp_avg_sq"][2], torch.zeros(3))
    assert state["step"] == before["step"]
    (module.table**2).sum().backward()
    optimizer.step()
    assert (module.table[2] < 1.0).all()
