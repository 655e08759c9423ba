"""One address over all traces: whole runs, slot by slot, whatever lengths and layouts the runs have."""

from dataclasses import replace

import numpy as np
import pytest

from tests.suites.batches import make_batch, make_layout
from tests.suites.segment_suite import LocalFormat
from tracestore.errors import ChecksumError
from tracestore.formats.columns import MAX_TILE_STATES, cut_segment
from tracestore.formats.slot_checks import LEAST_CHECKED_STATES
from tracestore.storage.local import LocalFile

LONG, WITH_VECTORS, CONSTANT, RARE, SINGLE = range(5)
LAYOUTS = [make_layout(3), make_layout(4, vectors=2), make_layout(5), make_layout(6, vectors=1), make_layout(7)]
RUNS = [
    (LONG, 2 * MAX_TILE_STATES + 17),
    (RARE, 5),
    (WITH_VECTORS, MAX_TILE_STATES + 300),
    (LONG, LEAST_CHECKED_STATES - 1),
    (SINGLE, 1),
    (CONSTANT, LEAST_CHECKED_STATES),
    (WITH_VECTORS, 3),
    (RARE, 2),
    (LONG, MAX_TILE_STATES),
]
NAMES = ["mu", "vec", "result", "loop~Normal#3", "loop~Normal#4", "loop~Normal#7", "vec~Normal[3]#1", "vec~Normal[3]#2"]
COLUMN_FILES = {"arrow": "values.arrow", "zarr": "values/c/0"}


@pytest.fixture(params=sorted(COLUMN_FILES))
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def batch():
    """Runs of all lengths, in the order of `RUNS`; some numbers are constant in their layout."""
    pool = make_batch(1, 18_000, LAYOUTS)
    left = [np.flatnonzero(pool.layout_index == layout).tolist() for layout in range(len(LAYOUTS))]
    batch = pool.take(np.array([left[layout].pop() for layout, size in RUNS for _ in range(size)]))
    for layout, number, value in ((WITH_VECTORS, 6, -0.0), (CONSTANT, 0, np.nan), (LONG, 2, 7.5)):
        rows = np.flatnonzero(batch.layout_index == layout)
        batch.values[batch.value_offsets[rows] + number] = value
    return batch


@pytest.fixture
def write(tmp_path, backend):
    def write(batch, **options):
        return LocalFormat(backend).write_segment(tmp_path, [batch], segment_id="values", flush=False, **options)

    return write


def repeated(batch):
    """Let a third of the moves of a chain be rejected, once or more."""
    counts = np.random.default_rng(2).choice([1, 1, 2, 4], len(batch))
    state = np.repeat(np.arange(len(batch)), counts)
    return replace(batch.take(state), accepted=np.diff(state, prepend=-1) > 0, draw=np.arange(len(state)))


def overwrite(path, value):
    """Change the one place in a file where a number is."""
    data = path.read_bytes()
    assert data.count(value.tobytes()) == 1
    with path.open("r+b") as file:
        file.seek(data.index(value.tobytes()))
        file.write(np.float64(1234.5).tobytes())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep_order", [True, False])
@pytest.mark.parametrize("has_repeats", [False, True])
@pytest.mark.parametrize("verify", ["first", "off"])
def test_runs_of_all_lengths(write, backend, tmp_path, batch, name, keep_order, has_repeats, verify):
    batch = repeated(batch) if has_repeats else batch
    entry = write(batch, keep_order=keep_order)
    values, rows = LocalFormat(backend).open_segment(tmp_path, entry, verify=verify).values(name)
    wanted, present = batch.take(cut_segment([batch], keep_order=keep_order).order).named(name)
    assert rows.tolist() == np.flatnonzero(present).tolist()
    assert values.tobytes() == wanted[present].tobytes()
    assert values.shape == wanted[present].shape


@pytest.mark.parametrize(
    ("verify", "is_seen"), [("first", (True, False)), ("always", (True, True)), ("off", (False, False))]
)
@pytest.mark.parametrize("has_been_read", [False, True])
def test_slots_are_checked_as_asked_for(write, backend, tmp_path, batch, verify, is_seen, has_been_read):
    entry = write(batch, keep_order=True)
    reader = LocalFormat(backend).open_segment(tmp_path, entry, verify=verify)
    values, _ = reader.values("loop~Normal#3")
    if not has_been_read:
        reader = LocalFormat(backend).open_segment(tmp_path, entry, verify=verify)
    overwrite(tmp_path / COLUMN_FILES[backend], values[MAX_TILE_STATES + 5])
    if is_seen[has_been_read]:
        with pytest.raises(ChecksumError, match="was altered: elements"):
            reader.values("loop~Normal#3")
    else:
        found, _ = reader.values("loop~Normal#3")
        assert np.flatnonzero(found != values).tolist() == [MAX_TILE_STATES + 5]


def test_damage_in_one_number_of_a_vector_is_found(write, backend, tmp_path, batch):
    entry = write(batch, keep_order=True)
    values, _ = LocalFormat(backend).open_segment(tmp_path, entry).values("vec~Normal[3]#1")
    overwrite(tmp_path / COLUMN_FILES[backend], values[7, 2])
    with pytest.raises(ChecksumError, match="was altered: elements"):
        LocalFormat(backend).open_segment(tmp_path, entry).values("vec~Normal[3]#1")


def test_damage_in_a_short_run_is_found(write, backend, tmp_path, batch):
    entry = write(batch, keep_order=True)
    values, rows = LocalFormat(backend).open_segment(tmp_path, entry).values("loop~Normal#6")
    overwrite(tmp_path / COLUMN_FILES[backend], values[rows.tolist().index(RUNS[0][1] + 2)])
    with pytest.raises(ChecksumError, match=r"block \d"):
        LocalFormat(backend).open_segment(tmp_path, entry).values("loop~Normal#6")


def test_disk_is_told_of_the_slots_alone_and_once(write, backend, tmp_path, batch, monkeypatch):
    entry = write(batch, keep_order=True)
    told = []
    monkeypatch.setattr(LocalFile, "expect", lambda file, starts, stops: told.append((file, starts, stops)))
    reader = LocalFormat(backend).open_segment(tmp_path, entry)
    values, rows = reader.values("loop~Normal#4")
    ((file, starts, stops),) = told
    assert (starts[1:] >= stops[:-1]).all()
    expected = [file.data[start:stop].tobytes() for start, stop in zip(starts, stops, strict=True)]
    layouts = batch.layout_index[rows]
    first = values[layouts == WITH_VECTORS][: MAX_TILE_STATES + 300]
    assert b"".join(expected) == first.tobytes() + values[layouts == CONSTANT].tobytes()
    reader.values("loop~Normal#4")
    assert len(told) == 1
