"""Both ends are tracestore: a simulator behind a socket is the simulator."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tracestore.errors import SimulatorProtocolError
from tracestore.ppx.simulator import PPXSimulator
from tracestore.simulators import PriorController, resolve, run_trace
from tracestore.simulators.replay_check import first_difference
from tracestore.traces.trace import TraceStatus

pytestmark = pytest.mark.processes
SERVED = Path(__file__).with_name("programs") / "served.py"


@pytest.fixture(scope="module", params=["gum", "gum-marsaglia", "branching", "hmm", "geometric"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def served(name: str) -> Iterator[PPXSimulator]:
    with PPXSimulator([sys.executable, str(SERVED), name], timeout=20.0) as program:
        yield program


@pytest.mark.parametrize("collapse", [False, True])
def test_traces_equal_those_made_here(served: PPXSimulator, name: str, collapse: bool) -> None:
    for seed in range(5):
        here, there = (
            run_trace(program, PriorController(), np.random.default_rng(seed), collapse_rejection=collapse)
            for program in (resolve(name), served)
        )
        assert first_difference(here, there) == ""
        assert here.layout == there.layout


def test_a_run_that_is_cut_short_is_given_up(served: PPXSimulator) -> None:
    assert run_trace(served, PriorController(), np.random.default_rng(1), max_sites=1).status is TraceStatus.CAPPED
    assert run_trace(served, PriorController(), np.random.default_rng(1)).status is TraceStatus.OK


def test_runs_are_conditioned() -> None:
    observed = {"obs0": np.array(8.0), "obs1": np.array(9.0)}
    with PPXSimulator([sys.executable, str(SERVED), "gum"], timeout=20.0) as served:
        trace = run_trace(served, PriorController(), np.random.default_rng(1), observations=observed)
    assert trace.observations == observed


def test_a_loop_whose_passes_cannot_be_told_apart_is_not_collapsed() -> None:
    with PPXSimulator([sys.executable, str(SERVED), "marked:marked"], timeout=20.0) as served:
        trace = run_trace(served, PriorController(), np.random.default_rng(1))
        assert all(site.is_rejection for site in trace.sites if site.is_controlled)
        with pytest.raises(SimulatorProtocolError, match="cannot be collapsed, since it does not tell its passes"):
            run_trace(served, PriorController(), np.random.default_rng(1), collapse_rejection=True)
        assert run_trace(served, PriorController(), np.random.default_rng(1)).status is TraceStatus.OK
