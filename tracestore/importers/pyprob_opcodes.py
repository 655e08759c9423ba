"""What a pickle may contain before it is unpickled: a whitelist of opcodes with lengths that fit the bytes at hand.

Knows the pickle virtual machine and nothing of classes or traces. The unpickler of the standard library trusts lengths
and memo positions: five bytes can make it allocate gigabytes. So every pickle is walked once, mostly by one regular
expression, before it is unpickled. What remains afterwards makes objects in proportion to its own bytes.

Admitted are the opcodes that picklers of protocols 2 to 5 write for plain containers, strings, numbers and objects.
Not admitted: EXT1, EXT2, EXT4 (the extension registry of the process), PERSID and BINPERSID (except inside a torch
storage), INST, OBJ, NEWOBJ_EX, DUP, POP, sets, out-of-band buffers and everything of protocols 0 and 1.
"""

__all__ = ["check_opcodes"]

import pickletools
import re

from tracestore.errors import FormatError

# opcodes without a length, with their arguments; LONG_BINPUT (r) only to memo positions below 2**20, others below.
# Possessive, so that a long pickle needs no backtracking memory.
_PLAIN_RUN = re.compile(
    rb"(?:[()\]}N\x88\x89\x94Rbt\x85\x86\x87aesu\x81\x93]++|[Khq].|M..|[Jj]....|r..[\x00-\x0f]\x00|G.{8})*+", re.DOTALL
)
# opcode -> width of the length that precedes the argument
_SIZED = {
    0x8C: 1,  # SHORT_BINUNICODE
    0x58: 4,  # BINUNICODE
    0x8D: 8,  # BINUNICODE8
    0x43: 1,  # SHORT_BINBYTES
    0x42: 4,  # BINBYTES
    0x8E: 8,  # BINBYTES8
    0x96: 8,  # BYTEARRAY8
    0x8A: 1,  # LONG1
    0x8B: 4,  # LONG4
}
_GLOBAL, _PROTO, _FRAME, _STOP, _LONG_BINPUT, _BINPERSID = 0x63, 0x80, 0x95, 0x2E, 0x72, 0x51
_INTEGERS = (0x8A, 0x8B)
_MAX_INTEGER_BYTES = 64
_MAX_GLOBAL_BYTES = 512


def check_opcodes(data: bytes, *, start: int = 0, max_structure_bytes: int, persistent: bool = False) -> int:
    """Walk one pickle and return the position after its STOP.

    Parameters
    ----------
    data
        Bytes that hold the pickle.
    start
        Where it begins.
    max_structure_bytes
        Most bytes that may go to opcodes and their short arguments, as opposed to the contents of strings: what is
        built is at most about 64 times as large.
    persistent
        Whether BINPERSID is admitted.

    Returns
    -------
    int
        Position of the first byte after the pickle.

    Raises
    ------
    FormatError
        The bytes are not a pickle, are cut short, contain an opcode that is not admitted, or are too large.

    Examples
    --------
    >>> import pickle
    >>> data = pickle.dumps(["a", 1.5], protocol=4)
    >>> check_opcodes(data, max_structure_bytes=100) == len(data)
    True
    """
    size = len(data)
    if start >= size or data[start] != _PROTO:
        message = "the bytes are not a pickle of protocol 2 or later; the value is damaged or of another program."
        raise FormatError(message)
    position, structure = start, 0
    match, sized = _PLAIN_RUN.match, _SIZED
    while position < size:
        opcode = data[position]
        width = sized.get(opcode)
        if width is not None:
            begin = position + 1 + width
            length = int.from_bytes(data[position + 1 : begin], "little")
            position = begin + length
            structure += 1 + width
            if length > _MAX_INTEGER_BYTES and opcode in _INTEGERS:
                message = f"the pickle holds an integer of {length} bytes; no trace of pyprob does."
                raise FormatError(message)
        elif opcode == _STOP:
            return position + 1
        else:
            begin = position
            position = _skip_other(data, position, structure, persistent=persistent)
            structure += position - begin
        if position >= size:
            break
        run = match(data, position)
        if run is not None and run.end() > position:
            structure += run.end() - position
            position = run.end()
        if structure > max_structure_bytes:
            message = (
                f"the pickle has more than {max_structure_bytes} bytes of opcodes; raise the limit for one record if "
                "you trust the file."
            )
            raise FormatError(message, limit_bytes=max_structure_bytes)
    message = "the pickle is cut short; the file was truncated or damaged."
    raise FormatError(message)


def _skip_other(data: bytes, position: int, structure: int, *, persistent: bool) -> int:
    """Position after an opcode that is not in a plain run; refuses what is not admitted."""
    opcode = data[position]
    if opcode == _PROTO and position + 1 < len(data) and 2 <= data[position + 1] <= 5:
        return position + 2
    if opcode == _FRAME:
        if position + 9 + int.from_bytes(data[position + 1 : position + 9], "little") <= len(data):
            return position + 9
        message = "a frame of the pickle is longer than its bytes; the file was truncated or damaged."
        raise FormatError(message)
    if opcode == _GLOBAL:
        first = data.find(b"\n", position, position + _MAX_GLOBAL_BYTES)
        second = data.find(b"\n", first + 1, first + _MAX_GLOBAL_BYTES) if first >= 0 else -1
        if second >= 0:
            return second + 1
    if opcode == _LONG_BINPUT and position + 5 <= len(data):
        index = int.from_bytes(data[position + 1 : position + 5], "little")
        if index <= structure:
            return position + 5
        message = f"the pickle puts an object at memo position {index}, which is more than it has objects."
        raise FormatError(message)
    if opcode == _BINPERSID and persistent:
        return position + 1
    name = _OPCODE_NAMES.get(opcode)
    if name in _CUT_SHORT:
        message = "the pickle is cut short; the file was truncated or damaged."
        raise FormatError(message)
    message = f"the pickle contains the opcode {name or hex(opcode)}, which no trace of pyprob needs; it was not run."
    raise FormatError(message, opcode=name or hex(opcode))


_OPCODE_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
# admitted opcodes that get here only when their arguments are missing
_CUT_SHORT = frozenset(
    ("BININT1", "BININT2", "BININT", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "BINFLOAT", "PROTO", "GLOBAL")
)
