"""Damage: whatever byte of a store is lost or altered, reading it is an error that names the file (format 1.4)."""

import errno
import os
import shutil

import numpy as np
import pytest

from tests.store.stores import JOB, by_stream, expected_batch, make_chunk
from tests.suites.batches import assert_same
from tracestore.errors import ChecksumError, FormatError, InsufficientSpaceError, TracestoreError
from tracestore.formats import ipc
from tracestore.store import TraceStore, compact, gc, recover, verify

BACKENDS = ["arrow", "zarr"]
VALUES = {"arrow": "values.arrow", "zarr": "values/c/0"}


def make_store(path, numbers, backend="arrow", codec="auto"):
    """Each unit in a segment of its own."""
    store = TraceStore.create(path, job=JOB, backend=backend, codec=codec)
    with store.writer() as writer:
        for number in numbers:
            writer.append(make_chunk(number), work=[number], state={"chunk": number})
            writer.seal()
    return store


@pytest.fixture(
    scope="module", params=[(backend, codec) for backend in BACKENDS for codec in ("none", "lz4")], ids="-".join
)
def sound(request, tmp_path_factory):
    """A store with a past: three snapshots, the first of which was given up; one segment was compacted."""
    store = make_store(tmp_path_factory.mktemp("faults") / "sound", [0, 1], *request.param)
    compact(store)
    gc(store, older_than=0)
    store.append(make_chunk(2), work=[2], state={"chunk": 2})
    return store.path


@pytest.fixture
def copy(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(params=BACKENDS)
def two_segments(request, tmp_path):
    return make_store(tmp_path / "store", [0, 1], request.param, "lz4").path


def read_everything(path):
    """All that a reader can ask for."""
    store = TraceStore.open(path)
    batch = by_stream(store)
    return batch, store.work_states(), list(store.addresses), list(store.trace_types), store.values("mu")[0].tobytes()


def damages(rng, data):
    """What can happen to a file, as its bytes afterwards; None when it is gone."""
    place, bit = int(rng.integers(len(data))), int(rng.integers(8))
    yield "flipped", data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
    yield "truncated", data[: int(rng.integers(len(data)))]
    yield "deleted", None


def put(file, data):
    """Into a new file: the old one may still be mapped."""
    file.unlink(missing_ok=True)
    if data is not None:
        file.write_bytes(data)


def attempt(function):
    """What it returns, and the error that it raises; one of them is None."""
    try:
        return function(), None
    except TracestoreError as error:
        return None, error


def require_noticed(path, name, expected):
    """Reading says which file is damaged; where it gives the right data instead, verification says it."""
    found, error = attempt(lambda: read_everything(path))
    if error is None:
        assert_same(found[0], expected[0])
        assert found[1:] == expected[1:]
    else:
        assert name in str(error)
        is_in_segment = name.startswith("segments/") and not name.endswith("seal.json")
        assert not (is_in_segment and isinstance(error, ChecksumError)) or "block" in str(error)
    problems, refusal = attempt(lambda: verify(TraceStore.open(path), deep=True, log_probs=False))
    if refusal is None:
        assert name in {problem.path for problem in problems} or (error is None and is_harmless(path, name))
    else:
        assert error is not None
        assert name in str(refusal)


def is_harmless(path, name):
    """Whether it is a hint that is missing, which it may be, or names a snapshot, be it another one."""
    file = path / name
    is_hint = name in ("manifests/LATEST", "manifests/OLDEST")
    return is_hint and (not file.exists() or file.read_bytes().strip() in (b"1", b"2", b"3"))


@pytest.mark.parametrize("seed", range(2))
def test_damage_of_any_file_is_noticed(copy, seed):
    rng = np.random.default_rng(seed)
    expected = read_everything(copy)
    assert verify(TraceStore.open(copy), deep=True, log_probs=False) == []
    names = sorted(str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file())
    # of the segments, which have the same files, the first one
    first = TraceStore.open(copy).segments[0].id
    names = [name for name in names if not name.startswith("segments/") or first in name]
    kinds = {name.partition("/")[0] for name in names}
    assert kinds == {"TRACESTORE.json", "dict", "manifests", "receipts", "segments"}
    unnoticed = []
    for name in names:
        data = (copy / name).read_bytes()
        for what, changed in damages(rng, data):
            put(copy / name, changed)
            try:
                require_noticed(copy, name, expected)
            except AssertionError as error:
                unnoticed.append((name, what, str(error)))
        put(copy / name, data)
    assert unnoticed == []


@pytest.mark.parametrize("codec", ["none", "lz4"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_deleted_observation_is_an_error_that_names_it(tmp_path, backend, codec):
    store = make_store(tmp_path / "store", [0, 1], backend, codec)
    name = f"segments/{store.segments[1].id}/{'obs-0.arrow' if backend == 'arrow' else 'obs-0/c/0/0/0'}"
    (store.path / name).unlink()
    found = TraceStore.open(store.path)
    for rows in ([40], [0, 79]):
        with pytest.raises(FormatError, match=f"{name} is missing; restore the file from a copy"):
            found.take(rows)
    assert [problem.path for problem in verify(found)] == [name]
    assert len(found.take([0])) == 1


def test_verify_reports_all_damage(two_segments):
    files = [
        file
        for file in sorted(two_segments.rglob("*"))
        if file.is_file() and file.parent.name != "manifests" and file.name not in ("TRACESTORE.json", "seal.json")
    ]
    for file in files:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        put(file, bytes(data))
    problems = verify(TraceStore.open(two_segments), deep=True, log_probs=False)
    assert {problem.path for problem in problems} == {str(file.relative_to(two_segments)) for file in files}


def test_shallow_verify_sees_sizes_and_deep_verify_sees_bits(two_segments):
    copy, store = two_segments, TraceStore.open(two_segments)
    file = copy / "segments" / store.segments[0].id / VALUES[store.backend]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert verify(TraceStore.open(copy)) == []
    assert [problem.path for problem in verify(TraceStore.open(copy), deep=True, log_probs=False)] == [
        str(file.relative_to(copy))
    ]
    file.write_bytes(data[:-1])
    assert [problem.path for problem in verify(TraceStore.open(copy))] == [str(file.relative_to(copy))]


def test_address_that_the_dictionary_lacks_is_found(copy):
    store = TraceStore.open(copy)
    store.addresses.ids[:] = 0
    assert "not in the dictionary" in verify(store)[0].message


class TestRecover:
    @pytest.fixture(params=BACKENDS)
    def orphan(self, request, tmp_path):
        """A store whose writer died between sealing and its receipt."""
        store = make_store(tmp_path / "store", [0], request.param)
        with store.writer() as writer:
            writer.append(make_chunk(1), work=[1], state={"chunk": 1})
        max((store.path / "receipts").iterdir()).unlink()
        (store.path / "manifests" / "v00000000000000000002.json").unlink()
        (store.path / "manifests" / "LATEST").unlink()
        return TraceStore.open(tmp_path / "store")

    def test_sealed_segment_is_adopted_with_its_work(self, orphan):
        assert (len(orphan), orphan.completed_work()) == (40, {0})
        assert len(recover(orphan)) == 1
        assert orphan.completed_work() == {0, 1}
        assert orphan.work_states()[-1] == ([1], {"chunk": 1})
        assert_same(by_stream(orphan), expected_batch([0, 1]))
        assert recover(orphan) == []

    def test_work_that_was_done_again_is_not_adopted(self, orphan):
        with orphan.writer() as writer:
            writer.append(make_chunk(1), work=[1])
        assert recover(orphan) == []
        assert_same(by_stream(orphan), expected_batch([0, 1]))

    def test_damaged_segment_is_not_adopted(self, orphan):
        live = {entry.id for entry in orphan.segments}
        folder = next(path for path in (orphan.path / "segments").iterdir() if path.name not in live)
        (folder / VALUES[orphan.backend]).unlink()
        assert recover(orphan) == []
        assert len(orphan) == 40

    def test_planned_segment_is_left_alone(self, orphan):
        orphan.write_segment("planned", [make_chunk(5)])
        assert len(recover(orphan)) == 1
        assert "planned" not in [entry.id for entry in orphan.segments]

    def test_dead_staging_is_not_part_of_the_store(self, orphan):
        folder = orphan.path / "staging" / "dead-writer" / "00000000"
        folder.mkdir(parents=True)
        (folder / "values.arrow").write_bytes(b"half")
        assert verify(TraceStore.open(orphan.path), deep=True, log_probs=False) == []
        assert len(TraceStore.open(orphan.path)) == 40


def test_full_disk_leaves_the_store_and_the_buffer(tmp_path, monkeypatch):
    store = make_store(tmp_path / "store", [0])
    writer = store.writer()
    writer.append(make_chunk(1), work=[1])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(ipc.BlockWriter, "write", full)
        with pytest.raises(InsufficientSpaceError, match="No space is left"):
            writer.seal()
    assert len(TraceStore.open_or_create(store.path, JOB)) == 40
    writer.close()
    assert_same(by_stream(store), expected_batch([0, 1]))


def test_unreadable_document_of_another_kind(two_segments):
    copy = two_segments
    shutil.copy(next(copy.glob("receipts/*.json")), copy / "manifests" / "v00000000000000000002.json")
    with pytest.raises(FormatError, match="'tracestore-manifest' document"):
        TraceStore.open(copy)
