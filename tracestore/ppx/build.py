"""What fixes the addresses of a program that is started by a command: its binaries and scripts, as text.

Must not know how programs are started, nor what they say.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tracestore.errors import FormatError, InvalidInputError, SimulatorNotFoundError
from tracestore.native.elf import ElfFile
from tracestore.ppx.program import ProgramSettings

__all__ = ["build_of", "find_program", "inputs_of"]


def build_of(settings: ProgramSettings) -> str:
    """Return the build of a command: of the program itself, and of arguments that are files, such as scripts.

    Parameters
    ----------
    settings
        With the command.

    Returns
    -------
    str
        ``NAME=ID`` for each, joined by ``;``. The id is the build id of an ELF file, else a digest of its bytes.

    Raises
    ------
    SimulatorNotFoundError
        When the program does not exist.

    Examples
    --------
    >>> build_of(ProgramSettings(command=("true",))).startswith("true=")
    True
    """
    folder = settings.folder or Path()
    files = [find_program(settings)]
    files += [folder / word for word in settings.command[1:] if _is_file(folder / word)]
    return ";".join(f"{file.name}={_identity(file)}" for file in files)


def inputs_of(words: Sequence[str], folder: Path, environment: Mapping[str, str], files: Iterable[Path] = ()) -> str:
    """Return what a program is given, as text that tells calls apart: its arguments, variables and files.

    Parameters
    ----------
    words
        The arguments, without the program.
    folder
        Working directory, from which paths among them are seen.
    environment
        Variables beside those of this process.
    files
        Files and folders that it finds there.

    Returns
    -------
    str
        Files, also as the value of an argument such as ``--card=FILE``, appear with a digest of what is in them, and
        without their folder; all else as it is.

    Examples
    --------
    >>> inputs_of(["--seed", "1"], Path(), {"SHIFT": "7"})
    "['--seed', '1'] {'SHIFT': '7'} []"
    """
    shown = [_with_digest(word, folder) for word in words]
    return f"{shown} {dict(sorted(environment.items()))} {[f'{one.name}={_contents(one)}' for one in files]}"


def _with_digest(word: str, folder: Path) -> str:
    option, equals, value = word.partition("=")
    for before, path in ((f"{option}{equals}", value), ("", word)):
        if path and (_is_file(folder / path) or ("/" in path and _is_folder(folder / path))):
            return f"{before}{Path(path).name}={_contents(folder / path)}"
    return word


def _contents(path: Path) -> str:
    """Digest of a file, or of all files of a folder with their names."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(f"{file.relative_to(path)}:{_digest(file)};".encode())
    return digest.hexdigest()


def find_program(settings: ProgramSettings) -> Path:
    """Return the file that a command runs.

    Parameters
    ----------
    settings
        With the command.

    Raises
    ------
    SimulatorNotFoundError
        When there is none that can be run.
    """
    word = settings.command[0]
    if "/" in word:  # seen from the program's working directory
        word = str((settings.folder or Path()).absolute() / word)
    found = shutil.which(word, path=(os.environ | dict(settings.environment)).get("PATH"))
    if found is None:
        message = f"There is no program {settings.command[0]!r} that can be run; give its path."
        raise SimulatorNotFoundError(message, command=settings.command)
    return Path(found)


def _identity(file: Path) -> str:
    try:
        return ElfFile(file).build_id
    except (InvalidInputError, FormatError):
        return _digest(file)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # no path at all
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no path at all
        return False
