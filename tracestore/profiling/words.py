"""Words about a profile, which the terminal and the page share."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracestore.profiling.result import Profile

__all__ = ["describe_counts", "describe_sampling", "differences"]


def describe_counts(profile: "Profile") -> str:
    """Return the exact counters in one line."""
    number = profile.num_traces
    failed = f", of them {profile.num_failed:,} failed" if profile.num_failed else ""
    return (
        f"{number:,} traces{failed}, {profile.num_draws / number:.4g} draws and {profile.num_sites / number:.4g} sites"
        f" a trace at {len(profile.counts):,} base addresses, {profile.num_bytes / number:,.4g} bytes a trace"
    )


def describe_sampling(profile: "Profile") -> str:
    """Return how the shares were found, and how far they can be trusted."""
    text = (
        f"{profile.num_samples:,} samples of {profile.seconds:.2f} s; the sampler took {profile.overhead:.1%} of the"
        " time, which is not counted"
    )
    if profile.effective_samples < 0.9 * profile.num_samples:
        text += f"; they are as precise as {profile.effective_samples:,.0f} of equal time"
    return text


def differences(profile: "Profile") -> list[tuple[str, float | None, str]]:
    """Return whole timings and their differences: words, seconds, remark."""
    timings, number = profile.timings, profile.num_traces
    stored = "inferred with the network, into a store" if profile.has_network else f"into a store ({profile.backend})"
    plain = timings.plain_seconds
    rows: list[tuple[str, float | None, str]] = [
        ("the program alone", plain, _each(plain, number) or f"does not run without recording: {timings.plain_problem}")
    ]
    rows.append(("recorded in memory, values from the prior", timings.recorded_seconds, ""))
    rows.append((stored, timings.stored_seconds, ""))
    rows.append(
        (
            "the same while sampled",
            timings.profiled_seconds,
            f"x {timings.profiled_seconds / timings.stored_seconds:.2f}",
        )
    )
    before = [plain, timings.recorded_seconds, timings.stored_seconds]
    for place in (1, 2):
        words, seconds, _ = rows[place]
        earlier, cost = before[place - 1], _each(seconds, number)
        extra = None if earlier is None or seconds is None else seconds - earlier
        more = "" if extra is None else f"; {'+' if extra >= 0 else '-'}{_each(abs(extra), number)} to the line above"
        rows[place] = (words, seconds, f"{cost}{more}")
    return rows


def _each(seconds: float | None, number: int) -> str:
    return "" if seconds is None else f"{1e6 * seconds / number:,.4g} µs a trace"
