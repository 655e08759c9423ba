import json

import pytest

from tracestore.errors import ChecksumError, FormatError, InvalidInputError
from tracestore.formats.document import decode_document, encode_document, read_document, require_format
from tracestore.storage import LocalStorage

MEMBERS = {"format": "example", "numbers": [1, 2.5, None, True], "text": "Übung \u2028 \x1f", "nested": {"a": {}}}


def test_document_is_one_json_object_with_a_checksum_first():  # 1.5, 1.6
    data = encode_document(MEMBERS)
    lines = data.decode().split("\n")
    assert lines[0].startswith('{"checksum": "')
    assert len(lines[0]) + 1 == 49
    assert json.loads(data).keys() == {"checksum", *MEMBERS}
    assert decode_document(data, "x.json").items() >= MEMBERS.items()


def test_every_flipped_bit_is_noticed():
    data = encode_document(MEMBERS)
    for place in range(len(data)):
        for bit in range(8):
            damaged = data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
            with pytest.raises(FormatError, match=r"x\.json"):
                decode_document(damaged, "x.json")


def test_every_truncation_is_noticed():
    data = encode_document(MEMBERS)
    for size in range(len(data)):
        with pytest.raises(FormatError, match=r"x\.json"):
            decode_document(data[:size], "x.json")


def test_another_document_than_expected():
    data = encode_document(MEMBERS)
    with pytest.raises(ChecksumError, match="not the file that was published"):
        decode_document(data, "x.json", expected="0" * 32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_what_is_not_json_is_refused(value):
    with pytest.raises(InvalidInputError, match="`state` must be JSON"):
        encode_document({"state": value})


def test_missing_file(tmp_path):
    with pytest.raises(FormatError, match=r"gone\.json is missing"):
        read_document(LocalStorage(tmp_path), "gone.json")


def test_another_format():
    with pytest.raises(FormatError, match="'example'"):
        require_format(decode_document(encode_document(MEMBERS), "x.json"), "tracestore", "x.json")
