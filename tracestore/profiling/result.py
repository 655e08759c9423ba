"""What a profile found: shares of time, draws, lines of the program; as a table, a flame graph, numbers and a page."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from tracestore.profiling.categories import CATEGORIES, Frame, classify, is_program
from tracestore.profiling.intervals import wilson_interval
from tracestore.profiling.kernel_watch import KernelScaling
from tracestore.profiling.sampler import StackSample
from tracestore.profiling.timings import Timings

__all__ = ["DrawTime", "LineTime", "Profile", "Share"]


@dataclass(frozen=True, slots=True)
class Share:
    """Part of the time that one category takes."""

    share: float
    low: float
    high: float
    """Ends of the 95 % interval, from the number of samples."""
    seconds: float
    num_samples: int


@dataclass(frozen=True, slots=True)
class DrawTime:
    """Draws and observations of one base address."""

    address: str
    count: int
    """In all traces."""
    seconds: float
    """Within the recorder: drawing, scoring, recording; not the finding of the address."""
    share: float


@dataclass(frozen=True, slots=True)
class LineTime:
    """One line of the program, with all that it calls outside of the program."""

    file: str
    line: int
    function: str
    text: str
    seconds: float
    share: float
    simulator_share: float
    """Of all time: this line, by itself and the libraries it calls, without what this library does for its draws."""


@dataclass(frozen=True)
class Profile:
    """Where the time of a simulator goes; made by `profile`.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.profiling import profile
    >>> from tracestore.simulators.toys import gum
    >>> found = profile(gum, num_traces=400)
    >>> found.num_traces, round(sum(share.share for share in found.shares.values()), 6)
    (400, 1.0)
    """

    simulator: str
    num_traces: int
    num_failed: int
    num_draws: int
    """Sample sites of all traces."""
    num_sites: int
    """All sites: draws, observations and tags."""
    num_bytes: int
    """Of the store's segments."""
    backend: str
    has_network: bool
    timings: Timings
    samples: tuple[StackSample, ...]
    """Stacks below the profiler; those with the most time first."""
    seconds: float
    """Wall time that the samples stand for, without that of the sampler."""
    num_samples: int
    effective_samples: float
    """Samples of equal time that would be as precise."""
    sampler_seconds: float
    counts: dict[str, int]
    """Draws and observations by base address."""
    kernels: tuple[KernelScaling, ...]

    @cached_property
    def shares(self) -> dict[str, Share]:
        """Part of the time by category, in the order of `CATEGORIES`; those without a sample are left out."""
        seconds: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        for sample in self.samples:
            category = classify(sample.frames)
            seconds[category] += sample.seconds
            counts[category] += sample.num_samples
        total = sum(seconds.values()) or 1.0
        shares = {}
        for category, *_ in CATEGORIES:
            if counts[category]:
                part = seconds[category] / total
                low, high = wilson_interval(part, self.effective_samples)
                shares[category] = Share(part, low, high, part * self.seconds, counts[category])
        return shares

    @property
    def overhead(self) -> float:
        """Time of the sampler itself, as a part of the profiled run."""
        return self.sampler_seconds / max(self.seconds + self.sampler_seconds, 1e-9)

    @cached_property
    def draws(self) -> tuple[DrawTime, ...]:
        """Time and number of draws by base address, those with the most time first."""
        total = sum(sample.seconds for sample in self.samples) or 1.0
        seconds: dict[str, float] = defaultdict(float)
        for sample in self.samples:
            if sample.place:
                seconds[sample.place] += sample.seconds
        kinds: dict[str, int] = defaultdict(int)  # a place with several families: time by number of draws
        for base, count in self.counts.items():
            kinds[_place(base)] += count
        found = []
        for base, count in self.counts.items():
            part = seconds[_place(base)] * count / max(kinds[_place(base)], 1)
            found.append(DrawTime(base, count, part / total * self.seconds, part / total))
        return tuple(sorted(found, key=lambda draw: (-draw.seconds, -draw.count, draw.address)))

    @cached_property
    def lines(self) -> tuple[LineTime, ...]:
        """Time by line of the program, the slowest first."""
        from tracestore.profiling.source import source_line

        total = sum(sample.seconds for sample in self.samples) or 1.0
        seconds: dict[Frame, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for sample in self.samples:
            line = next((frame for frame in reversed(sample.frames) if is_program(frame)), None)
            if line is not None:
                seconds[line][0] += sample.seconds
                seconds[line][1] += sample.seconds if classify(sample.frames) == "simulator" else 0.0
        return tuple(
            LineTime(
                frame.file,
                frame.line,
                frame.function,
                source_line(frame.file, frame.line),
                whole / total * self.seconds,
                whole / total,
                own / total,
            )
            for frame, (whole, own) in sorted(seconds.items(), key=lambda item: -item[1][0])
        )

    def table(self) -> str:
        """Return shares, counters and whole timings as text for a terminal."""
        from tracestore.profiling.text import render_table

        return render_table(self)

    def flame_graph(self) -> str:
        """Return the stacks as an SVG element: width is time, callers are above what they call."""
        from tracestore.profiling.flame import draw_flame_graph

        return draw_flame_graph(self.samples)

    def write(self, path: str | PathLike[str]) -> Path:
        """Write one HTML page that opens offline.

        Parameters
        ----------
        path
            The file.
        """
        from tracestore.profiling.page import write_profile_page

        return write_profile_page(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers for programs, without stacks."""
        per_draw = max(self.num_draws, 1)
        return {
            "simulator": self.simulator,
            "num_traces": self.num_traces,
            "num_failed": self.num_failed,
            "num_draws": self.num_draws,
            "num_sites": self.num_sites,
            "num_bytes": self.num_bytes,
            "backend": self.backend,
            "has_network": self.has_network,
            "seconds": self.seconds,
            "num_samples": self.num_samples,
            "effective_samples": self.effective_samples,
            "overhead": self.overhead,
            "shares": {
                name: {
                    **asdict(share),
                    "microseconds_per_trace": 1e6 * share.seconds / self.num_traces,
                    "microseconds_per_draw": 1e6 * share.seconds / per_draw,
                }
                for name, share in self.shares.items()
            },
            "timings": asdict(self.timings),
            "draws": [asdict(draw) for draw in self.draws],
            "lines": [asdict(line) for line in self.lines],
            "kernels": [asdict(kernel) for kernel in self.kernels],
        }


def _place(base: str) -> str:
    return base.rpartition("~")[0] or base
