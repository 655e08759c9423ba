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


def make_prior() -> TraceBatch:
    """Failed traces, special numbers, vectors, odd observations, a long run, six layouts of one trace each."""
    layouts = [make_layout(2), make_layout(0, vectors=1), make_layout(3, observed=("flags", "count"))]
    prior = make_batch(3, 16, layouts, num_failed=2)
    prior.values[:3] = (np.nan, -0.0, np.inf)
    loose = [make_batch(40 + k, 1, [make_layout(9 + k, observed=("dense", "empty"))]) for k in range(6)]
    return TraceBatch.concatenate([prior, make_batch(8, 80, [make_layout(2)]), *loose])


def make_chains() -> TraceBatch:
    """Chains whose rejected moves share states, and an observation that only some of their traces have."""
    chains = make_chain(4, 200)
    present = chains.num_sites < 10
    without = make_batch(6, 30, [make_layout(4, observed=())])
    dense = chains.observations["dense"][:1]
    chains = replace(chains, observations={"dense": np.repeat(dense, len(chains), axis=0)})
    return TraceBatch.concatenate(
        [chains.take(np.flatnonzero(present)), without, chains.take(np.flatnonzero(~present))]
    )


def make_walk() -> TraceBatch:
    """Enough traces for several tiles, blocks and chunks, of numbers that compress to little."""
    walk = make_batch(5, 6_000, [make_layout(27, observed=("dense",))])
    for name in ("values", "log_probs"):
        getattr(walk, name)[:] = np.round(getattr(walk, name))
        getattr(walk, name).reshape(6_000, -1)[:] = getattr(walk, name).reshape(6_000, -1)[np.arange(6_000) // 300]
    walk.parameters[:] = 0.5
    walk.observations["dense"][:] = np.round(walk.observations["dense"])
    zeros = np.zeros(6_000)
    return replace(walk, log_prior=zeros, log_likelihood=zeros, log_weight=zeros, seconds=zeros.astype(np.float32))


def main() -> None:
    """Write the stores and what reading them must give."""
    batches = [make_prior(), make_chains(), make_walk()]
    stream = 0
    for number, batch in enumerate(batches):
        batches[number] = replace(batch, stream=np.arange(stream, stream + len(batch)))
        stream += len(batch)
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
        for number, batch in enumerate(batches):
            with store.writer(order="written" if number == 1 else "sorted") as writer:
                writer.append(batch, work=[number], state={"number": number})
        save_expected(store, folder)


if __name__ == "__main__":
    main()
