"""Names of machine addresses: which module of this process holds one, and which function of a binary.

Offsets count from where a module is loaded, so they are the same in every process that loads the same binary.
Linux with glibc only.
"""

import ctypes
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tracestore.errors import InvalidInputError
from tracestore.native.elf import ElfFile

__all__ = [
    "UNNAMED",
    "LoadedModule",
    "demangle",
    "describe",
    "elf_file",
    "loaded_module",
    "module_at",
    "open_module",
    "short_name",
]

UNNAMED = "?"
"""Name of a function that the binary does not name."""
_LONGEST_MANGLED = 8192  # the demangler recurses; a longer name is shown as it is
_LONGEST_SHORT = 160
_RTLD_NOLOAD = 4
_RTLD_LAZY = 1
_DLINFO_LINK_MAP = 2
_OPERATOR = re.compile(
    r"\boperator\s?(\(\)|\[\]|<=>|->\*|->|<<=|>>=|<<|>>|<=|>=|==|!=|&&|\|\||\+\+|--|[-+*/%^&|]=|[-+*/%^&|~!=<>,])"
)
_MARKED_OPERATOR = re.compile("\x01(\\d+)\x02")
_CLONE = re.compile(r"\s*\[clone [^\]]*\]")
_ABI_TAG = re.compile(r"\[abi:[^\]]*\]")
# copies that compilers make of functions, and functions within Fortran functions
_C_CLONE = re.compile(r"(?:\.(?:cold|part|isra|constprop|lto_priv|llvm|localalias|\d+))+$")
_QUALIFIER = re.compile(r" (?:const|volatile|noexcept)\b| ?&&?(?=::|$)")
_EMPTY_PARTS = re.compile(r"(?:::){2,}")
_LAMBDA_NUMBER = re.compile(r"#\d+(?=\})")
_BRACKETS = {"<": ">", "(": ")"}


class LoadedModule(NamedTuple):
    """A shared library or program in this process: its file, where offset 0 is, and the end of its memory."""

    path: str
    base: int
    end: int


@lru_cache(maxsize=16384)
def demangle(name: str) -> str:
    """Turn a symbol of C++ into the text of its declaration.

    Parameters
    ----------
    name
        A mangled name; other names come back as they are, and so do all names where there is no C++ library.

    Examples
    --------
    >>> demangle("main")
    'main'
    """
    if not name.startswith("_Z") or len(name) > _LONGEST_MANGLED:
        return name
    demangler = _demangler()
    return name if demangler is None else demangler(name)


def short_name(demangled: str, *, drop_namespaces: Sequence[str] = ()) -> str:
    """Keep of a demangled name what tells people where they are.

    Arguments, template arguments, return types, ABI tags, anonymous namespaces and marks of compiler-made copies go.

    Parameters
    ----------
    demangled
        From `demangle`.
    drop_namespaces
        Leading namespaces to leave out, such as ``"Pythia8"``.

    Examples
    --------
    >>> short_name("void Pythia8::Rndm::shuffle<int>(std::vector<int>&) const", drop_namespaces=("Pythia8",))
    'Rndm::shuffle'
    >>> short_name("tauola_decay_.part.0")
    'tauola_decay_'
    """
    text = _C_CLONE.sub("", _ABI_TAG.sub("", _CLONE.sub("", demangled)))
    text = text.replace("(anonymous namespace)", "").replace("decltype(auto) ", "")
    operators = _OPERATOR.findall(text)
    numbers = iter(range(len(operators)))
    text = _OPERATOR.sub(lambda _: f"operator\x01{next(numbers)}\x02", text)
    for opening in _BRACKETS:
        text = _without_groups(text, opening)
    text = _LAMBDA_NUMBER.sub("", _QUALIFIER.sub("", text)).strip()
    head, conversion, target = text.partition("operator ")  # `operator bool`, `operator new`
    text = head.rpartition(" ")[2] + conversion + target if conversion else text.rpartition(" ")[2]
    text = _MARKED_OPERATOR.sub(lambda match: operators[int(match[1])], text)
    text = _EMPTY_PARTS.sub("::", text).removeprefix("::").removesuffix("::")
    for namespace in drop_namespaces:
        text = text.removeprefix(namespace + "::")
    return (text or demangled).replace(" | ", "|").replace("@", "")[:_LONGEST_SHORT]


@lru_cache(maxsize=65536)
def describe(module_path: str, offset: int, drop_namespaces: tuple[str, ...] = ()) -> str:
    """Name a return address of a binary: short function name, ``@``, the offset in hexadecimal.

    Parameters
    ----------
    module_path
        The binary.
    offset
        Of a return address, from where the binary is loaded. The function is that of the call before it, which may be
        the last instruction of its function.
    drop_namespaces
        See `short_name`.

    Raises
    ------
    InvalidInputError
        When the file is absent or not an ELF file of this kind.
    FormatError
        When the file is damaged.
    """
    name = elf_file(module_path).name_at(offset - 1)
    return f"{UNNAMED if name is None else short_name(demangle(name), drop_namespaces=drop_namespaces)}@{offset:x}"


def elf_file(path: str | Path) -> ElfFile:
    """Open a binary, or return the one that was opened before if the file has not changed.

    Raises
    ------
    InvalidInputError
        When the file is absent or not an ELF file of this kind.
    FormatError
        When the file is damaged.
    """
    real = Path(path).resolve()
    try:
        status = real.stat()
    except OSError as error:
        message = f"The binary {str(path)!r} cannot be read: {error.strerror or error}. Name an existing file."
        raise InvalidInputError(message, path=str(path)) from error
    return _elf_file(real, status.st_mtime_ns, status.st_size, status.st_ino)


def module_at(address: int) -> tuple[str, int] | None:
    """Find the module of this process that holds a machine address.

    Returns
    -------
    tuple[str, int] | None
        The path of its file, and the address at which the module begins; ``None`` when none does.

    Raises
    ------
    InvalidInputError
        Where the system is not Linux with glibc.
    """
    found = _DlInfo()
    if _library().dladdr(ctypes.c_void_p(address), ctypes.byref(found)) == 0 or not found.base:
        return None
    path = Path(found.path.decode(errors="surrogateescape"))
    # the program itself is known by the name that it was started with
    return str(path.resolve() if path.is_absolute() and path.exists() else _program()), found.base


def loaded_module(path: str | Path) -> LoadedModule:
    """Find where a shared library, or the program itself, is loaded in this process.

    Parameters
    ----------
    path
        The file, or the bare name of a library such as ``libm.so.6``. The module stays loaded from then on.

    Raises
    ------
    InvalidInputError
        When it is not loaded, or the system is not Linux with glibc.
    """
    library = _library()
    text = str(path)
    is_program = "/" in text and Path(text).resolve() == _program()
    handle = library.dlopen(None if is_program else text.encode(), _RTLD_LAZY | _RTLD_NOLOAD)
    link_map = ctypes.POINTER(_LinkMap)()
    if not handle or library.dlinfo(ctypes.c_void_p(handle), _DLINFO_LINK_MAP, ctypes.byref(link_map)) != 0:
        message = f"The library {text!r} is not loaded in this process; import its module, or load it, first."
        raise InvalidInputError(message, path=text)
    name = link_map.contents.name
    file = _program() if is_program or not name else Path(name.decode(errors="surrogateescape")).resolve()
    elf = elf_file(file)
    base = link_map.contents.bias + elf.lowest_address
    return LoadedModule(str(file), base, base + elf.span_bytes)


def open_module(path: str | Path) -> ctypes.CDLL:
    """Open a module that is loaded in this process, to look up symbols in it and in what it depends on."""
    return ctypes.CDLL(None if Path(path).resolve() == _program() else str(path), mode=_RTLD_LAZY | _RTLD_NOLOAD)


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("path", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("symbol_address", ctypes.c_void_p),
    )


class _LinkMap(ctypes.Structure):
    _fields_ = (("bias", ctypes.c_size_t), ("name", ctypes.c_char_p))


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(None)
        library.dladdr.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        library.dlinfo.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        library.dlopen.argtypes = (ctypes.c_char_p, ctypes.c_int)
        library.dlopen.restype = ctypes.c_void_p
        library.gnu_get_libc_version.restype = ctypes.c_char_p
    except (AttributeError, OSError, TypeError) as error:
        message = (
            "Addresses of native code need Linux with the GNU C library, and this system is another one; "
            "run the simulator as a program that speaks PPX instead."
        )
        raise InvalidInputError(message) from error
    return library


def _program() -> Path:
    return Path("/proc/self/exe").resolve()


@lru_cache(maxsize=256)
def _elf_file(path: Path, _modified: int, _size: int, _inode: int) -> ElfFile:
    return ElfFile(path)


@lru_cache(maxsize=1)
def _demangler() -> Callable[[str], str] | None:
    try:
        function = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
        free = ctypes.CDLL(None).free
    except (AttributeError, OSError):
        return None
    function.restype = ctypes.c_void_p
    function.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))
    free.argtypes, free.restype = (ctypes.c_void_p,), None

    def demangled(name: str) -> str:
        status = ctypes.c_int(0)
        pointer = function(name.encode(), None, None, ctypes.byref(status))
        if not pointer:
            return name
        try:
            return ctypes.string_at(pointer).decode(errors="replace")
        finally:
            free(pointer)

    return demangled


def _without_groups(text: str, opening: str) -> str:
    """Leave out what stands in balanced brackets; text that is not balanced comes back as it is."""
    closing, depth, kept = _BRACKETS[opening], 0, []
    for character in text:
        if character == opening:
            depth += 1
        elif character == closing and depth > 0:
            depth -= 1
        elif depth == 0:
            kept.append(character)
    return text if depth else "".join(kept)
