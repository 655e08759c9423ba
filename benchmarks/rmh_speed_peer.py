"""The predecessor's half of `rmh_speed.py`; runs in an environment of its own, with pyprob and torch.

    python rmh_speed_peer.py --num-steps N --repeats R

Prints one line of JSON: seconds for each repeat of N steps of random-walk Metropolis-Hastings on Marsaglia's Gaussian.
"""

import argparse
import contextlib
import io
import json
import math
import time
import warnings
from importlib.metadata import version

import pyprob  # type: ignore[import-not-found]  # not among this project's dependencies
import torch
from pyprob import InferenceEngine, Model
from pyprob.distributions import Normal, Uniform  # type: ignore[import-not-found]


class GumMarsaglia(Model):
    """The draws of `tracestore.simulators.toys.gum_marsaglia`."""

    def forward(self):
        s = 1.0
        while s >= 1.0:
            x = pyprob.sample(Uniform(-1, 1))
            y = pyprob.sample(Uniform(-1, 1))
            s = float(x) ** 2 + float(y) ** 2
        mu = 1 + math.sqrt(5) * x * math.sqrt(-2 * math.log(s) / s)
        likelihood = Normal(mu, math.sqrt(2))
        pyprob.observe(likelihood, name="obs0")
        pyprob.observe(likelihood, name="obs1")
        return mu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-steps", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pyprob.seed(1)
    model = GumMarsaglia()
    found: dict[str, list[float]] = {"wall": [], "cpu": []}
    for _ in range(arguments.repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            # results only: its faster way
            model.posterior_results(
                num_traces=arguments.num_steps,
                inference_engine=InferenceEngine.RANDOM_WALK_METROPOLIS_HASTINGS,
                observe={"obs0": 8.0, "obs1": 9.0},
            )
        found["wall"].append(time.perf_counter() - wall)
        found["cpu"].append(time.process_time() - cpu)
    versions = {name: version(name) for name in ("pyprob", "torch")}
    print(json.dumps({**found, "versions": versions}))


if __name__ == "__main__":
    main()
