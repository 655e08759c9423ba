"""A disk that is full, page by page less so: every error says it, the store is as it was, and the work goes on."""

import contextlib
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.store.stores import JOB, by_stream, expected_batch, make_chunk
from tests.suites.batches import assert_same
from tracestore.errors import InsufficientSpaceError
from tracestore.sorting import sort_store
from tracestore.storage import LocalStorage
from tracestore.store import TraceStore, compact, gc, verify

BACKENDS = ["arrow", "zarr"]
PAGE = 4096
SENTENCE = r"No space is left on the file system of .*; what was sealed before is safe\. Make room and repeat the call"


@dataclass
class SmallDisk:
    """A file system of two megabytes."""

    path: Path

    def leave(self, num_pages):
        """Fill it up but for some pages."""
        filler = self.path / "filler"
        filler.unlink(missing_ok=True)
        with filler.open("wb", buffering=0) as file:
            file.write(bytes(shutil.disk_usage(self.path).free - num_pages * PAGE))

    def clear(self):
        (self.path / "filler").unlink()


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        reason = "there is no mount command" if done is None else done.stderr.strip()
        pytest.skip(f"a small file system cannot be mounted here: {reason}")
    yield SmallDisk(place)
    # lazily: segments stay mapped as long as a store object lives
    subprocess.run(["umount", "-l", str(place)], check=True)


def make_store(path, backend, numbers):
    store = TraceStore.create(path, job=JOB, backend=backend, codec="lz4")
    with store.writer() as writer:
        for number in numbers:
            writer.append(make_chunk(number), work=[number], state=number)
            writer.seal()
    return store


def require_unchanged(path, numbers):
    store = TraceStore.open(path)
    assert len(store) == 40 * len(numbers)
    assert_same(by_stream(store), expected_batch(numbers))
    assert verify(store, deep=True, log_probs=False) == []


def files_of(path):
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def with_growing_room(disk, action, look):
    """Repeat an action with one page more each time until it succeeds; count what `look` says after each failure.

    When it says something new, the disk is full again, so that each stage meets it.
    """
    seen: Counter[str] = Counter()
    num_pages = 0
    while True:
        disk.leave(num_pages)
        with contextlib.suppress(InsufficientSpaceError):
            with explaining():
                action()
            break
        stage = look()
        num_pages = num_pages + 1 if stage in seen else 0
        seen[stage] += 1
    disk.clear()
    return seen


@contextlib.contextmanager
def explaining():
    """Whatever is raised must be the error of a full disk, with its sentence."""
    try:
        yield
    except Exception as error:
        assert isinstance(error, InsufficientSpaceError), repr(error)  # noqa: PT017
        assert re.search(SENTENCE, str(error))  # noqa: PT017
        raise


@pytest.mark.parametrize("backend", BACKENDS)
def test_writer_goes_on_when_there_is_room(disk, backend):
    path = disk.path / "store"
    store = make_store(path, backend, [0])
    before = files_of(path)
    writer = store.writer()
    writer.append(make_chunk(1), work=[1], state=1)

    def look():
        new = files_of(path) - before
        assert not any(name.startswith("staging") or name.endswith(".tmp") for name in new)
        kinds = {name.partition("/")[0] for name in new}
        # the snapshot is there as soon as its manifest is; the hint comes later
        require_unchanged(path, [0, 1] if "manifests" in kinds else [0])
        stages = {"manifests": "hinting", "receipts": "folding", "segments": "publishing"}
        return next((stage for kind, stage in stages.items() if kind in kinds), "sealing")

    seen = with_growing_room(disk, writer.close, look)
    assert list(seen) == ["sealing", "publishing", "folding", "hinting"]
    require_unchanged(path, [0, 1])
    assert TraceStore.open(path).work_states() == [([0], 0), ([1], 1)]
    # the traces were written once, however often their publication was tried
    assert len(list((path / "segments").iterdir())) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_writer_that_is_filled_up_by_appending_keeps_its_buffer(disk, backend):
    path = disk.path / "store"
    writer = make_store(path, backend, [0]).writer(segment_bytes=1)
    disk.leave(1)
    with pytest.raises(InsufficientSpaceError, match=SENTENCE):
        writer.append(make_chunk(1), work=[1])
    require_unchanged(path, [0])
    assert writer.buffered_bytes > 0
    disk.clear()
    writer.append(make_chunk(2), work=[2])
    writer.close()
    require_unchanged(path, [0, 1, 2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_fold_is_repeated_when_there_is_room(disk, backend):
    path = disk.path / "store"
    store = make_store(path, backend, [0])
    writer = TraceStore.open(path).writer()
    writer.append(make_chunk(1), work=[1])
    writer.seal()

    def look():
        is_published = (path / "manifests" / "v00000000000000000002.json").exists()
        require_unchanged(path, [0, 1] if is_published else [0])
        assert TraceStore.open(path).completed_work() == {0, 1}
        return "hinting" if is_published else "folding"

    assert list(with_growing_room(disk, store.fold, look)) == ["folding", "hinting"]
    assert (path / "manifests" / "LATEST").read_text() == "1\n"
    require_unchanged(path, [0, 1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_compaction_is_repeated_when_there_is_room(disk, backend):
    path = disk.path / "store"
    store = make_store(path, backend, range(3))
    segments = set((path / "segments").iterdir())

    def look():
        require_unchanged(path, range(3))
        assert list((path / "staging").iterdir()) == []
        return "publishing" if set((path / "segments").iterdir()) - segments else "sealing"

    seen = with_growing_room(disk, lambda: compact(store), look)
    assert set(seen) == {"sealing", "publishing"}
    require_unchanged(path, range(3))
    assert len(TraceStore.open(path).segments) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_sort_is_repeated_when_there_is_room(disk, tmp_path, monkeypatch, backend):
    source = make_store(tmp_path / "source", backend, range(2))
    path = disk.path / "sorted"
    # the look at the free space before the sort would spare it most of these errors
    monkeypatch.setattr(LocalStorage, "free_bytes", lambda storage: None)

    def look():
        if not (path / "TRACESTORE.json").exists():
            return "making"
        assert len(TraceStore.open(path)) == 0
        assert verify(TraceStore.open(path), deep=True, log_probs=False) == []
        return "writing"

    seen = with_growing_room(disk, lambda: sort_store(source, path), look)
    assert set(seen) == {"making", "writing"}
    require_unchanged(path, range(2))
    require_unchanged(source.path, range(2))


def test_sort_looks_at_the_room_first(disk, tmp_path):
    source = make_store(tmp_path / "source", "arrow", range(2))
    disk.leave(4)
    with pytest.raises(InsufficientSpaceError, match="free"):
        sort_store(source, disk.path / "sorted")
    assert files_of(disk.path) == {"filler", "sorted/TRACESTORE.json"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_store_is_made_when_there_is_room(disk, backend):
    path = disk.path / "store"

    def look():
        assert files_of(disk.path) == {"filler"}
        return "making"

    assert with_growing_room(disk, lambda: TraceStore.create(path, job=JOB, backend=backend), look)["making"] > 0
    assert len(TraceStore.open(path)) == 0


def test_collection_needs_one_free_page(disk):
    path = disk.path / "store"
    store = make_store(path, "arrow", range(3))
    compact(store)
    disk.leave(1)
    assert len(gc(store, older_than=0).segments) == 3
    assert len(list((path / "segments").iterdir())) == 1
    require_unchanged(path, range(3))
