"""What is loaded with a program, and which functions it looks up by name, so that a preloaded library replaces them.

Reads ELF files and asks the program's own loader; starts no program. Must not know traces or messages.
"""

import difflib
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from tracestore.errors import InvalidInputError, SimulatorError
from tracestore.native.elf import ElfFile
from tracestore.native.symbols import demangle, short_name

__all__ = ["Binaries", "check_symbols", "find_binaries", "replaceable_functions"]

LOADER_SECONDS = 60.0
"""How long the loader may take to list the libraries of a program."""

_PT_DYNAMIC, _PT_INTERP = 2, 3
_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_STRSZ, _DT_JMPREL = 2, 5, 6, 7, 8, 10, 23
_RELOCATION = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_SYMBOL_BYTES = 24
_LONGEST_NAME = 1 << 16
_RUNTIME = (
    "ld-", "libc.", "libm.", "libmvec.", "libdl.", "libpthread.", "librt.", "libresolv.", "libutil.", "libgcc_s.",
    "libstdc++.", "libc++", "libgfortran.", "libquadmath.", "libgomp.", "linux-vdso.",
)  # fmt: skip


class Binaries:
    """The ELF files of a program: the one that is executed, and what its loader loads with it.

    Parameters
    ----------
    start
        What is executed: the program, or a script.
    program
        The executable; the interpreter where a script is started.
    libraries
        Paths of its libraries, in the order of the loader.
    """

    def __init__(self, start: Path, program: Path, libraries: Sequence[Path]) -> None:
        self.start = start
        self.program = program
        self.libraries = tuple(libraries)

    @property
    def build(self) -> str:
        """What fixes addresses: names and build ids of the program and of its libraries but those of the compiler."""
        paths = [self.program, *sorted(path for path in self.libraries if not path.name.startswith(_RUNTIME))]
        return " ".join(f"{path.name}:{ElfFile(path).build_id}" for path in paths)


def find_binaries(command: Sequence[str], environment: Mapping[str, str], *, opened: Iterable[Path] = ()) -> Binaries:
    """Find what would be loaded, and refuse what a preloaded library does not reach.

    Parameters
    ----------
    command
        The program and its arguments.
    environment
        With which it will run.
    opened
        Further libraries, which the program opens while it runs.

    Raises
    ------
    SimulatorError
        When there is no such program, or it is statically linked, 32-bit, for another machine, runs with the rights of
        another user, or misses a library.
    """
    if sys.platform != "linux":
        message = f"Programs can be interposed on Linux only; this is {sys.platform!r}. Run it over PPX instead."
        raise SimulatorError(message, platform=sys.platform)
    start = _find(command[0], environment)
    program = _interpreter(start) or start.resolve()
    elf = _elf(program)
    loader = _loader(elf)
    if loader is None:
        message = (
            f"{str(program)!r} is statically linked: nothing can be preloaded into it. Link it dynamically, or give it"
            " the C++ front end of tracestore."
        )
        raise SimulatorError(message, path=str(program))
    if "musl" in loader:
        message = (
            f"{str(program)!r} uses another C library ({loader}) than the one that is preloaded; build it with glibc."
        )
        raise SimulatorError(message, path=str(program))
    _check_rights(program)
    libraries = _libraries(loader, program, environment)
    return Binaries(start, program, [*libraries, *(Path(path).resolve() for path in opened)])


@lru_cache(maxsize=256)
def replaceable_functions(path: Path) -> frozenset[str]:
    """Return the mangled names that a module looks up when it is loaded.

    A call to one of them goes to a preloaded library that has a function of that name. Calls that the linker resolved
    are not among them: those within an executable, and within a library linked with ``-Bsymbolic``.
    """
    elf = ElfFile(path)
    entries: dict[int, int] = {}
    for segment in elf.segments:
        if segment.kind == _PT_DYNAMIC:
            part = elf.read(segment.address, segment.file_bytes)
            entries = dict(struct.iter_unpack("<qQ", part[: len(part) - len(part) % 16]))
    if _DT_SYMTAB not in entries or _DT_STRTAB not in entries:
        return frozenset()
    symbols: set[int] = set()
    for table, size in ((_DT_RELA, _DT_RELASZ), (_DT_JMPREL, _DT_PLTRELSZ)):
        if entries.get(table) and entries.get(size):
            part = elf.read(entries[table], entries[size])
            rows = np.frombuffer(part[: len(part) - len(part) % _RELOCATION.itemsize], _RELOCATION)
            symbols.update(np.unique(rows["symbol"]).tolist())
    names = elf.read(entries[_DT_STRTAB], entries.get(_DT_STRSZ, 0))
    found = set()
    for symbol in symbols - {0}:
        row = elf.read(entries[_DT_SYMTAB] + symbol * _SYMBOL_BYTES, 4)
        start = int.from_bytes(row, "little")
        end = names.find(b"\0", start, start + _LONGEST_NAME)
        found.add(names[start:end].decode("utf-8", "replace"))
    return frozenset(found)


def check_symbols(symbols: Sequence[str], binaries: Binaries) -> None:
    """Refuse functions that are not called by name, so that a preloaded library cannot replace them.

    Parameters
    ----------
    symbols
        Mangled names.
    binaries
        Where they should be called.

    Raises
    ------
    SimulatorError
        Saying which, whether they exist at all, and what is like them.
    """
    paths = [binaries.program, *binaries.libraries]
    called = frozenset[str]().union(*map(replaceable_functions, paths))
    own = [path for path in paths if not path.name.startswith(_RUNTIME)]
    for symbol in symbols:
        if symbol in called:
            continue
        where = [path for path in own if any(function.name == symbol for function in ElfFile(path).functions)]
        if where:
            message = (
                f"{_readable(symbol)} is in {where[0].name!r}, but no call of it goes through the loader: the linker "
                "resolved the calls, so they cannot be redirected. Link the function as a shared library without "
                "-Bsymbolic, or hook a function that it calls."
            )
        else:
            message = (
                f"Neither {binaries.program.name!r} nor a library that is loaded with it calls {_readable(symbol)}. "
                f"{_near(symbol, called)}A library that the program opens while it runs goes into `libraries`."
            )
        raise SimulatorError(message, symbol=symbol)


def _readable(symbol: str) -> str:
    name = demangle(symbol)
    return repr(symbol) if name == symbol else f"{symbol!r} ({name})"


def _near(symbol: str, called: Iterable[str]) -> str:
    """Return a sentence on names like one that was not found, or nothing."""
    wanted = short_name(demangle(symbol)).rpartition("::")[2].lower()
    holds = sorted((name for name in called if wanted and wanted in name.lower()), key=len)
    near = list(dict.fromkeys([*difflib.get_close_matches(symbol, called, n=3, cutoff=0.7), *holds]))[:5]
    return f"Like it: {', '.join(map(_readable, near))}. " if near else ""


def _find(name: str, environment: Mapping[str, str]) -> Path:
    """Find an executable as the system does: names without a slash in PATH."""
    if "/" in name:
        candidates = [Path(name)]
    else:
        candidates = [Path(place or ".") / name for place in environment.get("PATH", os.defpath).split(os.pathsep)]
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.absolute()  # with the name that it is called by
    message = f"There is no program {name!r}: no such file, or it may not be executed. Give its path."
    raise SimulatorError(message, program=name)


def _interpreter(program: Path) -> Path | None:
    """Return the interpreter that a script names; None for what is no script."""
    with program.open("rb") as file:
        first = file.readline(1024)
    if not first.startswith(b"#!"):
        return None
    words = os.fsdecode(first[2:]).split(None, 1)
    if words and Path(words[0]).name == "env":
        message = (
            f"{str(program)!r} is a script that is started by {words[0]}: that would be interposed, not what it"
            " starts. Begin the command with the interpreter."
        )
        raise SimulatorError(message, path=str(program))
    interpreter = Path(words[0]) if words else Path("?")
    if not interpreter.is_file():
        message = f"{str(program)!r} is a script whose interpreter {str(interpreter)!r} does not exist."
        raise SimulatorError(message, path=str(program))
    return interpreter.resolve()


def _elf(program: Path) -> ElfFile:
    try:
        elf = ElfFile(program)
    except InvalidInputError as error:
        with program.open("rb") as file:
            head = file.read(6)
        what = "a 32-bit program" if head[:5] == b"\x7fELF\x01" else "no program of Linux for this machine"
        message = f"{str(program)!r} is {what}; only 64-bit little-endian ELF programs can be interposed."
        raise SimulatorError(message, path=str(program)) from error
    if elf.machine != ElfFile(Path(sys.executable).resolve()).machine:
        message = f"{str(program)!r} is a program for another processor than this one (ELF machine {elf.machine})."
        raise SimulatorError(message, path=str(program))
    return elf


def _loader(elf: ElfFile) -> str | None:
    for segment in elf.segments:
        if segment.kind == _PT_INTERP:
            return os.fsdecode(elf.read(segment.address, segment.file_bytes).rstrip(b"\0"))
    return None


def _check_rights(program: Path) -> None:
    """Refuse a program that runs with other rights than ours: the loader ignores LD_PRELOAD for it."""
    status = program.stat()
    is_other_user = bool(status.st_mode & stat.S_ISUID) and status.st_uid != os.getuid()
    is_other_group = bool(status.st_mode & stat.S_ISGID) and status.st_gid != os.getgid()
    try:
        has_capabilities = os.getuid() != 0 and "security.capability" in os.listxattr(program)
    except OSError:
        has_capabilities = False
    if is_other_user or is_other_group or has_capabilities:
        message = (
            f"{str(program)!r} runs with rights of its own (setuid, setgid or capabilities), so the loader ignores "
            "LD_PRELOAD. Run a copy without them."
        )
        raise SimulatorError(message, path=str(program))


def _libraries(loader: str, program: Path, environment: Mapping[str, str]) -> list[Path]:
    """Ask the loader of a program what it would load."""
    clean = {name: value for name, value in environment.items() if name not in ("LD_PRELOAD", "LD_AUDIT")}
    try:
        listing = subprocess.run(
            [loader, "--list", str(program)], env=clean, capture_output=True, timeout=LOADER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"The loader {loader!r} of {str(program)!r} cannot list its libraries: {error}."
        raise SimulatorError(message, path=str(program)) from error
    lines = os.fsdecode(listing.stdout).splitlines()
    missing = [line.split(" => ")[0].strip() for line in lines if line.endswith("not found")]
    if listing.returncode != 0 or missing:
        reason = f"missing {', '.join(missing)}" if missing else os.fsdecode(listing.stderr).strip()
        message = f"{str(program)!r} cannot be loaded: {reason}. Set LD_LIBRARY_PATH in `environment`."
        raise SimulatorError(message, path=str(program))
    paths = [line.split(" => ")[-1].rpartition(" (")[0].strip() for line in lines]
    return [Path(path).resolve() for path in paths if path.startswith("/")]
