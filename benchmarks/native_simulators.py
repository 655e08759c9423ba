"""Taus per second of native libraries under control: how much recording, addresses and a store cost.

    python -m benchmarks.native_simulators [--simulators NAME ...] [--number N] [--stores N] [--folder FOLDER]

For each simulator, in one run and with the same seeds:

* native: the library's own generator, no hooks, no recording, no detector;
* hooked: draws come from Python through the hooks, nothing is recorded, no detector;
* recorded: `run_trace` with addresses found by ctypes (no compiler), and by the compiled hooks;
* store: `simulate` with 1 and 2 processes, all passes of rejection loops kept, and collapsed.

Single-process figures are events per second of CPU time, stores events per second of wall time. Then lengths of traces
(mean, median, 99 %, longest), the share of traces and of all draws beyond length caps, and the number of trace types
with and without collapsing.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tracestore as ts
from tracestore.simulators import PriorController, resolve, run_trace
from tracestore.traces import Trace

NAMES = ("tau", "tau-stack", "pythia-tau", "pythia-ee")
CAPS = (1_000, 10_000, 100_000)
PRIOR = PriorController()
MOMENTUM = (1.0, -2.0, 45.0)


def rate(number: int, event: Callable[[int], object]) -> float:
    """Events per second of CPU time."""
    event(0)
    start = time.process_time()
    for seed in range(number):
        event(seed)
    return number / (time.process_time() - start)


def native_event(name: str) -> Callable[[int], object]:
    """Return what makes one event with the library's own generator."""
    if name.startswith("tau"):
        import alouette

        return lambda _: alouette.decay(15, momentum=MOMENTUM, polarisation=(0.0, 0.0, -1.0))
    import pythia8mc

    from tracestore.simulators import pythia, pythia_library

    settings = pythia._TAU_SETTINGS if name == "pythia-tau" else pythia._EE_SETTINGS
    library = pythia8mc.Pythia("", False)
    for line in (*pythia_library.SETTINGS, *settings):
        library.readString(line)
    library.init()
    if name == "pythia-ee":
        return lambda _: library.next()
    mass = library.particleData.m0(15)

    def decay(_: int) -> None:
        library.event.reset()
        library.event.append(15, 1, 0, 0, *MOMENTUM, math.hypot(*MOMENTUM, mass), mass, 0.0, 9.0)
        library.next()

    return decay


def hooked_event(name: str) -> Callable[[int], object]:
    """Return what makes one event with hooks, outside of any recording."""
    if name == "tau":
        from tracestore.simulators import tau

        unit, rng = tau.SinglePrecisionUniform(), np.random.default_rng(1)
        return lambda _: tau.library().decay(MOMENTUM, lambda: unit.sample(rng))
    if name == "tau-stack":
        from tracestore.simulators import tauola_stack

        return lambda _: tauola_stack._decay(MOMENTUM)
    from tracestore.simulators import pythia

    if name == "pythia-ee":
        return lambda _: pythia._events(pythia._EE_SETTINGS).next()
    return lambda _: pythia._decay(*MOMENTUM)


def recorded_event(name: str) -> Callable[[int], Trace]:
    program = resolve(name)
    return lambda seed: run_trace(program, PRIOR, np.random.default_rng(seed))


def leg(name: str, kind: str, number: int) -> dict[str, object]:
    """Measure one thing; runs in a process of its own."""
    if kind == "native":
        return {"rate": rate(4 * number, native_event(name))}
    if kind == "hooked":
        return {"rate": rate(number, hooked_event(name))}
    if kind == "recorded":
        return {"rate": rate(number, recorded_event(name))}
    if kind == "without compiler":
        from tracestore.simulators import native_draws

        vars(native_draws)["find_compiler"] = lambda _: None
        return {"rate": rate(number, recorded_event(name))}
    program = resolve(name)
    full = [run_trace(program, PRIOR, np.random.default_rng(seed)) for seed in range(number)]
    collapsed = [
        run_trace(program, PRIOR, np.random.default_rng(seed), collapse_rejection=True) for seed in range(number)
    ]
    lengths = np.array([len(trace) for trace in full])
    return {
        "mean": float(lengths.mean()),
        "median": float(np.median(lengths)),
        "99 %": float(np.quantile(lengths, 0.99)),
        "longest": int(lengths.max()),
        "addresses": len({site.address for trace in full for site in trace.sites}),
        "places": len({site.address.partition("#")[0] for trace in full for site in trace.sites}),
        "beyond caps": {cap: float((lengths > cap).mean()) for cap in CAPS},
        "draws in those": {cap: float(lengths[lengths > cap].sum() / lengths.sum()) for cap in CAPS},
        "types": len({trace.layout for trace in full}),
        "types collapsed": len({trace.layout for trace in collapsed}),
        "longest collapsed": max(map(len, collapsed)),
    }


def store_rates(name: str, number: int, folder: Path) -> dict[str, float]:
    rates = {}
    for collapse in (False, True):
        for workers in (1, 2):
            with tempfile.TemporaryDirectory(dir=folder) as parent:
                start = time.perf_counter()
                ts.simulate(
                    resolve(name),
                    Path(parent) / "store",
                    num_traces=number,
                    workers=workers,
                    seed=1,
                    collapse_rejection=collapse,
                )
                seconds = time.perf_counter() - start
            rates[f"{'collapsed' if collapse else 'all'}, {workers}"] = number / seconds
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--simulators", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--number", type=int, default=1_000)
    parser.add_argument("--stores", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--leg", nargs=2, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.leg is not None:
        name, kind = given.leg
        print(json.dumps(leg(name, kind, given.number)))
        return
    for name in given.simulators:
        print(f"{name}, {given.number} events")
        kinds = ("native", "hooked", "without compiler", "recorded", "lengths")
        for kind in kinds:
            if name == "tau" and kind == "without compiler":
                continue
            command = [sys.executable, "-m", __spec__.name, "--number", str(given.number), "--leg", name, kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"  {kind}: {done.stdout.strip()}", flush=True)
        print(f"  stores: {json.dumps(store_rates(name, given.stores, given.folder))}", flush=True)


if __name__ == "__main__":
    main()
