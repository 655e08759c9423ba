"""Which Markov moves change something in a simulator, and how often each is made."""

from collections.abc import Iterable, Iterator

from tracestore.errors import InvalidInputError
from tracestore.inference.moves import Role, role_of
from tracestore.inference.rmh_config import MOVES, RMHConfig
from tracestore.simulators.base import Simulator
from tracestore.traces.distributions import from_parameters
from tracestore.traces.layout import SiteKind
from tracestore.traces.trace import Trace

__all__ = ["choose_moves"]

_IC_SHARE = 0.25
"""Share of the moves by a network, when there is one and the user does not say."""


def choose_moves(
    config: RMHConfig, program: Simulator, probes: Iterable[Trace], *, has_network: bool = False
) -> tuple[tuple[str, float], ...]:
    """Choose the moves that change something in this simulator, with probabilities.

    Parameters
    ----------
    config
        Weights of the moves, and the names that walk.
    program
        The simulator.
    probes
        Some traces of it, conditioned on the observations.
    has_network
        Whether a network proposes.

    Raises
    ------
    InvalidInputError
        When there is nothing to infer, a name is not drawn, or a move would change nothing.
    """
    traces = list(probes)
    names = None if config.joint_names is None else frozenset(config.joint_names)
    roles = {role for trace in traces for role in _roles(trace, names)}
    if not roles:
        message = f"The simulator {program.name!r} makes no draw that is not observed; there is nothing to infer."
        raise InvalidInputError(message, simulator=program.name)
    if names is not None:
        _require_joint_names(names, traces)
    usable = {
        "single": True,
        "walk": Role.WALKED in roles,
        "redraw": Role.UNNAMED in roles,
        "walk_redraw": {Role.WALKED, Role.UNNAMED} <= roles,
        "independent": True,
        "ic": has_network,
    }
    weights = _default_weights(usable) if config.move_weights is None else _given_weights(config, program, usable)
    total = sum(weights.values())
    return tuple((name, weights[name] / total) for name in MOVES if weights[name] > 0.0)


def _default_weights(usable: dict[str, bool]) -> dict[str, float]:
    weights = {
        "single": 0.5,
        "walk": 0.2,
        "redraw": 0.1 if usable["walk_redraw"] else 0.0,
        "walk_redraw": 0.1,
        "independent": 0.1,
    }
    weights = {name: weight if usable[name] else 0.0 for name, weight in weights.items()}
    return weights | {"ic": sum(weights.values()) * _IC_SHARE / (1.0 - _IC_SHARE) if usable["ic"] else 0.0}


def _given_weights(config: RMHConfig, program: Simulator, usable: dict[str, bool]) -> dict[str, float]:
    weights = {name: (config.move_weights or {}).get(name, 0.0) for name in MOVES}
    idle = [name for name in MOVES if weights[name] > 0.0 and not usable[name]]
    if "ic" in idle:
        message = "`move_weights` asks for 'ic', which needs a network: give `network`, a trained one."
        raise InvalidInputError(message, argument="network")
    if idle:
        message = (
            f"`move_weights` asks for {idle}, which change nothing in {program.name!r}: it needs"
            " named continuous draws to walk and unnamed draws to redraw."
        )
        raise InvalidInputError(message, argument="move_weights")
    return weights


def _roles(trace: Trace, names: frozenset[str] | None) -> Iterator[Role]:
    offsets = trace.layout.parameter_offsets
    for position, site in enumerate(trace.sites):
        if site.kind is SiteKind.SAMPLE:
            parameters = trace.parameters[offsets[position] : offsets[position + 1]]
            yield role_of(site, from_parameters(site.family, parameters, site.shape), names)


def _require_joint_names(names: frozenset[str], probes: Iterable[Trace]) -> None:
    known = {site.name for trace in probes for site in trace.sites if site.kind is SiteKind.SAMPLE and site.name}
    unknown = sorted(names - known)
    if unknown:
        message = f"`joint_names` has {unknown}, which the simulator did not draw; it draws {sorted(known)}."
        raise InvalidInputError(message, argument="joint_names")
