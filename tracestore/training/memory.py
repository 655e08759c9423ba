"""Whether a network fits into memory, found out before it is built."""

from collections.abc import Sequence
from pathlib import Path

from tracestore.errors import NotEnoughMemoryError
from tracestore.networks.trace_network import TraceNetwork
from tracestore.traces.layout import Site

__all__ = ["available_memory", "require_memory"]

_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Where containers say how much they may use, and how much they do."""


def require_memory(network: TraceNetwork, sites: Sequence[Site], num_moments: int, available: int | None) -> None:
    """Refuse tables that would not fit.

    Parameters
    ----------
    network
        The network before it grows.
    sites
        What it will grow by.
    num_moments
        Tensors of the same size that the optimizer keeps.
    available
        Free bytes; None when they are not known.

    Raises
    ------
    NotEnoughMemoryError
        When weights, moments and one more copy, which growth and checkpoints need, are more than is available.
    """
    weights = network.row_bytes(sites)
    needed = weights * (2 + num_moments)
    if available is not None and needed > available:
        message = (
            f"The tables of this network need {_gib(needed)} for {len(sites):,} rows (weights of {_gib(weights)}, "
            f"optimizer state and a copy), but only {_gib(available)} are free; use `rows='base'`, a smaller "
            "`core_size` or `head_size`, or a machine with more memory."
        )
        raise NotEnoughMemoryError(message, needed=needed, available=available)


def available_memory() -> int | None:
    """Return the bytes that this process may still use, by the system and its container; None where neither says."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in fields:
            found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    for limit, used in _LIMITS:
        if limit.is_file() and used.is_file() and limit.read_text().strip().isdecimal():
            found.append(max(int(limit.read_text()) - int(used.read_text()), 0))
    return min(found, default=None)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB"
