"""Where in the source an address is: from its text back to module, function and line. Reads source files, runs nothing.

The inverse of `tracestore.simulators.addresses`: the last link of a place names a function and the label of a call in
it. The function is looked for in the module of the simulator, then in the modules that this one imports from its own
package or folder. A source that was edited since may have no such call: then there is no location. Of functions of one
name with a call of one label in several modules, the nearest to the simulator counts.
"""

import ast
import linecache
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path

from tracestore.simulators.addresses import call_labels
from tracestore.traces.address import REJECTION

__all__ = ["SourceFinder", "SourceLine"]

MAX_MODULES = 60
"""Modules that are looked through."""
LINES_BEFORE = 4
LINES_AFTER = 3

Position = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class SourceLine:
    """The call that made a draw.

    Examples
    --------
    >>> SourceLine("toys", "gum", 3, 3, ((2, "def gum():"), (3, "    mu = sample(prior)"))).where
    'toys:gum:3'
    """

    module: str
    function: str
    """Qualified name."""
    line: int
    last_line: int
    excerpt: tuple[tuple[int, str], ...]
    """Lines around the call with their numbers."""

    @property
    def where(self) -> str:
        """``module:function:line``."""
        return f"{self.module}:{self.function}:{self.line}"


class SourceFinder:
    """Finds the source lines of the addresses of one simulator.

    Parameters
    ----------
    simulator
        Name of the simulator as jobs record it: ``module:qualified name``. With another name nothing is found.

    Examples
    --------
    >>> finder = SourceFinder("tracestore.simulators.toys:gum")
    >>> found = finder.find("gum:mu~Normal")
    >>> found.module, found.function
    ('tracestore.simulators.toys', 'gum')
    >>> finder.find("chosen.by.hand~Normal") is None
    True
    """

    def __init__(self, simulator: str) -> None:
        self.root = simulator.partition(":")[0]
        self._known: list[_Module] = []
        self._waiting = [self.root]
        self._seen = {self.root}

    def find(self, base: str) -> SourceLine | None:
        """Return the call behind a base address; None for addresses chosen by hand, and when the source is not here.

        Parameters
        ----------
        base
            A base address.
        """
        place = base.removeprefix(REJECTION).lstrip("/").rpartition("~")[0] or base
        # the text of a call may hold slashes itself: the shortest ending that is a function and one of its calls
        starts = [*(match.end() for match in reversed([*re.finditer("/", place)])), 0]
        for start in starts:
            function, colon, label = place[start:].partition(":")
            if not colon or not re.fullmatch(r"[\w.<>]+", function):
                continue
            for module in self._modules():
                position = module.position(function, label)
                if position is not None:
                    first, last = position[0], position[2]
                    excerpt = module.excerpt(first, last, function)
                    return SourceLine(module.name, function, first, last, excerpt)
        return None

    def _modules(self) -> Iterator["_Module"]:
        """Yield the module of the simulator, then those near it that it imports; each is read when it is reached."""
        yield from list(self._known)
        while self._waiting and len(self._known) < MAX_MODULES:
            name = self._waiting.pop(0)
            file = _source_file(name)
            if file is None:
                continue
            module = _Module(name, file)
            self._known.append(module)
            for imported in module.imported:
                is_near = imported.partition(".")[0] == self.root.partition(".")[0]
                if imported not in self._seen and (is_near or (file.parent / f"{imported}.py").is_file()):
                    self._seen.add(imported)
                    self._waiting.append(imported)
            yield module


class _Module:
    """One source file: its calls by function and label.

    Parameters
    ----------
    name
        Name of the module.
    file
        Its source.
    """

    def __init__(self, name: str, file: Path) -> None:
        self.name = name
        self.file = str(file)
        self.lines = linecache.getlines(self.file)
        self.bounds: dict[str, tuple[int, int]] = {"<module>": (1, len(self.lines))}
        """First and last line of each function, by qualified name."""
        self._calls: dict[str, list[Position]] = {}
        """Positions of the calls of each function."""
        self.imported: list[str] = []
        try:
            tree = ast.parse("".join(self.lines))
        except (SyntaxError, ValueError):
            return
        self._walk(tree, "<module>", "")
        self.imported = [name for node in ast.walk(tree) for name in self._imports(node)]

    def position(self, function: str, label: str) -> Position | None:
        """Find the call with a label in a function."""
        if function not in self._calls:
            return None
        return next((place for place in self._calls[function] if self._labels.get(place) == label), None)

    @cached_property
    def _labels(self) -> dict[Position, str]:
        """Labels of all calls; made when a function is here, since that takes the longest."""
        return call_labels(self.file, len(self.lines))

    def excerpt(self, first: int, last: int, function: str) -> tuple[tuple[int, str], ...]:
        """Return the lines around a call, within its function."""
        start, end = self.bounds[function]
        numbers = range(max(first - LINES_BEFORE, start), min(last + LINES_AFTER, end) + 1)
        return tuple((number, self.lines[number - 1].rstrip()) for number in numbers)

    def _walk(self, node: ast.AST, function: str, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner, names = function, prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = prefix + child.name
                names = f"{inner}.<locals>."
                self.bounds.setdefault(inner, (child.lineno, child.end_lineno or child.lineno))
            elif isinstance(child, ast.ClassDef):
                names = f"{prefix}{child.name}."
            elif isinstance(child, ast.Lambda | ast.GeneratorExp):
                inner = prefix + ("<lambda>" if isinstance(child, ast.Lambda) else "<genexpr>")
                names = f"{inner}.<locals>."
                self.bounds.setdefault(inner, self.bounds[function])
            elif isinstance(child, ast.Call):
                place = (child.lineno, child.col_offset, child.end_lineno or 0, child.end_col_offset or 0)
                self._calls.setdefault(function, []).append(place)
            self._walk(child, inner, names)

    def _imports(self, node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            package = self.name.rsplit(".", node.level)[0] if node.level else ""
            name = ".".join(part for part in (package, node.module) if part)
            return [name, *(f"{name}.{alias.name}" for alias in node.names)]
        return []


def _source_file(name: str) -> Path | None:
    """Find the source of a module without importing anything."""
    known = getattr(sys.modules.get(name), "__file__", None)
    if known is not None:
        return Path(known) if str(known).endswith(".py") else None
    places: list[str] | None = None
    spec = None
    parts = name.split(".")
    for number in range(len(parts)):
        # the finder looks at folders only; parents of a module are not run
        spec = PathFinder.find_spec(".".join(parts[: number + 1]), places)
        if spec is None:
            return _beside(parts) if number == 0 else None
        places = list(spec.submodule_search_locations or ())
    origin = spec.origin if spec is not None else None
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def _beside(parts: list[str]) -> Path | None:
    """Look in the current folder, from which the command line loads simulators, too."""
    file = Path.cwd().joinpath(*parts).with_suffix(".py")
    return file if file.is_file() else None
