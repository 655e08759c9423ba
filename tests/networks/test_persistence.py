import json

import pytest

pytest.importorskip("torch")
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.networks.programs import mixed, observed, simulate
from tracestore.errors import CheckpointMismatchError, StoreNotFoundError
from tracestore.networks import NetworkConfig, ProposalNetwork, load_network
from tracestore.networks.persistence import restore_network, to_json, write_folder, write_network
from tracestore.store.job import Job


@pytest.fixture(scope="module")
def batch():
    return simulate(mixed, 20)


@pytest.fixture
def folder(tmp_path, batch):
    network = ProposalNetwork({"seen": (), "vector": (3,)}, NetworkConfig(core_size=4, head_size=4))
    network.grow(network.unknown_sites(batch))
    network.active[0, 1] = False
    job = {"job.json": to_json(Job("train", {"simulator": "mixed"}).to_json())}
    write_folder(tmp_path / "network", {**write_network(network), **job})
    return tmp_path / "network"


def test_a_network_survives_the_disk(folder, batch):
    network, again = restore_network(folder), load_network(folder)
    assert again.job == Job("train", {"simulator": "mixed"})
    assert again.base_addresses == network.base_addresses
    assert not again.active[0, 1]
    expected = network.session(observed(batch), 1).log_prob(batch)
    np.testing.assert_array_equal(again.session(observed(batch), 1).log_prob(batch), expected)


def test_an_unfinished_training_says_how_to_finish(folder):
    (folder / "network.json").unlink()
    with pytest.raises(StoreNotFoundError, match="has not finished; run the same training again"):
        load_network(folder)


def test_another_version_is_refused(folder):
    record = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps({**record, "version": 9}))
    with pytest.raises(CheckpointMismatchError, match="has version 9; this release reads version 2"):
        load_network(folder)


def test_weights_of_another_network_are_refused(folder):
    weights = load_file(folder / "weights.safetensors")
    weights["address.weight"] = torch.zeros(1, 32)
    del weights["value.entries.weight"]
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(CheckpointMismatchError, match=r"value\.entries\.weight is missing; address\.weight has shape"):
        load_network(folder)


def test_damaged_files_are_refused_by_name(folder):
    (folder / "weights.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointMismatchError, match=r"weights\.safetensors cannot be read"):
        load_network(folder)
    (folder / "network.json").write_text("[1]")
    with pytest.raises(CheckpointMismatchError, match="holds list instead of an object"):
        load_network(folder)


class Tied(torch.nn.Module):
    """Uses one weight twice, under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def test_weights_that_a_module_shares_survive_the_disk(tmp_path, batch):
    network = ProposalNetwork({"seen": (), "vector": (3,)}, NetworkConfig(core_size=4), modules={"vector": Tied()})
    network.grow(network.unknown_sites(batch))
    job = {"job.json": to_json(Job("train", {"simulator": "mixed"}).to_json())}
    write_folder(tmp_path / "network", {**write_network(network), **job})
    found = load_network(tmp_path / "network", modules={"vector": Tied()})
    expected = network.eval().session(observed(batch), 1).log_prob(batch)
    np.testing.assert_array_equal(found.session(observed(batch), 1).log_prob(batch), expected)
