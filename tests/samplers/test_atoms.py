import numpy as np
import pytest

from tracestore.samplers.atoms import AtomCut, CostBands, RunTable

KEYS = [None, 7, 8]


def make_table(num_runs, longest, seed=1):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, longest + 1, num_runs).astype(np.int32)
    kinds = rng.integers(0, 20, num_runs)
    return RunTable(np.cumsum(sizes) - sizes, sizes, 1.0 + kinds // 2, kinds.astype(np.uint64))


def of_traces(table, column):
    return np.repeat(column, table.num_traces_of)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("longest", "micro"), [(3, 1), (3, 8), (40, 8), (40, 64)])
def test_every_trace_is_in_one_atom(key, longest, micro):
    table = make_table(200, longest)
    cut = AtomCut(table, micro, key)
    members = cut.members(np.arange(cut.num_atoms))
    assert np.array_equal(np.sort(members), np.arange(table.num_traces))
    assert cut.sizes(np.arange(cut.num_atoms)).sum() == table.num_traces


@pytest.mark.parametrize("key", KEYS)
def test_costs_are_those_of_the_members(key):
    table = make_table(300, 30)
    cut = AtomCut(table, 7, key)
    cost = of_traces(table, table.costs)
    expected = [cost[cut.members(np.array([atom]))].sum() for atom in range(cut.num_atoms)]
    assert np.allclose(cut.all_costs(), expected)
    some = np.random.default_rng(2).permutation(cut.num_atoms)
    assert np.array_equal(cut.costs(some), cut.all_costs()[some])


def test_costs_of_a_long_line_are_those_of_the_members():
    # several blocks of pieces
    table = make_table(200_000, 3)
    cut = AtomCut(table, 5, 1)
    by_member = of_traces(table, table.costs)[cut.members(np.arange(cut.num_atoms))]
    assert np.allclose(cut.all_costs(), np.add.reduceat(by_member, np.arange(0, table.num_traces, 5)))


def test_pure_atoms_are_of_one_run():
    table = make_table(100, 40)
    cut = AtomCut(table, 8, 3)
    runs = of_traces(table, np.arange(100))[cut.members(np.arange(cut.num_pure))].reshape(-1, 8)
    assert cut.num_pure == (table.num_traces_of // 8).sum()
    assert (runs == runs[:, :1]).all()


def test_the_line_is_in_order_of_cost_and_type():
    table = make_table(5_000, 3)
    cut = AtomCut(table, 8, 3)
    members = cut.members(np.arange(cut.num_atoms))
    assert (np.diff(of_traces(table, table.costs)[members]) <= 0).all()
    # twenty types, each in one stretch
    assert np.count_nonzero(np.diff(of_traces(table, table.trace_types)[members].astype(int))) == 19


def test_another_key_lines_up_others():
    table = make_table(5_000, 3)
    one, two = (AtomCut(table, 8, key).members(np.arange(500)).reshape(-1, 8) for key in (3, 4))
    together = {tuple(sorted(atom)) for atom in one.tolist()} & {tuple(sorted(atom)) for atom in two.tolist()}
    assert len(together) < 5


def test_types_have_one_number_each():
    table = make_table(100, 40)
    cut = AtomCut(table, 8, 3)
    kinds = of_traces(table, table.trace_types)[cut.members(np.arange(cut.num_pure))[::8]]
    numbers = cut.type_numbers(np.arange(cut.num_pure))
    assert len({*zip(kinds.tolist(), numbers.tolist(), strict=True)}) == len(set(kinds.tolist()))
    assert cut.type_numbers(np.array([cut.num_pure])) == 2**12 - 1


@pytest.mark.parametrize("highest", [2.0, 1e3, 1e300])
def test_bands_have_the_order_of_costs(highest):
    costs = np.concatenate(([0.0], np.geomspace(1e-3, highest, 1_000)))
    bands = CostBands(costs).of(costs).astype(np.int64)
    assert (np.diff(bands) <= 0).all()
    assert bands[-1] == 0
    assert bands[0] < 2**16


def test_bands_of_costs_that_are_alike_are_narrow():
    costs = np.linspace(50, 1_000, 10_000)
    bands = CostBands(costs).of(costs)
    assert all(np.ptp(costs[bands == band]) / costs[bands == band][0] < 1e-3 for band in np.unique(bands)[::50])


def test_equal_costs_are_one_band():
    assert CostBands(np.full(3, 5.0)).of(np.full(3, 5.0)).tolist() == [0, 0, 0]
