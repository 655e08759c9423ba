"""What is checked before an engine runs: observations against the simulator, a network against the simulator."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError, SimulatorError
from tracestore.execution.isolation import Isolation, running_alone
from tracestore.execution.slots import Runner, WaveRun
from tracestore.execution.streams import TraceStreams
from tracestore.simulators.base import BUILD, MAX_SITES, Simulator
from tracestore.simulators.replay_check import require_deterministic, require_reproducible
from tracestore.store.job import Job
from tracestore.traces.layout import SiteKind
from tracestore.traces.trace import Trace, TraceStatus

__all__ = [
    "Conditioning",
    "condition",
    "condition_many",
    "require_positive",
    "require_same_loops",
    "require_same_simulator",
]

MAX_PROBES = 16
"""Prior runs in which an observation name must show up; fewer suffice when all do earlier."""
_MIN_PROBES = 3


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Checked observations and what the check learned about the simulator."""

    several: tuple[Mapping[str, NDArray[np.generic]], ...]
    """Each by name, of the shape and floating type that the simulator uses; read-only."""
    digest: str
    """Hex digest of names, shapes and values."""
    probes: tuple[Trace, ...]
    """Prior runs, conditioned on the first observations."""

    @property
    def observations(self) -> Mapping[str, NDArray[np.generic]]:
        """The only ones, or the first."""
        return self.several[0]


class _Trained(Protocol):
    @property
    def job(self) -> Job: ...

    @property
    def base_addresses(self) -> Collection[str]: ...


def condition(
    program: Simulator,
    observations: Mapping[str, ArrayLike],
    *,
    seed: int,
    max_sites: int = MAX_SITES,
    isolation: Isolation | None = None,
) -> Conditioning:
    """Check observations against a few runs of the simulator.

    Parameters
    ----------
    program
        The simulator.
    observations
        Observed values by name. A name may belong to an observe or to a named draw, which is then fixed.
    seed
        Seed of the job; the check has random streams of its own.
    max_sites
        Length cap of a trace.
    isolation
        Run the simulator in a process of its own.

    Returns
    -------
    Conditioning
        The observations as the engines use them.

    Raises
    ------
    InvalidInputError
        When a name is unknown or missing, a shape is wrong, or a value is not a finite number.
    SimulatorError
        When the simulator fails in every probe.
    SimulatorProtocolError
        When it does not reproduce a probe from its draws; names what differed.

    Examples
    --------
    >>> from tracestore.simulators.toys import gum
    >>> sorted(condition(gum, {"obs0": 8.0, "obs1": 9.0}, seed=1).observations)
    ['obs0', 'obs1']
    """
    return condition_many(program, [observations], seed=seed, max_sites=max_sites, isolation=isolation)


def condition_many(
    program: Simulator,
    several: Sequence[Mapping[str, ArrayLike]],
    *,
    seed: int,
    max_sites: int = MAX_SITES,
    isolation: Isolation | None = None,
) -> Conditioning:
    """Check several observations, each of which conditions runs of its own; see `condition`.

    Parameters
    ----------
    program, seed, max_sites, isolation
        As in `condition`.
    several
        Observed values by name, for each observation; all have the same names.

    Raises
    ------
    InvalidInputError, SimulatorError, SimulatorProtocolError
        As in `condition`.
    """
    if isinstance(several, Mapping) or len(several) == 0:
        message = f"`observations` must be a list of at least one mapping from names to values; got {several!r:.60}."
        raise InvalidInputError(message, argument="observations")
    arrays = [{name: _numeric(name, value) for name, value in _items(one)} for one in several]
    _require_same_names(arrays)
    streams = TraceStreams(seed, "probe")
    with running_alone(Runner(program, max_sites), isolation) as run:
        traces, seen = _probe(run, streams, arrays[0])
        _require_one_run(program, traces)
        _require_known(program, arrays[0], seen)
        given = tuple({name: _as_simulated(name, array, seen[name]) for name, array in one.items()} for one in arrays)
        probes = tuple(_conditioned_run(run, given[0], streams, stream) for stream in range(_MIN_PROBES))
    if isolation is None:  # a replay could take this process with it
        require_reproducible(program, seed, max_sites=max_sites)
        for probe in probes:
            require_deterministic(program, probe, given[0], max_sites=max_sites)
    return Conditioning(given, _digest(arrays), probes)


def require_positive(**counts: int) -> None:
    """Refuse counts below one.

    Parameters
    ----------
    **counts
        Arguments by name.

    Raises
    ------
    InvalidInputError
        Naming the argument.
    """
    for name, number in counts.items():
        if number < 1:
            message = f"`{name}` must be at least 1; got {number!r}."
            raise InvalidInputError(message, argument=name)


def require_same_simulator(network: _Trained, program: Simulator, probes: Iterable[Trace]) -> None:
    """Refuse a network that was trained on another simulator.

    A network fits when it was trained on this very simulator, or when it knows every address that the probes reach.

    Parameters
    ----------
    network
        The proposal network.
    program
        The simulator to run.
    probes
        Some traces of it.

    Raises
    ------
    InvalidInputError
        Naming both simulators and the base addresses that differ.
    """
    trained = (network.job.fields.get("simulator"), network.job.fields.get("fingerprint"))
    if trained == (program.name, program.fingerprint):
        return
    _require_same_build(trained, program)
    met = {site.base for trace in probes for site in trace.sites if site.is_controlled}
    known = set(network.base_addresses)
    unknown = sorted(met - known)
    if not unknown:
        return
    message = (
        f"The network was trained on {trained[0]!r} (source {trained[1]}) and does not fit {program.name!r}"
        f" (source {program.fingerprint}): it lacks the base addresses {_listed(unknown)};"
        f" it alone has {_listed(sorted(known - met))}. Train a network on traces of this simulator."
    )
    raise InvalidInputError(message, found=trained[0], wanted=program.name, unknown=tuple(unknown))


def require_same_loops(network: _Trained, *, amortize_rejection: bool = False) -> None:
    """Refuse a network that learned rejection loops in another form than it shall propose them.

    Parameters
    ----------
    network
        The proposal network.
    amortize_rejection
        Whether it proposes inside rejection loops.

    Raises
    ------
    InvalidInputError
        When it was trained on collapsed loops and shall meet whole ones, or the other way.
    """
    is_collapsed = bool(network.job.fields.get("collapse_rejection"))
    if is_collapsed and not amortize_rejection:
        message = (
            "The network was trained on traces whose rejection loops are collapsed, and knows only their accepted"
            " passes; use `ic` with `amortize_rejection=True`, or train it on traces with all passes."
        )
        raise InvalidInputError(message, argument="network")
    if amortize_rejection and not is_collapsed:
        message = (
            "Amortized rejection needs a network that was trained on accepted passes; this one was trained on all of"
            " them. Simulate with `collapse_rejection=True` and train on that."
        )
        raise InvalidInputError(message, argument="amortize_rejection")


def _require_same_build(trained: tuple[object, object], program: Simulator) -> None:
    """Refuse a network of another build: there the same addresses are other places."""
    if str(trained[1]).startswith(BUILD) or program.build:
        message = (
            f"The network was trained on {trained[0]!r} ({trained[1]}), and this simulator is {program.name!r}"
            f" ({program.fingerprint}): another program, or another build of it, in which addresses are other places."
            " Train a network on traces of this build, or run the one that it was trained on."
        )
        raise InvalidInputError(message, found=trained[1], wanted=program.fingerprint)


def _items(observations: object) -> Iterable[tuple[str, ArrayLike]]:
    if not isinstance(observations, Mapping):
        message = f"`observations` must map names to values; got {type(observations).__name__}."
        raise InvalidInputError(message, argument="observations")
    return observations.items()


def _numeric(name: str, value: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(value, dtype=object)
    if array.dtype.kind not in "biuf":
        message = f"Observation {name!r} must be a number or an array of numbers; found {value!r:.60}."
        raise InvalidInputError(message, name=name)
    array = np.array(array, dtype=np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        message = (
            f"Observation {name!r} must be finite; {int(bad.sum())} of its {array.size} numbers are NaN or infinite,"
            f" the first at index {np.argwhere(bad)[0].tolist()}."
        )
        raise InvalidInputError(message, name=name)
    return array


def _probe(
    run: Callable[[WaveRun], Trace], streams: TraceStreams, names: Iterable[str]
) -> tuple[list[Trace], dict[str, NDArray[np.generic]]]:
    """Run the simulator until all names have shown up, or often enough; returns what an observation can fix, too."""
    traces: list[Trace] = []
    seen: dict[str, NDArray[np.generic]] = {}
    for stream in range(MAX_PROBES):
        traces.append(run(WaveRun(stream, streams.generator(stream), None, asks=False)))
        seen |= _conditionable(traces[-1])
        if stream + 1 >= _MIN_PROBES and all(name in seen for name in names):
            break
    return traces, seen


def _conditionable(trace: Trace) -> dict[str, NDArray[np.generic]]:
    """Values of everything in a trace that an observation can fix."""
    draws = {
        site.name: np.asarray(trace.value(index))
        for index, site in enumerate(trace.sites)
        if site.kind is SiteKind.SAMPLE and site.name
    }
    return {**draws, **trace.observations}


def _require_one_run(program: Simulator, traces: list[Trace]) -> None:
    if all(trace.status is not TraceStatus.OK for trace in traces):
        message = (
            f"The simulator {program.name!r} failed in all of {len(traces)} probe runs; the first failure: "
            f"{traces[0].failure}."
        )
        raise SimulatorError(message, simulator=program.name)


def _require_known(
    program: Simulator, arrays: Mapping[str, NDArray[np.float64]], seen: Mapping[str, NDArray[np.generic]]
) -> None:
    unknown = [name for name in arrays if name not in seen]
    if unknown:
        message = (
            f"Unknown observation {_listed(unknown)}: in {MAX_PROBES} runs the simulator {program.name!r} had no"
            f" observe or draw of that name; it has {_listed(sorted(seen))}."
        )
        raise InvalidInputError(message, unknown=tuple(unknown), known=tuple(sorted(seen)))


def _as_simulated(name: str, array: NDArray[np.float64], like: NDArray[np.generic]) -> NDArray[np.generic]:
    if array.shape != like.shape:
        message = f"Observation {name!r} has shape {array.shape}; the simulator produces shape {like.shape}."
        raise InvalidInputError(message, name=name, found=array.shape, expected=like.shape)
    given = array.astype(like.dtype if like.dtype.kind == "f" else np.float64)
    given.setflags(write=False)
    return given


def _conditioned_run(
    run: Callable[[WaveRun], Trace],
    observations: Mapping[str, NDArray[np.generic]],
    streams: TraceStreams,
    stream: int,
) -> Trace:
    try:
        return run(WaveRun(stream, streams.generator(stream), observations, asks=False))
    except InvalidInputError as error:
        error.add_note("found in a probe run, before the engine started; every observe needs a value")
        raise


def _require_same_names(several: Sequence[Mapping[str, NDArray[np.float64]]]) -> None:
    for number, arrays in enumerate(several):
        if arrays.keys() != several[0].keys():
            message = (
                f"All observations must have the same names: the first has {_listed(sorted(several[0]))}, number"
                f" {number} has {_listed(sorted(arrays))}."
            )
            raise InvalidInputError(message, argument="observations", number=number)


def _digest(several: Sequence[Mapping[str, NDArray[np.float64]]]) -> str:
    content = xxhash.xxh3_128()
    for arrays in several:
        for name in sorted(arrays):
            content.update(f"{name}\x1f{arrays[name].shape}\x1e".encode())
            content.update(np.ascontiguousarray(arrays[name], dtype="<f8").tobytes())
    return content.hexdigest()


def _listed(names: Iterable[str], limit: int = 8) -> str:
    shown = list(names)
    rest = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return (", ".join(map(repr, shown[:limit])) or "nothing") + rest
