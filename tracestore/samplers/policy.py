"""What a batch shall be: size, atoms, buckets, order, costs. Knows nothing of stores."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError

__all__ = ["BatchOrder", "BatchPolicy", "CostModel"]

BatchOrder = Literal["deck", "random", "sequential"]
"""How an epoch is ordered; see `BatchPolicy.order`."""

_LOCAL_MICRO = 8
_LOCAL_ATOMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Time that a trace takes in a training step, in any unit: only ratios matter.

    Raises
    ------
    InvalidInputError
        When a coefficient is negative or not finite, or all are zero.

    Examples
    --------
    >>> CostModel(per_trace=10.0, per_site=2.0).of([1, 20])
    array([12., 50.])
    """

    per_trace: float = 1.0
    """Cost of any trace."""
    per_site: float = 1.0
    """Cost of one site."""
    per_observation_byte: float = 0.0
    """Cost of one byte of observations."""

    def __post_init__(self) -> None:
        problems = [
            f"`{name}` must be finite and not negative; got {value!r}"
            for name, value in asdict(self).items()
            if not (math.isfinite(value) and value >= 0)
        ]
        if not problems and not any(asdict(self).values()):
            problems = ["at least one cost coefficient must be positive; all are 0"]
        if problems:
            message = "; ".join(problems) + "."
            raise InvalidInputError(message, problems=tuple(problems))

    def of(self, num_sites: ArrayLike, observation_bytes: ArrayLike = 0.0) -> NDArray[np.float64]:
        """Cost of one trace with so many sites and bytes of observations, elementwise."""
        sites, observed = np.asarray(num_sites, np.float64), np.asarray(observation_bytes, np.float64)
        return np.asarray(self.per_trace + self.per_site * sites + self.per_observation_byte * observed)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """How global batches are made; the same policy gives the same batches at every number of ranks.

    The size of a step is either a number of traces (``global_batch``) or a cost (``budget``).

    Raises
    ------
    InvalidInputError
        Names every field that is wrong.

    Examples
    --------
    >>> policy = BatchPolicy(global_batch=64, micro=8)
    >>> policy.num_slots, policy.allowed_ranks
    (8, (1, 2, 4, 8))
    >>> BatchPolicy.local(1000).micro, BatchPolicy.local(200).micro
    (8, 2)
    """

    global_batch: int | None = None
    """Traces of one optimizer step, all ranks together."""
    budget: float | None = None
    """Largest cost of one optimizer step, all ranks together, in the units of ``cost``: steps of short traces hold more
    of them, steps of long ones fewer. Any number of ranks can share such a step.
    """
    micro: int = _LOCAL_MICRO
    """Traces of an atom: consecutive in one run, never split between ranks. Must divide ``global_batch``.

    Small by default: on a local disk scattered reads cost the same as consecutive ones, and batches of many types have
    better gradients. On a parallel file system 64 makes reads longer.
    """
    num_buckets: int = 8
    """Bands of alike cost, equal in total cost, for the order ``deck``; 1 draws every step from all traces."""
    order: BatchOrder = "deck"
    """``deck``: each step is drawn from one bucket, and buckets take turns. ``random``: each step is drawn from all
    traces. ``sequential``: store order, the same in every epoch, for evaluation; it alone admits fewer traces than one
    batch.
    """
    mixing: float = 1.0
    """How far a step of the deck reaches within its bucket, from 0 (atoms that are neighbors by cost and trace type) to
    1 (any atoms of the bucket).
    """
    cost: CostModel = field(default_factory=CostModel)
    """What makes traces alike, and what is balanced between ranks."""

    def __post_init__(self) -> None:
        problems = [*self._wrong_size(), *self._wrong_numbers()]
        if self.order not in get_args(BatchOrder):
            problems.append(f"`order` must be one of {', '.join(get_args(BatchOrder))}; got {self.order!r}")
        if not problems and self.global_batch is not None and self.global_batch % self.micro:
            allowed = [size for size in divisors(self.global_batch) if size <= max(64, self.micro)]
            problems.append(
                f"`micro` must divide the `global_batch` of {self.global_batch}; got {self.micro}, "
                f"possible are {', '.join(map(str, allowed))}"
            )
        if problems:
            message = "; ".join(problems) + "."
            raise InvalidInputError(message, problems=tuple(problems))

    def _wrong_size(self) -> list[str]:
        if (self.global_batch is None) == (self.budget is None):
            return ["exactly one of `global_batch` and `budget` must be given"]
        if self.budget is not None and not (math.isfinite(self.budget) and self.budget > 0):
            return [f"`budget` must be finite and positive; got {self.budget!r}"]
        return []

    def _wrong_numbers(self) -> list[str]:
        problems = [
            f"`{name}` must be a whole number of at least 1; got {value!r}"
            for name in ("global_batch", "micro", "num_buckets")
            if (value := getattr(self, name)) is not None and (type(value) is not int or value < 1)
        ]
        if not 0 <= self.mixing <= 1:
            problems.append(f"`mixing` must be from 0 to 1; got {self.mixing!r}")
        return problems

    @staticmethod
    def local(global_batch: int, *, order: BatchOrder = "deck") -> "BatchPolicy":
        """Choose the default policy for a local disk: atoms of up to 8 traces, and at least 64 of them in a step.

        With fewer, those of long traces would be too coarse to give ranks alike costs.

        Parameters
        ----------
        global_batch
            Traces of one optimizer step, all ranks together.
        order
            See `BatchPolicy.order`.

        Raises
        ------
        InvalidInputError
            When the batch is not positive or the order unknown.
        """
        sizes = range(1, _LOCAL_MICRO + 1)
        fitting = (size for size in sizes if global_batch % size == 0 and global_batch // size >= _LOCAL_ATOMS)
        micro = max(fitting, default=1)
        return BatchPolicy(global_batch=global_batch, micro=micro, order=order)

    @property
    def num_slots(self) -> int | None:
        """Atoms of a full step; None when steps have a budget, so that their number varies."""
        return None if self.global_batch is None else self.global_batch // self.micro

    @property
    def allowed_ranks(self) -> tuple[int, ...] | None:
        """Numbers of ranks that give every rank the same number of slots; None when any number will do."""
        return None if self.num_slots is None else divisors(self.num_slots)

    @property
    def digest(self) -> str:
        """Hash of all fields, 16 hexadecimal digits: equal policies have equal digests, everywhere."""
        return xxhash.xxh3_64_hexdigest(json.dumps(asdict(self), sort_keys=True).encode())


def divisors(number: int) -> tuple[int, ...]:
    """All divisors of a positive number, ascending."""
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return tuple(sorted({*small, *(number // size for size in small)}))
