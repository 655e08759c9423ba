"""Recording and writing prior traces against the bare draws and against traces that are not written."""

import numpy as np

import tracestore as ts
from tracestore.simulators import PriorController, run_trace
from tracestore.simulators.toys import gum_marsaglia

NUM_DRAWS = 200


@ts.simulator
def walk():
    position = 0.0
    step = ts.Normal(0.0, 1.0)
    for _ in range(NUM_DRAWS):
        position += ts.sample(step)
    return position


@ts.simulator
def rescaled_walk():
    position = 0.0
    for _ in range(NUM_DRAWS):
        position = ts.sample(ts.Normal(position, 1.0))
    return position


def bare_walk(rng):
    position = 0.0
    step = ts.Normal(0.0, 1.0)
    for _ in range(NUM_DRAWS):
        position += step.sample(rng)
    return position


def bare_rescaled_walk(rng):
    position = 0.0
    for _ in range(NUM_DRAWS):
        position = ts.Normal(position, 1.0).sample(rng)
    return position


def test_recording_overhead(report, seconds):
    for program, bare in ((walk, bare_walk), (rescaled_walk, bare_rescaled_walk)):
        rng, controller = np.random.default_rng(1), PriorController()
        recorded = seconds(lambda: run_trace(program, controller, rng), 50)  # noqa: B023 (called at once)
        drawn = seconds(lambda: bare(rng), 50)  # noqa: B023
        report(
            f"record {program.name.split(':')[-1]}: {(recorded - drawn) / NUM_DRAWS * 1e6:.2f} us per draw over the "
            f"bare {drawn / NUM_DRAWS * 1e6:.2f} us ({recorded / drawn:.1f} times)"
        )


def test_prior_traces(tmp_path, report, seconds, scale):
    num_traces = int(4_000 * scale)
    rng, controller = np.random.default_rng(1), PriorController()
    recording = seconds(lambda: [run_trace(gum_marsaglia, controller, rng) for _ in range(num_traces)], 1)
    places = iter(range(10))
    writing = seconds(
        lambda: ts.simulate(gum_marsaglia, tmp_path / f"traces-{next(places)}", num_traces=num_traces, seed=1), 1
    )
    store = ts.TraceStore.open(tmp_path / "traces-1")
    num_bytes = sum(entry.nbytes for entry in store.segments)
    report(
        f"prior traces of gum_marsaglia, one process: {num_traces / writing:,.0f} traces/s into a store, "
        f"{recording / writing:.2f} of the speed without one; {num_bytes / num_traces:.0f} bytes per trace"
    )
