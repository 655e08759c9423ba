"""Write tests/golden/pyprob: small data sets made by pyprob itself, and what pyprob reads from them.

Run once, in an environment of its own with pyprob 1.5.0 (``pip install pyprob==1.5.0``), on Python 3.11:

    MPLBACKEND=Agg python tests/golden/write_pyprob.py

The GNU dbm file needs an interpreter with ``dbm.gnu``; give its path in the environment variable GDBM_PYTHON, or the
file is not written. The files in this repository were made with torch 2.13.
"""

# mypy: ignore-errors
# pyprob and its torch are not among the packages that tests have

import contextlib
import dbm.dumb
import io
import json
import math
import os
import pickle
import shelve
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyprob
import torch
from pyprob import Model
from pyprob.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Exponential,
    Gamma,
    LogNormal,
    Mixture,
    Normal,
    Poisson,
    TruncatedNormal,
    Uniform,
    VonMises,
    Weibull,
)
from pyprob.nn import OfflineDataset
from pyprob.nn.dataset import OnlineDataset

ROOT = Path(__file__).resolve().parent / "pyprob"
SEED = 5


class Marsaglia(Model):
    """Gaussian with unknown mean; the mean is drawn by Marsaglia's polar rejection."""

    def forward(self):
        s = 1.0
        while s >= 1.0:
            x = pyprob.sample(Uniform(-1, 1))
            y = pyprob.sample(Uniform(-1, 1))
            s = float(x) ** 2 + float(y) ** 2
        mu = 1.0 + math.sqrt(5.0) * x * math.sqrt(-2 * math.log(s) / s)
        likelihood = Normal(mu, math.sqrt(2.0))
        pyprob.observe(likelihood, name="obs0")
        pyprob.observe(likelihood, name="obs1")
        return mu


class Mixed(Model):
    """Branches, several families, a vector observation, tags."""

    def forward(self):
        channel = int(pyprob.sample(Categorical([0.2, 0.5, 0.3]), name="channel"))
        rate = pyprob.sample(Uniform(1, 4), name="rate")
        total = rate * 1.0
        for _ in range(channel):
            total = total + pyprob.sample(Normal(total, 0.5))
        count = pyprob.sample(Poisson(rate), name="count")
        pyprob.sample(TruncatedNormal(0.0, 1.0, -0.5, 2.0), name="cut")
        pyprob.sample(Normal(torch.zeros(2, 3), torch.ones(3)), name="matrix")
        pyprob.sample(Uniform(0, 1), control=False)
        pyprob.tag(count, name="count_tag")
        pyprob.tag(7, name="number_tag")
        pyprob.tag({"a": 1}, name="other_tag")
        pyprob.tag([1.0, 2.0], name="list_tag")
        pyprob.tag(np.arange(6.0).reshape(2, 3), name="array_tag")
        pyprob.tag(np.float64(2.5), name="scalar_tag")
        pyprob.observe(Normal(torch.arange(4.0) + total, 0.5), name="spectrum")
        return {"total": total}


class Families(Model):
    """Every family of pyprob once."""

    def forward(self):
        for distribution in (
            Bernoulli(0.3), Bernoulli(logits=0.3), Beta(1.0, 2.0, low=-1, high=2), Binomial(5, 0.3),
            Categorical([0.1, 0.9]), Categorical(logits=[0.1, 0.9]), Exponential(2.0), Gamma(1.0, 2.0),
            LogNormal(0.0, 1.0), Normal(0.0, 1.0), Poisson(3.0), TruncatedNormal(0.0, 1.0, -1.0, 1.0),
            Mixture([Normal(0.0, 1.0), TruncatedNormal(0.0, 1.0, -1.0, 1.0)], [0.2, 0.8]),
            Uniform(torch.zeros(3), torch.ones(3)), VonMises(0.0, 1.0), Weibull(1.0, 2.0),
        ):  # fmt: skip
            pyprob.sample(distribution)
        pyprob.factor(log_prob=-1.0)
        pyprob.observe(Normal(torch.zeros(2, 3), 1.0), name="obs")
        return 1.0


def numbers(value):
    """What an array holds: dtype, shape, elements."""
    if value is None:
        return None
    if torch.is_tensor(value):
        value = value.detach().cpu().numpy()
    if not isinstance(value, (np.ndarray, np.generic, int, float, list)):
        return {"unread": type(value).__name__}
    array = np.asarray(value)
    kind = {} if array.dtype == np.float32 else {"dtype": str(array.dtype)}
    return {"shape": list(array.shape), "data": array.reshape(-1).tolist()} | kind


NAMES = ("loc", "scale", "low", "high", "rate", "concentration", "concentration0", "concentration1", "total_count")
NAMES += ("mean_non_truncated", "stddev_non_truncated")


def distribution_facts(distribution):
    if distribution is None:
        return None
    family = type(distribution).__name__
    parameters = {name: numbers(getattr(distribution, name)) for name in NAMES if hasattr(distribution, name)}
    if family in ("Categorical", "Mixture"):
        parameters["probs"] = numbers(distribution.probs)
    if family in ("Bernoulli", "Binomial"):
        stored = vars(distribution._torch_dist)
        key = "probs" if "probs" in stored else "logits"
        parameters[key] = numbers(stored[key])
    if family == "Factor":
        parameters["log_prob"] = numbers(distribution._log_prob)
    components = [distribution_facts(part) for part in distribution.distributions] if family == "Mixture" else []
    return {"family": family, "parameters": parameters, "components": components}


def total(value):
    if torch.is_tensor(value):
        return float(value.double().sum())
    return None if value is None else float(value)


def variable_facts(variable):
    facts = {name: getattr(variable, name, None) for name in ("address", "address_base", "instance", "control", "name")}
    facts |= {name: getattr(variable, name, False) for name in ("observable", "observed", "reused", "tagged")}
    facts["distribution"] = distribution_facts(getattr(variable, "distribution", None))
    facts["value"] = numbers(variable.value)
    facts["log_prob"] = total(getattr(variable, "log_prob", None))
    facts["log_importance_weight"] = total(variable.log_importance_weight)
    return facts


def trace_facts(trace):
    variables = getattr(trace, "variables", trace.variables_controlled)
    place = {id(variable): index for index, variable in enumerate(variables)}
    facts = {
        "is_pruned": not hasattr(trace, "variables"),
        "variables": [variable_facts(variable) for variable in variables],
        "controlled": [place[id(variable)] for variable in trace.variables_controlled],
        "named": {name: place.get(id(v), variable_facts(v)) for name, v in trace.named_variables.items()},
        "has_result": getattr(trace, "result", None) is not None,
        "length": trace.length,
        "length_controlled": trace.length_controlled,
    }
    names = ("log_prob", "log_prob_observed", "log_importance_weight", "execution_time_sec")
    return facts | {name: total(getattr(trace, name, None)) for name in names}


def compact(facts):
    """Leave out what is None, False or empty."""
    if isinstance(facts, dict):
        small = {name: compact(fact) for name, fact in facts.items()}
        return {name: fact for name, fact in small.items() if fact is not None and fact is not False}
    return [compact(fact) for fact in facts] if isinstance(facts, list) else facts


def shelf_facts(path):
    shelf = pyprob.util.open_shelf(str(path), flag="r")
    facts = [trace_facts(shelf[str(index)]) for index in range(shelf["__length"])]
    shelf.close()
    return facts


def data_set(folder, model, num_traces, per_file, *, prune=True):
    """Write a data set with names that do not depend on chance; return what pyprob reads from it."""
    (ROOT / folder).mkdir()
    OnlineDataset(model).save_dataset(str(ROOT / folder), num_traces, per_file, prune_traces=prune)
    for number, file in enumerate(sorted((ROOT / folder).glob("pyprob_traces_*"))):
        file.rename(ROOT / folder / f"pyprob_traces_{per_file}_{number:08d}-0000-4000-8000-000000000000")
    return {f"{folder}/{path.name}": shelf_facts(path) for path in sorted((ROOT / folder).glob("pyprob_traces_*"))}


def old_pickles(source):
    """The records of a file as pyprob before 1.4 stored them: one plain pickle, protocol 3."""
    shelf = pyprob.util.open_shelf(str(source), flag="r")
    records = {key: pickle.dumps(value, 3) for key, value in shelf.items()}
    shelf.close()
    return records


def main():
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir()
    pyprob.seed(SEED)
    truth = {}
    truth |= data_set("marsaglia", Marsaglia(), 8, 4)
    scratch = Path(tempfile.mkdtemp())
    shutil.copytree(ROOT / "marsaglia", scratch / "copy")
    OfflineDataset(str(scratch / "copy")).save_sorted(str(ROOT / "marsaglia_sorted"), num_traces_per_file=4)
    for path in sorted((ROOT / "marsaglia_sorted").glob("pyprob_traces_sorted_*")):
        truth[f"marsaglia_sorted/{path.name}"] = shelf_facts(path)

    truth |= data_set("mixed", Mixed(address_dict_file_name=str(ROOT / "mixed_addresses")), 5, 5)
    dictionary = pyprob.util.open_shelf(str(ROOT / "mixed_addresses"), flag="r")
    truth["mixed_addresses"] = {key[6:]: value for key, value in dictionary.items() if key.startswith("__id__")}
    dictionary.close()
    pyprob.state._address_dictionary = None
    truth |= data_set("mixed_full", Mixed(), 3, 3, prune=False)
    truth |= data_set("families", Families(), 1, 1, prune=False)

    os.chdir(ROOT)  # the file keeps its own name as metadata
    observed = {"obs0": 8.0, "obs1": 9.0}
    posterior = Marsaglia().posterior(4, observe=observed, file_name="posterior")
    truth["posterior"] = [trace_facts(posterior[index]) for index in range(4)]
    truth["posterior_log_weights"] = [float(weight) for weight in posterior.log_weights]
    posterior.close()

    source = next(iter(sorted((ROOT / "marsaglia").glob("pyprob_traces_*"))))
    records = old_pickles(source)
    for folder in ("dumb", "gdbm"):
        (ROOT / folder).mkdir()
        truth[f"{folder}/{source.name}"] = f"marsaglia/{source.name}"  # the same facts
    with shelve.Shelf(dbm.dumb.open(str(ROOT / "dumb" / source.name), "n")) as shelf:
        shelf.dict.update({key.encode(): value for key, value in records.items()})
    if "GDBM_PYTHON" in os.environ:
        (scratch / "records").write_bytes(pickle.dumps(records, 4))
        code = (
            "import dbm.gnu, pickle, sys; file = dbm.gnu.open(sys.argv[2], 'n')\n"
            "for key, value in pickle.load(open(sys.argv[1], 'rb')).items(): file[key.encode()] = value\n"
            "file.close()"
        )
        target = str(ROOT / "gdbm" / source.name)
        subprocess.run([os.environ["GDBM_PYTHON"], "-c", code, str(scratch / "records"), target], check=True)

    tensors = {
        str(dtype).removeprefix("torch."): torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype).t()
        for dtype in (
            torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16,
            torch.int32, torch.int64, torch.bool, torch.uint16, torch.uint32, torch.uint64, torch.complex64,
        )
    }  # fmt: skip
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors |= {
        "sliced": base[1, 1:, ::2],
        "expanded": torch.tensor(2.5).expand(3, 4),
        "scalar": torch.tensor(1.5),
        "empty": base[:0],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "row": base[1, 2],
    }
    (ROOT / "tensors.pickle").write_bytes(pickle.dumps(tensors, 4))
    facts = {
        name: tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)
        for name, tensor in tensors.items()
    }
    truth["tensors"] = {
        name: {"shape": list(tensor.shape), "real": tensor.real.reshape(-1).tolist()} for name, tensor in facts.items()
    }
    truth = compact(truth)
    (ROOT / "truth.json").write_text(json.dumps(truth, separators=(",", ":")) + "\n")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        main()
    sys.stdout.flush()
    os._exit(0)  # pyprob's open files would keep the interpreter from ending
