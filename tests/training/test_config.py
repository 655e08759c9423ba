import json

import pytest

pytest.importorskip("torch")

from tracestore.errors import InvalidInputError
from tracestore.training import NETWORKS, NetworkConfig, TrainConfig


@pytest.mark.parametrize(
    "config", [NetworkConfig(), NETWORKS["paper"], TrainConfig(network=NETWORKS["paper"], epochs=3)]
)
def test_a_configuration_survives_json(config):
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_field_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInputError, match="has no field breadth; its fields are core, core_size"):
        NetworkConfig.from_dict({"breadth": 3})


def test_another_version_is_refused():
    with pytest.raises(InvalidInputError, match="version 99 cannot be read; this release reads version 2"):
        TrainConfig.from_dict({"version": 99})


def test_the_paper_network_has_the_published_sizes():
    paper = NETWORKS["paper"]
    found = (paper.core_size, paper.observation_size, paper.address_size, paper.sample_size, paper.mixture_size)
    assert found == (512, 256, 64, 4, 10)
    assert (paper.observation, paper.uniform_proposal) == ("cnn3d", "truncated_normal")
