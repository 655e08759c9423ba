"""Where traces come from: the `sample`/`observe`/`tag` runtime and the bundled simulators."""

from tracestore.simulators.base import (
    MAX_SITES,
    PriorController,
    ReplayController,
    Simulator,
    as_simulator,
    execute,
    run_trace,
    simulator,
)
from tracestore.simulators.batch_recorder import BatchController, BatchPrior, BatchRecorder, BatchReplay
from tracestore.simulators.batched import BatchedSimulator, batched_simulator, num_traces, run_batch
from tracestore.simulators.catalog import NAMES, resolve
from tracestore.simulators.recorder import Controller, Recorder, StopTrace
from tracestore.simulators.rejection import rejection
from tracestore.simulators.runtime import observe, sample, tag

__all__ = [
    "MAX_SITES",
    "NAMES",
    "BatchController",
    "BatchPrior",
    "BatchRecorder",
    "BatchReplay",
    "BatchedSimulator",
    "Controller",
    "PriorController",
    "Recorder",
    "ReplayController",
    "Simulator",
    "StopTrace",
    "as_simulator",
    "batched_simulator",
    "execute",
    "num_traces",
    "observe",
    "rejection",
    "resolve",
    "run_batch",
    "run_trace",
    "sample",
    "simulator",
    "tag",
]
