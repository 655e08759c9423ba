"""Kinds of drawing functions that scale or place what other kinds draw."""

from typing import cast

import numpy as np
import pytest

from tracestore.simulators import run_trace
from tracestore.traces.distributions import Exponential, Gamma, Normal, Uniform

pytest.importorskip("zmq")
from tests.ppx.closed_programs import NEEDS_COMPILER, compiled
from tracestore.native.hooks import Hook, Kind
from tracestore.ppx.interposed import InterposedProgram

pytestmark = [
    NEEDS_COMPILER,
    pytest.mark.processes,
    pytest.mark.skipif("fill_double" not in str(Kind), reason="hooks do not offer these kinds"),
]

KINDS_OF = {
    "fill_double": "fill_double",
    "fill_float": "fill_float",
    "random": "random_long",
    "random_word": "random_word",
    "normal_scaled": "normal_scaled",
    "exponential_scaled": "exponential_scaled",
    "uniform_between": "uniform_between",
    "gamma_scaled": "gamma_scaled",
}
"""Kinds by the function that has it."""


class Fixed:
    """Answers a quarter of the way."""

    def __init__(self):
        self.priors = []

    def draw(self, site, prior, rng):
        self.priors.append(prior)
        value = 0.25 * (prior.high if isinstance(prior, Uniform) else 1.0)
        return value, prior.log_prob(value)


def test_what_is_drawn_and_what_the_program_gets(tmp_path):
    with compiled(tmp_path) as programs:
        found = []
        program = InterposedProgram(
            [programs.path("kinds")],
            hooks=[Hook(symbol, cast("Kind", kind)) for symbol, kind in KINDS_OF.items()],
            observe=lambda output: found.append(output.stdout),
        )
        controller = Fixed()
        assert run_trace(program, controller, np.random.default_rng(1)).failure == ""
        program.close()
    assert found == [f"0.25 0.25 {2**29} {2**30}\n2 2 12.5 2\n"]
    assert controller.priors[4:] == [Normal(0.0, 1.0), Exponential(1.0), Uniform(0.0, 1.0), Gamma(3.0, 1.0)]
