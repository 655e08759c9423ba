"""Write the golden network of version 2: ``python -m tests.golden.write_network``.

Run once, when the format was frozen; the network and the checkpoint it wrote are read by every later release. It is
kept to show what is in there, not to be run again.
"""

import json
from pathlib import Path

import numpy as np
import torch

import tracestore as ts
from tests.networks.family_programs import prior_batch
from tracestore.networks import NetworkConfig, ProposalNetwork
from tracestore.networks.persistence import JOB_FILE, to_json, write_file, write_network
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.store.job import Job
from tracestore.traces import TraceBatch
from tracestore.training import TrainConfig, Trainer
from tracestore.training.checkpoint import Checkpoints, Progress
from tracestore.training.optimizers import OptimizerConfig

FOLDER = Path(__file__).resolve().parent / "network-v2"
CONFIG = TrainConfig(
    network=NetworkConfig(
        core_size=8, observation_size=6, address_size=4, instance_size=2, family_size=2, sample_size=3, sample_knots=5,
        head_size=5, mixture_size=2, num_bins=4, count_bins=8, max_instance=2, sees_previous_address=True,
        address_dropout=0.25,
    ),
    batch_size=16, average=0.9, optimizer=OptimizerConfig(kind="adam_larc"),
)  # fmt: skip
NUM_STEPS = 20


def program() -> None:
    """A count, a loop of bounded draws, a category, a vector, a circle; addresses that no source text decides."""
    count = ts.sample(ts.Poisson(2.0), name="count", address="count")
    total = float(count)
    for _ in range(int(count)):
        total += ts.sample(ts.Uniform(-1.0, 2.0), address="step")
    total += ts.sample(ts.Categorical([0.2, 0.3, 0.5]), address="kind")
    total += float(np.sum(ts.sample(ts.Normal([0.0, 1.0], 1.0), address="vector")))
    total += ts.sample(ts.VonMises(0.0, 1.0), address="angle") + ts.sample(ts.Gamma(2.0, 1.0), address="wait")
    ts.observe(ts.Normal(total, 1.0), name="y")
    ts.observe(ts.Normal(np.full(3, total), 1.0), name="v")


def traces() -> TraceBatch:
    """Prior traces, the same in every release: the generator and the distributions see to that."""
    return prior_batch(program, 48, seed=11)


def minibatch(start: int, stop: int) -> TensorBatch:
    """Some of the traces, as a loader hands them out."""
    rows = np.arange(start, stop)
    return TensorBatch.from_batch(traces().take(rows), rows)


def main() -> None:
    """Train for some steps, write a checkpoint and the network, and what they give."""
    network = ProposalNetwork({"y": (), "v": (3,)}, CONFIG.network)
    network.observation.fit(minibatch(0, 48).observations)
    trainer = Trainer(network, CONFIG, num_steps=NUM_STEPS)
    for step in range(6):
        trainer.train_step(minibatch(16 * (step % 3), 16 * (step % 3) + 16))
    Checkpoints(FOLDER).save(trainer, Progress(step=6, num_traces=96), {"epoch": 2, "step": 0})
    with torch.no_grad():
        network.active[0, 1] = False
    network.eval()
    network.summary = {"num_traces": 48}
    for name, content in write_network(network).items():
        write_file(FOLDER / name, content)
    write_file(FOLDER / JOB_FILE, to_json(Job("train", {"simulator": "golden"}).to_json()))
    log_prob = network.session(traces()[0].observations, 1).log_prob(traces()).tolist()
    network.active.fill_(value=True)
    expected = {
        "log_prob": log_prob,
        "values": traces().values.tolist(),
        "losses": [trainer.train_step(minibatch(0, 16)).loss for _ in range(2)],
        "rows": [row.key for row in network.vocabulary.rows],
    }
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
