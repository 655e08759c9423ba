"""A chain that does not move says so once, and why."""

import logging
import math
from pathlib import Path

import pytest

from tracestore.inference import RMHConfig, rmh
from tracestore.inference.stall import MAX_IDLE_STEPS, StallWatch, explain
from tracestore.inference.tally import Tally
from tracestore.simulators.base import Simulator, simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.simulators.toys import gum
from tracestore.traces.distributions import Normal, Uniform

LOGGER = "tracestore.inference.stall"


def warnings_of(
    program: Simulator, path: Path, caplog: pytest.LogCaptureFixture, config: RMHConfig, y: float = 0.0
) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, LOGGER):
        rmh(program, {"y": y}, path, num_draws=3000, chains=1, seed=1, config=config)
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


@simulator
def brittle() -> None:
    """Fails everywhere but where chains start."""
    x = sample(Normal(0.0, 1.0), name="x")
    if abs(x) > 0.3:
        message = "x is too large"
        raise ValueError(message)
    observe(Normal(x, 1e-9), name="y")


@simulator
def sharp() -> None:
    observe(Normal(sample(Normal(0.0, 1.0), name="x"), 1e-9), name="y")


@simulator
def spike() -> None:
    x = sample(Uniform(0.0, 1.0), name="x")
    observe(Uniform(x, x + 1e-4), name="y")


def test_a_sharp_likelihood(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = RMHConfig(warmup=8000, move_weights={"single": 1.0}, single_scale=10.0)
    (message,) = warnings_of(sharp, tmp_path / "post", caplog, config)
    assert message.startswith("chain 0 hardly moves: ")
    assert "falls sharply" in message
    assert "`single_scale`" in message
    assert "(single " in message


def test_failures_are_told_with_their_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = RMHConfig(warmup=600, move_weights={"single": 1.0}, starts=50)
    (message,) = warnings_of(brittle, tmp_path / "post", caplog, config)
    assert "most often with 'ValueError: x is too large'" in message
    assert "make it run for everything that its priors allow" in message


def test_a_likelihood_of_zero_names_the_observe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = RMHConfig(warmup=0, move_weights={"single": 1.0}, kernel_share=0.0, starts=1)
    (message,) = warnings_of(spike, tmp_path / "post", caplog, config, y=0.5)
    assert "most often at the observe 'y'" in message
    assert "unbounded support" in message


def test_a_chain_that_moves_is_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, LOGGER):
        rmh(gum, {"obs0": 8.0, "obs1": 9.0}, tmp_path / "post", num_draws=400, seed=1)
    assert not caplog.records


class TestWatch:
    @staticmethod
    def watch() -> StallWatch:
        return StallWatch(3, Tally(["single"]))

    def test_warns_after_many_steps(self, caplog: pytest.LogCaptureFixture) -> None:
        watch = self.watch()
        for _ in range(MAX_IDLE_STEPS - 1):
            watch.step(has_moved=False)
        assert not watch.is_quiet
        watch.step(has_moved=False)
        assert watch.is_quiet
        assert [record.getMessage()[:20] for record in caplog.records] == ["chain 3 hardly moves"]

    def test_warns_of_a_slow_simulator_by_time(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tracestore.inference.stall.MAX_IDLE_SECONDS", -math.inf)
        watch = self.watch()
        for _ in range(49):
            watch.step(has_moved=False)
        assert not caplog.records
        watch.step(has_moved=False)
        assert len(caplog.records) == 1

    def test_one_move_is_enough_at_first(self) -> None:
        watch = self.watch()
        watch.step(has_moved=True)
        assert watch.is_quiet

    def test_the_end_of_the_warm_up_looks_at_the_share(self, caplog: pytest.LogCaptureFixture) -> None:
        watch = self.watch()
        watch.step(has_moved=True)
        watch.tally.moves["single"] = [5000, 2, 0]
        watch.end_warm_up()
        watch.end_warm_up()
        assert len(caplog.records) == 1


def test_supports_that_move_are_told() -> None:
    tally = Tally(["single"])
    tally.moves["single"] = [10, 0, 0]
    for _ in range(9):
        tally.count_reason(tally.unscored, "f:x~Uniform#1")
    assert "90 % ended at a value outside its new support, most often at 'f:x~Uniform#1'" in explain(tally)
    assert "use the same bounds" in explain(tally)
