"""Import data sets of pyprob 1.x: a job of independent parts, on any executor.

Knows nothing of how pyprob stores traces and of what becomes of one; plans, hands out parts, and reports.
"""

import logging
import time
import uuid
from collections.abc import Collection, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import cast

from tracestore.errors import InsufficientSpaceError, InvalidInputError, StoreExistsError, StoreNotFoundError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.executors import Executor, SerialExecutor
from tracestore.formats.document import JSON, digest
from tracestore.importers.pyprob_parts import FilePart, ImportPart, known_dictionary
from tracestore.importers.pyprob_report import PyprobImport, report_import
from tracestore.importers.pyprob_source import (
    FirstTraces,
    Which,
    dictionary_digest,
    find_dictionary,
    list_source,
    look_at,
    plan_parts,
    source_bytes,
)
from tracestore.storage import Storage
from tracestore.store.identity import IDENTITY
from tracestore.store.job import Job
from tracestore.store.location import StorePath, to_location
from tracestore.store.trace_store import TraceStore

__all__ = ["PyprobImport", "import_pyprob"]

logger = logging.getLogger(__name__)

_WRITING_FACTOR = 8
"""Memory for traces, relative to their bytes, while they are written; 4 to 7 were measured where draws dominate."""

_ATTRIBUTE = "pyprob"


def import_pyprob(
    directory: str | PathLike[str],
    path: StorePath,
    *,
    executor: Executor | None = None,
    which: Which = "auto",
    tags: Collection[str] = (),
    observations: Collection[str] = (),
    address_dictionary: str | PathLike[str] | None = None,
    segment_bytes: int = 2**30,
    observer: Observer | None = None,
) -> PyprobImport:
    """Convert a data set that pyprob 1.x saved into a store; nothing of it is executed, and pyprob is not needed.

    An interrupted call is continued by repeating it. What cannot be converted is reported; of files that could not be
    opened or were refused, the next call tries again. Serial and parallel executors give the same store, byte by byte.

    pyprob's pruned traces (the default of ``save_dataset``) keep of an observation its value and log likelihood only.
    Named variables without a likelihood become tags; `tags` and `observations` say otherwise by name.

    Parameters
    ----------
    directory
        Where pyprob saved the data set.
    path
        The store. When the same job is there already it is continued, or returned when complete.
    executor
        Who converts; None converts in this process.
    which
        Which files: those that pyprob sorted, the unsorted ones, or (``auto``) the sorted ones if there are any.
    tags, observations
        Names of variables in pruned traces that are tags, or observations.
    address_dictionary
        pyprob's address dictionary; by default the only one in the directory or beside it, if addresses need one.
    segment_bytes
        Raw size of a segment: bounds the memory that a task needs, see `TraceStore.writer`.
    observer
        Told of progress, in traces.

    Returns
    -------
    PyprobImport
        The store, counts, and everything that is wrong.

    Raises
    ------
    StoreNotFoundError
        When there is no data set.
    InvalidInputError
        When an argument is not allowed, or the address dictionary is ambiguous.
    FormatError
        When no trace of the data set can be converted, or the dictionary is not one.
    StoreExistsError
        When the path holds another job's store; names the field that differs.
    InsufficientSpaceError
        When the destination lacks space; says how much.

    Examples
    --------
    >>> import_pyprob("no-such-directory", "traces")
    Traceback (most recent call last):
        ...
    tracestore.errors.StoreNotFoundError: no-such-directory is not a directory; give the one that pyprob's \
save_dataset or save_sorted wrote to.
    """
    start = time.perf_counter()
    _check(which, tags, observations, segment_bytes)
    source = list_source(directory, which)
    told = tuple(sorted(set(tags))), tuple(sorted(set(observations)))
    first = _known_traces(path) or look_at(source, *told)
    dictionary = _choose_dictionary(source.directory, address_dictionary, first)
    job = Job(
        "import-pyprob",
        {
            "num_files": len(source.files),
            "files": digest("\n".join(source.names).encode()),
            "which": source.which,
            "tags": list(told[0]),
            "observations": list(told[1]),
            "segment_bytes": segment_bytes,
            "dictionary": None if dictionary is None else dictionary_digest(known_dictionary(dictionary)),
        },
    )
    parts = plan_parts(source, max(1, segment_bytes // first.trace_bytes))
    executor = executor or SerialExecutor()
    _require_memory(executor, first.trace_bytes * max((part.count for part in parts), default=0), segment_bytes)
    store = _open_destination(path, job, first)
    done = store.completed_work()
    left = [part for part in parts if part.unit not in done]
    _require_space(store.storage, source_bytes(left))
    convert = ImportPart(store, job.hash[:16], *told, dictionary, first.shapes, first.num_together)
    refused = _convert(convert, parts, left, executor, observer)
    store.fold()
    report = report_import(store, source, parts, refused, dictionary)
    seconds = time.perf_counter() - start
    logger.info("imported %d traces in %.1f s, %d reported", report.num_traces_out, seconds, report.num_reported)
    if observer is not None:
        observer(PhaseFinished("import", seconds))
    return report


def _convert(
    convert: ImportPart,
    parts: Sequence[FilePart],
    left: Sequence[FilePart],
    executor: Executor,
    observer: Observer | None,
) -> dict[int, str]:
    """Have the parts that are left converted; why some are refused, by unit of work."""
    refused: dict[int, str] = {}
    total = sum(part.count for part in parts)
    done, nbytes = total - sum(part.count for part in left), 0
    if observer is not None:
        observer(PhaseStarted("import", total, done))
    for part, size, reason in executor.run(convert, left, label="import"):
        done, nbytes = done + (part.count), nbytes + size
        if reason:
            refused[part.unit] = reason
        if observer is not None:
            observer(PhaseAdvanced("import", done, total, nbytes=nbytes))
    return refused


def _check(which: str, tags: Collection[str], observations: Collection[str], segment_bytes: int) -> None:
    if which not in ("auto", "sorted", "unsorted"):
        message = f"`which` must be 'auto', 'sorted' or 'unsorted'; got {which!r}."
        raise InvalidInputError(message, argument="which", found=which)
    if isinstance(tags, str) or isinstance(observations, str):
        message = "`tags` and `observations` must be lists of names; got one text."
        raise InvalidInputError(message, argument="tags")
    both = sorted(set(tags) & set(observations))
    if both:
        message = f"A name must not be in `tags` and in `observations`; {both} are."
        raise InvalidInputError(message, argument="tags", found=both)
    if segment_bytes < 1:
        message = f"`segment_bytes` must be positive; got {segment_bytes}."
        raise InvalidInputError(message, argument="segment_bytes", found=segment_bytes)


def _choose_dictionary(directory: Path, given: str | PathLike[str] | None, first: FirstTraces) -> str | None:
    if given is not None:
        known_dictionary(fspath(given))
        return str(Path(given).absolute())  # workers may have another working directory
    found = find_dictionary(directory) if first.needs_dictionary else []
    if len(found) > 1:
        names = ", ".join(map(str, found))
        message = f"There are several address dictionaries, {names}; choose one with `address_dictionary`."
        raise InvalidInputError(message, found=names)
    return str(found[0].absolute()) if found else None


def _known_traces(path: StorePath) -> FirstTraces | None:
    """Read what an earlier call wrote down about the first traces; None when there is no such store."""
    try:
        known = TraceStore.open(to_location(path)).attributes.get(_ATTRIBUTE)
    except StoreNotFoundError:
        return None
    if not isinstance(known, dict):
        return None
    shapes = cast("dict[str, list[int]]", known["shapes"])
    return FirstTraces(
        cast("int", known["trace_bytes"]),
        {name: tuple(shape) for name, shape in shapes.items()},
        bool(known["needs_dictionary"]),
    )


def _open_destination(path: StorePath, job: Job, first: FirstTraces) -> TraceStore:
    known: dict[str, JSON] = {
        "trace_bytes": first.trace_bytes,
        "shapes": {name: list(shape) for name, shape in first.shapes.items()},
        "needs_dictionary": first.needs_dictionary,
    }
    place = to_location(path)
    try:
        return TraceStore.create(
            place, job=job, attributes={_ATTRIBUTE: known}, uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, job.hash))
        )
    except StoreExistsError:
        if not place.open().exists(IDENTITY):
            raise
        return TraceStore.open_or_create(place, job)


def _require_space(destination: Storage, needed: int) -> None:
    free = destination.free_bytes()
    if free is not None and needed > free:
        message = (
            f"Importing into {destination.url} needs up to {needed / 1e9:.3g} GB, but only {free / 1e9:.3g} GB are "
            f"free there; make room for {(needed - free) / 1e9:.3g} GB more, or choose another disk."
        )
        raise InsufficientSpaceError(message, needed=needed, free=free)


def _require_memory(executor: Executor, part_bytes: int, segment_bytes: int) -> None:
    limit = executor.memory_limit
    if limit is not None and _WRITING_FACTOR * part_bytes > limit:
        message = (
            f"Converting a part of {part_bytes / 1e6:,.0f} MB may need {_WRITING_FACTOR} times that in memory, but a "
            f"worker may use {limit / 1e6:,.0f} MB; give `segment_bytes` of at most "
            f"{min(segment_bytes, limit // _WRITING_FACTOR):,}, or workers with more."
        )
        raise InvalidInputError(message, argument="segment_bytes", needed=_WRITING_FACTOR * part_bytes, limit=limit)
