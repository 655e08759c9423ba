import errno
import mmap
import os

import numpy as np
import pytest

from tests.suites.storage_suite import SharedStorageSuite
from tracestore.errors import InsufficientSpaceError, InvalidInputError, StoreError
from tracestore.storage import LocalStorage, local, open_storage

PAGE = mmap.PAGESIZE


class TestLocalStorage(SharedStorageSuite):
    @pytest.fixture
    def storage(self, tmp_path):
        return LocalStorage(tmp_path / "root")

    def put_raw(self, storage, name, data):
        path = storage.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def get_raw(self, storage, name):
        path = storage.root / name
        return path.read_bytes() if path.is_file() else None


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path)


def refuse_links(monkeypatch, number):
    def link(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_file_system_without_hard_links_is_refused(storage, monkeypatch, number):
    refuse_links(monkeypatch, number)
    with pytest.raises(StoreError, match=r"does not let tracestore make hard links .* Use a directory on a POSIX"):
        storage.require_publication()
    assert list(storage.root.iterdir()) == []


def test_creation_without_hard_links_is_refused(storage, monkeypatch):
    refuse_links(monkeypatch, errno.EPERM)
    with pytest.raises(StoreError, match="hard links"):
        storage.create("name", b"x")
    assert list(storage.root.iterdir()) == []


def test_full_file_system_is_said_to_be_full(storage, monkeypatch):
    refuse_links(monkeypatch, errno.ENOSPC)
    with pytest.raises(InsufficientSpaceError, match="No space is left"):
        storage.create("name", b"x")


def test_probe_makes_the_root(tmp_path):
    LocalStorage(tmp_path / "deep" / "root").require_publication()
    assert (tmp_path / "deep" / "root").is_dir()


def test_nobody_sees_a_file_that_is_being_written(storage, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(storage.files("folder")))
    storage.create("folder/name", b"x")
    assert seen[0] == []


def test_staging_is_on_the_same_file_system(storage):
    assert storage.staging("one") == storage.root / "staging" / "one"


@pytest.mark.parametrize("location", ["ftp://host/traces", "gs://bucket/traces", "az://box/traces", "S3://bucket/x"])
def test_other_schemes_are_refused(location):
    with pytest.raises(InvalidInputError, match=r"memory:// and s3:// object stores; .* is none of them"):
        open_storage(location)


def test_options_are_refused_for_paths(tmp_path):
    with pytest.raises(InvalidInputError, match="`storage_options` are for object stores"):
        open_storage(tmp_path, {"region": "x"})


def test_file_url_is_a_path(tmp_path):
    assert open_storage(f"file://{tmp_path}") == LocalStorage(tmp_path)


@pytest.mark.parametrize(
    ("starts", "stops", "advised"),
    [
        ([5], [6], [(0, 6)]),
        ([PAGE + 1, 2 * PAGE], [PAGE + 2, 2 * PAGE + 9], [(PAGE, 2), (2 * PAGE, 9)]),
        ([0, 100, PAGE + 50], [50, PAGE, PAGE + 60], [(0, PAGE + 60)]),
        ([PAGE], [70 * PAGE], [(PAGE, 32 * PAGE), (33 * PAGE, 32 * PAGE), (65 * PAGE, 5 * PAGE)]),
        ([], [], []),
    ],
    ids=["within-a-page", "in-two-pages", "meeting", "large", "none"],
)
@pytest.mark.skipif(PAGE != 4096, reason="the advice_given are for pages of 4 KiB")
def test_ranges_that_are_expected_are_advised_by_page(storage, monkeypatch, starts, stops, advised):
    storage.create("columns", bytes(80 * PAGE))
    file = storage.open("columns")
    given = []
    monkeypatch.setattr(local, "_madvise", lambda *arguments: given.append(arguments))
    file.expect(np.array(starts, np.int64), np.array(stops, np.int64))
    address = file.data.ctypes.data
    assert given == [(address + start, size, mmap.MADV_WILLNEED) for start, size in advised]


def test_system_takes_the_advice(storage, monkeypatch):
    storage.create("columns", bytes(10 * PAGE))
    file = storage.open("columns")
    given, madvise = [], local._madvise
    if madvise is None:
        pytest.skip("the C library has no madvise")
    monkeypatch.setattr(local, "_madvise", lambda *arguments: given.append(madvise(*arguments)))
    file.expect(np.array([3 * PAGE + 7]), np.array([9 * PAGE]))
    assert given == [0]


def test_expectation_without_madvise_does_nothing(storage, monkeypatch):
    monkeypatch.setattr(local, "_madvise", None)
    storage.create("columns", bytes(10))
    storage.open("columns").expect(np.array([3]), np.array([9]))
