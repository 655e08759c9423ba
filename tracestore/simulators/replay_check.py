"""Whether a simulator is a function of its draws: the same draws must give the same trace."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import SimulatorProtocolError
from tracestore.simulators.base import MAX_SITES, PriorController, ReplayController, Simulator, run_trace
from tracestore.traces.layout import Site, SiteKind
from tracestore.traces.trace import RESULT, Trace, TraceStatus

__all__ = ["first_difference", "require_deterministic", "require_reproducible"]

MAX_CHECKS = 8
"""Runs out of which one must end well to be replayed."""


def require_reproducible(program: Simulator, seed: int, *, max_sites: int = MAX_SITES) -> None:
    """Refuse a rerouted simulator of which a run, done again after a restart, comes out otherwise.

    That is how addresses that change from run to run show up (load addresses, times, process numbers in them), and
    randomness that does not go through `sample`. Other simulators are not looked at.

    Parameters
    ----------
    program
        The simulator.
    seed
        Seed of the runs.
    max_sites
        Length cap of a trace.

    Raises
    ------
    SimulatorProtocolError
        Naming the first site, value or score that differs.

    Examples
    --------
    >>> from tracestore.simulators import toys
    >>> require_reproducible(toys.gum, seed=1)
    """
    if not program.is_rerouted:
        return
    # what a program does once, such as to compile a function, belongs to no run
    run_trace(program, PriorController(), np.random.default_rng([abs(seed), MAX_CHECKS]), max_sites=max_sites)
    for stream in range(MAX_CHECKS):
        trace = run_trace(program, PriorController(), np.random.default_rng([abs(seed), stream]), max_sites=max_sites)
        if trace.status is TraceStatus.OK:
            program.restart()
            require_deterministic(program, trace, max_sites=max_sites)
            return


def require_deterministic(
    program: Simulator,
    trace: Trace,
    observations: Mapping[str, NDArray[np.generic]] | None = None,
    *,
    max_sites: int = MAX_SITES,
) -> None:
    """Run a recorded trace again with its draws, and refuse a simulator that does not reproduce it.

    Parameters
    ----------
    program
        The simulator.
    trace
        One of its traces; one that did not end well is not looked at.
    observations
        What the trace was conditioned on; by default what it observed.
    max_sites
        Length cap of a trace.

    Raises
    ------
    SimulatorProtocolError
        Naming the first site, value or score that differs.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController
    >>> trace = run_trace(toys.gum, PriorController(), np.random.default_rng(1))
    >>> require_deterministic(toys.gum, trace)
    """
    if trace.status is not TraceStatus.OK:
        return
    # every draw is given, so the random numbers are not used
    again = run_trace(
        program,
        ReplayController(trace),
        np.random.default_rng(0),
        observations=trace.observations if observations is None else observations,
        max_sites=max_sites,
    )
    difference = first_difference(trace, again)
    if difference:
        message = (
            f"The simulator {program.name!r} does not reproduce a trace from its draws: {difference}. A simulator must"
            " be a function of its draws alone: draw every random number with `sample`, and keep no state from one run"
            " to the next."
        )
        raise SimulatorProtocolError(message, simulator=program.name)


def first_difference(trace: Trace, again: Trace) -> str:
    """Say where a replay departs from the recorded trace; empty when it does not.

    Parameters
    ----------
    trace
        The recorded trace.
    again
        Its replay.
    """
    for index, (site, other) in enumerate(zip(trace.sites, again.sites, strict=False)):
        if site != other:
            return f"site {index} was {_label(site)}, in the replay it is {_label(other)}"
        found = _difference_at(trace, again, index)
        if found:
            return found
    if again.status is not TraceStatus.OK:
        return f"the recorded run ended well, the replay with {again.failure!r} after {len(again)} sites"
    if len(trace) != len(again):
        longer = max(trace, again, key=len)
        site = longer.sites[min(len(trace), len(again))]
        where = "recorded run" if longer is trace else "replay"
        return (
            f"the recorded run has {len(trace)} sites, the replay {len(again)}: {_label(site)} is in the {where} only"
        )
    return ""


def _difference_at(trace: Trace, again: Trace, index: int) -> str:
    site = trace.sites[index]
    offsets = trace.layout.parameter_offsets
    ours, theirs = (one.parameters[offsets[index] : offsets[index + 1]] for one in (trace, again))
    if not np.array_equal(ours, theirs, equal_nan=True):
        what = "the prior" if site.kind is SiteKind.SAMPLE else "the likelihood"
        return f"{what} of {_label(site)} had the parameters {_shown(ours)}, in the replay {_shown(theirs)}"
    value, other = trace.value(index), again.value(index)
    if not np.array_equal(np.asarray(value), np.asarray(other), equal_nan=True):
        return f"the value of {_label(site)} was {_shown(value)}, in the replay it is {_shown(other)}"
    score, other_score = float(trace.log_probs[index]), float(again.log_probs[index])
    if score != other_score:
        return f"the log probability of {_label(site)} was {score!r}, in the replay it is {other_score!r}"
    return ""


def _label(site: Site) -> str:
    if site.name == RESULT and site.kind is SiteKind.TAG:
        return "the returned result"
    kind = site.kind.name.lower()
    return f"the {kind} {site.name!r} at {site.address!r}" if site.name else f"the {kind} at {site.address!r}"


def _shown(value: object) -> str:
    array = np.asarray(value)
    return repr(array.item()) if array.size == 1 else np.array2string(array, threshold=8, edgeitems=3, separator=", ")
