"""A network and a checkpoint that an earlier release wrote are read as they were written."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.golden.write_network import CONFIG, FOLDER, NUM_STEPS, minibatch, traces
from tracestore.networks import load_network
from tracestore.training import Trainer
from tracestore.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def expected():
    return json.loads((FOLDER / "expected.json").read_text())


def test_the_traces_are_those_of_then(expected):
    np.testing.assert_allclose(traces().values, expected["values"], rtol=1e-12)


def test_a_frozen_network_proposes_as_it_did(expected):
    network = load_network(FOLDER)
    assert [row.key for row in network.vocabulary.rows] == expected["rows"]
    assert network.job.fields["simulator"] == "golden"
    assert (~network.active).sum() == 1
    found = network.session(traces()[0].observations, 1).log_prob(traces())
    np.testing.assert_allclose(found, expected["log_prob"], rtol=1e-5)


def test_a_frozen_checkpoint_goes_on_as_it_would_have(expected):
    checkpoints = Checkpoints(FOLDER)
    network, progress, position = checkpoints.load()
    assert (progress.step, progress.num_traces, position) == (6, 96, {"epoch": 2, "step": 0})
    trainer = Trainer(network, CONFIG, num_steps=NUM_STEPS)
    trainer.step = progress.step
    checkpoints.load_optimizer(trainer)
    losses = [trainer.train_step(minibatch(0, 16)).loss for _ in range(2)]
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-5)
