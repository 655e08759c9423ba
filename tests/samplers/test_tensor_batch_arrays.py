import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.suites.batches import make_batch, make_layout  # noqa: E402
from tracestore.errors import InvalidInputError, TraceTypeMismatchError  # noqa: E402
from tracestore.samplers import World  # noqa: E402
from tracestore.samplers.tensor_batch import TensorBatch  # noqa: E402
from tracestore.samplers.torch_loader import trace_loader  # noqa: E402
from tracestore.store import TraceStore  # noqa: E402

LAYOUTS = (
    make_layout(2, vectors=1, observed=("dense", "count")),
    make_layout(0, vectors=1, observed=("count", "dense")),
)


@pytest.fixture
def store(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    store.append(make_batch(1, 60, LAYOUTS, num_failed=3))
    return store


@pytest.mark.parametrize("observations", [None, ["dense"], ["count"], ["count", "dense"]], ids=str)
def test_minibatches_together_are_the_arrays_of_the_store(store, observations):
    whole = store.as_arrays(["vec", "mu"], observations=observations)
    loader = trace_loader(store, global_batch=20, seed=1, world=World())
    parts = [(batch.trace_index, *batch.as_arrays(["vec", "mu"], observations)) for batch in loader]
    index, theta, x = (torch.cat(part) for part in zip(*parts, strict=True))
    order = torch.argsort(index)
    assert theta.dtype == x.dtype == torch.float32
    assert np.array_equal(index[order], whole.indices)
    assert np.array_equal(theta[order], whole.theta)
    assert np.array_equal(x[order], whole.x)


def test_an_empty_batch_has_no_rows(store):
    batch = TensorBatch.from_batch(store.take([], observations=["dense"]), [])
    theta, x = batch.as_arrays(["mu"])
    assert theta.shape == (0, 1)
    assert x.shape == (0, 4, 3)


def test_messages_name_the_trace_of_the_store(store):
    has_loop = store.values("loop~Normal#1")[1]
    lacks_loop = np.setdiff1d(np.arange(len(store)), has_loop)
    rows = np.concatenate([has_loop[:2], lacks_loop])
    batch = TensorBatch.from_batch(store.take(rows), rows)
    with pytest.raises(TraceTypeMismatchError, match=f"Trace {lacks_loop[0]} has no site 'loop~Normal#1'"):
        batch.as_arrays(["loop~Normal#1"])


@pytest.mark.parametrize(
    ("observations", "text"), [([], "at least one name"), (["other"], "observations: dense, count")], ids=str
)
def test_observations_that_the_batch_lacks_are_refused(store, observations, text):
    batch = TensorBatch.from_batch(store.take([0, 1]), [0, 1])
    with pytest.raises(InvalidInputError, match=text):
        batch.as_arrays(["mu"], observations)


def test_a_batch_without_observations_is_refused(store):
    batch = TensorBatch.from_batch(store.take([0, 1], observations=[]), [0, 1])
    with pytest.raises(InvalidInputError, match="no observations"):
        batch.as_arrays(["mu"])
