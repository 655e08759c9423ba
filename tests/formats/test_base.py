import pytest

from tracestore.errors import FormatError, InvalidInputError
from tracestore.formats import ObservationInfo, SegmentEntry, open_format


def test_entry_survives_json():
    info = ObservationInfo("dense", "<f4", (20, 35, 35), "ab")
    entry = SegmentEntry("id", "arrow/1", 3, 1, 100, "aa", "bb", (info,))
    assert SegmentEntry.from_json({**entry.to_json(), "later": 1}) == entry


def test_unknown_backend_is_refused():
    with pytest.raises(InvalidInputError, match="known formats: arrow"):
        open_format("parquet")


def test_unknown_version_of_an_encoding_is_refused():
    with pytest.raises(FormatError, match="arrow/9"):
        open_format("arrow/9")
