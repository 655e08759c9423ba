"""The verb `train`: learns, resumes to the last bit, refuses what is not its own."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import tracestore as ts
from tests.networks.family_programs import TINY, every_family, prior_batch
from tracestore.errors import (
    CheckpointMismatchError,
    InvalidInputError,
    NonFiniteLossError,
    StoreExistsError,
    StoreNotFoundError,
)
from tracestore.events import Event, PhaseAdvanced
from tracestore.networks.network import ProposalNetwork
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.simulators import Simulator, toys
from tracestore.traces import Site, SiteKind
from tracestore.training import NetworkConfig, TrainConfig, load_network, train
from tracestore.training.history import read_history
from tracestore.training.trainer import Trainer

QUICK = TrainConfig(network=TINY, epochs=3, batch_size=32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ts.TraceStore:
    program = Simulator(every_family, name="every_family")
    return ts.simulate(program, tmp_path_factory.mktemp("s") / "store", num_traces=300, seed=1)


def weights(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.rglob("*.safetensors")}


class Stop(Exception):
    """Ends a training from its observer."""


def test_an_interrupted_training_ends_in_the_same_bits(store: ts.TraceStore, tmp_path: Path) -> None:
    whole = train(store, tmp_path / "whole", config=QUICK)
    calls = 0

    def interrupt(event: Event) -> None:
        nonlocal calls
        calls += isinstance(event, PhaseAdvanced)
        if calls == 13:
            raise Stop

    config = TrainConfig(network=TINY, epochs=3, batch_size=32, checkpoint_seconds=1e-6)
    with pytest.raises(Stop):
        train(store, tmp_path / "parts", config=config, observer=interrupt)
    assert load_state_is_unfinished(tmp_path / "parts")
    parts = train(store, tmp_path / "parts", config=config)
    assert parts.summary["num_steps"] == whole.summary["num_steps"]
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    for name in ("whole", "parts"):
        steps = [json.loads(line)["step"] for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        assert steps == list(range(1, int(whole.summary["num_steps"]) + 1)), name


def load_state_is_unfinished(path: Path) -> bool:
    try:
        load_network(path)
    except (ts.TracestoreError, StoreNotFoundError):
        return True
    return False


def test_a_finished_training_is_returned_and_another_job_refused(store: ts.TraceStore, tmp_path: Path) -> None:
    train(store, tmp_path / "n", config=QUICK)
    before = weights(tmp_path / "n")
    events: list[Event] = []
    train(store, tmp_path / "n", config=QUICK, observer=events.append)
    assert not any(isinstance(event, PhaseAdvanced) for event in events)
    assert weights(tmp_path / "n") == before
    with pytest.raises(StoreExistsError, match="epochs"):
        train(store, tmp_path / "n", config=TrainConfig(network=TINY, epochs=4, batch_size=32))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(StoreExistsError, match="holds no network"):
        train(store, tmp_path / "other", config=QUICK)


def test_a_loaded_network_proposes_as_the_trained_one(store: ts.TraceStore, tmp_path: Path) -> None:
    trained, batch = train(store, tmp_path / "n", config=QUICK), store.take([0, 1, 2])
    observed = dict(batch[0].observations)
    np.testing.assert_array_equal(
        trained.session(observed, 1).log_prob(batch), load_network(tmp_path / "n").session(observed, 1).log_prob(batch)
    )
    with pytest.raises(StoreNotFoundError):
        load_network(tmp_path / "nothing")


def test_nothing_pickled_is_written(store: ts.TraceStore, tmp_path: Path) -> None:
    train(store, tmp_path / "n", config=QUICK)
    suffixes = {file.suffix for file in (tmp_path / "n").rglob("*") if file.is_file()}
    assert suffixes <= {".json", ".jsonl", ".safetensors"}


def test_failed_traces_are_left_out_and_counted(tmp_path: Path) -> None:
    def fragile() -> None:
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        if x > 0.5:
            raise ValueError("too far")
        ts.observe(ts.Normal(x, 1.0), name="y")

    store = ts.simulate(fragile, tmp_path / "s", num_traces=200, seed=1)
    network = train(store, tmp_path / "n", config=QUICK)
    summary = network.summary
    assert summary["num_failed"] == len(store.failures()) > 20
    assert summary["num_training_traces"] + summary["num_validation_traces"] == 200 - summary["num_failed"]

    def broken() -> None:
        raise ValueError("always")

    with pytest.raises(InvalidInputError, match="at least two traces"):
        train(ts.simulate(broken, tmp_path / "b", num_traces=5), tmp_path / "m")


def test_infinite_observations_are_refused_before_the_first_step(tmp_path: Path) -> None:
    def program() -> None:
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        ts.observe(ts.Normal(x, 1.0), float("inf") if x > 1.5 else x, name="y")

    store = ts.simulate(program, tmp_path / "s", num_traces=100, seed=1)
    bad = np.flatnonzero(np.isinf([float(trace["y"]) for batch in store.batches(50) for trace in batch]))
    with pytest.raises(InvalidInputError, match="'y' is not finite in traces") as caught:
        train(store, tmp_path / "n", config=QUICK)
    named = caught.value.fields["traces"]
    assert isinstance(named, tuple)
    assert set(named) <= set(bad.tolist())


def test_a_loss_that_is_not_finite_names_the_traces() -> None:
    def program() -> None:
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        ts.observe(ts.Normal(x, 1.0), name="y")

    batch = TensorBatch.from_batch(prior_batch(program, 20), np.arange(100, 120))
    trainer = Trainer(ProposalNetwork({"y": ()}, TINY), QUICK, num_steps=10)
    trainer.train_step(batch)
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    batch.observations["y"][7] = float("inf")
    with pytest.raises(NonFiniteLossError, match="step 2 is not finite; traces 107 of the store"):
        trainer.train_step(batch)
    for old, new in zip(before, trainer.network.parameters(), strict=True):
        np.testing.assert_array_equal(old, new.detach())


@pytest.mark.parametrize(
    "fields", [{"epochs": 0}, {"batch_size": -1}, {"learning_rate": math.nan}, {"validation_fraction": 1.5}]
)
def test_impossible_configurations_name_the_field(fields: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(fields))):
        TrainConfig(**fields)  # type: ignore[arg-type]


def test_all_problems_of_a_configuration_come_at_once() -> None:
    with pytest.raises(InvalidInputError) as caught:
        NetworkConfig(core_size=0, num_bins=1, core="rnn")  # type: ignore[arg-type]
    assert all(name in str(caught.value) for name in ("core_size", "num_bins", "`core`"))


@pytest.mark.statistical
def test_the_network_learns_the_exact_posterior(tmp_path: Path) -> None:
    store = ts.simulate(toys.gum, tmp_path / "s", num_traces=6000, seed=1)
    network = train(store, tmp_path / "n", config=TrainConfig(epochs=12, batch_size=128))
    site = Site("gum:mu~Normal#1", SiteKind.SAMPLE, True, "mu", "Normal", (), 2)
    for y0, y1 in ((1.0, 1.5), (3.0, 5.0), (-2.0, 0.0)):
        session = network.session({"obs0": np.array(y0), "obs1": np.array(y1)}, 1)
        proposal = session.propose([0], [site], [ts.Normal(1.0, 5**0.5)], [None])[0]
        assert proposal is not None
        variance = 1 / (1 / 5 + 1)
        mean = variance * (1 / 5 + (y0 + y1) / 2)
        assert abs(float(proposal.mean) - mean) < 0.2
        assert 0.85 < float(proposal.stddev) / math.sqrt(variance) < 1.25


@pytest.mark.statistical
def test_draws_that_the_data_say_nothing_about_go_back_to_the_prior(tmp_path: Path) -> None:
    def program() -> None:
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        for _ in range(3):
            ts.sample(ts.Uniform(0.0, 1.0))
        ts.observe(ts.Normal(x, 0.5), name="y")

    store = ts.simulate(Simulator(program, name="nuisance"), tmp_path / "s", num_traces=2000, seed=1)
    network = train(store, tmp_path / "n", config=TrainConfig(epochs=8, batch_size=64))
    rows = {row.base.partition("~")[0].rpartition(":")[2]: place for place, row in enumerate(network.vocabulary.rows)}
    active = network.active.numpy()
    assert active[rows["x"], 1]
    assert active.sum() == 1


class Normalized(torch.nn.Module):
    """A module of the user's own, with statistics that training moves."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.layer = torch.nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(self.norm(x)))


def test_a_module_of_the_users_own_is_trained_resumed_and_loaded(store: ts.TraceStore, tmp_path: Path) -> None:
    def modules() -> dict[str, torch.nn.Module]:
        torch.manual_seed(5)
        return {"v": Normalized()}

    config = TrainConfig(network=TINY, epochs=2, batch_size=32, checkpoint_seconds=1e-6)
    whole = train(store, tmp_path / "whole", config=config, modules=modules())
    events: list[Event] = []

    def interrupt(event: Event) -> None:
        events.append(event)
        if sum(isinstance(one, PhaseAdvanced) for one in events) == 5:
            raise Stop

    with pytest.raises(Stop):
        train(store, tmp_path / "parts", config=config, modules=modules(), observer=interrupt)
    with pytest.raises(StoreExistsError, match=r"modules\.v"):
        train(store, tmp_path / "parts", config=config)
    train(store, tmp_path / "parts", config=config, modules=modules())
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    assert "observation.parts.1.embedding.module.norm.running_mean" in whole.state_dict()
    batch = store.take([0, 1, 2])
    loaded = load_network(tmp_path / "whole", modules=modules())
    np.testing.assert_array_equal(
        whole.session(batch[0].observations, 1).log_prob(batch),
        loaded.session(batch[0].observations, 1).log_prob(batch),
    )
    with pytest.raises(CheckpointMismatchError, match="Normalized for observation 'v'"):
        load_network(tmp_path / "whole")


def test_a_store_that_has_grown_under_an_unfinished_training_is_refused(tmp_path: Path) -> None:
    store = ts.simulate(toys.gum, tmp_path / "s", num_traces=200, seed=1)
    config = TrainConfig(network=TINY, epochs=2, batch_size=32, checkpoint_seconds=1e-6)

    def interrupt(event: Event) -> None:
        if isinstance(event, PhaseAdvanced):
            raise Stop

    with pytest.raises(Stop):
        train(store, tmp_path / "n", config=config, observer=interrupt)
    ts.simulate(toys.gum, tmp_path / "s", num_traces=300, seed=1, append=True)
    with pytest.raises(StoreExistsError, match="snapshot"):
        train(tmp_path / "s", tmp_path / "n", config=config)


def test_the_order_of_the_minibatches_is_the_one_asked_for(store: ts.TraceStore, tmp_path: Path) -> None:
    losses = {}
    for order in ("deck", "random", "sequential"):
        config = TrainConfig(network=TINY, epochs=1, batch_size=32, batch_order=order)
        train(store, tmp_path / order, config=config)
        losses[order] = [step["loss"] for step in read_history(tmp_path / order)]
    assert len({len(found) for found in losses.values()}) == 1
    assert len({found[0] for found in losses.values()}) == 3


class TestStart:
    def test_goes_on_from_the_weights_of_a_network(self, store: ts.TraceStore, tmp_path: Path) -> None:
        first = train(store, tmp_path / "first", config=QUICK)
        still = dataclasses.replace(QUICK, learning_rate=1e-12)
        again = train(store, tmp_path / "again", config=still, start=first)
        before = dict(first.named_parameters())
        assert all(torch.allclose(value, before[name], atol=1e-3) for name, value in again.named_parameters())

    def test_what_was_left_to_the_prior_may_learn(self, store: ts.TraceStore, tmp_path: Path) -> None:
        first = train(store, tmp_path / "first", config=QUICK)
        first.active.fill_(False)
        again = train(store, tmp_path / "again", config=QUICK, start=first)
        before = dict(first.named_parameters())
        assert any(not torch.equal(value, before[name]) for name, value in again.named_parameters())
        assert not first.active.any()

    def test_another_network_is_another_job(self, store: ts.TraceStore, tmp_path: Path) -> None:
        first = train(store, tmp_path / "first", config=QUICK)
        train(store, tmp_path / "n", config=QUICK, start=first)
        with pytest.raises(StoreExistsError, match="start"):
            train(store, tmp_path / "n", config=QUICK)
