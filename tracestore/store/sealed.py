"""Segments that are in place on disk, whether or not a snapshot names them."""

from pathlib import Path

from tracestore.formats.base import SegmentEntry, open_format
from tracestore.store.fold import SEGMENTS

__all__ = ["find_segment"]


def find_segment(root: Path, backend: str, segment_id: str) -> SegmentEntry | None:
    """Entry of a segment by id; None when it is not there."""
    directory = root / SEGMENTS / segment_id
    if not directory.is_dir():
        return None
    entry, _ = open_format(backend).read_seal(directory)
    return entry
