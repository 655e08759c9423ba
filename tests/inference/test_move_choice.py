"""Which moves are made: those that change something, as often as asked for."""

import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.inference.move_choice import choose_moves
from tracestore.inference.rmh_config import RMHConfig
from tracestore.simulators.base import PriorController, Simulator, run_trace, simulator
from tracestore.simulators.runtime import sample
from tracestore.simulators.toys import branching, gum, gum_marsaglia
from tracestore.traces.distributions import Normal


def shares(program: Simulator, config: RMHConfig, *, has_network: bool = False) -> dict[str, float]:
    rng = np.random.default_rng(1)
    probes = [run_trace(program, PriorController(), rng) for _ in range(3)]
    return dict(choose_moves(config, program, probes, has_network=has_network))


@simulator
def both() -> None:
    sample(Normal(0.0, 1.0), name="x")
    sample(Normal(0.0, 1.0))


DEFAULTS = [
    (gum, ["single", "walk", "independent"]),
    (gum_marsaglia, ["single", "independent"]),
    (branching, ["single", "independent"]),
    (both, ["single", "walk", "redraw", "walk_redraw", "independent"]),
]


@pytest.mark.parametrize(("program", "moves"), DEFAULTS, ids=lambda part: getattr(part, "__name__", ""))
def test_defaults(program: Simulator, moves: list[str]) -> None:
    found = shares(program, RMHConfig())
    assert list(found) == moves
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_network_makes_a_quarter_of_the_moves() -> None:
    plain, helped = shares(both, RMHConfig()), shares(both, RMHConfig(), has_network=True)
    assert helped.pop("ic") == pytest.approx(0.25)
    assert helped == pytest.approx({name: 0.75 * share for name, share in plain.items()})


def test_given_weights_are_relative() -> None:
    config = RMHConfig(move_weights={"walk": 3.0, "single": 1.0, "ic": 0.0})
    assert shares(both, config) == {"single": 0.25, "walk": 0.75}


def test_moves_without_effect_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"asks for \['redraw'\], which change nothing"):
        shares(gum, RMHConfig(move_weights={"redraw": 1.0}))
