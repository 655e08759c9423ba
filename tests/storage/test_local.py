import errno
import os

import pytest

from tests.suites.storage_suite import SharedStorageSuite
from tracestore.errors import InsufficientSpaceError, InvalidInputError, StoreError
from tracestore.storage import LocalStorage, open_storage


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
