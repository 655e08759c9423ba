"""Views in stores of their own."""

from pathlib import Path

import numpy as np
import pytest

from tests.posteriors.programs import mixed
from tracestore.errors import DiagnosticError, InvalidInputError, StoreExistsError
from tracestore.events import Event, PhaseAdvanced, PhaseFinished
from tracestore.inference import Posterior, RMHConfig, importance, open_posterior, rmh
from tracestore.posteriors import draw_table
from tracestore.store.writer import StoreWriter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def weighted(folder: Path) -> Posterior:
    return importance(mixed, {"y": 1.0}, folder / "is", num_draws=600, seed=1)


@pytest.fixture(scope="module")
def chained(folder: Path) -> Posterior:
    return rmh(mixed, {"y": 1.0}, folder / "rmh", num_draws=600, chains=2, seed=1, config=RMHConfig(warmup=100))


def same(found: Posterior, wanted: Posterior) -> None:
    np.testing.assert_array_equal(found.log_weights, wanted.log_weights)
    for name in wanted.names:
        for one, other in zip(found.values(name), wanted.values(name), strict=True):
            np.testing.assert_array_equal(one, other)
    assert (found.is_weighted, found.num_chains) == (wanted.is_weighted, wanted.num_chains)


def test_a_weighted_view_comes_back(weighted: Posterior, tmp_path: Path) -> None:
    view = weighted.condition({"x": (0.0, None)}).reweight(lambda trace: trace["x"]).thin(2)
    saved = view.save(tmp_path / "view")
    same(open_posterior(tmp_path / "view"), view)
    assert saved.log_evidence == pytest.approx(view.log_evidence)
    assert saved.log_evidence_se == pytest.approx(view.log_evidence_se)


def test_chains_come_back(chained: Posterior, tmp_path: Path) -> None:
    view = chained.discard(50).thin(2)
    saved = view.save(tmp_path / "view")
    same(saved, view)
    assert saved.rhat("x") == view.rhat("x")
    with pytest.raises(DiagnosticError, match="no states of them"):
        _ = saved.acceptance


def test_reweighted_chains_come_back_weighted(chained: Posterior, tmp_path: Path) -> None:
    view = chained.reweight(chained.values("x").values)
    saved = view.save(tmp_path / "view")
    same(saved, view)
    assert saved.is_weighted
    assert saved.mcse("x") == view.mcse("x")
    with pytest.raises(InvalidInputError, match="Reweighted chains cannot be joined"):
        Posterior(saved.store, chained.store)


def test_joined_stores_become_one(weighted: Posterior, folder: Path, tmp_path: Path) -> None:
    other = importance(mixed, {"y": 1.0}, folder / "is2", num_draws=100, seed=2)
    both = Posterior(weighted.store, other.store)
    saved = both.save(tmp_path / "both")
    assert len(saved) == 700
    assert saved.mean("x") == pytest.approx(both.mean("x"))
    assert saved.log_evidence == pytest.approx(both.log_evidence)


def test_the_job_tells_what_was_done(weighted: Posterior, tmp_path: Path) -> None:
    job = weighted.thin(3).save(tmp_path / "view").store.job
    assert job is not None
    assert job.fields["steps"] == [{"thin": 3}]
    assert job.fields["sources"][0]["uuid"] == weighted.store.uuid


def test_the_same_call_continues(weighted: Posterior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw_table, "_MOST_READ", 50)
    view = weighted.thin(2)
    append, calls = StoreWriter.append, 0

    def fail_late(self: StoreWriter, *arguments: object, **named: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        append(self, *arguments, **named)  # type: ignore[arg-type]
        self.seal()

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "append", fail_late)
        with pytest.raises(KeyboardInterrupt):
            view.save(tmp_path / "view")
    events: list[Event] = []
    same(view.save(tmp_path / "view", observer=events.append), view)
    assert [event.done for event in events if isinstance(event, PhaseAdvanced)] == [50, 100, 150, 200, 250, 300]
    assert isinstance(events[-1], PhaseFinished)
    assert len(view.save(tmp_path / "view").store.segments) == 4


def test_another_view_is_refused(weighted: Posterior, tmp_path: Path) -> None:
    weighted.thin(2).save(tmp_path / "view")
    with pytest.raises(StoreExistsError, match="holds the output of another job"):
        weighted.thin(3).save(tmp_path / "view")


def test_a_reobserved_view_is_refused(weighted: Posterior, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"was reobserved \(y\) cannot be saved"):
        weighted.reobserve({"y": 0.5}).save(tmp_path / "view")
