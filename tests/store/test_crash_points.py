"""Death at each file operation of a job: what was sealed stays, nothing half-written shows, the job can go on."""

import builtins
import contextlib
import io
import itertools
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.store.stores import JOB, by_stream, make_chunk
from tests.suites.batches import assert_same
from tracestore.sorting import sort_store
from tracestore.store import TraceStore, compact, gc, recover, verify
from tracestore.traces import TraceBatch

BACKENDS = ["arrow", "zarr"]
MOMENTS = ["before", "after", "power"]
UNITS = range(3)
CHUNK = 6
PUBLISHING = {"link", "rename", "replace"}
NUM_OTHERS = 40
"""Points of other kinds in the quick test, besides all those that publish something."""
NUM_PARTS = 6
"""Tests among which all points are divided, every sixth to the same one."""


class Died(BaseException):
    """The process is dead: nothing catches this, and no operation works any more."""


class Kernel:
    """Counts file operations below a directory, and dies at one of them.

    `moment` says how: ``before`` the operation (of a write half is done), ``after`` it, or by a loss of ``power``
    before it, which also undoes whatever was not flushed: contents of files, and names in directories.
    """

    def __init__(self, root, last=None, moment="before"):
        self.root, self.last, self.moment = str(root), last, moment
        self.kinds = []
        self.is_dead = self.is_losing = False
        self._contents = {}
        self._names = []
        self._folders = {}
        self._files = []

    def step(self, kind, operate, *, torn=None):
        if self.is_dead:
            raise Died
        if self.is_losing:
            return operate()
        self.kinds.append(kind)
        if len(self.kinds) != self.last:
            return operate()
        if self.moment == "after":
            # some have no effect: a folder that is there, a name that is taken
            with contextlib.suppress(OSError):
                operate()
        elif self.moment == "before" and torn is not None:
            torn()
        elif self.moment == "power":
            self.lose_power()
        self.is_dead = True
        raise Died

    # ------------------------------------------------------------------------------- what is not on the disk yet

    def lose_power(self):
        self.is_losing = True
        for handle in self._contents.values():
            os.ftruncate(handle, 0)
        for _, undo in reversed(self._names.copy()):
            undo()
        self.forget()
        self.is_losing = False

    def forget(self):
        for handle in [*self._contents.values(), *self._folders.values()]:
            os.close(handle)
        for file in self._files:
            file.close()
        self._contents, self._names, self._folders, self._files = {}, [], {}, []

    def note_file(self, file):
        self._files.append(file)

    def note_content(self, handle):
        if inode(handle) not in self._contents:
            self._contents[inode(handle)] = os.dup(handle)

    def note_name(self, path, undo):
        """Remember how to take back an entry of a directory, which may be moved or gone by then."""
        folder = os.open(Path(path).parent, os.O_RDONLY)
        # held open, so that its inode is not given to another one
        kept = self._folders.setdefault(inode(folder), folder)
        if kept != folder:
            os.close(folder)
        self._names.append((inode(kept), lambda: undo(Path(path).name, kept)))

    def flush(self, handle):
        found = inode(handle)
        if found in self._contents:
            os.close(self._contents.pop(found))
        self._names = [one for one in self._names if one[0] != found]


class WatchedFile(io.FileIO):
    """An unbuffered file, each write of which is an operation."""

    kernel: Kernel

    def write(self, data):
        if self.kernel.is_dead:
            # from a destructor, where an error would only be printed; nothing is written
            return memoryview(data).nbytes
        self.kernel.note_content(self.fileno())
        half = memoryview(data).cast("B")[: memoryview(data).nbytes // 2]
        write = super().write
        return self.kernel.step("write", lambda: write(data), torn=lambda: write(half))


def inode(handle):
    found = os.fstat(handle)
    return found.st_dev, found.st_ino


def remove_entry(name, folder):
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(f"/proc/self/fd/{folder}/{name}")


@pytest.fixture
def dying_after(monkeypatch):
    """A function that makes this process die at its n-th file operation below a directory."""

    def install(patch, kernel):
        originals = {name: getattr(os, name) for name in ("link", "rename", "replace", "mkdir", "unlink", "rmdir")}

        def watched(name):
            original = originals[name]

            def operate(*arguments, **keywords):
                def go():
                    before = read_if_there(arguments[1]) if name == "replace" else None
                    answer = original(*arguments, **keywords)
                    note(name, arguments, before)
                    return answer

                return kernel.step(name, go)

            return operate

        def note(name, arguments, before):
            if name in ("link", "mkdir"):
                kernel.note_name(arguments[-1 if name == "link" else 0], remove_entry)
            elif name == "rename":
                kernel.note_name(arguments[1], lambda *_: move_back(arguments[1], arguments[0]))
            elif name == "replace":
                kernel.note_name(arguments[1], lambda *_: put_back(arguments[1], before))

        def move_back(path, former):
            if path.exists():
                former.parent.mkdir(parents=True, exist_ok=True)
                path.rename(former)

        def put_back(path, data):
            path.unlink()
            if data is not None:
                path.write_bytes(data)

        def open_watched(path):
            is_new = not Path(path).exists()

            def go():
                file = WatchedFile(path, "wb")
                file.kernel = kernel
                kernel.note_file(file)
                if is_new:
                    kernel.note_name(path, remove_entry)
                return file

            return kernel.step("open", go)

        def is_written(path, mode):
            return isinstance(path, str | os.PathLike) and str(path).startswith(kernel.root) and set(mode) & set("wax+")

        def open_any(path, mode="r", *arguments, original=open, **keywords):
            if is_written(path, mode):
                return open_watched(path)
            return original(path, mode, *arguments, **keywords)

        def open_arrow(path, mode="rb", original=pa.OSFile):
            return open_watched(path) if is_written(path, mode) else original(path, mode)

        for name in originals:
            patch.setattr(os, name, watched(name))
        patch.setattr(os, "fsync", lambda handle: kernel.step("fsync", lambda: kernel.flush(handle)))
        patch.setattr(io, "open", open_any)
        patch.setattr(builtins, "open", open_any)
        patch.setattr(pa, "OSFile", open_arrow)

    def run(kernel, function):
        """Whether the function came to its end."""
        with monkeypatch.context() as patch:
            install(patch, kernel)
            try:
                function()
            except Died:
                return False
        return True

    return run


def read_if_there(path):
    return path.read_bytes() if path.exists() else None


def run_job(path, backend, sealed):
    """Write three chunks, compact, collect; `sealed` gets the units whose sealing returned."""
    store = TraceStore.open_or_create(path, JOB, backend=backend, codec="lz4")
    done = store.completed_work()
    writer = store.writer()
    for unit in UNITS:
        if unit not in done:
            writer.append(make_chunk(unit, CHUNK), work=[unit], state={"unit": unit})
            writer.seal()
            sealed.append(unit)
    writer.close()
    compact(store)
    gc(store, older_than=0)


def run_tasks_job(path, backend, sealed):
    """Commit three chunks as tasks do, sort in place, collect."""
    store = TraceStore.open_or_create(path, JOB, backend=backend, codec="lz4")
    done = store.completed_work()
    for unit in UNITS:
        if unit not in done:
            store.commit_segment(f"piece-{unit}", [make_chunk(unit, CHUNK)], work=[unit], state={"unit": unit})
            sealed.append(unit)
    store.fold()
    sort_store(store)
    gc(store, older_than=0)


JOBS = [pytest.param(run_job, id="writer"), pytest.param(run_tasks_job, id="tasks")]


def units_on_disk(path):
    """Units of work that receipts and seals in place name, read without the library."""
    documents = [json.loads(file.read_bytes()) for file in path.glob("receipts/[!.]*.json")]
    seals = [json.loads(file.read_bytes()) for file in path.glob("segments/*/seal.json")]
    origins = documents + [seal["origin"] for seal in seals if "origin" in seal]
    return {
        unit
        for origin in origins
        for commit in origin["commits"]
        for first, last in commit["work"]
        for unit in range(first, last + 1)
    }


def require_sound(store, units):
    assert store.completed_work() == set(units)
    assert len(store) == CHUNK * len(units)
    if units:
        expected = TraceBatch.concatenate([make_chunk(unit, CHUNK) for unit in sorted(units)])
        assert_same(by_stream(store), expected)
    assert verify(store, deep=True, log_probs=False) == []


def require_recovery(path, backend, sealed, job=run_job):
    """Open what a death left, and finish the job."""
    found = units_on_disk(path)
    assert set(sealed) <= found
    again = TraceStore.open_or_create(path, JOB, backend=backend, codec="lz4")
    recover(again)
    require_sound(again, found)
    job(path, backend, [])
    final = TraceStore.open(path)
    require_sound(final, UNITS)
    assert [part for part, _ in final.work_states()] == [[unit] for unit in UNITS]
    assert len(final.segments) == 1
    # one live segment and nothing else: what the death left in staging is collected, too
    assert {one.name for one in (path / "segments").iterdir()} == {final.segments[0].id}
    assert list((path / "staging").iterdir()) == []


def count_operations(dying_after, path, backend, job=run_job):
    kernel = Kernel(path)
    assert dying_after(kernel, lambda: job(path, backend, []))
    kernel.forget()
    shutil.rmtree(path)
    return kernel.kinds


def die_at(dying_after, path, backend, last, moment, job=run_job):
    """Whether the job died."""
    kernel = Kernel(path, last, moment)
    sealed: list[int] = []
    finished = dying_after(kernel, lambda: job(path, backend, sealed))
    kernel.forget()
    require_recovery(path, backend, sealed, job)
    shutil.rmtree(path)
    return not finished


@pytest.mark.parametrize("backend", BACKENDS)
def test_operations_of_the_job_are_seen(dying_after, tmp_path, backend):
    path = tmp_path / "store"
    kernel = Kernel(path)
    assert dying_after(kernel, lambda: run_job(path, backend, []))
    kernel.forget()
    kinds = Counter(kernel.kinds)
    patterns = ("TRACESTORE.json", "receipts/*", "dict/*", "manifests/v*")
    published = [file for pattern in patterns for file in path.glob(pattern)]
    assert kinds["link"] >= len(published) >= 2 * len(UNITS)
    # the segments of the units and the joined one are placed; gc hides the former before it removes them
    assert kinds["rename"] == 2 * len(UNITS) + 1
    # the two hints
    assert kinds["replace"] >= 2
    assert kinds["rmdir"] > len(UNITS)
    assert min(kinds[kind] for kind in ("open", "write", "fsync", "mkdir", "unlink")) > 10


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_death_at_a_sample_of_operations_loses_nothing_sealed(dying_after, tmp_path, backend, job):
    kinds = count_operations(dying_after, tmp_path / "count", backend, job)
    rng = np.random.default_rng(1)
    publishing = [place for place, kind in enumerate(kinds, 1) if kind in PUBLISHING]
    others = [place for place, kind in enumerate(kinds, 1) if kind not in PUBLISHING]
    chosen = rng.choice(others, NUM_OTHERS, replace=False).tolist()
    # death after an operation is death before the next one, but for writes
    points = [*itertools.product(publishing, ("before", "power")), *zip(chosen, itertools.cycle(MOMENTS), strict=False)]
    for last, moment in points:
        assert die_at(dying_after, tmp_path / "store", backend, last, moment, job)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(NUM_PARTS))
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_death_at_every_operation_loses_nothing_sealed(dying_after, tmp_path, backend, moment, part):
    for last in itertools.count(1 + part, NUM_PARTS):
        if not die_at(dying_after, tmp_path / "store", backend, last, moment):
            break
    assert last > 1_000


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_of_power_after_the_job_loses_nothing(dying_after, tmp_path, backend):
    path = tmp_path / "store"
    sealed: list[int] = []
    kernel = Kernel(path)
    assert dying_after(kernel, lambda: run_job(path, backend, sealed))
    kernel.lose_power()
    require_recovery(path, backend, sealed)
