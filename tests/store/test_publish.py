import errno
import os
import threading
from pathlib import Path

import pytest

from tracestore.errors import InsufficientSpaceError, StoreError
from tracestore.store.publish import create_file, rename_directory, replace_file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_first_wins_and_nothing_else_is_left(tmp_path):
    assert create_file(tmp_path / "name", b"first")
    assert not create_file(tmp_path / "name", b"second")
    assert (tmp_path / "name").read_bytes() == b"first"
    assert names(tmp_path) == ["name"]


def test_of_many_at_once_exactly_one_wins(tmp_path):
    barrier = threading.Barrier(8)
    won = []

    def race(number):
        barrier.wait()
        if create_file(tmp_path / "name", str(number).encode() * 1000):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / "name").read_bytes() == str(won[0]).encode() * 1000


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_file_system_without_links_is_refused(tmp_path, monkeypatch, code):
    def no_link(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(StoreError, match="hard links"):
        create_file(tmp_path / "name", b"data")
    assert names(tmp_path) == []


def test_full_disk_says_so(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InsufficientSpaceError, match="No space is left"):
        create_file(tmp_path / "name", b"data")
    assert names(tmp_path) == []


def test_replace(tmp_path):
    for data in (b"one", b"two"):
        replace_file(tmp_path / "hint", data)
        assert (tmp_path / "hint").read_bytes() == data
    assert names(tmp_path) == ["hint"]


def test_directory_is_not_moved_over_another(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert not rename_directory(tmp_path / "a", tmp_path / "b")
    assert Path(tmp_path / "b" / "file").read_text() == "b"
    assert rename_directory(tmp_path / "a", tmp_path / "c")
    assert names(tmp_path) == ["b", "c"]
