import pytest

pytest.importorskip("torch")
import torch

from tracestore.networks.tables import MAX_TILE, StackedMLP, Table, group_rows


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
    hidden = torch.relu(torch.einsum("pi,pim->pm", x, mlp.weight_in(rows)) + mlp.bias_in(rows))
    expected = torch.einsum("pm,pmo->po", hidden, mlp.weight_out(rows)) + mlp.bias_out(rows)
    torch.testing.assert_close(mlp(x, rows), expected)


def test_a_row_starts_the_same_whenever_it_arrives():
    together, apart = StackedMLP(3, 5, 2, torch.zeros(2)), StackedMLP(3, 5, 2, torch.zeros(2))
    together.grow(generators(2))
    apart.grow(generators(1))
    apart.grow(generators(1, first=1))
    for one, two in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_lone_row_gives_what_it_gives_among_others():
    alone, among = StackedMLP(3, 5, 2, torch.zeros(2)), StackedMLP(3, 5, 2, torch.zeros(2))
    alone.grow(generators(1))
    among.grow(generators(2))
    x, rows = torch.randn(9, 3, generator=generators(1)[0]), torch.zeros(9, dtype=torch.long)
    torch.testing.assert_close(alone(x, rows), among(x, rows))


def test_only_rows_that_were_looked_up_have_a_gradient():
    mlp = StackedMLP(3, 5, 2, torch.zeros(2))
    mlp.grow(generators(6))
    rows = torch.tensor([4, 1, 4, 4])
    mlp(torch.ones(4, 3), rows).sum().backward()
    for name, parameter in mlp.named_parameters():
        assert parameter.grad.is_sparse, name
        assert parameter.grad.coalesce().indices().tolist() == [[1, 4]], name


def test_a_table_keeps_its_rows_when_it_grows():
    table = Table(2, 2)
    table.append(torch.arange(8.0).view(2, 2, 2))
    before = table.weight
    table.append(torch.zeros(1, 2, 2))
    assert len(table) == 3
    assert table.weight is not before
    assert table(torch.tensor([1, 2])).tolist() == [[[4.0, 5.0], [6.0, 7.0]], [[0.0, 0.0], [0.0, 0.0]]]
