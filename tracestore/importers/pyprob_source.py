"""What a directory holds for an import: files, their lengths, what their first traces tell, the parts to make of them.

Reads a few traces; writes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

from tracestore.errors import FormatError, InvalidInputError
from tracestore.formats.document import digest
from tracestore.importers.pyprob_conversion import PyprobConverter
from tracestore.importers.pyprob_parts import PARTS_PER_FILE, FilePart
from tracestore.importers.pyprob_records import PyprobTrace
from tracestore.importers.pyprob_shelf import PyprobShelf, find_pyprob_files, read_address_dictionary

__all__ = ["FirstTraces", "PyprobSource", "Which", "find_dictionary", "list_source", "look_at", "plan_parts"]

Which = Literal["auto", "sorted", "unsorted"]
"""Files that are imported: those that pyprob sorted, the others, or the sorted ones if there are any."""

FIRST_TRACES = 64
"""Traces that are looked at before the plan is made."""
BLOCK_BYTES = 2**26
MOST_TOGETHER = 256
"""Traces that are converted at a time, at most, and about how many bytes they may have."""
MOST_CANDIDATES = 256
"""Files beside a data set that are tried as address dictionaries."""
_DATA = "pyprob_"
SUFFIXES = (".dat", ".dir", ".bak", ".pag", ".db")
"""Endings of the files of shelves that are in several."""


@dataclass(frozen=True, slots=True)
class PyprobSource:
    """Files of a data set, and what they say of themselves."""

    directory: Path
    files: tuple[Path, ...]
    lengths: tuple[int, ...]
    """Records of each file: as many as it says it has, else as it has keys; 0 when it cannot be opened."""
    undeclared: frozenset[int]
    """Numbers of the files that do not say how many records they have."""
    unopened: Mapping[int, str]
    """Why files cannot be opened, by their numbers."""
    which: str
    """``sorted`` or ``unsorted``."""
    num_passed_over: int
    """Files of the other kind."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files."""
        return tuple(file.name for file in self.files)


@dataclass(frozen=True, slots=True)
class FirstTraces:
    """What the first traces tell; written into the store, since the plan of a repeated call must not depend on them."""

    trace_bytes: int
    """Bytes of a trace in memory."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shapes of the observations."""
    needs_dictionary: bool
    """Whether there are addresses in dictionary form."""

    @property
    def num_together(self) -> int:
        """Traces to convert at a time."""
        return max(1, min(MOST_TOGETHER, BLOCK_BYTES // self.trace_bytes))


def list_source(directory: str | PathLike[str], which: Which) -> PyprobSource:
    """Find the files of a data set and ask each for its length.

    Raises
    ------
    StoreNotFoundError
        When there is no such directory, or no data set in it.
    """
    found = find_pyprob_files(directory, which)
    lengths: list[int] = []
    undeclared = set()
    unopened: dict[int, str] = {}
    for number, file in enumerate(found.paths):
        try:
            with PyprobShelf(file) as shelf:
                if shelf.declared_length is None:
                    undeclared.add(number)
                lengths.append(shelf.num_records)
        except (FormatError, OSError) as error:
            lengths.append(0)
            undeclared.add(number)
            unopened[number] = str(error)
    return PyprobSource(
        Path(directory), found.paths, tuple(lengths), frozenset(undeclared), unopened, found.kind, found.num_passed_over
    )


def look_at(source: PyprobSource, tags: Sequence[str], observations: Sequence[str]) -> FirstTraces:
    """Convert the first traces of the first file that has some.

    Raises
    ------
    FormatError
        When there is no file of which a trace can be converted.
    """
    reason = next(iter(source.unopened.values()), "all are empty")
    for number, file in enumerate(source.files):
        if number in source.unopened:
            continue
        try:
            with PyprobShelf(file) as shelf:
                records = list(shelf.read(0, FIRST_TRACES))
        except (FormatError, OSError) as error:
            reason = str(error)
            continue
        traces = [one for one in records if isinstance(one, PyprobTrace)]
        converter = PyprobConverter(tags=tags, observations=observations, shapes=_shapes(traces))
        converted = converter.convert(list(enumerate(traces)))
        if converted.batch is not None:
            batch = converted.batch
            return FirstTraces(
                max(1, batch.nbytes // len(batch)),
                {name: column.shape[1:] for name, column in batch.observations.items()},
                converter.has_unresolved,
            )
        refused = [reason for _, reason in converted.refused]
        reason = next(iter([*refused, *(one.reason for one in records if not isinstance(one, PyprobTrace))]), reason)
    where = f"the {len(source.files)} {source.which} files of {source.directory}"
    message = f"No trace at the beginning of {where} can be converted; the first reason: {reason}"
    raise FormatError(message, path=str(source.directory))


def plan_parts(source: PyprobSource, traces_per_part: int) -> list[FilePart]:
    """Cut the files that can be opened into parts, in order.

    Parameters
    ----------
    source
        The files.
    traces_per_part
        Most records of a part.

    Raises
    ------
    InvalidInputError
        When a file would have too many parts.
    """
    parts = []
    for number, (file, length) in enumerate(zip(source.files, source.lengths, strict=True)):
        if number in source.unopened:
            continue
        starts = range(0, max(length, 1), traces_per_part)
        if len(starts) >= PARTS_PER_FILE:
            message = f"{file.name} would become {len(starts):,} segments; choose larger ones than now."
            raise InvalidInputError(message, argument="segment_bytes")
        for part, first in enumerate(starts):
            count = min(traces_per_part, length - first)
            parts.append(FilePart(str(file.absolute()), file.name, number, part, first, count, length))
    return parts


def find_dictionary(directory: Path) -> list[Path]:
    """Find the address dictionaries in a directory and beside it: all files that can be read as one."""
    files = [file for folder in (directory, directory.resolve().parent) for file in sorted(folder.iterdir())]
    shelves = dict.fromkeys(file.with_suffix("") if file.suffix in SUFFIXES else file for file in files)
    candidates = [file for file in shelves if not file.name.startswith(_DATA) and not file.is_dir()]
    found = []
    for file in candidates[:MOST_CANDIDATES]:
        try:
            if read_address_dictionary(file):
                found.append(file)
        except (FormatError, OSError):
            continue
    return found


def dictionary_digest(dictionary: Mapping[str, str]) -> str:
    """Identity of the content of an address dictionary."""
    return digest("\x1e".join(f"{key}\x1f{address}" for key, address in sorted(dictionary.items())).encode())


def source_bytes(parts: Sequence[FilePart]) -> int:
    """Bytes of the records of parts, as they are in their files."""
    sizes = {part.path: shelf_bytes(part.path) for part in parts}
    return round(sum(sizes[part.path] * part.count / max(part.length, 1) for part in parts))


def shelf_bytes(path: str) -> int:
    """Bytes of a shelf, which may be in several files."""
    files = [Path(f"{path}{suffix}") for suffix in ("", *SUFFIXES)]
    return sum(file.stat().st_size for file in files if file.is_file())


def _shapes(traces: Sequence[PyprobTrace]) -> dict[str, tuple[int, ...]]:
    """Shape of each observation where it is met first."""
    shapes: dict[str, tuple[int, ...]] = {}
    for trace in traces:
        for name, variable in trace.named.items():
            if variable.value is not None and variable.value.size != 1:
                shapes.setdefault(name, variable.value.shape)
    return shapes
