"""The named network `paper` has the layers of pyprob's network, counted from their published sizes."""

import pytest

pytest.importorskip("torch")

from tracestore.networks import NETWORKS, ProposalNetwork
from tracestore.traces.layout import Site, SiteKind

CONVOLUTIONS = sum(
    inputs * outputs * 27 + outputs for inputs, outputs in [(1, 64), (64, 64), (64, 128), (128, 128), (128, 128)]
)
OBSERVATION = CONVOLUTIONS + (2048 * 256 + 256) + 2 * (256 * 256 + 256)
# observation, previous value, family and address of the previous and of this site
LSTM_INPUTS = 256 + 4 + 8 + 64 + 8 + 64
LSTM = 4 * 512 * (LSTM_INPUTS + 512) + 2 * 4 * 512
HIDDEN = (512 + 30) // 2
UNIFORM_ADDRESS = (512 * HIDDEN + HIDDEN) + (HIDDEN * 30 + 30) + 64 + (1 * 4 + 4)


def uniform(number):
    return Site(f"sherpa:{number}~Uniform#1", SiteKind.SAMPLE, True, f"x{number}", "Uniform", (), 2)


@pytest.fixture(scope="module")
def network():
    network = ProposalNetwork({"voxels": (20, 35, 35)}, NETWORKS["paper"])
    network.grow([uniform(0)])
    return network


def test_the_shared_part_is_counted_layer_by_layer(network):
    assert sum(parameter.numel() for parameter in network.observation.parameters()) == OBSERVATION
    assert sum(parameter.numel() for parameter in network.core.parameters()) == LSTM
    assert network.num_parameters == OBSERVATION + LSTM + 8 + UNIFORM_ADDRESS


def test_an_address_costs_what_the_paper_implies(network):
    assert UNIFORM_ADDRESS == 147_255
    before = network.num_parameters
    assert network.row_bytes([uniform(1), uniform(2)]) == 2 * 4 * UNIFORM_ADDRESS
    network.grow([uniform(1), uniform(2)])
    assert network.num_parameters - before == 2 * UNIFORM_ADDRESS


def test_about_1140_addresses_make_the_published_number():
    total = OBSERVATION + LSTM + 8 + 1_140 * UNIFORM_ADDRESS
    assert total == pytest.approx(171_732_688, rel=1e-3)
