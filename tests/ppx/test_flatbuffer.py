"""Frames that are wrong in one way each: whatever they say, they are read safely or refused."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracestore.errors import SimulatorProtocolError
from tracestore.ppx import messages
from tracestore.ppx.flatbuffer import Table, Writer, root_table
from tracestore.ppx.message_types import Observe, RunResult, Sample, SampleResult, Tag
from tracestore.traces.distributions import Categorical, Normal

FRAMES = [
    messages.encode(message)
    for message in (
        Sample("place", "x", Normal(0.5, 2.0), control=False),
        Sample("place", "x", Categorical([0.5, 0.5])),
        Observe("place", "x", Normal([0.5, 0.25], 2.0), np.array([8.0, 9.0])),
        SampleResult(0.5),
        RunResult(np.zeros((2, 2))),
        Tag("place", "x", 1.0),
    )
]


def read(frame):
    """Decode as for the first time; a refusal is fine, anything else is not."""
    try:
        return messages._decode(frame)
    except SimulatorProtocolError:
        return None


def frame_with(position, form, *numbers):
    frame = bytearray(FRAMES[3])
    struct.pack_into(form, frame, position, *numbers)
    return bytes(frame)


@pytest.mark.parametrize("fields", [[], [None], [3], [None, "ä"], [7, "x", (1, 2), [None, [5]]]])
def test_fields_are_read_back(fields):
    table = root_table(Writer(fields).frame())
    for slot, field in enumerate(fields):
        assert table.has(slot) is (field is not None)
        if isinstance(field, int):
            assert table.byte(slot) == field
        elif isinstance(field, str):
            assert table.text(slot) == field
        elif isinstance(field, tuple):
            assert table.integers(slot, 9) == field


def test_absent_fields_have_defaults():
    table = root_table(Writer([]).frame())
    assert (table.byte(0, 7), table.text(0), table.integers(0, 9), table.numbers(0), table.table(0)) == (
        *(7, "", (), None, None),
    )


def test_slots_of_later_schemas_are_skipped():
    table = root_table(Writer([*[None] * 100, 1]).frame())
    assert not any(table.has(slot) for slot in range(6))


@pytest.mark.parametrize("size", [0, 1, 3])
def test_frames_of_a_few_bytes_are_refused(size):
    with pytest.raises(SimulatorProtocolError, match=f"not a valid FlatBuffer: {size} bytes are too few"):
        messages.decode(bytes(size))


# The frame: root table at 12, vtable of it at 4, SampleResult at 32, Tensor at 44, its numbers at 60 after a length.
@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (frame_with(0, "<I", 2**32 - 1), "a table would begin at byte 4294967295 of 76"),
        (frame_with(12, "<i", -(2**31)), "has its vtable at byte 2147483660"),
        (frame_with(12, "<i", 13), "has its vtable at byte -1 of 76"),
        (frame_with(4, "<H", 2), "a size of 2 bytes"),
        (frame_with(4, "<H", 9), "a size of 9 bytes"),
        (frame_with(4, "<H", 0xFFFE), "a size of 65534 bytes"),
        (frame_with(6, "<H", 0xFFFF), "the table at byte 12 of 76 has a size of 65535 bytes"),
        (frame_with(6, "<H", 3), "has a size of 3 bytes"),
        (frame_with(8, "<H", 3), "field 0 of the table at byte 12 is outside of the table"),
        (frame_with(8, "<H", 9), "field 0 of the table at byte 12 is outside of the table"),
        (frame_with(10, "<H", 6), "field 1 of the table at byte 12 is outside of the table"),
        (frame_with(16, "<I", 0), "the field at byte 16 points to byte 16"),
        (frame_with(16, "<I", 2**32 - 1), "the field at byte 16 points to byte 4294967311"),
        (frame_with(60, "<I", 2**32 - 1), "a vector of 4294967295 items at byte 60 does not fit"),
        (frame_with(60, "<I", 3), "a vector of 3 items at byte 60 does not fit into 76 bytes"),
        (frame_with(72, "<I", 1), "a vector of 1 items at byte 72 does not fit"),
    ],
)
def test_a_hostile_number_is_refused_by_place(frame, words):
    with pytest.raises(SimulatorProtocolError, match=words):
        messages.decode(frame)


def test_a_table_that_points_to_itself_ends():
    # root table at 8 with the type Observe; its body is a table whose fields all lead to the same four bytes
    frame = struct.pack("<I4HiIB3x", 12, 8, 9, 8, 4, 8, 0, 7)
    assert read(frame) is None


def test_vectors_that_overlap_are_read():
    """The two parameters of a Normal may be one tensor: nothing forbids it."""
    frame = bytearray(messages.encode(Sample("a", "x", Normal(1.0, 1.0))))
    normal = frame.index(bytes.fromhex("08000c0004000800 08000000")) + 8
    first = normal + 4 + struct.unpack_from("<I", frame, normal + 4)[0]
    struct.pack_into("<I", frame, normal + 8, first - normal - 8)
    assert messages.decode(frame) == Sample("a", "x", Normal(1.0, 1.0))


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_cut_at_any_length_is_refused_or_lacks_space_only(frame):
    whole = messages._decode(frame)
    for length in range(len(frame)):
        found = read(frame[:length])
        assert found is None or (found == whole and not any(frame[length:]))


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_with_any_byte_changed_is_read_or_refused(frame):
    for place in range(len(frame)):
        for byte in (0, 1, 0x7F, 0x80, 0xFF):
            changed = bytearray(frame)
            changed[place] = byte
            read(bytes(changed))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused(frame):
    read(frame)


@given(st.sampled_from(FRAMES), st.data())
def test_frames_with_several_words_changed_are_read_or_refused(frame, data):
    changed = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(frame) - 4))
        changed[place : place + 4] = data.draw(
            st.one_of(st.binary(min_size=4, max_size=4), st.integers(0, 100).map(lambda n: struct.pack("<I", n)))
        )
    cut = data.draw(st.integers(0, len(frame)))
    read(bytes(changed))
    read(bytes(changed[:cut]))


def test_a_hostile_length_allocates_nothing():
    frame = frame_with(60, "<I", 2**28)
    tracemalloc.start()
    try:
        read(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_a_shape_of_many_numbers_allocates_nothing():
    frame = frame_with(72, "<I", 0)
    hostile = messages.encode(SampleResult(np.zeros((2, 2)))).replace(
        struct.pack("<II", 2, 2), struct.pack("<II", 2**30, 2**30)
    )
    assert read(frame) is not None
    assert read(hostile) is None


def test_a_table_at_the_very_end_is_refused():
    with pytest.raises(SimulatorProtocolError, match="a table would begin"):
        Table(bytes(8), 5)
