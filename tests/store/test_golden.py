"""Stores that earlier releases wrote are read forever, number by number."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.golden.write_v1 import COLUMNS
from tracestore.store import TraceStore, verify

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@pytest.fixture(params=["v1", "v1-arrow2", "v1-zarr1"])
def folder(request):
    if request.param.endswith("zarr1"):
        pytest.importorskip("numcodecs")
    return GOLDEN / request.param


def test_golden_store_reads_as_it_was_written(folder):
    store = TraceStore.open(folder / "store")
    batch = store.take(range(len(store)))
    with np.load(folder / "expected.npz") as expected:
        for name in COLUMNS:
            assert getattr(batch, name).dtype == expected[name].dtype
            assert getattr(batch, name).tobytes() == expected[name].tobytes(), name
        names = {key.removeprefix("observation_") for key in expected if key.startswith("observation_")}
        assert names == set(batch.observations)
        for name in names:
            assert np.array_equal(batch.observations[name], expected[f"observation_{name}"])
        ids = np.array([layout.id for layout in batch.layouts], np.uint64)[batch.layout_index]
        assert np.array_equal(ids, expected["layout_id"])
        assert np.array_equal(batch.trace_types, expected["trace_type"])
        assert np.array_equal(batch.address_ids, expected["address_id"])
    texts = json.loads((folder / "expected.json").read_text())
    assert {str(row): reason for row, reason in batch.failures.items()} == texts["failures"]
    assert list(store.addresses) == texts["addresses"]
    assert store.snapshot_id == texts["snapshot"]


def test_golden_store_is_sound_and_keeps_its_job(folder):
    store = TraceStore.open(folder / "store")
    assert verify(store, deep=True, log_probs=False) == []
    assert store.job is not None
    assert (store.job.verb, store.job.fields["version"]) == ("golden", 1)
    assert store.attributes == {"note": "golden"}
    numbers = range(len(store.segments))
    assert store.completed_work() == set(numbers)
    assert store.work_states() == [([number], {"number": number}) for number in numbers]
    assert len(TraceStore.open(folder / "store", version=1)) == store.segments[0].num_traces
