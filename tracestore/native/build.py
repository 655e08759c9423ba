"""Build small C and C++ libraries with the compiler of this machine, once, into a cache of the user.

Code is loaded from the cache, so its folder must belong to the user and be closed to others. A library is found again
by a digest of its sources, its flags and the compiler; it ends with a digest of itself, and is built again when that is
wrong.
"""

import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tracestore.errors import CompilerError, InvalidInputError

__all__ = ["Language", "build_library", "cache_folder", "find_compiler"]

Language = Literal["c", "c++"]
_VARIABLES: dict[Language, str] = {"c": "CC", "c++": "CXX"}
_CANDIDATES: dict[Language, tuple[str, ...]] = {"c": ("cc", "gcc", "clang"), "c++": ("c++", "g++", "clang++")}
_SUFFIXES: dict[Language, tuple[str, ...]] = {"c": (".c",), "c++": (".cpp", ".cc", ".cxx")}
_TIMEOUT_SECONDS = 120.0
_LAST_LINES = 12
_DIGEST_MARK = b"tracestore library 1\n"
_SEAL_MARK = b"\ntracestore sha256 "
_SEAL_BYTES = len(_SEAL_MARK) + hashlib.sha256().digest_size


def cache_folder() -> Path:
    """Return the folder for built libraries, created when absent.

    It is ``$TRACESTORE_CACHE``, else ``tracestore`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``.

    Raises
    ------
    CompilerError
        When it cannot be created, belongs to another user, or others may write to it.
    """
    chosen = os.environ.get("TRACESTORE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    folder = Path(chosen) if chosen else (Path(base) if base else Path.home() / ".cache") / "tracestore"
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        message = f"The cache folder {str(folder)!r} cannot be used: {error.strerror or error}. Set TRACESTORE_CACHE."
        raise CompilerError(message, path=str(folder)) from error
    if status.st_uid != os.geteuid():
        reason = "it belongs to another user"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = "other users may write to it"
    else:
        return folder
    message = (
        f"The cache folder {str(folder)!r} is not used, because code is loaded from it and {reason}. "
        "Run `chmod go-w` on it, or set TRACESTORE_CACHE to a folder of your own."
    )
    raise CompilerError(message, path=str(folder))


def find_compiler(language: Language = "c") -> str | None:
    """Find a compiler: ``$CC`` or ``$CXX``, else the usual names on the path.

    Parameters
    ----------
    language
        ``"c"`` or ``"c++"``.

    Returns
    -------
    str | None
        The command, perhaps with arguments of its own; ``None`` when there is none.
    """
    chosen = os.environ.get(_VARIABLES[language], "").strip()
    if chosen and shutil.which(_words(chosen)[0]):
        return chosen
    return next((path for name in _CANDIDATES[language] if (path := shutil.which(name)) is not None), None)


def build_library(
    name: str, sources: Mapping[str, str], *, language: Language = "c", flags: Sequence[str] = ()
) -> Path:
    """Compile sources to a shared library, or find the one that was built from the same before.

    Parameters
    ----------
    name
        Begins the file's name: letters, digits and ``_``.
    sources
        Text by file name. Names that end in ``.h`` are only included by the others.
    language
        ``"c"`` or ``"c++"``.
    flags
        Further arguments of the compiler, such as ``"-lm"``; they come last.

    Returns
    -------
    Path
        The library. Any number of processes may ask for it at the same time.

    Raises
    ------
    InvalidInputError
        When a name has other characters, or nothing is to be compiled.
    CompilerError
        When there is no compiler, it fails or takes too long, or the cache folder is not safe.

    Examples
    --------
    >>> build_library("nothing", {"../nothing.c": ""})
    Traceback (most recent call last):
    tracestore.errors.InvalidInputError: Names of libraries and sources must be plain file names; got '../nothing.c'.
    """
    _check_names(name, sources, language)
    command = find_compiler(language)
    if command is None:
        message = (
            f"No {language.upper()} compiler was found, and the native library {name!r} must be built; install one "
            f"(on Debian: apt-get install g++), or set {_VARIABLES[language]} to its command."
        )
        raise CompilerError(message, language=language)
    arguments = [*_words(command), "-shared", "-fPIC", "-O2", "-g0"]
    digest = _digest(sources, [*arguments, *flags], _version(arguments[0]))
    folder = cache_folder()
    target = folder / f"{name}-{digest}.so"
    if not _is_sealed(target):
        _compile(target, sources, arguments, flags, language)
    return target


def _words(command: str) -> list[str]:
    """Split a command as a shell does; one path with blanks or quotes in it is one word."""
    if Path(command).exists():
        return [command]
    try:
        return shlex.split(command) or [command]
    except ValueError:
        return [command]


def _check_names(name: str, sources: Mapping[str, str], language: Language) -> None:
    for text in (name, *sources):
        if not text.replace("_", "").replace(".", "").replace("-", "").isalnum() or text.startswith((".", "-")):
            message = f"Names of libraries and sources must be plain file names; got {text!r}."
            raise InvalidInputError(message, name=text)
    if not any(text.endswith(_SUFFIXES[language]) for text in sources):
        message = f"`sources` of the library {name!r} has no file that ends in {' or '.join(_SUFFIXES[language])}."
        raise InvalidInputError(message, name=name)


def _compile(
    target: Path, sources: Mapping[str, str], arguments: list[str], flags: Sequence[str], language: Language
) -> None:
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as text:
        folder = Path(text)
        for file_name, source in sources.items():
            (folder / file_name).write_text(source, "utf-8")
        inputs = [file_name for file_name in sources if file_name.endswith(_SUFFIXES[language])]
        _run([*arguments, "-o", "library.so", *inputs, *flags], folder, target.name)
        built = folder / "library.so"
        content = built.read_bytes() if built.exists() else b""
        if not content.startswith(b"\x7fELF"):
            message = f"The compiler reported success and made no library: {shlex.join(arguments)}. Set CC or CXX."
            raise CompilerError(message)
        built.write_bytes(content + _seal(content))
        built.replace(target)  # whoever comes last wins; all have built the same


def _run(command: list[str], folder: Path, name: str) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C", "LD_PRELOAD": ""},
        )
    except subprocess.TimeoutExpired as error:
        message = f"Compiling {name} took longer than {_TIMEOUT_SECONDS:g} s and was stopped: {shlex.join(command)}."
        raise CompilerError(message, command=command) from error
    except OSError as error:
        message = (
            f"The compiler {command[0]!r} cannot be started: {error.strerror or error}. Set CC or CXX to another one."
        )
        raise CompilerError(message, command=command) from error
    if done.returncode != 0:
        words = done.stdout.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        message = (
            f"The compiler {command[0]!r} could not build {name} (exit status {done.returncode}); it says:\n"
            + "\n".join(words or ["(nothing)"])
        )
        raise CompilerError(message, command=command, exit_status=done.returncode)


def _digest(sources: Mapping[str, str], arguments: Sequence[str], version: str) -> str:
    digest = hashlib.sha256(_DIGEST_MARK)
    for part in (version, *arguments, "", *(text for item in sorted(sources.items()) for text in item)):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()[:24]


@lru_cache(maxsize=16)
def _version(program: str) -> str:
    """Return which compiler a command is: its path, and the size and time of its file."""
    path = Path(shutil.which(program) or program).resolve()
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _seal(content: bytes) -> bytes:
    return _SEAL_MARK + hashlib.sha256(content).digest()


def _is_sealed(path: Path) -> bool:
    """Tell whether a library of this user is there, whole and unchanged."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return False
            content = file.read()
    except OSError:
        return False
    num_bytes = len(content) - _SEAL_BYTES
    return num_bytes > 0 and content[num_bytes:] == _seal(content[:num_bytes])
