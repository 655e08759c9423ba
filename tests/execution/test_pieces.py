"""Pieces from worker processes reach the store, wherever it is."""

import numpy as np
import pytest

import tracestore as ts
from tests.suites.object_server import SERVER_WARNINGS, object_server, object_url
from tracestore.simulators.toys import gum

__all__ = ["object_server", "object_url"]

pytestmark = [pytest.mark.processes, SERVER_WARNINGS]


@pytest.fixture(params=["local", "memory", "s3"])
def place(request, tmp_path):
    if request.param == "local":
        return ts.StoreLocation(str(tmp_path / "store"))
    pytest.importorskip("obstore")
    if request.param == "memory":
        return ts.StoreLocation(f"memory://{tmp_path.name}")
    url, options = request.getfixturevalue("object_url")()
    return ts.StoreLocation(url, storage_options=options)


def test_simulate_with_workers_gives_the_traces_of_one_process(place, tmp_path):
    alone = ts.simulate(gum, tmp_path / "alone", num_traces=300, seed=1)
    shared = ts.simulate(gum, place, num_traces=300, seed=1, workers=2)
    assert len(shared) == 300
    order = [np.argsort(store.column("stream")) for store in (alone, shared)]
    assert np.array_equal(alone.take(order[0]).values, shared.take(order[1]).values)
    assert ts.simulate(gum, place, num_traces=300, seed=1, workers=2).version == shared.version


def test_chains_with_workers(place):
    observation = {"obs0": 8.0, "obs1": 9.0}
    posterior = ts.inference.rmh(gum, observation, place, num_draws=400, chains=2, seed=1, workers=2)
    assert posterior.num_chains == 2
    assert len(posterior.store) == 400
