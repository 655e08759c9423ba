"""Write the golden stores of the encodings ``arrow/2`` and ``zarr/1``: ``python -m tests.golden.write_v1_encodings``.

Run once, when the encodings were frozen; the stores it wrote are read by every later release. It is kept to show what
is in there, not to be run again.
"""

from dataclasses import replace

import numpy as np

from tests.golden.write_v1 import FOLDER, save_expected
from tests.suites.batches import make_batch, make_layout
from tests.suites.segment_suite import make_chain
from tracestore.store import Job, TraceStore
from tracestore.traces import TraceBatch

BACKENDS = {"arrow": "v1-arrow2", "zarr": "v1-zarr1"}


def make_batches() -> list[TraceBatch]:
    """Failed traces, special numbers, vectors, layouts of one trace, and chains whose rejected moves share states."""
    layouts = [make_layout(2), make_layout(0, vectors=1)]
    layouts += [make_layout(3 + k, observed=("flags", "count")) for k in range(6)]
    prior = make_batch(3, 16, layouts, num_failed=2)
    prior.values[:3] = (np.nan, -0.0, np.inf)
    chains = make_chain(4, 30)
    return [prior, replace(chains, stream=chains.stream + 16)]


def main() -> None:
    """Write the stores and what reading them must give."""
    for backend, name in BACKENDS.items():
        folder = FOLDER.parent / name
        store = TraceStore.create(
            folder / "store",
            backend=backend,
            codec={"dense": "lz4", "count": "zstd"},
            job=Job("golden", {"version": 1, "backend": backend}),
            attributes={"note": "golden"},
            uuid="00000000-0000-4000-8000-000000000002",
        )
        for number, batch in enumerate(make_batches()):
            with store.writer(order="written" if number else "sorted") as writer:
                writer.append(batch, work=[number], state={"number": number})
        save_expected(store, folder)


if __name__ == "__main__":
    main()
