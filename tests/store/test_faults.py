"""Damage: whatever byte of a store is lost or altered, reading it is an error that names the file (format 1.4)."""

import errno
import os
import shutil

import pytest

from tests.store.stores import JOB, by_stream, expected_batch, make_chunk, make_store
from tests.suites.batches import assert_same
from tracestore.errors import FormatError, InsufficientSpaceError, TracestoreError
from tracestore.formats import ipc
from tracestore.store import TraceStore, recover, verify

KINDS = ["identity", "manifest", "receipt", "dictionary", "seal", "runs", "observation"]
PATTERNS = {
    "identity": "TRACESTORE.json",
    "manifest": "manifests/v*1.json",
    "receipt": "receipts/*.json",
    "dictionary": "dict/*.arrow",
    "seal": "segments/*/seal.json",
    "runs": "segments/*/runs.arrow",
    "observation": "segments/*/obs-0.arrow",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "sound"
    make_store(path, [0, 1])
    return path


@pytest.fixture
def copy(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "store")
    return tmp_path / "store"


def read_everything(path):
    store = TraceStore.open(path)
    store.take(range(len(store)))
    store.work_states()
    list(store.addresses)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_names_the_file(copy, kind, damage):
    file = next(copy.glob(PATTERNS[kind]))
    data = file.read_bytes()
    if damage == "delete":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(data[: len(data) // 2])
    else:
        place = len(data) // 2
        file.write_bytes(data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :])
    with pytest.raises(TracestoreError, match=file.name.replace(".", r"\.")):
        read_everything(copy)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("identity", "manifest")])
def test_verify_reports_all_damage(copy, kind):
    files = sorted(copy.glob(PATTERNS[kind]))
    store = TraceStore.open(copy)
    assert verify(store, deep=True, log_probs=False) == []
    for file in files:
        data = bytearray(file.read_bytes())
        data[-40] ^= 1
        file.write_bytes(data)
    problems = verify(TraceStore.open(copy), deep=True, log_probs=False)
    assert len(problems) >= len(files)
    for file in files:
        assert any(file.name in problem.message for problem in problems)


def test_shallow_verify_sees_sizes_and_deep_verify_sees_bits(copy):
    file = next(copy.glob("segments/*/values.arrow"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert verify(TraceStore.open(copy)) == []
    assert [problem.path for problem in verify(TraceStore.open(copy), deep=True, log_probs=False)] == [str(file.relative_to(copy))]
    file.write_bytes(data[:-1])
    assert [problem.path for problem in verify(TraceStore.open(copy))] == [str(file.relative_to(copy))]


def test_address_that_the_dictionary_lacks_is_found(copy):
    store = TraceStore.open(copy)
    store.addresses.ids[:] = 0
    assert "not in the dictionary" in verify(store)[0].message


class TestRecover:
    @pytest.fixture
    def orphan(self, tmp_path):
        """A store whose writer died between sealing and its receipt."""
        store = make_store(tmp_path / "store", [0])
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
        (folder / "values.arrow").unlink()
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


def test_crash_at_every_file_operation_loses_nothing_sealed(tmp_path, monkeypatch):
    """Die at the n-th rename, link or replace; then continue the job."""

    class Died(BaseException):
        pass

    num_crashes = 0
    for last in range(100):
        path = tmp_path / f"store-{last}"
        left = [last]

        def dying(function, left=left):
            def operate(*arguments, **keywords):
                left[0] -= 1
                if left[0] < 0:
                    raise Died
                return function(*arguments, **keywords)

            return operate

        store = TraceStore.create(path, job=JOB)
        finished = False
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", dying(os.link))
            for name in ("rename", "replace"):
                patch.setattr(type(path), name, dying(getattr(type(path), name)))
            try:
                run_job(store)
                finished = True
            except Died:
                pass
        again = TraceStore.open_or_create(path, JOB)
        recover(again)
        sealed = again.completed_work()
        assert len(again) == 40 * len(sealed)
        run_job(again)
        assert_same(by_stream(again), expected_batch(range(3)))
        assert verify(again, deep=True, log_probs=False) == []
        if finished:
            break
        num_crashes += 1
    # three segments and receipts, a dictionary, a manifest, a hint
    assert num_crashes == 9


def run_job(store):
    done = store.completed_work()
    writer = store.writer()
    for number in range(3):
        if number not in done:
            writer.append(make_chunk(number), work=[number])
            writer.seal()
    writer.close()


def test_unreadable_document_of_another_kind(copy):
    shutil.copy(next(copy.glob("receipts/*.json")), copy / "manifests" / "v00000000000000000002.json")
    with pytest.raises(FormatError, match="'tracestore-manifest' document"):
        TraceStore.open(copy)
