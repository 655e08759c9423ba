"""The Markov engines as jobs: plans, moves, resumption, refusals."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from tracestore.errors import InvalidInputError, StoreExistsError
from tracestore.events import Event, PhaseAdvanced, PhaseStarted
from tracestore.inference import RMHConfig, lmh, open_posterior, rmh
from tracestore.posteriors.chain_states import last_states
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.simulators.toys import branching, gum, gum_marsaglia
from tracestore.store.trace_store import TraceStore
from tracestore.traces.distributions import (
    Beta,
    Binomial,
    Gamma,
    Mixture,
    MultivariateNormal,
    Normal,
    Uniform,
    VonMises,
)

OBSERVED = {"obs0": 8.0, "obs1": 9.0}
QUICK = RMHConfig(warmup=100)


def run(path: Path, **settings: object) -> Posterior:
    return rmh(gum, OBSERVED, path, **{"num_draws": 400, "seed": 1, "config": QUICK, **settings})  # type: ignore[arg-type]


def content(posterior: Posterior) -> dict[str, np.ndarray]:
    """Everything that a chain promises to repeat bit for bit; run times differ."""
    batch = posterior.store.take(np.arange(len(posterior)))
    batch = batch.take(np.lexsort((batch.draw, batch.chain)))
    names = ("values", "log_probs", "parameters", "log_prior", "log_likelihood", "chain", "draw", "accepted", "stream")
    return {name: getattr(batch, name) for name in names}


def assert_same(ours: Posterior, theirs: Posterior) -> None:
    found, expected = content(ours), content(theirs)
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column, err_msg=name)
    assert ours.acceptance_by_move == theirs.acceptance_by_move


class TestDraws:
    def test_all_chains_together_have_the_number_asked_for(self, tmp_path: Path) -> None:
        store = run(tmp_path / "post", chains=5).store
        assert np.bincount(store.column("chain")).tolist() == [80] * 5
        assert sorted(store.column("draw").tolist()) == sorted(list(range(80)) * 5)
        assert (store.column("log_weight") == 0.0).all()
        assert len(np.unique(store.column("stream"))) == 400

    def test_do_not_depend_on_the_workers(self, tmp_path: Path) -> None:
        assert_same(run(tmp_path / "two", workers=2), run(tmp_path / "one"))

    def test_chains_differ(self, tmp_path: Path) -> None:
        draws = run(tmp_path / "post").values("mu")
        first, second = (draws.values[draws.chain == chain] for chain in (0, 1))
        assert not np.isin(first, second).any()

    def test_a_chain_does_not_depend_on_the_number_of_chains(self, tmp_path: Path) -> None:
        few, many = run(tmp_path / "few", chains=2, num_draws=200), run(tmp_path / "many", chains=4)
        found, all_found = few.values("mu"), many.values("mu")
        np.testing.assert_array_equal(found.values, all_found.values[all_found.chain < 2])

    def test_lmh_moves_single_sites_by_the_prior(self, tmp_path: Path) -> None:
        posterior = lmh(gum, OBSERVED, tmp_path / "post", num_draws=200, seed=1, warmup=10)
        assert {row.move for row in posterior.acceptance_by_move} == {"single"}
        assert posterior.engine == "lmh"

    def test_progress_is_told(self, tmp_path: Path) -> None:
        events: list[Event] = []
        run(tmp_path / "post", observer=events.append)
        assert events[0] == PhaseStarted("infer", 400, 0, "draws")
        advances = [event for event in events if isinstance(event, PhaseAdvanced)]
        assert len(advances) >= 20
        assert advances[-1].done == 400


class TestMoves:
    @staticmethod
    def moves(posterior: Posterior) -> set[str]:
        return {row.move for row in posterior.acceptance_by_move}

    def test_named_draws_only(self, tmp_path: Path) -> None:
        assert self.moves(run(tmp_path / "post")) == {"single", "walk", "independent"}

    def test_unnamed_draws_only(self, tmp_path: Path) -> None:
        posterior = rmh(gum_marsaglia, OBSERVED, tmp_path / "post", num_draws=40, seed=1, config=QUICK)
        assert self.moves(posterior) == {"single", "independent"}

    def test_discrete_draws_only(self, tmp_path: Path) -> None:
        posterior = rmh(branching, {"obs": 6}, tmp_path / "post", num_draws=40, seed=1, config=QUICK)
        assert self.moves(posterior) == {"single", "independent"}

    def test_both(self, tmp_path: Path) -> None:
        @simulator
        def both() -> None:
            x = sample(Normal(0.0, 1.0), name="x")
            observe(Normal(x + sample(Normal(0.0, 1.0)), 1.0), name="y")

        posterior = rmh(both, {"y": 1.0}, tmp_path / "post", num_draws=400, seed=1, config=QUICK)
        assert self.moves(posterior) == {"single", "walk", "redraw", "walk_redraw", "independent"}
        proposed = {row.move: row.num_proposed for row in posterior.acceptance_by_move if row.chain == 0}
        assert sum(proposed.values()) == 100
        assert 35 <= proposed["single"] <= 65


@simulator
def families() -> None:
    """Draws of every kind of shape and support."""
    sample(Mixture([Normal(-1.0, 0.5), Normal(1.0, 1.0)], [0.5, 0.5]), name="mixture")
    sample(MultivariateNormal([0.0, 1.0], [[1.0, 0.5], [0.5, 1.0]]), name="plane")
    sample(Gamma(np.array([1.0, 2.0]), np.array([1.0, 1.0])), name="positive")
    sample(Uniform(np.zeros((2, 2)), np.ones((2, 2))))
    sample(VonMises(0.0, 2.0), name="angle")
    sample(Binomial(5, 0.4))
    x = sample(Beta(2.0, 3.0), name="share")
    observe(Normal(x, 0.2), name="y")


def test_every_kind_of_draw_moves_and_resumes(tmp_path: Path) -> None:
    config = RMHConfig(warmup=200)
    call = {"num_draws": 2400, "seed": 3, "config": config}
    posterior = rmh(families, {"y": 0.4}, tmp_path / "post", **call)  # type: ignore[arg-type]
    # only the share is observed: the others keep their priors
    for name, exact in {"mixture": 0.0, "plane": [0.0, 1.0], "positive": [1.0, 2.0], "angle": 0.0}.items():
        deviation = np.abs(np.asarray(posterior.mean(name)) - exact)
        assert (deviation < 4.5 * np.asarray(posterior.mcse(name))).all(), name

    def interrupt(event: Event) -> None:
        if isinstance(event, PhaseAdvanced) and event.done >= 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rmh(families, {"y": 0.4}, tmp_path / "again", observer=interrupt, **call)  # type: ignore[arg-type]
    assert_same(rmh(families, {"y": 0.4}, tmp_path / "again", **call), posterior)  # type: ignore[arg-type]


class TestAgain:
    def test_the_same_call_returns_at_once(self, tmp_path: Path) -> None:
        first, again = run(tmp_path / "post"), run(tmp_path / "post")
        assert again.store.version == first.store.version
        assert_same(again, first)

    def test_another_job_is_refused(self, tmp_path: Path) -> None:
        run(tmp_path / "post")
        for change, field in (({"seed": 2}, "seed"), ({"chains": 2}, "chains"), ({"config": RMHConfig()}, "config")):
            with pytest.raises(StoreExistsError, match=f"`{field}`"):
                run(tmp_path / "post", **change)

    @pytest.mark.parametrize("stop_after", [1, 9, 24, 77])
    def test_an_interrupted_job_goes_on_bit_for_bit(self, tmp_path: Path, stop_after: int) -> None:
        """At the start, in the warm-up, and among the draws of the first and the second chain."""
        events: list[Event] = []

        def interrupt(event: Event) -> None:
            events.append(event)
            if len(events) == 1 + stop_after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "post", observer=interrupt)
        # a chain has a start, 20 pieces of warm-up, and 20 chunks of 5 draws
        done = sum(5 * min(max(stop_after - before, 0), 20) for before in (21, 62))
        assert len(TraceStore.open(tmp_path / "post")) == done
        resumed: list[Event] = []
        finished = run(tmp_path / "post", observer=resumed.append)
        assert isinstance(resumed[0], PhaseStarted)
        assert resumed[0].done == done
        assert len(resumed) == 4 * 41 - stop_after + 2
        assert_same(finished, run(tmp_path / "whole"))

    @pytest.mark.processes
    def test_interrupted_workers_seal_what_they_have(self, tmp_path: Path) -> None:
        def interrupt(event: Event) -> None:
            if isinstance(event, PhaseAdvanced) and event.done >= 50:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "post", observer=interrupt, workers=2)
        assert len(open_posterior(tmp_path / "post")) >= 50
        assert_same(run(tmp_path / "post", workers=2), run(tmp_path / "whole"))

    @pytest.mark.processes
    def test_an_error_in_a_worker_is_raised_here(self, tmp_path: Path) -> None:
        calls = iter(range(10**9))

        @simulator
        def forgetful() -> None:
            x = sample(Normal(0.0, 1.0), name="x")
            if next(calls) > 100:
                observe(Normal(x, 1.0), name="late")
            observe(Normal(x, 1.0), name="y")

        with pytest.raises(InvalidInputError, match="observes 'late' but no value was given") as caught:
            rmh(forgetful, {"y": 1.0}, tmp_path / "post", num_draws=400, seed=1, workers=2)
        assert any("in a worker process" in note for note in caught.value.__notes__)


SLOW_JOB = """
import sys, time
import numpy as np
import tracestore.inference.lanes as lanes
from tracestore.inference import RMHConfig, rmh
from tracestore.simulators.base import Simulator
from tracestore.simulators.toys import gum_marsaglia

path, delay, workers = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
lanes.SEAL_SECONDS = 0.02

def slow():
    time.sleep(delay)
    return gum_marsaglia.function()

program = Simulator(slow, name="slow")
print("started", flush=True)
rmh(program, {"obs0": 8.0, "obs1": 9.0}, path, num_draws=2000, chains=4, seed=1, workers=workers,
    config=RMHConfig(warmup=300))
"""


@pytest.mark.processes
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_job_goes_on_bit_for_bit(tmp_path: Path, workers: int) -> None:
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(SLOW_JOB))

    def start(path: Path, delay: float) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(script), str(path), str(delay), str(workers)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    rng = np.random.default_rng(workers)
    units = []
    for _ in range(4):
        with start(tmp_path / "killed", 0.001) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.2, 0.7))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its own session: the job and its workers
        if (tmp_path / "killed").exists():
            states = last_states(TraceStore.open(tmp_path / "killed"))
            units.append([state["chunk"] for state in states.values()])
    assert min(map(min, filter(None, units))) < 0  # a warm-up was cut short and went on from there
    for path in ("killed", "whole"):
        with start(tmp_path / path, 0.0) as process:
            process.communicate()
        assert process.returncode == 0
    assert_same(open_posterior(tmp_path / "killed"), open_posterior(tmp_path / "whole"))


class TestRefusals:
    def test_draws_that_do_not_divide_among_the_chains(self, tmp_path: Path) -> None:
        with pytest.raises(
            InvalidInputError, match=r"got 10 draws for 4 chains. Ask for 8 or 12 draws, .* 1, 2, 5, 10\."
        ):
            run(tmp_path / "post", num_draws=10)

    @pytest.mark.parametrize("settings", [{"num_draws": 0}, {"chains": 0}, {"workers": 0}, {"seed": -1}], ids=str)
    def test_numbers_that_make_no_sense(self, tmp_path: Path, settings: dict[str, int]) -> None:
        with pytest.raises(InvalidInputError, match=f"`{next(iter(settings))}` must be"):
            run(tmp_path / "post", **settings)

    def test_moves_that_change_nothing(self, tmp_path: Path) -> None:
        config = RMHConfig(move_weights={"single": 1.0, "redraw": 1.0})
        with pytest.raises(InvalidInputError, match=r"asks for \['redraw'\], which change nothing in .*:gum'"):
            run(tmp_path / "post", config=config)

    def test_joint_names_that_are_not_drawn(self, tmp_path: Path) -> None:
        with pytest.raises(
            InvalidInputError, match=r"has \['nu'\], which the simulator did not draw; it draws \['mu'\]"
        ):
            run(tmp_path / "post", config=RMHConfig(joint_names=("nu",)))

    def test_a_simulator_without_draws(self, tmp_path: Path) -> None:
        @simulator
        def settled() -> None:
            observe(Normal(0.0, 1.0), name="y")

        with pytest.raises(InvalidInputError, match="there is nothing to infer"):
            rmh(settled, {"y": 1.0}, tmp_path / "post", num_draws=4)


class TestConfig:
    def test_all_problems_at_once(self) -> None:
        with pytest.raises(InvalidInputError) as caught:
            RMHConfig(warmup=-1, thinning=0, kernel_share=1.5, joint_scale=0.0, move_weights={"leap": 1.0})
        for name in ("warmup", "thinning", "kernel_share", "joint_scale", "leap"):
            assert name in str(caught.value)

    @pytest.mark.parametrize("weights", [{}, {"single": 0.0}, {"single": -1.0}, {"single": float("nan")}], ids=str)
    def test_weights_that_choose_nothing(self, weights: dict[str, float]) -> None:
        with pytest.raises(InvalidInputError, match="not all zero"):
            RMHConfig(move_weights=weights)
