"""Traces as Awkward arrays, in memory and as a Parquet file for ``ak.from_parquet``. A leaf: needs awkward.

Each trace is a record: its columns, a record of observations as regular arrays, and a list of site records.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tracestore._extras import extra
from tracestore.formats import parquet
from tracestore.formats.parquet import KINDS, Coded, ExportSource, SiteRows, layout_ids
from tracestore.traces.batch import TRACE_COLUMNS, TraceBatch

with extra("awkward"):
    import awkward as ak
    from awkward.contents import (
        ByteMaskedArray,
        Content,
        IndexedArray,
        IndexedOptionArray,
        ListOffsetArray,
        NumpyArray,
        RecordArray,
        RegularArray,
    )
    from awkward.index import Index8, Index32, Index64

__all__ = ["to_awkward", "write_file"]


def to_awkward(batches: TraceBatch | Iterable[TraceBatch], *, first: int = 0) -> ak.Array:
    """View traces as an Awkward array of records.

    The record has the fields ``trace``, those of `TRACE_COLUMNS`, ``trace_type``, ``layout``, ``failure`` (None for a
    trace that ended well), ``observations`` (by name; None where a trace does not have it) and ``sites``: a list of
    records with ``address``, ``name``, ``kind``, ``family``, ``controlled``, ``value``, ``log_prob`` and
    ``parameters``. The value of a named observe is in ``observations``; its ``value`` is empty.

    Parameters
    ----------
    batches
        One batch, whose numbers are shared with the array, not copied; or several, which are joined first.
    first
        Number of the first trace.

    Returns
    -------
    ak.Array
        One record a trace.

    Raises
    ------
    InvalidInputError
        When there is no batch, or an observation has several shapes.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), rng) for _ in range(3)])
    >>> array = to_awkward(batch)
    >>> array.sites.name[0].to_list(), array.sites.value[:, 0, 0].to_list() == batch.named("mu")[0].tolist()
    (['mu', 'obs0', 'obs1', 'result'], True)
    """
    batch = batches if isinstance(batches, TraceBatch) else TraceBatch.concatenate(list(batches))
    return ak.Array(_traces(batch, first))


def write_file(path: Path, batches: Iterable[TraceBatch], source: ExportSource) -> None:
    """Write traces into a Parquet file that ``ak.from_parquet`` reads back with regular observations.

    Parameters
    ----------
    path
        The file; written over when it is there.
    batches
        The traces, in order; one batch at a time is in memory.
    source
        What the batches have in common.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> batch = TraceBatch.from_traces([run_trace(toys.branching, PriorController(), rng) for _ in range(3)])
    >>> write_file(Path("three.parquet"), [batch], ExportSource())
    >>> ak.from_parquet("three.parquet").log_prior.to_list() == batch.log_prior.tolist()
    True
    """
    parquet.write_file(path, batches, source, style="awkward")


def _traces(batch: TraceBatch, first: int) -> RecordArray:
    failed = np.array(sorted(batch.failures), np.int64)
    reasons = np.full(len(batch), -1, np.int64)
    reasons[failed] = np.arange(1, len(failed) + 1)
    # a first text that nobody refers to: Awkward cannot convert options of no text at all to Arrow
    texts = ["", *(batch.failures[row] for row in failed.tolist())]
    fields: dict[str, Content] = {
        "trace": NumpyArray(np.arange(first, first + len(batch))),
        **{name: NumpyArray(getattr(batch, name)) for name, _ in TRACE_COLUMNS},
        "trace_type": NumpyArray(batch.trace_types),
        "layout": NumpyArray(layout_ids(batch)),
        "failure": IndexedOptionArray(Index64(reasons), _strings(texts)),
        "observations": _record({name: _observation(batch, name) for name in batch.observations}, len(batch)),
        "sites": _sites(batch),
    }
    return _record(fields, len(batch))


def _sites(batch: TraceBatch) -> ListOffsetArray:
    rows = SiteRows.from_batch(batch)
    fields: dict[str, Content] = {
        "address": _categorical(rows.address),
        "name": _categorical(rows.name),
        "kind": _categorical(Coded(rows.kind.astype(np.int32), KINDS)),
        "family": _categorical(rows.family),
        "controlled": NumpyArray(rows.controlled),
        "value": ListOffsetArray(Index64(rows.value_offsets), NumpyArray(batch.values)),
        "log_prob": NumpyArray(batch.log_probs),
        "parameters": ListOffsetArray(Index64(rows.parameter_offsets), NumpyArray(batch.parameters)),
    }
    return ListOffsetArray(Index64(batch.site_offsets), _record(fields, len(batch.log_probs)))


def _observation(batch: TraceBatch, name: str) -> Content:
    column = np.ascontiguousarray(batch.observations[name])
    content: Content = NumpyArray(column.reshape(-1))
    for place in range(column.ndim - 1, 0, -1):
        content = RegularArray(content, column.shape[place], zeros_length=math.prod(column.shape[:place]))
    present = batch.has_observation(name)
    return content if present.all() else ByteMaskedArray(Index8(present.astype(np.int8)), content, valid_when=True)


def _record(fields: dict[str, Content], length: int) -> RecordArray:
    return RecordArray(list(fields.values()), list(fields), length=length)


def _categorical(texts: Coded) -> IndexedArray:
    return IndexedArray(Index32(texts.codes), _strings(texts.table), parameters={"__array__": "categorical"})


def _strings(texts: Sequence[str]) -> ListOffsetArray:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)])
    characters = NumpyArray(np.frombuffer(b"".join(encoded), np.uint8), parameters={"__array__": "char"})
    return ListOffsetArray(Index64(offsets), characters, parameters={"__array__": "string"})
