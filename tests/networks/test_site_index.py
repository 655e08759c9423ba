import numpy as np
import pytest

pytest.importorskip("torch")

from tests.networks.programs import mixed, simulate
from tracestore.networks import NetworkConfig, ProposalNetwork
from tracestore.networks import site_index as module
from tracestore.networks.heads import head_key

CONFIG = NetworkConfig(core_size=4, head_size=4, max_instance=3)


@pytest.fixture(scope="module")
def batch():
    return simulate(mixed, 60)


def network_for(batch):
    network = ProposalNetwork({"seen": (), "vector": (3,)}, CONFIG)
    network.grow(network.unknown_sites(batch))
    return network


def modelled(trace):
    return [
        place
        for place, site in enumerate(trace.sites)
        if site.is_controlled and head_key(site, CONFIG) and site.instance <= CONFIG.max_instance
    ]


def test_a_plan_points_at_the_sites_of_every_trace(batch):
    network = network_for(batch)
    plan = network.index.plan(batch)
    assert plan.batch_sizes.sum() == len(plan.trace) == sum(len(modelled(trace)) for trace in batch)
    assert (np.diff(plan.batch_sizes) <= 0).all()
    for row, trace in enumerate(batch):
        found = np.flatnonzero(plan.trace == row)
        places = modelled(trace)
        assert batch.values[plan.value[found]].tolist() == [float(trace.value(place)) for place in places]
        assert plan.log_prior[found].tolist() == [trace.log_probs[place] for place in places]
        assert plan.instance[found].tolist() == [trace.sites[place].instance for place in places]
        assert [network.base_addresses[base] for base in plan.row[found]] == [trace.sites[p].base for p in places]
        assert plan.previous[found].tolist() == [-1, *found[:-1]][: len(found)]
        start = batch.parameter_offsets[row]
        inside = [trace.layout.parameter_offsets[place] for place in places]
        assert (plan.parameter[found] - start).tolist() == inside
        rest = [p for p, site in enumerate(trace.sites) if site.is_controlled and p not in places]
        assert plan.prior_log_prob[row] == pytest.approx(sum(trace.log_probs[place] for place in rest))


def test_a_full_index_starts_anew(batch, monkeypatch):
    network = network_for(batch)
    expected = network.index.plan(batch)
    monkeypatch.setattr(module, "MAX_INDEXED_SITES", 10)
    for _ in range(3):
        for one, two in zip(network.index.plan(batch), expected, strict=True):
            np.testing.assert_array_equal(one, two)


def test_rows_arrive_with_the_traces_that_need_them(batch):
    network = ProposalNetwork({"seen": (), "vector": (3,)}, CONFIG)
    short = batch.take(np.flatnonzero(batch.num_sites == batch.num_sites.min()))
    assert network.grow(network.unknown_sites(short)) == len(network.vocabulary) > 0
    num_rows = len(network.vocabulary)
    assert network.grow(network.unknown_sites(batch)) == len(network.vocabulary) - num_rows > 0
    assert len(network.address) == len(network.vocabulary) == len(network.active)
    assert network.unknown_sites(batch) == []


def test_every_address_may_have_a_row_of_its_own(batch):
    config = NetworkConfig(core_size=4, head_size=4, max_instance=3, rows="address")
    network = ProposalNetwork({"seen": (), "vector": (3,)}, config)
    network.grow(network.unknown_sites(batch))
    plan = network.index.plan(batch)
    addresses = {
        site.address for trace in batch for site in trace.sites if site.is_controlled and head_key(site, config)
    }
    assert {row.key for row in network.vocabulary.rows} == addresses
    assert any(address.endswith("#4") for address in addresses)
    assert set(plan.instance.tolist()) == {1}
    assert len(plan.row) == sum(
        bool(site.is_controlled and head_key(site, config)) for trace in batch for site in trace.sites
    )
