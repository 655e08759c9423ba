"""The slots through which a shared library calls functions, its own exported ones included: lead them elsewhere.

In position-independent code a call of an exported function goes through a slot of the library's global offset table,
so that another definition can take its place. Writing an address into that slot has the effect of interposing a symbol
with ``LD_PRELOAD``, but at any time, for one library only, and it can be undone. No compiler is needed.

Must not know what the functions do. ELF libraries of 64-bit little-endian machines only.
"""

import ctypes
import mmap
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tracestore.errors import SimulatorError

__all__ = ["CallSlots", "find_slots"]

PT_LOAD, PT_DYNAMIC, PT_RELRO = 1, 2, 0x6474E552
DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_JMPREL = 2, 5, 6, 7, 8, 23
SLOT_KINDS = {62: (6, 7), 183: (1025, 1026)}
"""Relocations that fill a slot with the address of a function, by machine: x86-64 and AArch64."""
RELOCATION = struct.Struct("<QIIq")
"""Place, kind, symbol, addend."""
SYMBOL = struct.Struct("<IBBHQQ")


class Slots(NamedTuple):
    """What `find_slots` found in a file; all numbers are offsets from where the library is loaded."""

    slots: dict[str, tuple[int, ...]]
    """Slots of each symbol."""
    definitions: dict[str, int]
    """Where the library itself defines the symbol."""
    protected: tuple[int, int]
    """Range that the loader makes read-only when it has filled the slots."""


def find_slots(path: Path, symbols: Sequence[str]) -> Slots:
    """Find the slots through which a library calls the functions of these names.

    Parameters
    ----------
    path
        File of the library.
    symbols
        Names as the linker knows them.

    Raises
    ------
    SimulatorError
        When the file is not an ELF library of a known machine, or calls one of the functions through no slot.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            found = _find(data, symbols)
        except (struct.error, ValueError, LookupError) as error:
            message = f"{path.name} is not a shared library whose calls can be led elsewhere (ELF, 64 bit): {error}."
            raise SimulatorError(message) from error
    lacking = [symbol for symbol in symbols if not found.slots[symbol] or symbol not in found.definitions]
    if lacking:
        message = f"{path.name} does not call {', '.join(lacking)} through a slot; it is another build than expected."
        raise SimulatorError(message)
    return found


def _find(data: mmap.mmap, symbols: Sequence[str]) -> Slots:
    if data[:6] != b"\x7fELF\x02\x01":
        message = "the file begins otherwise"
        raise ValueError(message)
    (machine,) = struct.unpack_from("<H", data, 18)
    if machine not in SLOT_KINDS:
        message = f"machine {machine} is unknown"
        raise ValueError(message)
    headers = _program_headers(data)
    dynamic = _dynamic_entries(data, headers)
    names, table = (_position(headers, dynamic[tag]) for tag in (DT_STRTAB, DT_SYMTAB))
    slots: dict[str, list[int]] = {symbol: [] for symbol in symbols}
    definitions: dict[str, int] = {}
    names_of: dict[int, str] = {}
    for start, length in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
        if start not in dynamic:
            continue
        at = _position(headers, dynamic[start])
        for place, kind, index, _ in RELOCATION.iter_unpack(data[at : at + dynamic[length]]):
            if kind not in SLOT_KINDS[machine]:
                continue
            if index not in names_of:
                name_at, _, _, _, value, _ = SYMBOL.unpack_from(data, table + index * SYMBOL.size)
                name = data[names + name_at : data.find(b"\0", names + name_at)].decode("ascii", "replace")
                names_of[index] = name
                if name in slots and value:
                    definitions[name] = value
            if names_of[index] in slots:
                slots[names_of[index]].append(place)
    protected = next(
        ((head.address, head.address + head.memory_bytes) for head in headers if head.kind == PT_RELRO), (0, 0)
    )
    return Slots({symbol: tuple(places) for symbol, places in slots.items()}, definitions, protected)


class _ProgramHeader(NamedTuple):
    kind: int
    flags: int
    file_offset: int
    address: int
    physical_address: int
    file_bytes: int
    memory_bytes: int
    alignment: int


def _program_headers(data: mmap.mmap) -> list[_ProgramHeader]:
    (start,) = struct.unpack_from("<Q", data, 32)
    size, number = struct.unpack_from("<HH", data, 54)
    return [_ProgramHeader(*struct.unpack_from("<IIQQQQQQ", data, start + size * index)) for index in range(number)]


def _dynamic_entries(data: mmap.mmap, headers: Sequence[_ProgramHeader]) -> dict[int, int]:
    entries: dict[int, int] = {}
    for header in headers:
        if header.kind == PT_DYNAMIC:
            at = header.file_offset
            while (entry := struct.unpack_from("<QQ", data, at))[0]:
                entries[entry[0]] = entry[1]
                at += 16
    return entries


def _position(headers: Sequence[_ProgramHeader], address: int) -> int:
    """Return where in the file something is that the loader puts at an address."""
    for header in headers:
        if header.kind == PT_LOAD and header.address <= address < header.address + header.file_bytes:
            return header.file_offset + address - header.address
    message = f"nothing is loaded at {address:#x}"
    raise ValueError(message)


class CallSlots:
    """Slots of a library that is loaded in this process.

    Parameters
    ----------
    path
        File of the library.
    symbols
        Names, as the linker knows them, of the functions that it both defines and calls.

    Raises
    ------
    SimulatorError
        When the calls cannot be led elsewhere.

    Examples
    --------
    >>> CallSlots(Path("no-library"), ["draw"])
    Traceback (most recent call last):
    ...
    FileNotFoundError: [Errno 2] No such file or directory: 'no-library'
    """

    def __init__(self, path: Path, symbols: Sequence[str]) -> None:
        if sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != 8:
            message = "Calls of a native library can be led elsewhere on 64-bit little-endian machines only."
            raise SimulatorError(message)
        found = find_slots(path, symbols)
        library = ctypes.PyDLL(str(path))  # it is loaded already: this finds it
        symbol = symbols[0]
        own = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value or 0
        base = own - found.definitions[symbol]
        self._slots = {
            symbol: [ctypes.c_void_p.from_address(base + slot) for slot in slots]
            for symbol, slots in found.slots.items()
        }
        self.originals = {symbol: base + value for symbol, value in found.definitions.items()}
        """Addresses of the library's own functions."""
        self._before = {symbol: [slot.value for slot in slots] for symbol, slots in self._slots.items()}
        start, end = (base + edge for edge in found.protected)
        _make_writable([base + slot for slots in found.slots.values() for slot in slots if start <= base + slot < end])

    def redirect(self, targets: Mapping[str, int]) -> None:
        """Lead calls elsewhere until `restore`.

        Parameters
        ----------
        targets
            Address of the function to call, by symbol.
        """
        for symbol, target in targets.items():
            for slot in self._slots[symbol]:
                slot.value = target

    def restore(self) -> None:
        """Put back what was in the slots at first; does no harm when that is there."""
        for symbol, slots in self._slots.items():
            for slot, value in zip(slots, self._before[symbol], strict=True):
                slot.value = value


def _make_writable(addresses: Sequence[int]) -> None:
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for page in {address - address % mmap.PAGESIZE for address in addresses}:
        if protect(page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE) != 0:
            message = f"The slots of a library cannot be made writable (error {ctypes.get_errno()})."
            raise SimulatorError(message)
