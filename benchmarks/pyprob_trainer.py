"""The predecessor's half of `training_peer.py`; runs in an environment of its own with pyprob, numpy and torch only.

    python pyprob_trainer.py FOLDER

FOLDER holds `traces.npz` and `arrays/*.npy`, written by `training_peer.py`. Commands are lines of JSON on the standard
input, each answered by one line of JSON on the standard output; an empty line ends the process. Traces are pyprob's own
objects with the values, priors and addresses of the other side; they are pruned as `save_dataset` prunes them.

A process that has opened an offline data set of pyprob 1.5.0 does not come to an end by itself, so that this one
leaves without shutting the interpreter down.
"""

import contextlib
import io
import json
import os
import sys
import time
import traceback
import uuid
import warnings
from pathlib import Path

import numpy as np
import pyprob  # type: ignore[import-not-found]  # not among this project's dependencies
import torch
from pyprob import Model, ObserveEmbedding, Optimizer
from pyprob.distributions import Uniform  # type: ignore[import-not-found]
from pyprob.nn import (  # type: ignore[import-not-found]
    Batch,
    InferenceNetworkLSTM,
    OfflineDataset,
    OnlineDataset,
)
from pyprob.trace import Trace, Variable  # type: ignore[import-not-found]

PER_FILE = 256


class Traces:
    """Pyprob's traces, made from arrays when they are asked for, and kept."""

    def __init__(self, folder):
        with np.load(folder / "traces.npz") as arrays:
            self.columns = {name: arrays[name] for name in arrays.files}
        self.starts = np.concatenate([[0], np.cumsum(self.columns["lengths"])])
        self.observations = {path.stem: np.load(path, mmap_mode="r") for path in (folder / "arrays").glob("*.npy")}
        self.made = {}

    def __len__(self):
        return len(self.starts) - 1

    def __getitem__(self, index):
        if index not in self.made:
            self.made[index] = self.make(index)
        return self.made[index]

    def make(self, index):
        """Build one trace as pyprob's tracer does."""
        trace = Trace()
        for site in range(self.starts[index], self.starts[index + 1]):
            low, high = self.columns["bounds"][site].tolist()
            # addresses name modules here, and the names of modules have no dots
            address = str(self.columns["addresses"][self.columns["address"][site]]).replace(".", "_")
            prior, value = Uniform(low, high), torch.tensor(float(self.columns["values"][site]))
            trace.add(Variable(prior, value, address, address, 1, prior.log_prob(value), control=True))
        for name, column in self.observations.items():
            value = torch.from_numpy(np.array(column[index], np.float32))
            trace.add(Variable(None, value, name, name, 1, torch.zeros(()), name=name, observed=True))
        trace.end(None, 0.0)
        OnlineDataset._prune_trace(trace)
        return trace


class Peer:
    """Answers commands."""

    def __init__(self, folder):
        self.folder = folder
        self.traces = Traces(folder)
        self.network = None

    def build(self, *, sizes, observations, rate, traces):
        """Make a network with layers for all addresses of some traces, so that Adam is never made anew."""
        embeddings = {
            name: options | ({"embedding": ObserveEmbedding.CNN3D5C} if "reshape" in options else {})
            for name, options in observations.items()
        }
        self.network = InferenceNetworkLSTM(model=Model(), observe_embeddings=embeddings, **sizes)
        self.network._init_layers_observe_embedding(self.network._observe_embeddings, self.traces[traces[0]])
        self.network._init_layers()
        self.network._layers_initialized = self.network._layers_pre_generated = True
        for start in range(0, len(traces), 256):
            self.network._polymorph(Batch([self.traces[index] for index in traces[start : start + 256]]))
        self.network._optimizer_type, self.network._learning_rate_init = Optimizer.ADAM, rate
        self.network._weight_decay, self.network._momentum = 0.0, 0.9
        self.network._create_optimizer()
        return {"num_parameters": sum(parameter.numel() for parameter in self.network.parameters())}

    def steps(self, *, batches, rates=None):
        """Run optimizer steps as `InferenceNetwork.optimize` does, on minibatches in memory."""
        found = [Batch([self.traces[index] for index in indices]) for indices in batches]
        losses, network = [], self.network
        network.train()
        wall, cpu = time.perf_counter(), time.process_time()
        for place, batch in enumerate(found):
            if rates:
                network._optimizer.param_groups[0]["lr"] = rates[place]
            network._optimizer.zero_grad()
            success, loss = network._loss(batch)
            if not success:
                raise SystemExit("pyprob found no loss")
            loss.backward()
            network._optimizer.step()
            losses.append(float(loss))
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        types = [len(batch.sub_batches) for batch in found]
        return {"losses": losses, "num_traces": sum(map(len, found)), "types": types, **seconds}

    def validate(self, *, traces):
        """Return the mean loss of some traces."""
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(traces), 256):
                batch = Batch([self.traces[index] for index in traces[start : start + 256]])
                total += float(self.network._loss(batch)[1]) * len(batch)
        return {"loss": total / len(traces)}

    def write(self, *, num_traces):
        """Write traces as `save_dataset` does, then sort them."""
        plain = self.folder / "plain"
        plain.mkdir()
        for start in range(0, num_traces, PER_FILE):
            shelf = pyprob.util.open_shelf(str(plain / f"pyprob_traces_{PER_FILE}_{uuid.uuid4()}"), flag="c")
            for place, index in enumerate(range(start, min(start + PER_FILE, num_traces))):
                shelf[str(place)] = self.traces[index]
                shelf["__length"] = place + 1
            shelf.close()
        OfflineDataset(str(plain)).save_sorted(str(self.folder / "sorted"), num_traces_per_file=PER_FILE)
        return {}

    def learn(self, *, num_traces, batch_size, rate):
        """Run pyprob's own training loop on the sorted files; the network goes on from where it is."""
        dataset = OfflineDataset(str(self.folder / "sorted"))
        done = self.network._total_train_traces
        wall, cpu = time.perf_counter(), time.process_time()
        self.network.optimize(
            num_traces=num_traces, dataset=dataset, batch_size=batch_size, learning_rate_init=rate, weight_decay=0.0
        )
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        return {"num_traces": self.network._total_train_traces - done, **seconds}


def main(folder):
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    pyprob.set_verbosity(0)
    pyprob.seed(1)
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # its first use imports a good part of torch
    peer, answers = Peer(folder), sys.stdout
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
        main(Path(sys.argv[1]))
        status = 0
    except BaseException:  # noqa: BLE001  # whatever happened, the process has to end
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
