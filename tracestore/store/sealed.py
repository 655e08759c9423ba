"""Segments that are in place on disk, whether or not a snapshot names them."""

from tracestore.formats.base import SegmentEntry, open_format
from tracestore.formats.segment_files import SEAL
from tracestore.storage import Storage
from tracestore.store.fold import SEGMENTS

__all__ = ["find_segment"]


def find_segment(storage: Storage, backend: str, segment_id: str) -> SegmentEntry | None:
    """Entry of a segment by id; None when it is not there."""
    folder = f"{SEGMENTS}/{segment_id}"
    if not storage.exists(f"{folder}/{SEAL}"):
        return None
    return open_format(backend).read_seal(storage.below(folder), folder)[0]
