"""pyprob 1.5.0, the predecessor, as the controller of our simulators: does it still work, is it exact, how fast is it.

    python benchmarks/pyprob_interop.py --pyprob-python PEER/bin/python [--num-traces 500] [--no-cpp] [--build FOLDER]

PEER is an environment with pyprob 1.5.0 and torch, on Python 3.11 at most; nothing in it has to be patched. Controlled
are simulators of Python, behind `tracestore serve`, and the examples of `cpp/`, which are built for it (`--build` keeps
them; `--no-cpp` leaves them out). It takes some minutes. Of each program, one process serves all of these, in turns:

1. pyprob's `RemoteModel`: prior traces, importance sampling, random-walk Metropolis-Hastings (RMH), and for Gaussians
   a small inference network, trained on traces from the socket, and inference compilation (IC) with it;
2. a pyprob that dies in the middle of a run, while the program waits for a draw;
3. tracestore's `PPXSimulator`, by importance sampling;
4. pyprob once more, which must find what it found before.

Given one seed, pyprob draws the same numbers for a remote model and for the same model written in pyprob. Prior traces,
weights and Markov chains must therefore agree number by number, up to the rounding of its float32. This model is the
reference in the table; of the last turn it is the first one. "Difference" is the largest one, relative where numbers
exceed one. Means and standard deviations are those of the posterior with obs0 = 8 and obs1 = 9 (of the last state for
the hidden Markov model), beside the exact ones; "sigma" is the distance of the mean in its standard errors, which mean
little where few traces have most of the weight. The script ends with status 1 when a check fails.
"""

import argparse
import contextlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Each half imports its own packages where it begins, because neither environment has those of the other.

SOURCE = Path(__file__).parents[1] / "cpp"
SEED = 1
DEATH = 9
"""Exit status of the pyprob that dies."""
LARGEST_DIFFERENCE = 1e-5
LARGEST_DISTANCE = 5.0
WARM_UP = 0.1
"""Fraction of a chain that is left out of its mean."""
MEANS = (-1.0, 1.0, 0.0)
TRANSITION = ((0.1, 0.5, 0.4), (0.2, 0.2, 0.6), (0.15, 0.15, 0.7))
STATES_SEEN = (0.9, 0.8, 0.7, 0.0, -0.025, -5.0, -2.0, -0.1, 0.0, 0.13, 0.45, 6.0, 0.2, 0.3, -1.0, -1.0)
OBSERVED = {
    "gum": {"obs0": 8.0, "obs1": 9.0},
    "gum-marsaglia": {"obs0": 8.0, "obs1": 9.0},
    "hmm": {f"obs{step}": value for step, value in enumerate(STATES_SEEN)},
}


def exact(model: str) -> tuple[float, float]:
    """Mean and standard deviation of the posterior."""
    if model != "hmm":
        return 7.25, math.sqrt(1 / 1.2)
    state = np.full(3, 1 / 3)
    for value in STATES_SEEN:
        state = state @ np.array(TRANSITION) * np.exp(-0.5 * (value - np.array(MEANS)) ** 2)
        state /= state.sum()
    mean = float(state @ np.arange(3))
    return mean, math.sqrt(float(state @ np.arange(3) ** 2) - mean * mean)


# --------------------------------------------------------------------------------------------------- pyprob's half


def own_models() -> dict[str, Any]:
    """Return the models written in pyprob, with the draws of ours in the same order."""
    import pyprob  # type: ignore[import-not-found]  # not among this project's dependencies
    from pyprob.distributions import Categorical, Normal, Uniform  # type: ignore[import-not-found]

    def observe_twice(mu):
        for name in ("obs0", "obs1"):
            pyprob.observe(Normal(mu, math.sqrt(2.0)), name=name, address=name)
        return mu

    class Gum(pyprob.Model):
        def forward(self):
            return observe_twice(pyprob.sample(Normal(1.0, math.sqrt(5.0)), name="mu", address="mu"))

    class GumMarsaglia(pyprob.Model):
        def forward(self):
            s = 1.0
            while s >= 1.0:
                x = float(pyprob.sample(Uniform(-1.0, 1.0), address="x"))
                y = float(pyprob.sample(Uniform(-1.0, 1.0), address="y"))
                s = x * x + y * y
            return observe_twice(pyprob.util.to_tensor(1.0 + math.sqrt(5.0) * x * math.sqrt(-2.0 * math.log(s) / s)))

    class HiddenMarkov(pyprob.Model):
        def forward(self):
            state = pyprob.sample(Categorical((1 / 3, 1 / 3, 1 / 3)), address="first")
            for step in range(len(STATES_SEEN)):
                state = pyprob.sample(Categorical(TRANSITION[int(state)]), address="next")
                pyprob.observe(Normal(MEANS[int(state)], 1.0), name=f"obs{step}", address="seen")
            return state

    return {"gum": Gum(), "gum-marsaglia": GumMarsaglia(), "hmm": HiddenMarkov()}


def run_engine(model, engine: str, num_traces: int, observed: dict[str, float]) -> dict[str, Any]:
    """Return the numbers and log weights of an engine, and traces/s."""
    import pyprob
    from pyprob import InferenceEngine

    engines = {
        "importance": InferenceEngine.IMPORTANCE_SAMPLING,
        "RMH": InferenceEngine.RANDOM_WALK_METROPOLIS_HASTINGS,
        "IC": InferenceEngine.IMPORTANCE_SAMPLING_WITH_INFERENCE_NETWORK,
    }
    pyprob.seed(SEED)
    start = time.perf_counter()
    if engine == "prior":
        found = model.prior_results(num_traces)
    else:
        found = model.posterior_results(num_traces, inference_engine=engines[engine], observe=observed)
    rate = num_traces / (time.perf_counter() - start)
    values = [float(value.reshape(-1)[-1]) for value in found.get_values()]
    return {"rate": rate, "values": values, "log_weights": [float(weight) for weight in found.log_weights]}


def drive(endpoint: str, name: str, num_traces: int, engines: list[str]) -> dict[str, Any]:
    """Run engines on a remote model, and where it can be exact, on pyprob's own."""
    import pyprob

    remote, own = pyprob.RemoteModel(server_address=endpoint), own_models()[name]
    remote.sample()  # connects
    found: dict[str, Any] = {"model": remote.name}
    for engine in engines:
        if engine == "IC":
            remote.learn_inference_network(
                num_traces=2 * num_traces,
                inference_network=pyprob.InferenceNetwork.LSTM,
                observe_embeddings={"obs0": {"dim": 16}, "obs1": {"dim": 16}},
                lstm_dim=32,
            )
        found[engine] = {"remote": run_engine(remote, engine, num_traces, OBSERVED[name])}
        if engine != "IC":
            found[engine]["own"] = run_engine(own, engine, num_traces, OBSERVED[name])
    remote.close()
    return found


def die(endpoint: str) -> None:
    """Leave, without a word, when the first draw is asked for."""
    import pyprob

    pyprob.state.sample = lambda **_: os._exit(DEATH)
    pyprob.RemoteModel(server_address=endpoint).sample()


def peer_main(request: dict[str, Any]) -> None:
    """Do what the other half asks for, and print one line of JSON."""
    warnings.simplefilter("ignore")
    import pyprob
    import torch

    torch.set_num_threads(1)
    pyprob.set_verbosity(0)
    with contextlib.redirect_stdout(io.StringIO()):
        if not request["engines"]:
            die(request["endpoint"])
        found = drive(**request)
    print(json.dumps(found))


# ------------------------------------------------------------------------------------------------------- our half


def start_peer(python: str, **request: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    words = [python, "-I", __file__, "--request", json.dumps(request)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)


def ask_peer(python: str, **request: Any) -> dict[str, Any]:
    done = start_peer(python, **request)
    if done.returncode:
        raise SystemExit(f"pyprob failed with status {done.returncode}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def served(command: list[str], folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a program; it must still be there when all is done."""
    endpoint = f"ipc://{folder / 'program'}"
    words = [word.replace("{endpoint}", endpoint) for word in command]
    with (folder / "log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            yield endpoint, process
        finally:
            is_there = process.poll() is None
            process.terminate()
    if not is_there:
        raise SystemExit(f"{words} ended by itself:\n{(folder / 'log').read_text()}")


def run_ours(endpoint: str, model: str, num_traces: int) -> dict[str, Any]:
    """Importance sampling by `PPXSimulator`, from the process that pyprob has used."""
    from tracestore.ppx.simulator import PPXSimulator
    from tracestore.simulators import PriorController, run_trace

    observations = {name: np.array(value) for name, value in OBSERVED[model].items()}
    rng = np.random.default_rng(SEED)
    with PPXSimulator(endpoints=endpoint) as program:
        start = time.perf_counter()
        traces = [run_trace(program, PriorController(), rng, observations=observations) for _ in range(num_traces)]
        rate = num_traces / (time.perf_counter() - start)
    failures = [trace.failure for trace in traces if trace.failure]
    if failures:
        raise SystemExit(f"{len(failures)} traces of PPXSimulator failed: {failures[0]}")
    values = [float(np.ravel(np.asarray(trace.result))[-1]) for trace in traces]
    return {"rate": rate, "values": values, "log_weights": [trace.log_likelihood for trace in traces]}


def difference(found: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference of values and log weights, relative where they exceed one."""
    largest = 0.0
    for column in ("values", "log_weights"):
        a, b = np.array(found[column]), np.array(other[column])
        largest = max(largest, float(np.max(np.abs(a - b) / np.maximum(1.0, np.abs(b)))))
    return largest


def moments(found: dict[str, Any], engine: str) -> tuple[float, float, float]:
    """Mean, standard deviation and effective number of independent draws."""
    values, log_weights = np.array(found["values"]), np.array(found["log_weights"])
    if engine == "RMH":
        values = values[int(WARM_UP * len(values)) :]
        batches = np.array([batch.mean() for batch in np.array_split(values, 20)])
        return float(values.mean()), float(values.std()), float(20 * values.var() / max(batches.var(ddof=1), 1e-9))
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = float(weights @ values)
    return mean, math.sqrt(float(weights @ (values - mean) ** 2)), float(1.0 / np.sum(weights**2))


class Table:
    """Prints what was found, and remembers whether it was right."""

    def __init__(self) -> None:
        self.num_wrong = 0
        print("| program | engine | traces/s | reference, traces/s | difference | mean (exact) | sd (exact) | sigma |")
        print("|---|---|---|---|---|---|---|---|")

    def add(self, program: str, model: str, engine: str, found: dict[str, Any], other: dict[str, Any] | None) -> None:
        """Judge what an engine found, beside other numbers that must be the same."""
        cells = [program, engine, f"{found['rate']:,.0f}", "-", "-", "-", "-", "-"]
        is_right = True
        if other is not None:
            apart = difference(found, other)
            cells[3:5] = f"{other['rate']:,.0f}", f"{apart:.0e}" if apart else "0"
            is_right = apart < LARGEST_DIFFERENCE
        if engine != "prior":
            (mean, sd, number), (true_mean, true_sd) = moments(found, engine), exact(model)
            distance = abs(mean - true_mean) / (true_sd / math.sqrt(number))
            cells[5:] = f"{mean:.3f} ({true_mean:.3f})", f"{sd:.3f} ({true_sd:.3f})", f"{distance:.1f}"
            is_right &= distance < LARGEST_DISTANCE
        self.num_wrong += not is_right
        print("| " + " | ".join(cells) + (" |" if is_right else " | WRONG"), flush=True)


def check(table: Table, program: str, model: str, command: list[str], python: str, num_traces: int) -> None:
    """Put one program through all of it."""
    engines = ["prior", "importance", "RMH"]
    with tempfile.TemporaryDirectory() as text, served(command, Path(text)) as (endpoint, process):
        request: dict[str, Any] = {"endpoint": endpoint, "name": model, "num_traces": num_traces}
        extra = [] if model == "hmm" else ["IC"]
        first = ask_peer(python, **request, engines=engines + extra)
        for engine in engines + extra:
            table.add(program, model, engine, first[engine]["remote"], first[engine].get("own"))
        done = start_peer(python, **request, engines=[])
        if done.returncode != DEATH:
            raise SystemExit(f"pyprob did not die in a run, but ended with status {done.returncode}:\n{done.stderr}")
        table.add(program, model, "PPXSimulator, importance", run_ours(endpoint, model, num_traces), None)
        again = ask_peer(python, **request, engines=["importance"])["importance"]["remote"]
        table.add(program, model, "importance again", again, first["importance"]["remote"])
        print(f"  {first['model']}: process {process.pid} served both, and outlived a controller", file=sys.stderr)


def build(folder: Path) -> Path:
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DTRACESTORE_BUILD_EXAMPLES=ON", "-DTRACESTORE_BUILD_TESTS=OFF"]
    subprocess.run(["cmake", "-S", SOURCE, "-B", folder, *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "-j2"], check=True, stdout=subprocess.DEVNULL)
    return folder / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyprob-python", help="interpreter of an environment with pyprob 1.5.0")
    parser.add_argument("--num-traces", type=int, default=500, help="of each engine")
    parser.add_argument("--no-cpp", action="store_true", help="leave out the examples in C++")
    parser.add_argument("--build", type=Path, help="folder to build the examples in; a temporary one by default")
    parser.add_argument("--request", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.request:
        peer_main(arguments.request)
        return
    if not arguments.pyprob_python:
        parser.error("--pyprob-python is needed")
    serve = [str(Path(sys.executable).with_name("tracestore")), "serve"]
    programs = [(f"serve {name}", name, [*serve, name, "--endpoint", "{endpoint}"]) for name in OBSERVED]
    with tempfile.TemporaryDirectory() as text:
        if not arguments.no_cpp:
            folder = build(arguments.build or Path(text))
            for name, *words in (["gum"], ["gum_marsaglia"], ["gum_marsaglia", "plain"], ["hmm"]):
                command = [str(folder / name), "{endpoint}", *words]
                programs.append((f"C++ {' '.join([name, *words])}", name.replace("_", "-"), command))
        table = Table()
        for program, model, command in programs:
            check(table, program, model, command, arguments.pyprob_python, arguments.num_traces)
    raise SystemExit(1 if table.num_wrong else 0)


if __name__ == "__main__":
    main()
