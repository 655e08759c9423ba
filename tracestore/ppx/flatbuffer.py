"""FlatBuffers tables: a reader that trusts nothing in the frame, and a writer. Knows no schema.

A table begins with the distance back to its vtable: the vtable's size, the table's size, and for each slot where in
the table its field is, zero when absent. Strings, vectors and tables are kept elsewhere, always further on, at an
offset counted from the field. So a reader that follows a schema of fixed depth ends, whatever the frame says.
"""

import struct
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import SimulatorProtocolError

__all__ = ["Field", "Table", "Writer", "root_table"]

MAX_SLOTS = 6
"""Slots that are looked at; later ones belong to other versions of a schema."""

_U16_PAIR = struct.Struct("<HH").unpack_from
_U32 = struct.Struct("<I").unpack_from
_I32 = struct.Struct("<i").unpack_from
_F64 = struct.Struct("<d").unpack_from
_SLOTS = [struct.Struct(f"<{count}H").unpack_from for count in range(MAX_SLOTS + 1)]
_ABSENT = [(0,) * (MAX_SLOTS - count) for count in range(MAX_SLOTS + 1)]
_PUT_U32 = struct.Struct("<I").pack_into

Field = None | int | str | NDArray[np.float64] | tuple[int, ...] | list["Field"]
"""A field to write: nothing, a byte, a string, a vector of doubles, a vector of int32, or the fields of a table."""


class Table:
    """A table inside a frame; every place that it names is checked before it is read.

    Parameters
    ----------
    frame
        The whole frame.
    position
        Where the table begins.

    Raises
    ------
    SimulatorProtocolError
        When table or vtable are not inside the frame.
    """

    __slots__ = ("_extent", "_frame", "_position", "_slots")

    def __init__(self, frame: bytes, position: int) -> None:
        length = len(frame)
        if position + 4 > length:
            refuse(f"a table would begin at byte {position} of {length}")
        vtable = position - _I32(frame, position)[0]
        if not 0 <= vtable <= length - 4:
            refuse(f"the table at byte {position} has its vtable at byte {vtable} of {length}")
        size, extent = _U16_PAIR(frame, vtable)
        if size < 4 or size & 1 or vtable + size > length:
            refuse(f"the vtable at byte {vtable} of {length} has a size of {size} bytes")
        if extent < 4 or position + extent > length:
            refuse(f"the table at byte {position} of {length} has a size of {extent} bytes")
        count = min((size - 4) >> 1, MAX_SLOTS)
        self._frame = frame
        self._position = position
        self._extent = extent
        self._slots: tuple[int, ...] = _SLOTS[count](frame, vtable + 4) + _ABSENT[count]

    def has(self, slot: int) -> bool:
        """Tell whether a field is there."""
        return self._slots[slot] != 0

    def byte(self, slot: int, default: int = 0) -> int:
        """Return a field of one byte.

        Raises
        ------
        SimulatorProtocolError
            When the field is not inside the table.
        """
        offset = self._slots[slot]
        if not offset:
            return default
        if not 4 <= offset < self._extent:
            refuse(f"field {slot} of the table at byte {self._position} is outside of the table")
        return self._frame[self._position + offset]

    def table(self, slot: int) -> "Table | None":
        """Return a nested table; None when absent.

        Raises
        ------
        SimulatorProtocolError
            When it is not inside the frame.
        """
        target = self._target(slot)
        return Table(self._frame, target) if target else None

    def text(self, slot: int) -> str:
        """Return a string; empty when absent.

        Raises
        ------
        SimulatorProtocolError
            When it is not inside the frame, or not UTF-8.
        """
        start, count = self._vector(slot, 1)
        try:
            return self._frame[start : start + count].decode()
        except UnicodeDecodeError:
            refuse(f"the string at byte {start} is not UTF-8")

    def numbers(self, slot: int) -> float | NDArray[np.float64] | None:
        """Return a vector of doubles: a float for exactly one, a read-only array for more, None for none.

        Raises
        ------
        SimulatorProtocolError
            When it is not inside the frame.
        """
        start, count = self._vector(slot, 8)
        if count == 1:
            number: float = _F64(self._frame, start)[0]
            return number
        if not count:
            return None
        # a copy, because frames are aligned to nothing
        array = np.frombuffer(self._frame, "<f8", count, start).astype(np.float64)
        array.setflags(write=False)
        return array

    def integers(self, slot: int, most: int) -> tuple[int, ...]:
        """Return a vector of int32; empty when absent.

        Parameters
        ----------
        slot
            The field.
        most
            Length that is accepted.

        Raises
        ------
        SimulatorProtocolError
            When it is longer, or not inside the frame.
        """
        start, count = self._vector(slot, 4)
        if not count:
            return ()
        if count > most:
            refuse(f"a vector at byte {start} has {count} integers where at most {most} are expected")
        return struct.unpack_from(f"<{count}i", self._frame, start)

    def _target(self, slot: int) -> int:
        """Where a field points to, at least four bytes before the end; zero when absent."""
        offset = self._slots[slot]
        if not offset:
            return 0
        if offset < 4 or offset + 4 > self._extent:
            refuse(f"field {slot} of the table at byte {self._position} is outside of the table")
        place = self._position + offset
        distance = _U32(self._frame, place)[0]
        if not distance or place + distance + 4 > len(self._frame):
            refuse(f"the field at byte {place} points to byte {place + distance} of {len(self._frame)}")
        target: int = place + distance
        return target

    def _vector(self, slot: int, item_bytes: int) -> tuple[int, int]:
        target = self._target(slot)
        if not target:
            return 0, 0
        count = _U32(self._frame, target)[0]
        if target + 4 + count * item_bytes > len(self._frame):
            refuse(f"a vector of {count} items at byte {target} does not fit into {len(self._frame)} bytes")
        return target + 4, count


def root_table(frame: bytes) -> Table:
    """Return the root table of a frame, with or without a file identifier.

    Raises
    ------
    SimulatorProtocolError
        When the frame has none.

    Examples
    --------
    >>> root_table(Writer([None, "gum"]).frame()).text(1)
    'gum'
    """
    if len(frame) < 4:
        refuse(f"{len(frame)} bytes are too few")
    return Table(frame, _U32(frame, 0)[0])


def refuse(problem: str) -> NoReturn:
    """Raise the error for a frame that is no FlatBuffer."""
    message = f"The frame is not a valid FlatBuffer: {problem}."
    raise SimulatorProtocolError(message)


class Writer:
    """Writes one frame: parents before what they point to, doubles aligned to eight bytes.

    Parameters
    ----------
    fields
        The fields of the root table, by slot.

    Examples
    --------
    >>> len(Writer([3, "gum", [None, (1, 2)]]).frame())
    68
    """

    def __init__(self, fields: list[Field]) -> None:
        self._buffer = bytearray(4)
        self.doubles: list[int] = []
        """Where the doubles of each vector of them begin, in the order of the fields."""
        _PUT_U32(self._buffer, 0, self._add_table(fields))

    def frame(self) -> bytes:
        """Return the bytes."""
        return bytes(self._buffer)

    def _add_table(self, fields: list[Field]) -> int:
        buffer = self._buffer
        offsets = [0] * len(fields)
        extent = 4
        for slot, field in enumerate(fields):
            if field is not None and not isinstance(field, int):
                offsets[slot], extent = extent, extent + 4
        for slot, field in enumerate(fields):
            if isinstance(field, int):
                offsets[slot], extent = extent, extent + 1
        while offsets and not offsets[-1]:
            offsets.pop()  # fields that are absent at the end need no slot
        vtable = len(buffer)
        buffer += struct.pack(f"<HH{len(offsets)}H", 4 + 2 * len(offsets), extent, *offsets)
        self._pad(4)
        position = len(buffer)
        buffer += struct.pack("<i", position - vtable)
        buffer += bytes(extent - 4)
        for offset, field in zip(offsets, fields, strict=False):
            if isinstance(field, int):
                buffer[position + offset] = field
        self._pad(4)
        for offset, field in zip(offsets, fields, strict=False):
            if field is not None and not isinstance(field, int):
                _PUT_U32(buffer, position + offset, self._add(field) - position - offset)
        return position

    def _add(self, field: str | NDArray[np.float64] | tuple[int, ...] | list[Field]) -> int:
        buffer = self._buffer
        if isinstance(field, list):
            return self._add_table(field)
        position = len(buffer)
        if isinstance(field, str):
            text = field.encode()
            buffer += struct.pack("<I", len(text)) + text + b"\0"
            self._pad(4)
        elif isinstance(field, tuple):
            buffer += struct.pack(f"<I{len(field)}i", len(field), *field)
        else:
            if position % 8 == 0:
                buffer += bytes(4)
                position += 4
            self.doubles.append(position + 4)
            buffer += struct.pack("<I", len(field)) + field.astype("<f8").tobytes()
        return position

    def _pad(self, alignment: int) -> None:
        self._buffer += bytes(-len(self._buffer) % alignment)
