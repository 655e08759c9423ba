"""Which part of a distributed job this process is; reads launchers' variables, starts no communication."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tracestore.errors import InvalidInputError

__all__ = ["World"]

_LAUNCHERS: tuple[tuple[str, str, str], ...] = (
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPICH (PMI)", "PMI_RANK", "PMI_SIZE"),
    # a batch script outside srun has SLURM_PROCID and SLURM_NTASKS too, but is alone: only srun sets the step's count
    ("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


@dataclass(frozen=True, slots=True)
class World:
    """The place of this process among the ranks of a job, and of this loader worker within its rank.

    Raises
    ------
    InvalidInputError
        When a rank or worker lies outside its range.

    Examples
    --------
    >>> World(rank=1, num_ranks=4).is_distributed
    True
    >>> World.from_environment({"RANK": "3", "WORLD_SIZE": "8"})
    World(rank=3, num_ranks=8, worker_of_rank=0, workers_per_rank=1)
    """

    rank: int = 0
    """This process, from 0."""
    num_ranks: int = 1
    """Processes that train together."""
    worker_of_rank: int = 0
    """This loader worker within its rank, from 0; it takes every ``workers_per_rank``-th step."""
    workers_per_rank: int = 1
    """Loader workers that share a rank's steps."""

    def __post_init__(self) -> None:
        for name, value, limit_name, limit in (
            ("rank", self.rank, "num_ranks", self.num_ranks),
            ("worker_of_rank", self.worker_of_rank, "workers_per_rank", self.workers_per_rank),
        ):
            if limit < 1:
                message = f"`{limit_name}` must be at least 1; got {limit}."
                raise InvalidInputError(message, argument=limit_name, found=limit)
            if not 0 <= value < limit:
                message = f"`{name}` must be from 0 to {limit - 1} (`{limit_name}` is {limit}); got {value}."
                raise InvalidInputError(message, argument=name, found=value)

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one rank."""
        return self.num_ranks > 1

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> "World":
        """Read rank and number of ranks from the launcher's variables.

        Looks for torchrun, Open MPI, MPICH and others that speak PMI, then Slurm's srun, and takes the first that is
        there; without any of them the process is alone.

        Parameters
        ----------
        environment
            Variables to read instead of those of this process.

        Raises
        ------
        InvalidInputError
            When a launcher's variables are incomplete, not numbers, or contradict each other.
        """
        found = os.environ if environment is None else environment
        for launcher, rank_name, size_name in _LAUNCHERS:
            if size_name not in found:
                continue
            if rank_name not in found:
                message = f"{launcher} set {size_name} but not {rank_name}; set both, or pass a World."
                raise InvalidInputError(message, launcher=launcher)
            rank, num_ranks = (_read_number(found, name) for name in (rank_name, size_name))
            return World(rank, num_ranks)
        return World()


def _read_number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        message = f"The variable {name} must be a whole number; got {environment[name]!r}."
        raise InvalidInputError(message, variable=name) from None
