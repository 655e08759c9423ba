import numpy as np
import pytest

pytest.importorskip("torch")

from tests.networks.programs import mixed, simulate, tensors
from tracestore.networks import NetworkConfig, ProposalNetwork
from tracestore.training.communicator import SoleProcess
from tracestore.training.gains import MIN_SITES, GainTable, measure_gains


def table_of(gains):
    table = GainTable(2, 3)
    table.add(np.full(len(gains), 1), np.full(len(gains), 2), np.asarray(gains, float))
    return table


def test_sums_over_batches_equal_one_batch():
    rng = np.random.default_rng(1)
    rows, instances, gains = rng.integers(0, 4, 500), rng.integers(0, 3, 500), rng.normal(0.3, 1.0, 500)
    whole, parts = GainTable(4, 3), GainTable(4, 3)
    whole.add(rows, instances, gains)
    for part in np.array_split(np.arange(500), 7):
        parts.add(rows[part], instances[part], gains[part])
    np.testing.assert_allclose(parts.mean, whole.mean)
    assert (parts.is_gain() == whole.is_gain()).all()
    assert whole.mean[2, 1] == pytest.approx(gains[(rows == 2) & (instances == 1)].mean())


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        (np.tile([0.9, 1.1], 50), True),
        (np.tile([-0.9, -1.1], 50), False),
        (np.tile([-1.0, 1.1], 50), False),  # within two standard errors
        (np.ones(MIN_SITES - 1), False),  # too few to believe
        (np.zeros(100), False),
    ],
    ids=["clear", "loss", "noise", "few", "none"],
)
def test_only_a_clear_gain_counts(gains, expected):
    table = table_of(gains)
    assert table.is_gain()[1, 2] == expected
    assert table.is_gain().sum() == expected


def test_hidden_rows_are_measured_on_addresses_that_are_hidden():
    batch = simulate(mixed, 60)
    network = ProposalNetwork(
        {"seen": (), "vector": (3,)}, NetworkConfig(core_size=4, head_size=4, address_dropout=0.5)
    )
    network.grow(network.unknown_sites(batch))
    table = measure_gains(network.eval(), [tensors(batch)], SoleProcess())
    is_hidden = np.array([row.is_hidden for row in network.vocabulary.rows])
    counts = table.count.sum(axis=1)
    # every address counts in full, hidden rows by the share of addresses that are hidden
    steps = network.steps(batch)
    assert counts[~is_hidden].sum() == len(steps.trace)
    assert 0 < counts[is_hidden].sum() < len(steps.trace)
