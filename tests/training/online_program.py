"""Programs for online training, and the script of ranks and processes that the tests kill."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import tracestore as ts
from tests.networks.family_programs import TINY
from tracestore.events import Event, Observer, PhaseAdvanced
from tracestore.networks.network import ProposalNetwork
from tracestore.samplers.world import World
from tracestore.simulators import Simulator
from tracestore.training import TrainConfig
from tracestore.training.loop import TrainingLoop
from tracestore.training.online import train_online


def unbounded() -> None:
    """A loop whose base addresses carry its depth: there is no end of new ones."""
    depth, total = 0, 0.0
    while ts.sample(ts.Bernoulli(0.7), name="goes on", address=f"on{depth}") == 1:
        total += ts.sample(ts.Uniform(0.0, 1.0), address=f"level{depth}")
        depth += 1
    ts.observe(ts.Normal(total, 0.3), name="total")


PROGRAM = Simulator(unbounded, name="unbounded")
SETTINGS: dict[str, Any] = {"network": TINY, "batch_size": 32, "seed": 4, "patience": None}
NUM_TRACES = 310


def call_after(num_steps: int, function: Callable[[], None]) -> Observer:
    """Make an observer that calls a function after some steps of training."""
    steps = 0

    def observe(event: Event) -> None:
        nonlocal steps
        steps += isinstance(event, PhaseAdvanced) and event.phase == "train"
        if steps == num_steps:
            function()

    return observe


def main(folder: str, arguments: str) -> None:
    torch.set_num_threads(1)
    asked = json.loads(arguments)
    finish, rank = TrainingLoop.finish, World.from_environment().rank

    def finish_and_save(loop: TrainingLoop[ProposalNetwork]) -> None:
        """Keep the weights in the memory of this rank."""
        finish(loop)
        save_file(loop.trainer.network.state_dict(), Path(folder) / f"rank-{rank}.safetensors")

    TrainingLoop.finish = finish_and_save  # type: ignore[assignment,method-assign]
    observer = None
    if "kill_after" in asked:
        observer = call_after(asked.pop("kill_after"), lambda: os.kill(os.getpid(), signal.SIGKILL))
    if "signal_after" in asked:
        observer = call_after(asked.pop("signal_after"), lambda: os.killpg(0, signal.SIGTERM))
    train_online(
        PROGRAM,
        Path(folder) / "n",
        num_traces=NUM_TRACES,
        store=Path(folder) / "s" if asked.pop("store", False) else None,
        workers=asked.pop("workers", 0),
        observer=observer,
        config=TrainConfig(**SETTINGS, **asked),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
