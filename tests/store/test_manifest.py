from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.store.stores import JOB, make_store
from tracestore.errors import ChecksumError, FormatError, StoreNotFoundError
from tracestore.formats import SegmentEntry
from tracestore.storage import LocalStorage
from tracestore.store.manifest import (
    Commit,
    DictionaryPiece,
    Manifest,
    latest_version,
    manifest_file,
    publish_manifest,
    read_manifest,
)
from tracestore.store.receipt import expand_ranges, to_ranges

ENTRY = SegmentEntry("s", "arrow/1", 3, 0, 100, "aa", "bb")


@pytest.fixture
def root(tmp_path):
    return LocalStorage(tmp_path)


def test_manifest_survives_the_disk(root):
    commit = Commit("w-0", "cc", JOB.hash, ((0, 3),), has_state=True)
    pieces = (DictionaryPiece("dd", 7),)
    manifest = Manifest(1, (ENTRY,), (commit,), {JOB.hash: JOB}, pieces)
    published = publish_manifest(root, manifest)
    found = read_manifest(root, 1)
    assert found == published
    assert (found.segments, found.commits, found.jobs, found.pieces) == ((ENTRY,), (commit,), {JOB.hash: JOB}, pieces)
    assert found.num_traces == 3


def test_version_zero_is_empty_and_has_no_file(root):  # 2.11
    assert read_manifest(root, 0).num_traces == 0
    assert latest_version(root) == 0


def test_a_number_is_never_used_twice(root):  # 2.11
    assert publish_manifest(root, Manifest(1, (ENTRY,)))
    assert publish_manifest(root, Manifest(1)) is None
    assert read_manifest(root, 1).segments == (ENTRY,)


def test_losing_to_the_same_content_is_success(root):
    assert publish_manifest(root, Manifest(1, (ENTRY,)))
    assert publish_manifest(root, Manifest(1, (ENTRY,)))


@pytest.mark.parametrize("hint", [None, b"", b"0", b"1\n", b"3", b"-1", b"\xff", b"1" * 5000])
@pytest.mark.parametrize("num_versions", [3, 4, 11])
def test_newest_is_found_whatever_the_hint_says(root, hint, num_versions):  # 2.6, 2.18
    for version in range(1, num_versions + 1):
        root.create(manifest_file(version), b"")
    if hint is not None:
        (root.root / "manifests" / "LATEST").write_bytes(hint)
    assert latest_version(root) == num_versions


def test_missing_newest_manifest_is_an_error(root):  # 2.6
    publish_manifest(root, Manifest(1, (ENTRY,)))
    publish_manifest(root, Manifest(2))
    (root.root / manifest_file(2)).unlink()
    with pytest.raises(FormatError, match=r"manifests/v0+2\.json is missing"):
        latest_version(root)


def test_missing_version_names_the_newest(tmp_path):
    make_store(tmp_path / "store")
    with pytest.raises(StoreNotFoundError, match="no version 9; the newest is 1"):
        read_manifest(LocalStorage(tmp_path / "store"), 9)


def test_altered_manifest_is_refused(root):
    publish_manifest(root, Manifest(1, (ENTRY,)))
    path = root.root / manifest_file(1)
    path.write_bytes(path.read_bytes().replace(b'"num_traces": 3', b'"num_traces": 4', 1))
    with pytest.raises(ChecksumError, match=r"manifests/v0+1\.json"):
        read_manifest(root, 1)


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_the_same_units(units):
    ranges = to_ranges(units)
    assert expand_ranges(ranges) == sorted(units)
    assert all(second[0] > first[1] + 1 for first, second in pairwise(ranges))
