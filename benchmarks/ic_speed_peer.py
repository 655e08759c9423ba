"""The predecessor's half of `ic_speed.py`; runs in an environment of its own that has pyprob, numpy and torch only.

    python ic_speed_peer.py MODEL

Reads commands from standard input, one line of JSON each, and answers each with one line: ``train`` makes and trains a
network, ``infer`` draws from the posterior. An empty line ends it.
"""

import contextlib
import io
import json
import math
import os
import sys
import time
import traceback
import warnings
from importlib.metadata import version
from typing import Any

import pyprob  # type: ignore[import-not-found]  # not among this project's dependencies
import torch
from pyprob import InferenceEngine, InferenceNetwork, Model
from pyprob.distributions import Normal, Uniform  # type: ignore[import-not-found]

OBSERVED = {"obs0": 8.0, "obs1": 9.0}


class Gum(Model):
    """The draws of `tracestore.simulators.toys.gum`."""

    def forward(self):
        mu = pyprob.sample(Normal(1, math.sqrt(5)))
        likelihood = Normal(mu, math.sqrt(2))
        pyprob.observe(likelihood, name="obs0")
        pyprob.observe(likelihood, name="obs1")
        return mu


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


MODELS = {"gum": Gum, "gum_marsaglia": GumMarsaglia}


class Peer:
    """Answers commands."""

    def __init__(self, model):
        self.model: Any = MODELS[model]()

    def train(self, *, num_traces, core_size, observation_size, num_components):
        """Train a network while simulating."""
        each = {"dim": observation_size // len(OBSERVED), "depth": 2}
        self.model.learn_inference_network(
            num_traces=num_traces,
            inference_network=InferenceNetwork.LSTM,
            observe_embeddings=dict.fromkeys(OBSERVED, each),
            lstm_dim=core_size,
            proposal_mixture_components=num_components,
        )
        parameters = self.model._inference_network.parameters()
        versions = {name: version(name) for name in ("pyprob", "torch")}
        return {"num_parameters": sum(parameter.numel() for parameter in parameters), "versions": versions}

    def infer(self, *, num_draws, seed):
        """Draw, keeping the results only."""
        pyprob.seed(seed)
        wall, cpu = time.perf_counter(), time.process_time()
        posterior = self.model.posterior_results(
            num_traces=num_draws,
            inference_engine=InferenceEngine.IMPORTANCE_SAMPLING_WITH_INFERENCE_NETWORK,
            observe=OBSERVED,
        )
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        return {"num_draws": num_draws, "ess": float(posterior.effective_sample_size), **seconds}


def main(model):
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    pyprob.set_verbosity(0)
    pyprob.seed(1)
    peer, answers = Peer(model), sys.stdout
    for line in sys.stdin:
        if not line.strip():
            return
        command = json.loads(line)
        with contextlib.redirect_stdout(io.StringIO()):  # a line for every new layer
            found = getattr(peer, command.pop("do"))(**command)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    status = 1
    try:
        main(sys.argv[1])
        status = 0
    except BaseException:  # noqa: BLE001  # whatever happened, the process has to end
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
