"""Posteriors of many observations in one store."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.posteriors.programs import conditioned, windows, write, write_many
from tracestore.errors import InvalidInputError
from tracestore.inference import Posterior, open_posterior
from tracestore.posteriors.posterior_set import PosteriorSet, open_posterior_set
from tracestore.simulators.toys import gum
from tracestore.store.trace_store import TraceStore

OBSERVATIONS = [{"obs0": 0.02 * number, "obs1": 1.0} for number in range(300)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sets") / "many"
    write_many(path, gum, OBSERVATIONS, 20)
    return path


@pytest.fixture
def posteriors(path: Path) -> PosteriorSet:
    return open_posterior_set(path)


def alone(number: int, path: Path) -> Posterior:
    return Posterior(write(path, conditioned(gum, OBSERVATIONS[number], 20, seed=number), engine="ic"))


def test_each_is_the_posterior_of_its_observation(posteriors: PosteriorSet, tmp_path: Path) -> None:
    found, wanted = posteriors[123], alone(123, tmp_path / "one")
    np.testing.assert_array_equal(found.values("mu").values, wanted.values("mu").values)
    assert found.mean("mu") == wanted.mean("mu")
    assert found.log_evidence == wanted.log_evidence
    assert found.khat == wanted.khat
    assert found.observations["obs0"] == pytest.approx(OBSERVATIONS[123]["obs0"])


def test_numbers_of_all_are_arrays(posteriors: PosteriorSet) -> None:
    assert posteriors.ess.shape == posteriors.khat.shape == (300,)
    assert posteriors.ess[7] == posteriors[7].ess
    assert posteriors.log_evidence[7] == posteriors[7].log_evidence
    assert posteriors.log_evidence_se[7] == posteriors[7].log_evidence_se
    assert posteriors.khat[299] == posteriors[299].khat


def test_moments_of_all_are_arrays(posteriors: PosteriorSet) -> None:
    assert posteriors.mean("mu").shape == posteriors.std("mu").shape == (300,)
    assert posteriors.mean("mu")[17] == posteriors[17].mean("mu")
    assert posteriors.std("mu")[17] == posteriors[17].std("mu")
    found = posteriors.quantile("mu", [0.1, 0.9])
    np.testing.assert_array_equal(found[17], posteriors[17].quantile("mu", [0.1, 0.9]))
    assert found.shape == (300, 2)


def test_moments_where_nothing_has_weight(tmp_path: Path) -> None:
    given = [{"seen": 2.0, "y": 1.0}, {"seen": 50.0, "y": 1.0}]
    means = PosteriorSet(write_many(tmp_path / "windows", windows, given, 30)).mean("x")
    assert 1.0 <= means[0] <= 2.0
    assert math.isnan(means[1])


def test_is_a_sequence(posteriors: PosteriorSet) -> None:
    assert len(posteriors) == len(list(posteriors)) == 300
    assert posteriors[-1].mean("mu") == posteriors[299].mean("mu")
    assert [posterior.mean("mu") for posterior in posteriors[3:9:2]] == [posteriors[k].mean("mu") for k in (3, 5, 7)]
    assert posteriors.names == ("mu", "result")
    with pytest.raises(IndexError, match="Observation 300 is outside a set of 300"):
        _ = posteriors[300]


def test_columns_are_read_once_for_all(posteriors: PosteriorSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()
    column, values = TraceStore.column, TraceStore.values

    def counted_column(self: TraceStore, name: str) -> object:
        read[name] += 1
        return column(self, name)

    def counted_values(self: TraceStore, name: str) -> object:
        read[name] += 1
        return values(self, name)

    monkeypatch.setattr(TraceStore, "column", counted_column)
    monkeypatch.setattr(TraceStore, "values", counted_values)
    for posterior in posteriors:
        posterior.summary()
    assert read == {"log_weight": 1, "mu": 1, "result": 1}


def test_views_of_one_look_at_it_alone(posteriors: PosteriorSet) -> None:
    kept = posteriors[40].thin(2)
    assert len(kept) == 10
    assert set(kept.table.chain.tolist()) == {40}
    np.testing.assert_array_equal(kept.values("mu").values, posteriors[40].values("mu").values[::2])
    reweighted = posteriors[40].reweight(lambda trace: trace["mu"])
    np.testing.assert_allclose(reweighted.log_weights, posteriors[40].log_weights + posteriors[40].values("mu").values)


def test_one_can_be_saved(posteriors: PosteriorSet, tmp_path: Path) -> None:
    saved = posteriors[12].save(tmp_path / "one")
    assert open_posterior(tmp_path / "one").mean("mu") == posteriors[12].mean("mu")
    assert saved.store.job.fields["steps"] == [{"observation": 12}]


def test_observations_that_no_draw_fits(tmp_path: Path) -> None:
    given = [{"seen": 2.0, "y": 1.0}, {"seen": 50.0, "y": 1.0}]
    posteriors = PosteriorSet(write_many(tmp_path / "windows", windows, given, 30))
    assert posteriors.ess[1] == 0.0
    assert posteriors.log_evidence[1] == -math.inf
    assert posteriors.khat[1] == math.inf
    assert posteriors.ess[0] > 0.0


def test_observations_without_draws(tmp_path: Path) -> None:
    traces = conditioned(gum, OBSERVATIONS[0], 5)
    posteriors = PosteriorSet(write(tmp_path / "cut", traces, engine="ic", num_observations=2))
    assert len(posteriors[1]) == 0
    assert posteriors.ess.tolist()[1] == 0.0
    assert math.isnan(posteriors.log_evidence[1])


def test_a_set_is_no_posterior(path: Path) -> None:
    with pytest.raises(InvalidInputError, match="holds the posteriors of 300 observations; open it with"):
        open_posterior(path)


def test_a_posterior_is_no_set(tmp_path: Path) -> None:
    store = write(tmp_path / "one", conditioned(gum, OBSERVATIONS[0], 5), engine="is")
    with pytest.raises(InvalidInputError, match="holds the posterior of one observation; open it with"):
        PosteriorSet(store)
