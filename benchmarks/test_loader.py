"""The torch loader on sorted traces with 20x35x35 observations: against memcpy, and against the trainer that it feeds.

memcpy is numpy's gather of the same rows, in the same order, from a memory map of the plain observations: into one
buffer that is kept, and into a new array for each batch, which is what any loader has to do. Passes after the first,
from the page cache; `loader_peers.py` measures other loaders.
"""

import time
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.synthetic import SHAPE, make_batch
from tracestore import TraceStore, sort_store
from tracestore.samplers import BatchPolicy
from tracestore.samplers.torch_loader import trace_loader
from tracestore.training import ProposalNetwork, TrainConfig, Trainer

LARGEST_BATCH = 1024
READERS: dict[str, Any] = {
    "0 workers": {},
    "0 workers, a thread ahead": {"prefetch": 2},
    "1 worker": {"num_workers": 1},
    "2 workers": {"num_workers": 2},
}
TRAINED_TRACES = 512
"""Traces that a trainer is timed on: some seconds on a core."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    """A sorted store of eight segments' traces, and a plain file with the bytes of its observations."""
    path = tmp_path_factory.mktemp("loader")
    per_segment = max(LARGEST_BATCH, int(4096 * request.config.getoption("--scale"))) // 8
    unsorted = TraceStore.create(path / "unsorted")
    with unsorted.writer() as writer:
        for seed in range(8):
            batch = make_batch(per_segment, seed)
            writer.append(replace(batch, parameters=np.tile([0.0, 1.0], len(batch.parameters) // 2)))
            writer.seal()
    ordered = sort_store(path / "unsorted", path / "sorted")
    with (path / "plain").open("wb") as file:
        for start in range(0, len(ordered), 256):
            chunk = np.arange(start, min(start + 256, len(ordered)))
            ordered.take(chunk).observations["detector"].tofile(file)
    return path


def open_plain(folder):
    return np.memmap(folder / "plain", np.float32, "r").reshape(-1, *SHAPE)


def drain(batches):
    """Take batches one after the other and let go of them, as training does."""
    return sum(len(batch) for batch in batches)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("batch", [64, LARGEST_BATCH])
@pytest.mark.parametrize("name", ["default", "plain shuffle"])
def test_against_memcpy(folder, report, seconds, name, batch, reader):
    store, plain = TraceStore.open(folder / "sorted"), open_plain(folder)
    shuffle = BatchPolicy(global_batch=batch, micro=1, order="random")
    policy = {"default": BatchPolicy.local(batch), "plain shuffle": shuffle}[name]
    loader = trace_loader(store, policy=policy, **READERS[reader])
    steps = [loader.plan.step(0, step) for step in range(loader.plan.num_steps)]
    buffer = np.empty((batch, *SHAPE), np.float32)

    def copy():
        for indices in steps:
            np.take(plain, indices, axis=0, out=buffer[: len(indices)], mode="clip")

    def copy_fresh():
        for indices in steps:
            plain[indices]  # the copy is what is measured

    memcpy, fresh = seconds(copy, 3), seconds(copy_fresh, 3)
    delivered = seconds(lambda: drain(loader))
    memcpy, fresh = min(memcpy, seconds(copy, 3)), min(fresh, seconds(copy_fresh, 3))
    report(
        f"loader, {name}, batches of {batch}, {reader}: memcpy/loader = {memcpy / delivered:.2f} into one "
        f"buffer, {fresh / delivered:.2f} into new arrays; {len(store) / delivered:,.0f} traces/s, "
        f"{plain.nbytes / delivered / 1e9:.2f} GB/s"
    )


@pytest.mark.parametrize("batch", [64, 256])
def test_against_trainer(folder, report, seconds, batch):
    """Steps of the default network, forward, backward and update, on this machine's CPU."""
    store = TraceStore.open(folder / "sorted")
    loader = trace_loader(store, global_batch=batch)
    first = next(iter(loader))
    network = ProposalNetwork(store.observation_shapes)
    network.observation.fit(first.observations)
    num_steps = max(2, TRAINED_TRACES // batch)
    loader.seek(0)
    batches = list(islice(loader, num_steps))
    for one in batches:
        network.grow(network.unknown_sites(one))
    trainer = Trainer(network, TrainConfig(), num_steps=10 * num_steps)
    trainer.train_step(batches[0])
    times = []
    for one in batches:
        start = time.perf_counter()
        trainer.train_step(one)
        times.append((time.perf_counter() - start) / len(one))
    loader.seek(0)
    delivered = seconds(lambda: drain(loader)) / len(store)
    report(
        f"loader alone, batches of {batch}: trainer/loader = {min(times) / delivered:.1f} in time per trace; "
        f"{1 / delivered:,.0f} against {1 / min(times):,.0f} traces/s on {torch.get_num_threads()} threads"
    )
