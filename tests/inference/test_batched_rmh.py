"""Batched chains as an engine: its store, its posterior, what it refuses."""

import math
from typing import Any

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError, StoreExistsError
from tracestore.inference import RMHConfig, rmh
from tracestore.inference.batched_rmh import MANY_CHAINS, batched_rmh, steps_together
from tracestore.simulators.batched import BatchedSimulator
from tracestore.simulators.toys import gum as single_gum
from tracestore.store import verify

OBSERVED = {"obs0": 8.0, "obs1": 9.0}
QUICK = RMHConfig(warmup=60)


def program():
    mu = ts.sample(ts.Normal(1.0, math.sqrt(5.0)), name="mu")
    likelihood = ts.Normal(mu, math.sqrt(2.0))
    ts.observe(likelihood, name="obs0")
    ts.observe(likelihood, name="obs1")
    return mu


gum = BatchedSimulator(program)


def run(path, **settings):
    usual: dict[str, Any] = {"num_draws": 2000, "chains": 100, "seed": 1, "config": QUICK}
    return batched_rmh(gum, OBSERVED, path, **{**usual, **settings})


@pytest.fixture(scope="module")
def posterior(tmp_path_factory):
    return run(tmp_path_factory.mktemp("batched") / "post", num_draws=20_000, chains=50)


@pytest.mark.statistical
def test_the_posterior_is_exact(posterior):
    assert posterior.mean("mu") == pytest.approx(7.25, abs=0.05)
    assert math.sqrt(posterior.var("mu")) == pytest.approx(math.sqrt(1.0 / 1.2), abs=0.05)


def test_chains_have_diagnostics(posterior):
    assert posterior.rhat("mu") < 1.05
    assert posterior.ess > 2000
    assert 0.1 < posterior.acceptance < 0.9
    assert {row.move for row in posterior.acceptance_by_move} == {"single", "walk"}
    assert posterior.acceptance_by_address[0].address.endswith("mu~Normal#1")


def test_every_chain_has_its_draws(posterior):
    chain, draw = posterior.store.column("chain"), posterior.store.column("draw")
    assert np.array_equal(np.bincount(chain), np.full(50, 400))
    assert len({*zip(chain.tolist(), draw.tolist(), strict=True)}) == 20_000


def test_the_store_passes_its_checks(posterior):
    assert verify(posterior.store, deep=True) == []


def values(posterior):
    found, indices = posterior.store.values("mu")
    return dict(zip(posterior.store.column("stream")[indices].tolist(), found.tolist(), strict=True))


def test_a_finished_job_is_returned(tmp_path):
    first = run(tmp_path / "post")
    again = run(tmp_path / "post")
    assert first.store.version == again.store.version


def test_an_interrupted_job_goes_on_with_the_same_draws(tmp_path, monkeypatch):
    monkeypatch.setitem(batched_rmh.__globals__, "_ROWS_PER_CHUNK", 300)

    def interrupt(event):
        if getattr(event, "done", 0) >= 900:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "post", observer=interrupt)
    assert values(run(tmp_path / "post")) == values(run(tmp_path / "other"))


def test_another_source_is_another_job(tmp_path):
    def changed():
        return program() + ts.sample(ts.Normal(0.0, 1.0), name="more")

    run(tmp_path / "post", num_draws=200)
    with pytest.raises(StoreExistsError, match="fingerprint"):
        batched_rmh(
            BatchedSimulator(changed, name=gum.name), OBSERVED, tmp_path / "post",
            num_draws=200, chains=100, seed=1, config=QUICK,
        )  # fmt: skip


def test_another_seed_is_another_job(tmp_path):
    run(tmp_path / "post")
    with pytest.raises(StoreExistsError, match="seed"):
        run(tmp_path / "post", seed=2)


def test_programs_of_single_traces_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"need a batched simulator.*Use `rmh`"):
        batched_rmh(single_gum, OBSERVED, tmp_path / "post", num_draws=100, chains=10)


def test_other_moves_are_refused(tmp_path):
    config = RMHConfig(move_weights={"single": 1.0, "independent": 1.0})
    with pytest.raises(InvalidInputError, match="asks for independent"):
        run(tmp_path / "post", config=config)
    assert not steps_together(gum, config, 1000)


def test_draws_divide_among_chains(tmp_path):
    with pytest.raises(InvalidInputError, match="`num_draws` must be a multiple of `chains`"):
        run(tmp_path / "post", num_draws=1001)


def test_unknown_observations_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="Unknown observation 'other'"):
        batched_rmh(gum, {**OBSERVED, "other": 1.0}, tmp_path / "post", num_draws=100, chains=10)


@pytest.mark.skipif("steps_together" not in rmh.__globals__, reason="`rmh` does not know batched simulators yet")
def test_many_chains_of_a_batched_simulator_step_together(tmp_path):
    settings: dict[str, Any] = {"num_draws": 20 * MANY_CHAINS, "chains": MANY_CHAINS, "seed": 1, "config": QUICK}
    posterior = rmh(gum, OBSERVED, tmp_path / "post", **settings)
    assert posterior.store.job.fields["batched"] is True
    few = rmh(gum, OBSERVED, tmp_path / "few", **{**settings, "chains": 2})
    assert "batched" not in few.store.job.fields
