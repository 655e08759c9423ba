"""The programs in ``closed``, compiled for the tests: closed, in that nothing in them knows of tracestore."""

import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tracestore.native.build import find_compiler

SOURCES = Path(__file__).parent / "closed"
LIBRARIES = {"decay": "rng", "kinds": "kinds_library"}
"""Libraries of their own that programs have."""
IS_LINUX = sys.platform == "linux"
NEEDS_COMPILER = pytest.mark.skipif(
    not IS_LINUX or find_compiler("c") is None or find_compiler("c++") is None,
    reason="programs are interposed on Linux, with a C compiler; the test programs need one for C++, too",
)
NEEDS_FORTRAN = pytest.mark.skipif(shutil.which("gfortran") is None, reason="no Fortran compiler")


class ClosedPrograms:
    """Compiles programs when they are first asked for.

    Parameters
    ----------
    folder
        Where they are put.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str, *flags: str) -> Path:
        """Return an executable made of a source of that name; flags make another one."""
        source = next(path for path in SOURCES.iterdir() if path.stem == name and path.suffix in (".c", ".cpp", ".f90"))
        target = self.folder / "-".join([name, *(flag.strip("-").replace("/", "_") for flag in flags)])
        if not target.exists():
            compiler = {".c": find_compiler("c"), ".cpp": find_compiler("c++"), ".f90": "gfortran"}[source.suffix]
            linked = []
            if name in LIBRARIES:
                self.library(LIBRARIES[name])
                linked = [f"-L{self.folder}", f"-l{LIBRARIES[name]}", f"-Wl,-rpath,{self.folder}"]
            self._compile(compiler, "-o", str(target), str(source), *linked, "-lm", "-lpthread", *flags)
        return target

    def library(self, name: str, *flags: str) -> Path:
        """Return a shared library made of a source of that name."""
        target = self.folder / f"lib{name}.so"
        if not target.exists():
            source = next(path for path in SOURCES.iterdir() if path.stem == name and path.suffix in (".c", ".cpp"))
            compiler = find_compiler("c" if source.suffix == ".c" else "c++")
            self._compile(compiler, "-shared", "-fPIC", "-o", str(target), str(source), *flags)
        return target

    def _compile(self, compiler: str | None, *arguments: str) -> None:
        done = subprocess.run(
            [*str(compiler).split(), "-O1", *arguments], capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode != 0:
            pytest.skip(f"a test program does not compile here: {done.stderr[-400:]}")


@contextmanager
def compiled(folder: Path):
    """Give programs in a folder, and let the library that is preloaded be built there, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACESTORE_CACHE", str(folder / "cache"))
        yield ClosedPrograms(folder)
