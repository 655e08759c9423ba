"""Lines of source files."""

import linecache
from pathlib import Path

__all__ = ["short_path", "source_line"]


def source_line(file: str, line: int) -> str:
    """Return a line of a source file without the space around it; empty where there is no such file.

    Examples
    --------
    >>> source_line("no-such-file.py", 3)
    ''
    """
    return linecache.getline(file, line).strip()


def short_path(file: str) -> str:
    """Return a path as seen from here: relative below the current folder, else its last two parts.

    Examples
    --------
    >>> short_path("/a/b/c.py")
    'b/c.py'
    """
    path = Path(file)
    here = Path.cwd()
    if path.is_relative_to(here):
        return str(path.relative_to(here))
    return "/".join(path.parts[-2:])
