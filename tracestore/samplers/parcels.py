"""Batches on their way from a worker process: written into shared memory that is used again, copied where they arrive.

Fresh pages of memory cost more than what is read into them. So each worker writes into a few slabs by turns, and the
batch leaves its slab before the worker comes around again. A slab is sent once; later parcels only say which it is.
Layouts stay at home, where they are known: pickled, they would outweigh small batches.
"""

import math
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from numpy.typing import ArrayLike

from tracestore._extras import extra
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.samplers.trace_dataset import TraceDataset
from tracestore.traces import Layout

with extra("train"):
    import torch

__all__ = ["Parcel", "ParcelDataset", "forget_slabs"]

_COLUMNS = ("layout_index", "values", "parameters", "log_probs", "trace_index")
_ALIGNMENT = 64


class _Slab(NamedTuple):
    """Name of a slab: of which data set, process, and turn."""

    dataset: str
    process: int
    turn: int


_received: dict[_Slab, torch.Tensor] = {}
"""Slabs of worker processes that are mapped here."""


@dataclass(frozen=True, slots=True)
class _Field:
    """Where a tensor lies in a slab."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    repeats: int | None = None
    """How often a row that is there once comes along a new first axis."""

    @property
    def stop(self) -> int:
        """Where it ends."""
        return self.start + self.dtype.itemsize * math.prod(self.shape)

    def view(self, slab: torch.Tensor) -> torch.Tensor:
        """Look at the tensor in its slab."""
        return slab[self.start : self.stop].view(self.dtype).view(self.shape)


@dataclass(frozen=True, slots=True)
class Parcel:
    """A batch in a slab."""

    slab: torch.Tensor
    """Bytes, in shared memory."""
    columns: Mapping[str, _Field]
    observations: Mapping[str, _Field]
    layout_ids: tuple[int, ...]
    name: _Slab
    """Name of the slab."""
    is_new: bool = False
    """Whether the receiver does not have the slab yet."""
    is_own: bool = False
    """Whether no worker will write into the slab again."""

    def __reduce__(self) -> tuple[object, ...]:
        sent = self.slab if self.is_new else None
        return _receive, (sent, self.columns, self.observations, self.layout_ids, self.name)

    def pin_memory(self) -> "Parcel":
        """Copy to page-locked memory."""
        used = max(field.stop for field in (*self.columns.values(), *self.observations.values()))
        return replace(self, slab=self.slab[:used].pin_memory(), is_own=True)

    def unpack(self, layouts: Mapping[int, Layout]) -> TensorBatch:
        """Take the batch out of its slab.

        Parameters
        ----------
        layouts
            The layouts of the store, by id.
        """
        columns = {name: self._take(field) for name, field in self.columns.items()}
        return TensorBatch(
            layouts=tuple(layouts[identity] for identity in self.layout_ids),
            observations={name: self._take(field) for name, field in self.observations.items()},
            step_size=len(columns["trace_index"]),
            **columns,
        )

    def _take(self, field: _Field) -> torch.Tensor:
        tensor = field.view(self.slab)
        tensor = tensor if self.is_own else tensor.clone()
        return tensor if field.repeats is None else tensor.expand(field.repeats, *field.shape)


class ParcelDataset(TraceDataset):
    """What a data set reads, as worker processes send it.

    Parameters
    ----------
    dataset
        What is read.
    num_ahead
        Batches that a worker may have read and the loader not yet handed out.
    """

    def __init__(self, dataset: TraceDataset, num_ahead: int) -> None:
        super().__init__(dataset.store, observations=dataset.observations, observation_dtype=dataset.observation_dtype)
        # one more is being written, and one more has just been handed over
        self._slabs: list[torch.Tensor | None] = [None] * (num_ahead + 2)
        self._sent = [*self._slabs]
        self._turn = 0
        self.token = uuid.uuid4().hex
        """Name of this data set, the same in all processes."""

    def __getitem__(self, indices: ArrayLike) -> Parcel:  # type: ignore[override]  # unpacked by the loader
        """Read some traces, in the order asked for."""
        self._turn = (self._turn + 1) % len(self._slabs)
        fields: dict[str, _Field] = {}

        def make_out(num_traces: int) -> dict[str, torch.Tensor]:
            shapes = {name: (num_traces, *shape) for name, shape in self.direct_shapes.items()}
            fields.update(_line_up(0, {name: (shape, torch.float32) for name, shape in shapes.items()}))
            slab = self._room(max((field.stop for field in fields.values()), default=0))
            return {name: field.view(slab) for name, field in fields.items()}

        batch = self.read(indices, make_out)
        rest = {name: getattr(batch, name) for name in _COLUMNS}
        rest |= {f"observation {name}": tensor for name, tensor in batch.observations.items() if name not in fields}
        rows = {name: tensor[0] if _is_one_row(tensor) else tensor for name, tensor in rest.items()}
        used = max((field.stop for field in fields.values()), default=0)
        others = dict(_line_up(used, {name: (tuple(row.shape), row.dtype) for name, row in rows.items()}))
        slab = self._room(max(field.stop for field in others.values()))
        for name, field in others.items():
            field.view(slab).copy_(rows[name])
            if _is_one_row(rest[name]):
                others[name] = replace(field, repeats=len(batch))
        is_new, self._sent[self._turn] = slab is not self._sent[self._turn], slab
        return Parcel(
            slab,
            {name: others[name] for name in _COLUMNS},
            {name: fields.get(name) or others[f"observation {name}"] for name in batch.observations},
            tuple(layout.id for layout in batch.layouts),
            _Slab(self.token, os.getpid(), self._turn),
            is_new,
        )

    def _room(self, num_bytes: int) -> torch.Tensor:
        """Return the slab whose turn it is, replaced by a larger one with the same content where it is too small."""
        slab = self._slabs[self._turn]
        if slab is None or len(slab) < num_bytes:
            larger = _shared_bytes(num_bytes + num_bytes // 4)
            if slab is not None:
                larger[: len(slab)] = slab
            self._slabs[self._turn] = slab = larger
        return slab


def forget_slabs(token: str) -> None:
    """Unmap the slabs of a data set whose worker processes have ended.

    Parameters
    ----------
    token
        Of the data set.
    """
    for name in [name for name in _received if name.dataset == token]:
        del _received[name]


def _receive(
    slab: torch.Tensor | None,
    columns: Mapping[str, _Field],
    observations: Mapping[str, _Field],
    layout_ids: tuple[int, ...],
    name: _Slab,
) -> Parcel:
    """Take in a parcel, and its slab when it comes for the first time."""
    if slab is not None:
        _received[name] = slab
    return Parcel(_received[name], columns, observations, layout_ids, name)


def _line_up(start: int, tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> Iterator[tuple[str, _Field]]:
    """Give each tensor a place behind the one before."""
    for name, (shape, dtype) in tensors.items():
        field = _Field(-(-start // _ALIGNMENT) * _ALIGNMENT, shape, dtype)
        start = field.stop
        yield name, field


def _is_one_row(tensor: torch.Tensor) -> bool:
    return tensor.dim() > 1 and len(tensor) > 1 and tensor.stride(0) == 0


def _shared_bytes(number: int) -> torch.Tensor:
    """Make bytes in shared memory, as torch's own collation does in workers."""
    storage = torch.UntypedStorage._new_shared(max(number, 1))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)
