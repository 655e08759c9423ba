"""Prior importance sampling and prior draws: weights, failures, resumption."""

import math
from pathlib import Path

import numpy as np
import pytest

from tracestore.errors import DegenerateWeightsError, StoreExistsError
from tracestore.events import Event, PhaseFinished, PhaseStarted
from tracestore.inference import importance, prior
from tracestore.simulators.base import simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.simulators.toys import gum
from tracestore.traces.distributions import Normal, Uniform

OBSERVED = {"obs0": 8.0, "obs1": 9.0}


@simulator
def fragile() -> float:
    x = sample(Normal(0.0, 1.0), name="x")
    if x > 1.0:
        message = f"cannot go beyond 1, asked for {x:.2f}"
        raise ValueError(message)
    observe(Normal(x, 1.0), name="y")
    return x


@simulator
def bounded() -> float:
    x = sample(Uniform(0.0, 1.0), name="x")
    observe(Uniform(x, x + 1.0), name="y")
    return x


def test_the_weight_is_the_likelihood(tmp_path: Path) -> None:
    posterior = importance(gum, OBSERVED, tmp_path / "post", num_draws=50, seed=1)
    store = posterior.store
    np.testing.assert_array_equal(store.column("log_weight"), store.column("log_likelihood"))
    assert np.isnan(store.column("log_proposal").astype(float)).all()
    assert sorted(store.column("draw").tolist()) == list(range(50))


def test_draws_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    one, two = (importance(gum, OBSERVED, tmp_path / str(n), num_draws=300, seed=2, workers=n) for n in (1, 2))
    np.testing.assert_array_equal(one.values("mu").values, two.values("mu").values)
    assert one.log_evidence == two.log_evidence


def test_another_seed_gives_other_draws(tmp_path: Path) -> None:
    one, two = (importance(gum, OBSERVED, tmp_path / str(n), num_draws=30, seed=n) for n in (1, 2))
    assert not np.isin(one.values("mu").values, two.values("mu").values).any()


class TestFailures:
    def test_are_recorded_with_weight_zero(self, tmp_path: Path) -> None:
        posterior = importance(fragile, {"y": 0.5}, tmp_path / "post", num_draws=400, seed=3)
        assert len(posterior) == 400
        assert 30 < posterior.num_failed < 110
        failed = posterior.store.column("status") != 0
        assert (posterior.store.column("log_weight")[failed] == -np.inf).all()
        assert all(
            reason.startswith("ValueError: cannot go beyond 1") for reason in posterior.store.failures().values()
        )

    def test_count_as_impossible_in_the_evidence(self, tmp_path: Path) -> None:
        posterior = importance(fragile, {"y": 0.5}, tmp_path / "post", num_draws=4000, seed=3)
        # the integral over x < 1 of the joint density
        grid = np.linspace(-8.0, 1.0, 20_001)
        joint = np.exp(-0.5 * grid**2 - 0.5 * (0.5 - grid) ** 2) / (2 * math.pi)
        exact = math.log(np.trapezoid(joint, grid))
        assert abs(posterior.log_evidence - exact) < 4 * posterior.log_evidence_se

    def test_no_weight_at_all_is_said_in_words(self, tmp_path: Path) -> None:
        posterior = importance(bounded, {"y": 5.0}, tmp_path / "post", num_draws=40, seed=4)
        assert posterior.ess == 0.0
        assert posterior.log_evidence == -math.inf
        words = r"All 40 draws have weight zero\. At the observe 'y' .* probability zero in 40 of 40 visits"
        with pytest.raises(DegenerateWeightsError, match=words):
            posterior.mean("x")

    def test_the_reason_of_a_failure_is_told_when_nothing_is_left(self, tmp_path: Path) -> None:
        @simulator
        def mostly_broken() -> None:
            x = sample(Uniform(0.0, 1.0), name="x")
            if x < 0.9:
                message = "out of range"
                raise ValueError(message)
            observe(Uniform(0.0, 1.0), name="y")

        posterior = importance(mostly_broken, {"y": 2.0}, tmp_path / "post", num_draws=40, seed=5)
        with pytest.raises(DegenerateWeightsError, match=r"\d+ are failed runs \(ValueError: out of range\)"):
            posterior.mean("x")


class TestAgain:
    def test_the_same_call_returns_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "post"
        first = importance(gum, OBSERVED, path, num_draws=100, seed=6)
        again = importance(gum, OBSERVED, path, num_draws=100, seed=6)
        assert again.store.version == first.store.version
        assert len(again) == 100

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"seed": 7}, "seed"),
            ({"num_draws": 101}, "num_draws"),
            ({"observations": {"obs0": 8.0, "obs1": 9.5}}, "observation"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_another_job_is_refused(self, tmp_path: Path, change: dict[str, object], field: str) -> None:
        call = {"observations": OBSERVED, "num_draws": 100, "seed": 6}
        importance(gum, path=tmp_path / "post", **call)  # type: ignore[arg-type]
        with pytest.raises(StoreExistsError, match=f"`{field}`"):
            importance(gum, path=tmp_path / "post", **{**call, **change})  # type: ignore[arg-type]

    def test_progress_is_told(self, tmp_path: Path) -> None:
        events: list[Event] = []
        importance(gum, OBSERVED, tmp_path / "post", num_draws=200, seed=8, observer=events.append)
        assert isinstance(events[0], PhaseStarted)
        assert (events[0].phase, events[0].total) == ("infer", 200)
        assert isinstance(events[-1], PhaseFinished)


def test_prior_draws_generate_the_observations(tmp_path: Path) -> None:
    posterior = prior(gum, tmp_path / "prior", num_draws=500, seed=9)
    assert posterior.ess == pytest.approx(500)
    observed = [float(posterior.store.observation("obs0", row)) for row in range(500)]
    assert np.var(observed) == pytest.approx(7.0, rel=0.3)
