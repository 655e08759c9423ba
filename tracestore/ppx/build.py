"""What fixes the addresses of a program that is started by a command: its binaries and scripts, as text.

Must not know how programs are started, nor what they say.
"""

import hashlib
import os
import shutil
from pathlib import Path

from tracestore.errors import FormatError, InvalidInputError, SimulatorNotFoundError
from tracestore.native.elf import ElfFile
from tracestore.ppx.program import ProgramSettings

__all__ = ["build_of", "find_program"]


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
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no path at all
        return False
