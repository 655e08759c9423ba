"""Read what addresses need from ELF files: build-id, functions, loaded segments, initial bytes.

Only 64-bit little-endian files. Files are not trusted: every offset and length is checked before use. Knows no
processes; what is loaded where is the business of `tracestore.native.symbols`.
"""

import hashlib
import mmap
import struct
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tracestore.errors import FormatError, InvalidInputError

__all__ = ["ElfFile", "Function", "Segment"]

PAGE_BYTES = 4096
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_MAGIC_64_LITTLE = b"\x7fELF\x02\x01"
_PT_LOAD, _PT_NOTE = 1, 4
_SHT_SYMTAB, _SHT_STRTAB, _SHT_DYNSYM = 2, 3, 11
_FUNCTION_TYPES = (2, 10)  # ordinary, and chosen at load time
_BUILD_ID_NOTE = 3
_LONGEST_BUILD_ID = 64
_LONGEST_NAME = 1 << 16
_MOST_OVERLAPS = 4
_PF_EXECUTE = 1


class Segment(NamedTuple):
    """A program header; addresses are the file's own, not those of a process."""

    kind: int
    flags: int
    file_offset: int
    address: int
    file_bytes: int
    memory_bytes: int


class Function(NamedTuple):
    """A function: its offset from the lowest loaded address, its size in bytes (0 if unknown), its mangled name."""

    offset: int
    size: int
    name: str


class ElfFile:
    """An ELF file, mapped into memory and read when asked.

    Parameters
    ----------
    path
        A shared library or program.

    Raises
    ------
    InvalidInputError
        When there is no such file, or it is not a 64-bit little-endian ELF file.
    FormatError
        When its headers contradict themselves or the size of the file; properties that are read later raise it, too.

    Examples
    --------
    >>> import sys
    >>> program = ElfFile(sys.executable)
    >>> len(program.build_id) >= 16
    True
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._bytes = _mapped(self.path)
        if self._bytes[:6] != _MAGIC_64_LITTLE:
            message = (
                f"{str(self.path)!r} is not a 64-bit little-endian ELF file; it begins with "
                f"{bytes(self._bytes[:6])!r}. Name a shared library or program of this machine."
            )
            raise InvalidInputError(message, path=str(self.path))
        header = _HEADER.unpack(self._part(0, _HEADER.size, "header"))
        self.machine: int = header[2]
        self._section_place = (header[6], header[11], header[12])
        self.segments = self._read_segments(offset=header[5], entry_bytes=header[9], num_entries=header[10])
        """Program headers, in the order of the file."""
        loads = [segment for segment in self.segments if segment.kind == _PT_LOAD and segment.memory_bytes]
        if not loads:
            raise self._broken("it has no segment to load")
        self.lowest_address = min(segment.address for segment in loads) & -PAGE_BYTES
        """The file's own address of offset 0."""
        self.span_bytes = max(segment.address + segment.memory_bytes for segment in loads) - self.lowest_address
        """From offset 0 to the end of the last loaded segment."""
        self._loads = loads

    @cached_property
    def build_id(self) -> str:
        """The GNU build-id in hexadecimal; a digest of the whole file when it has none."""
        for segment in self.segments:
            if segment.kind == _PT_NOTE:
                found = self._build_id_in(segment)
                if found is not None:
                    return found
        return hashlib.sha256(self._bytes).hexdigest()[:40]

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """All functions of ``.dynsym`` and ``.symtab`` with a name, by offset; one for each offset."""
        functions: dict[int, Function] = {}
        for table, names in self._symbol_tables():
            kinds = table["info"] & 15
            is_defined = (
                np.isin(kinds, _FUNCTION_TYPES) & (table["section"] != 0) & (table["value"] >= self.lowest_address)
            )
            rows = table[is_defined]
            offsets = (rows["value"] - np.uint64(self.lowest_address)).tolist()
            for offset, size, start in zip(offsets, rows["size"].tolist(), rows["name"].tolist(), strict=True):
                known = functions.get(offset)
                if known is None or (known.size == 0 and size > 0):
                    name = self._name(names, start)
                    if name:
                        functions[offset] = Function(offset, size, name)
        return tuple(functions[offset] for offset in sorted(functions))

    @cached_property
    def _offsets(self) -> list[int]:
        return [function.offset for function in self.functions]

    def name_at(self, offset: int) -> str | None:
        """Name the function whose code covers an offset from the lowest loaded address.

        Returns
        -------
        str | None
            The mangled name; ``None`` when no known function covers the offset.
        """
        found = self.function_at(offset)
        return None if found is None else found.name

    def function_at(self, offset: int) -> Function | None:
        """Find the function whose code covers an offset from the lowest loaded address."""
        last = bisect_right(self._offsets, offset) - 1
        for position in range(last, max(last - _MOST_OVERLAPS, -1), -1):
            function = self.functions[position]
            if offset < function.offset + function.size or (function.size == 0 and position == last):
                return function
        return None

    def is_code(self, offset: int) -> bool:
        """Tell whether an offset from the lowest loaded address lies in an executable segment."""
        address = offset + self.lowest_address
        return any(
            segment.flags & _PF_EXECUTE and segment.address <= address < segment.address + segment.memory_bytes
            for segment in self._loads
        )

    def read(self, address: int, num_bytes: int) -> bytes:
        """Return bytes as they are when the file is loaded, before relocations.

        Parameters
        ----------
        address
            One of the file's own addresses.
        num_bytes
            How many; fewer come back at the end of a segment.

        Raises
        ------
        FormatError
            When no segment holds the address.
        """
        for segment in self._loads:
            start = address - segment.address
            if 0 <= start < segment.file_bytes:
                return self._part(segment.file_offset + start, min(num_bytes, segment.file_bytes - start), "segment")
        raise self._broken(f"no segment holds address {address:#x}")

    def _read_segments(self, *, offset: int, entry_bytes: int, num_entries: int) -> tuple[Segment, ...]:
        if num_entries and entry_bytes != _SEGMENT.size:
            raise self._broken(f"a program header has {entry_bytes} bytes where {_SEGMENT.size} are expected")
        part = self._part(offset, num_entries * _SEGMENT.size, "program headers")
        return tuple(
            Segment(kind, flags, file_offset, address, file_bytes, memory_bytes)
            for kind, flags, file_offset, address, _, file_bytes, memory_bytes, _ in _SEGMENT.iter_unpack(part)
        )

    def _build_id_in(self, segment: Segment) -> str | None:
        part = self._part(segment.file_offset, segment.file_bytes, "notes")
        place = 0
        while place + 12 <= len(part):
            name_bytes, description_bytes, kind = struct.unpack_from("<III", part, place)
            name_end = place + 12 + -(-name_bytes // 4) * 4
            end = name_end + description_bytes
            if end > len(part):
                raise self._broken("a note is longer than its segment")
            if kind == _BUILD_ID_NOTE and part[place + 12 : place + 16] == b"GNU\0" and name_bytes == 4:
                if not 0 < description_bytes <= _LONGEST_BUILD_ID:
                    raise self._broken(f"its build-id has {description_bytes} bytes")
                return part[name_end:end].hex()
            place = name_end + -(-description_bytes // 4) * 4
        return None

    def _symbol_tables(self) -> list[tuple[np.ndarray[tuple[int], np.dtype[np.void]], tuple[int, int]]]:
        """Return the symbols of ``.dynsym``, then ``.symtab``, each with the place (offset, bytes) of its names."""
        offset, entry_bytes, num_entries = self._section_place
        if offset == 0 or num_entries == 0:
            return []
        if entry_bytes != _SECTION.size:
            raise self._broken(f"a section header has {entry_bytes} bytes where {_SECTION.size} are expected")
        sections = list(_SECTION.iter_unpack(self._part(offset, num_entries * _SECTION.size, "section headers")))
        tables = []
        for wanted in (_SHT_DYNSYM, _SHT_SYMTAB):
            for _, kind, _, _, start, num_bytes, link, _, _, symbol_bytes in sections:
                if kind != wanted:
                    continue
                if symbol_bytes != _SYMBOL.itemsize or link >= len(sections) or sections[link][1] != _SHT_STRTAB:
                    raise self._broken("its symbol table has another layout")
                names = (sections[link][4], sections[link][5])
                self._check(*names, "names of symbols")
                part = self._part(start, num_bytes - num_bytes % _SYMBOL.itemsize, "symbol table")
                tables.append((np.frombuffer(part, _SYMBOL), names))
        return tables

    def _name(self, names: tuple[int, int], start: int) -> str:
        offset, num_bytes = names
        if start >= num_bytes:
            raise self._broken("the name of a symbol lies outside of its table")
        stop = min(num_bytes - start, _LONGEST_NAME) + offset + start
        end = self._bytes.find(b"\0", offset + start, stop)
        return self._bytes[offset + start : stop if end < 0 else end].decode("utf-8", "replace")

    def _check(self, offset: int, num_bytes: int, what: str) -> None:
        if offset + num_bytes > len(self._bytes):
            raise self._broken(
                f"its {what} would end at byte {offset + num_bytes}, and the file has {len(self._bytes)} bytes"
            )

    def _part(self, offset: int, num_bytes: int, what: str) -> bytes:
        self._check(offset, num_bytes, what)
        return self._bytes[offset : offset + num_bytes]

    def _broken(self, reason: str) -> FormatError:
        message = f"The ELF file {str(self.path)!r} is damaged or truncated: {reason}. Install it again."
        return FormatError(message, path=str(self.path))


def _mapped(path: Path) -> mmap.mmap | bytes:
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return b""  # an empty file cannot be mapped
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        message = f"The binary {str(path)!r} cannot be read: {error.strerror or error}. Name an existing file."
        raise InvalidInputError(message, path=str(path)) from error
