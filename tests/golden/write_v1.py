"""Write the golden store of format version 1: ``python -m tests.golden.write_v1``.

Run once, when the format was frozen; the store it wrote is read by every later release. It is kept to show what is
in there, not to be run again.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.suites.batches import make_batch, make_layout
from tracestore.store import Job, TraceStore
from tracestore.traces import TRACE_COLUMNS, TraceBatch

FOLDER = Path(__file__).resolve().parent / "v1"
COLUMNS = ("values", "log_probs", "parameters", *(name for name, _ in TRACE_COLUMNS))


def make_batches() -> list[TraceBatch]:
    """A constant observation, a varying one, flags, vectors, failed traces, NaN, a negative zero."""
    prior = make_batch(
        1, 12, [make_layout(2), make_layout(0, vectors=1), make_layout(3, observed=("flags", "count"))], num_failed=2
    )
    prior.values[:3] = (np.nan, -0.0, np.inf)
    posterior = make_batch(2, 9, [make_layout(2)], constant_observations=True, first_stream=12)
    return [prior, replace(posterior, chain=np.arange(9, dtype=np.int32) % 3, log_weight=np.linspace(-1, 1, 9))]


def main() -> None:
    """Write the store and what reading it must give."""
    store = TraceStore.create(
        FOLDER / "store",
        job=Job("golden", {"version": 1}),
        attributes={"note": "golden"},
        uuid="00000000-0000-4000-8000-000000000001",
    )
    for number, batch in enumerate(make_batches()):
        with store.writer() as writer:
            writer.append(batch, work=[number], state={"number": number})
    save_expected(store, FOLDER)


def save_expected(store: TraceStore, folder: Path) -> None:
    """Write what reading a store must give."""
    batch = store.take(range(len(store)))
    columns: dict[str, Any] = {
        "layout_id": np.array([layout.id for layout in batch.layouts], np.uint64)[batch.layout_index],
        "trace_type": batch.trace_types,
        "address_id": batch.address_ids,
        **{name: getattr(batch, name) for name in COLUMNS},
        **{f"observation_{name}": column for name, column in batch.observations.items()},
    }
    np.savez_compressed(folder / "expected.npz", **columns)
    expected = {"failures": dict(batch.failures), "addresses": list(store.addresses), "snapshot": store.snapshot_id}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
