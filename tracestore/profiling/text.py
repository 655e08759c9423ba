"""A profile as text for a terminal."""

from typing import TYPE_CHECKING

from tracestore.profiling.kernel_watch import KernelScaling
from tracestore.profiling.source import short_path
from tracestore.profiling.words import describe_counts, describe_sampling, differences

if TYPE_CHECKING:
    from tracestore.profiling.result import Profile

__all__ = ["render_table"]

BAR_CELLS = 24
EIGHTHS = " ▏▎▍▌▋▊▉█"
MOST_LINES = 5
MOST_DRAWS = 8
WIDTH = 100


def render_table(profile: "Profile") -> str:
    """Return shares with a bar, whole timings, the slowest lines and draws, and the scaling of kernels.

    Parameters
    ----------
    profile
        What was found.
    """
    parts = [f"{profile.simulator}: {describe_counts(profile)}", *_shares(profile), describe_sampling(profile)]
    parts += ["", "whole timings, without the sampler", *_timings(profile)]
    if profile.lines:
        parts += ["", "slowest lines of the program (with what they call, and by themselves)"]
        parts += [
            _cut(f"  {line.share:6.1%} {line.simulator_share:6.1%}  {short_path(line.file)}:{line.line}  {line.text}")
            for line in profile.lines[:MOST_LINES]
        ]
    if profile.draws:
        parts += ["", "draws and observations by address (time in the recorder, number)"]
        parts += [_cut(f"  {draw.share:6.1%} {draw.count:>12,}  {draw.address}") for draw in profile.draws[:MOST_DRAWS]]
        if len(profile.draws) > MOST_DRAWS:
            parts.append(f"  and {len(profile.draws) - MOST_DRAWS:,} more addresses")
    for kernel in profile.kernels:
        parts += ["", *_kernel(kernel)]
    return "\n".join(parts)


def _shares(profile: "Profile") -> list[str]:
    largest = max((share.share for share in profile.shares.values()), default=1.0)
    lines = [f"  {'':<10} {'share':>6}  {'95 %':^13} {'µs/trace':>10} {'µs/draw':>9}"]
    for name, share in profile.shares.items():
        interval = f"{100 * share.low:.1f}..{100 * share.high:.1f}"
        per_trace = 1e6 * share.seconds / profile.num_traces
        per_draw = f"{1e6 * share.seconds / profile.num_draws:9.3g}" if profile.num_draws else f"{'-':>9}"
        bar = _bar(share.share / largest)
        lines.append(f"  {name:<10} {share.share:6.1%}  {interval:^13} {per_trace:10.4g} {per_draw}  {bar}".rstrip())
    return lines


def _timings(profile: "Profile") -> list[str]:
    return [
        f"  {words:<44} {'-' if seconds is None else f'{seconds:8.3f} s':>10}  {remark}".rstrip()
        for words, seconds, remark in differences(profile)
    ]


def _kernel(kernel: KernelScaling) -> list[str]:
    points = f" and {kernel.num_points:,} points" if kernel.num_points else ""
    what = f"{kernel.name}{' (gradient)' if kernel.is_gradient else ''}"
    code = "" if kernel.is_native else ", in numpy: no compiler was found"
    lines = [f"kernel {what}: {kernel.num_rows:,} rows of parameters{points} a call{code}"]
    lines.append(f"  {'threads':>7} {'ms/call':>10} {'speed-up':>9} {'efficiency':>11}")
    lines += [
        f"  {speed.num_threads:>7} {1e3 * speed.seconds:10.3g} {speed.speedup:9.2f} {speed.efficiency:11.0%}"
        for speed in kernel.speeds
    ]
    return lines


def _bar(part: float) -> str:
    eighths = round(part * BAR_CELLS * 8)
    return (EIGHTHS[8] * (eighths // 8) + EIGHTHS[eighths % 8]).strip()


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
