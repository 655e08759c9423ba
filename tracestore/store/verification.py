"""Check a store: bytes against checksums, documents against each other, log probs against priors and values."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tracestore.errors import StoreError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.formats.base import SegmentEntry, SegmentReader
from tracestore.store.dictionary_file import piece_file, read_pieces
from tracestore.store.fold import SEGMENTS
from tracestore.store.identity import IDENTITY, read_identity
from tracestore.store.manifest import damaged_hints, latest_version, manifest_file, read_manifest
from tracestore.store.receipt import RECEIPTS, list_receipts, read_receipt
from tracestore.store.trace_store import TraceStore
from tracestore.traces.rescore import disagreements, scored_observations

__all__ = ["Problem", "verify"]

_CHECKED_TRACES = 4096
_SHOWN_DISAGREEMENTS = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a store."""

    path: str
    """File, relative to the store."""
    message: str


def verify(
    store: TraceStore, *, deep: bool = False, log_probs: bool | None = None, observer: Observer | None = None
) -> list[Problem]:
    """Check a store; everything that is wrong, not only the first thing.

    Parameters
    ----------
    store
        The store; its own snapshot is checked, the documents of earlier ones, and all receipts.
    deep
        Compare the checksum of every byte; otherwise of documents and small tables only, and the sizes of files.
    log_probs
        Compare the stored log probabilities with those that the stored priors give the stored values; as `deep` by
        default.
    observer
        Told of progress, in traces.

    Returns
    -------
    list of Problem
        Empty for a sound store.

    Examples
    --------
    >>> verify(TraceStore.create("sound"), deep=True)
    []
    """
    check_log_probs = deep if log_probs is None else log_probs
    start = time.perf_counter()
    if observer is not None:
        observer(PhaseStarted("verify", len(store), 0))
    problems = _verify_documents(store)
    known = None
    pieces = (*store.manifest.pieces, *store.manifest.type_pieces)
    in_dictionary = [
        problem
        for piece in pieces
        for problem in _problems_of(piece_file(piece), partial(read_pieces, store.storage, [piece]))
    ]
    problems += in_dictionary
    if not in_dictionary:
        known = set(store.addresses.ids.tolist())
    done = 0
    for index, entry in enumerate(store.segments):
        problems += _verify_segment(store, index, entry, known, deep=deep, check_log_probs=check_log_probs)
        done += entry.num_traces
        if observer is not None:
            observer(PhaseAdvanced("verify", done, len(store)))
    if observer is not None:
        observer(PhaseFinished("verify", time.perf_counter() - start))
    return problems


def _verify_documents(store: TraceStore) -> list[Problem]:
    storage = store.storage
    folded = {commit.receipt: commit.checksum for commit in store.manifest.commits}
    names = sorted({*folded, *list_receipts(storage)})
    problems = _problems_of(IDENTITY, partial(read_identity, storage))
    problems += _problems_of("manifests/LATEST", partial(latest_version, storage))
    if not problems:
        problems += [
            Problem(name, f"{name} holds no number of a snapshot; remove the file, it is made again when needed.")
            for name in damaged_hints(storage, latest_version(storage))
        ]
    for version in range(1, store.version + 1):
        problems += _problems_of(manifest_file(version), partial(read_manifest, storage, version))
    for name in names:
        check = partial(read_receipt, storage, name, expected=folded.get(name))
        problems += _problems_of(f"{RECEIPTS}/{name}.json", check)
    return problems


def _problems_of(file: str, check: Callable[[], object]) -> list[Problem]:
    try:
        check()
    except StoreError as error:
        return [Problem(file, str(error))]
    return []


def _verify_segment(
    store: TraceStore, index: int, entry: SegmentEntry, known: set[int] | None, *, deep: bool, check_log_probs: bool
) -> list[Problem]:
    reader = store.segment(index)
    found = [Problem(path, message) for path, message in reader.problems(deep=deep)]
    if found or known is None:
        return found
    missing = set(reader.addresses()[0].tolist()) - known
    if missing:
        message = f"{len(missing)} of its addresses are not in the dictionary of the snapshot."
        found.append(Problem(f"{SEGMENTS}/{entry.id}", message))
    if check_log_probs:
        found += _check_log_probs(reader, entry)
    return found


def _check_log_probs(reader: SegmentReader, entry: SegmentEntry) -> Iterator[Problem]:
    """Compare stored log probs with those recomputed; shows the first few disagreements and counts the others."""
    observations = scored_observations(tuple(reader.layouts)) & set(reader.observations)
    num_found = 0
    for start in range(0, entry.num_traces, _CHECKED_TRACES):
        rows = slice(start, min(start + _CHECKED_TRACES, entry.num_traces))
        for one in disagreements(reader.read(rows, observations=observations)):
            num_found += 1
            if num_found <= _SHOWN_DISAGREEMENTS:
                message = (
                    f"Trace {start + one.row} of the segment has {one.stored!r} at {one.address!r}; its priors and "
                    f"values give {one.recomputed!r}."
                )
                yield Problem(f"{SEGMENTS}/{entry.id}", message)
    if num_found > _SHOWN_DISAGREEMENTS:
        message = f"{num_found - _SHOWN_DISAGREEMENTS:,} more of its log probabilities disagree."
        yield Problem(f"{SEGMENTS}/{entry.id}", message)
