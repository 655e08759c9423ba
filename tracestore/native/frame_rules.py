"""How to step from a frame of machine code to its caller, from the call frame information of a binary.

A return address fixes the rule: where the stack pointer of the caller is, and where its frame pointer was saved. The
rules of x86-64 code that compilers emit are of few shapes; others give ``None``, and are left to the system's unwinder.
Reads ``.eh_frame`` as the Linux Standard Base describes it. Files are not trusted.
"""

import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property

from tracestore.errors import FormatError
from tracestore.native.elf import ElfFile

__all__ = ["FrameRule", "FrameRules"]

_MACHINE_X86_64 = 62
_PT_GNU_EH_FRAME = 0x6474E550
_TABLE_HEADER = struct.Struct("<BBBBiI")
_SUPPORTED_TABLE = (1, 0x1B, 0x03, 0x3B)  # version; pc-relative, 4-byte count, entries relative to the table
_PC_RELATIVE_4_BYTES = 0x1B
_MOST_ENTRY_BYTES = 1 << 16
_STACK_POINTER, _FRAME_POINTER, _RETURN_ADDRESS = 7, 6, 16
_OP_BREG_6, _OP_DEREFERENCE = 0x76, 0x06
_POINTER_BYTES = {0x00: 8, 0x02: 2, 0x03: 4, 0x04: 8, 0x0A: 2, 0x0B: 4, 0x0C: 8}
_ADVANCES = {0x02: 1, 0x03: 2, 0x04: 4}
_LARGEST_OFFSET = 2**31 - 1

_Expression = bytes
_Saved = int | _Expression | None  # offset from the caller's stack pointer; how to compute the place; not known


@dataclass(frozen=True, slots=True)
class FrameRule:
    """How to find the caller of a frame of x86-64 code; its return address is below its stack pointer."""

    base: int
    """Where the caller's stack pointer comes from: 0 stack pointer, 1 frame pointer, 2 memory at the frame pointer."""
    offset: int
    """Added to the base (0, 1), or to the frame pointer for the place in memory (2)."""
    saved: int = 0
    """The caller's frame pointer: 0 unchanged, 1 saved at the caller's stack pointer, 2 saved at the frame pointer."""
    saved_offset: int = 0
    """Added to get the place where it is saved."""
    is_last: bool = False
    """Whether nothing has called this frame."""


class FrameRules:
    """The rules of one binary.

    Parameters
    ----------
    elf
        The binary. Without call frame information, or of another machine, it has no rules.

    Examples
    --------
    >>> import sys
    >>> FrameRules(ElfFile(sys.executable)).at(0) is None
    True
    """

    def __init__(self, elf: ElfFile) -> None:
        self._elf = elf

    def at(self, offset: int) -> FrameRule | None:
        """Return the rule for a return address, given as offset from where the binary is loaded.

        Returns
        -------
        FrameRule | None
            ``None`` when there is no rule, or none of a simple shape.
        """
        address = offset + self._elf.lowest_address - 1  # of the call: it may end its function
        try:
            starts, entries = self._table
            position = bisect_right(starts, address) - 1
            return None if position < 0 else self._rule_of(entries[position], address)
        except (FormatError, _UnusualError, IndexError, KeyError, struct.error):
            return None

    @cached_property
    def _table(self) -> tuple[list[int], list[int]]:
        """Addresses of functions, sorted, and of their entries."""
        segment = next((segment for segment in self._elf.segments if segment.kind == _PT_GNU_EH_FRAME), None)
        if segment is None or self._elf.machine != _MACHINE_X86_64:
            return [], []
        header = self._elf.read(segment.address, _TABLE_HEADER.size)
        *encodings, _, num_entries = _TABLE_HEADER.unpack(header)
        if tuple(encodings) != _SUPPORTED_TABLE or 8 * num_entries > segment.memory_bytes:
            return [], []
        part = self._elf.read(segment.address + _TABLE_HEADER.size, 8 * num_entries)
        numbers = [segment.address + number for number in memoryview(part[: len(part) & -8]).cast("i")]
        return numbers[::2], numbers[1::2]

    def _rule_of(self, entry_address: int, address: int) -> FrameRule | None:
        entry = self._entry(entry_address)
        back = entry.unsigned(4)
        shared = self._shared(entry_address + 4 - back)
        start = entry.pointer(shared.encoding)
        num_bytes = entry.unsigned(4)
        if not start <= address < start + num_bytes:
            return None
        if shared.has_length:
            entry.place += entry.uleb()
        row = _Row()
        _run(shared.program, row, _Run(shared, start, address))
        initial = row.copy()
        _run(entry, row, _Run(shared, start, address, initial))
        return row.rule()

    def _shared(self, address: int) -> "_Shared":
        entry = self._entry(address)
        if entry.unsigned(4) != 0:
            raise _UnusualError
        version = entry.unsigned(1)
        augmentation = entry.text()
        code_factor, data_factor = entry.uleb(), entry.sleb()
        return_register = entry.unsigned(1) if version == 1 else entry.uleb()
        if version not in (1, 3) or return_register != _RETURN_ADDRESS or augmentation[:1] not in ("", "z"):
            raise _UnusualError
        encoding = 0
        end = entry.place
        if augmentation:
            end = entry.uleb() + entry.place
        for mark in augmentation[1:]:
            if mark == "R":
                encoding = entry.unsigned(1)
            elif mark == "P":
                entry.place += _POINTER_BYTES[entry.unsigned(1) & 0x0F]
            elif mark == "L":
                entry.place += 1
            else:
                raise _UnusualError  # a signal frame, or something newer
        if encoding != _PC_RELATIVE_4_BYTES:
            raise _UnusualError
        entry.place = end
        return _Shared(entry, code_factor, data_factor, encoding, has_length=bool(augmentation))

    def _entry(self, address: int) -> "_Bytes":
        num_bytes = struct.unpack("<I", self._elf.read(address, 4))[0]
        if not 0 < num_bytes <= _MOST_ENTRY_BYTES:
            raise _UnusualError
        return _Bytes(self._elf.read(address + 4, num_bytes), address + 4)


class _UnusualError(Exception):
    """Something that the simple rules do not cover."""


@dataclass(slots=True)
class _Bytes:
    """Bytes of a binary with a place to read at."""

    part: bytes
    address: int
    place: int = 0

    def unsigned(self, num_bytes: int) -> int:
        self.place += num_bytes
        if self.place > len(self.part):
            raise _UnusualError
        return int.from_bytes(self.part[self.place - num_bytes : self.place], "little")

    def pointer(self, encoding: int) -> int:
        if encoding != _PC_RELATIVE_4_BYTES:
            raise _UnusualError
        here = self.address + self.place
        number = self.unsigned(4)
        return here + (number - (1 << 32) if number >> 31 else number)

    def uleb(self) -> int:
        number = shift = 0
        while True:
            byte = self.unsigned(1)
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number
            if shift > 63:
                raise _UnusualError

    def sleb(self) -> int:
        start = self.place
        number = self.uleb()
        num_bits = 7 * (self.place - start)
        return number - (1 << num_bits) if number >> (num_bits - 1) else number

    def block(self) -> bytes:
        num_bytes = self.uleb()
        self.place += num_bytes
        if self.place > len(self.part):
            raise _UnusualError
        return self.part[self.place - num_bytes : self.place]

    def text(self) -> str:
        end = self.part.index(b"\0", self.place) if b"\0" in self.part[self.place :] else -1
        if end < 0:
            raise _UnusualError
        text = self.part[self.place : end].decode("latin-1")
        self.place = end + 1
        return text


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the entries of many functions share."""

    program: _Bytes
    code_factor: int
    data_factor: int
    encoding: int
    has_length: bool


@dataclass(slots=True)
class _Row:
    """The rules at one address while a program is run."""

    register: int | None = None
    offset: int = 0
    expression: bytes = b""
    saved: dict[int, _Saved] = field(default_factory=dict)

    def copy(self) -> "_Row":
        return _Row(self.register, self.offset, self.expression, dict(self.saved))

    def take(self, other: "_Row") -> None:
        self.register, self.offset, self.expression = other.register, other.offset, other.expression
        self.saved = dict(other.saved)

    def rule(self) -> FrameRule | None:
        if self.register is None:
            base, offset = 2, _at_frame_pointer(self.expression, b"\x06")
        elif self.register in (_STACK_POINTER, _FRAME_POINTER):
            base, offset = int(self.register == _FRAME_POINTER), self.offset
        else:
            return None
        if _STACK_POINTER in self.saved:
            return None
        is_last = _RETURN_ADDRESS in self.saved and self.saved[_RETURN_ADDRESS] is None
        if not is_last and self.saved.get(_RETURN_ADDRESS) != -8:
            return None
        saved, saved_offset = 0, 0
        if _FRAME_POINTER in self.saved:
            where = self.saved[_FRAME_POINTER]
            if isinstance(where, bytes):
                saved, saved_offset = 2, _at_frame_pointer(where, b"")
            elif where is None:
                return None if not is_last else FrameRule(base, offset, is_last=True)
            else:
                saved, saved_offset = 1, where
        if max(abs(offset), abs(saved_offset)) > _LARGEST_OFFSET:
            return None
        return FrameRule(base, offset, saved, saved_offset, is_last)


@dataclass(frozen=True, slots=True)
class _Run:
    """Which program is run up to which address."""

    shared: _Shared
    start: int
    address: int
    initial: _Row | None = None


def _at_frame_pointer(expression: bytes, rest: bytes) -> int:
    """Return the offset of an expression that is the frame pointer plus an offset, followed by the given bytes."""
    part = _Bytes(expression, 0)
    if part.unsigned(1) != _OP_BREG_6:
        raise _UnusualError
    offset = part.sleb()
    if expression[part.place :] != rest:
        raise _UnusualError
    return offset


def _run(code: _Bytes, row: _Row, run: _Run) -> None:
    """Apply the instructions that are in effect at the address of the run."""
    location = run.start
    remembered: list[_Row] = []
    factor = run.shared.data_factor
    while code.place < len(code.part):
        byte = code.unsigned(1)
        high, low = byte & 0xC0, byte & 0x3F
        if high == 0x40 or byte in _ADVANCES:
            steps = low if high else code.unsigned(_ADVANCES[byte])
            location += steps * run.shared.code_factor
            if location > run.address:
                return
        elif high == 0x80:
            row.saved[low] = code.uleb() * factor
        elif high == 0xC0 or byte == 0x06:
            _restore(row, low if high else code.uleb(), run.initial)
        elif byte == 0x0A:
            remembered.append(row.copy())
        elif byte == 0x0B:
            row.take(remembered.pop())
        else:
            _apply(code, byte, row, factor)


def _restore(row: _Row, register: int, initial: _Row | None) -> None:
    if initial is None:
        raise _UnusualError
    if register in initial.saved:
        row.saved[register] = initial.saved[register]
    else:
        row.saved.pop(register, None)


def _apply(code: _Bytes, byte: int, row: _Row, factor: int) -> None:
    """Apply one of the instructions that move nothing but the rules."""
    if byte == 0x00:
        return
    if byte == 0x05:
        register = code.uleb()
        row.saved[register] = code.uleb() * factor
    elif byte == 0x07:
        row.saved[code.uleb()] = None
    elif byte == 0x08:
        row.saved.pop(code.uleb(), None)
    elif byte == 0x0C:
        row.register, row.offset = code.uleb(), code.uleb()
    elif byte == 0x0D:
        row.register = code.uleb()
    elif byte == 0x0E:
        row.offset = code.uleb()
    elif byte == 0x0F:
        row.register, row.expression = None, code.block()
    elif byte == 0x10:
        register = code.uleb()
        row.saved[register] = code.block()
    elif byte == 0x11:
        register = code.uleb()
        row.saved[register] = code.sleb() * factor
    elif byte == 0x12:
        row.register, row.offset = code.uleb(), code.sleb() * factor
    elif byte == 0x13:
        row.offset = code.sleb() * factor
    elif byte == 0x2E:
        code.uleb()  # bytes of arguments, which matter to exceptions only
    else:
        raise _UnusualError
