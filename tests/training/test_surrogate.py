"""The verb `train_surrogate`: learns, resumes to the last bit, starts from another, refuses what it cannot train."""

import os
import signal
from functools import partial

import numpy as np
import pytest

pytest.importorskip("torch")

import tracestore as ts
from tests.training.surrogate_programs import SHAPE, TINY, blob, make_store, settings
from tracestore.errors import (
    GeometryMismatchError,
    InvalidInputError,
    MissingLabelsError,
    StoreExistsError,
    TrainingStoppedError,
)
from tracestore.events import PhaseAdvanced
from tracestore.samplers.selection import select_traces
from tracestore.simulators import Simulator
from tracestore.surrogates import load_surrogate, new_surrogate
from tracestore.training import OptimizerConfig, train_surrogate
from tracestore.training.history import read_history
from tracestore.training.job import split_columns
from tracestore.training.surrogate import resolve_surrogate_config
from tracestore.training.surrogate_data import find_images
from tracestore.training.time_budget import TimeBudget


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("s") / "store")


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("t") / "surrogate"
    return path, train_surrogate(store, path, config=settings())


def weights(path):
    return (path / "weights.safetensors").read_bytes()


class Stop(Exception):
    """Ends a training from its observer."""


def call_after(number, function):
    calls = []

    def observe(event):
        calls.append(isinstance(event, PhaseAdvanced))
        if sum(calls) == number:
            function()

    return observe


def stop():
    raise Stop


def test_failed_traces_are_left_out_and_counted(store, trained):
    _, surrogate = trained
    num_failed = int((store.column("status") != 0).sum())
    assert num_failed > 0
    summary = surrogate.summary
    assert summary["num_failed"] == num_failed
    assert summary["num_training_traces"] + summary["num_validation_traces"] == len(store) - num_failed


def test_labels_are_found_and_their_ranges_kept(store, trained):
    _, surrogate = trained
    energies, _ = store.as_arrays(["energy"], dtype=np.float64)
    assert surrogate.labels == ("energy",)
    assert surrogate.label_ranges == ((energies.min(), energies.max()),)


def test_the_finished_folder_is_what_was_returned(trained):
    path, surrogate = trained
    loaded = load_surrogate(path)
    np.testing.assert_array_equal(loaded.generate([50.0], seed=1), surrogate.generate([50.0], seed=1))
    assert loaded.job.fields["config.surrogate.model"] == "gan"
    assert not list(path.glob("best-*"))


def test_terms_and_waiting_are_in_the_history(trained):
    path, surrogate = trained
    steps = list(read_history(path))
    assert len(steps) == surrogate.summary["num_steps"]
    assert {name.partition(".")[0] for name in steps[0]["terms"]} == {"discriminator", "generator"}
    assert steps[0]["loss"] == pytest.approx(sum(steps[0]["terms"].values()))
    read = sum(step["times"]["read"] for step in steps)
    total = sum(sum(step["times"].values()) for step in steps)
    assert surrogate.summary["waiting_share"] == pytest.approx(read / total, abs=2e-3)


def test_a_finished_training_is_returned_and_another_refused(store, trained):
    path, _ = trained
    before = weights(path)
    train_surrogate(store, path, config=settings(), observer=call_after(1, stop))
    assert weights(path) == before
    with pytest.raises(StoreExistsError, match="epochs"):
        train_surrogate(store, path, config=settings(epochs=3))


def test_an_interrupted_training_ends_in_the_same_bits(store, tmp_path):
    config = settings(optimizer=OptimizerConfig(kind="rmsprop", beta2=0.9), checkpoint_seconds=1e-6)
    train_surrogate(store, tmp_path / "whole", config=config)
    with pytest.raises(Stop):
        train_surrogate(store, tmp_path / "parts", config=config, observer=call_after(5, stop))
    train_surrogate(store, tmp_path / "parts", config=config)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    losses = [[step["loss"] for step in read_history(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_signal_stops_after_the_step_and_the_same_call_goes_on(store, trained, tmp_path):
    terminate = call_after(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingStoppedError, match="after step 4; the same call continues"):
        train_surrogate(store, tmp_path / "n", config=settings(), observer=terminate)
    train_surrogate(store, tmp_path / "n", config=settings())
    assert weights(tmp_path / "n") == weights(trained[0])


def test_a_training_by_time_validates_at_equal_shares_and_goes_on(store, tmp_path, monkeypatch):
    clock = partial(next, map(float, range(10_000)))
    monkeypatch.setattr("tracestore.training.surrogate.TimeBudget", partial(TimeBudget, clock=clock))
    config = settings(epochs=None, seconds=12.0, num_validations=3, checkpoint_seconds=1e-6)
    with pytest.raises(Stop):
        train_surrogate(store, tmp_path / "n", config=config, observer=call_after(6, stop))
    surrogate = train_surrogate(store, tmp_path / "n", config=config)
    steps = list(read_history(tmp_path / "n"))
    assert surrogate.summary["num_steps"] == len(steps)
    assert [step["step"] for step in steps if step["validation_loss"] is not None] == [4, 8, 12]
    rates = [step["learning_rate"] for step in steps[1:]]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]


def test_warmup_epochs_are_a_share_of_the_epochs(store):
    assert resolve_surrogate_config(store, settings(epochs=10, warmup_epochs=5)).warmup_fraction == 0.5
    with pytest.raises(InvalidInputError, match="`warmup_epochs` is 5, but the training has 2 epochs"):
        resolve_surrogate_config(store, settings(epochs=2, warmup_epochs=5))


def test_patience_ends_a_training_early(store, tmp_path):
    config = settings(epochs=9, patience=1, learning_rate=1e-12, final_learning_rate=1e-12, average=None)
    surrogate = train_surrogate(store, tmp_path / "n", config=config)
    assert surrogate.summary["num_steps"] < 9 * surrogate.summary["best_step"]


@pytest.mark.parametrize("scaling", ["keep", "refit"])
def test_a_start_gives_its_weights_and_its_ranges_are_widened(store, tmp_path, scaling):
    narrow = make_store(tmp_path / "narrow", 200, 20.0, 80.0)
    begun = train_surrogate(narrow, tmp_path / "begun", config=settings())
    before = begun.files()["weights.safetensors"]
    still = {"learning_rate": 1e-30, "final_learning_rate": 1e-30, "start_scaling": scaling, "epochs": 1}
    wide = train_surrogate(store, tmp_path / "wide", config=settings(**still), start=begun)
    assert wide.label_ranges[0][0] < 15.0
    assert wide.label_ranges[0][1] > 90.0
    for (name, first), last in zip(begun.model.named_parameters(), wide.model.parameters(), strict=True):
        np.testing.assert_allclose(first.detach(), last.detach(), rtol=1e-5, atol=1e-7, err_msg=name)
    old, new = dict(begun.model.named_buffers()), dict(wide.model.named_buffers())
    is_kept = all(bool((old[name] == new[name]).all()) for name in old if name.startswith("label_scaling"))
    assert is_kept == (scaling == "keep")
    assert not bool((old["moments.edges_B"] == new["moments.edges_B"]).all())
    assert begun.files()["weights.safetensors"] == before


def test_a_start_of_another_geometry_is_refused(store, tmp_path):
    other = new_surrogate((9, 8, 8), ["energy"], "shower", TINY)
    with pytest.raises(GeometryMismatchError, match=r"\(9, 8, 8\)"):
        train_surrogate(store, tmp_path / "n", config=settings(), start=other)
    assert not (tmp_path / "n").exists()


def test_a_start_with_other_labels_is_refused(store, tmp_path):
    other = new_surrogate(SHAPE, ["energy", "angle"], "shower", TINY)
    with pytest.raises(MissingLabelsError, match="has no 'angle' to condition images on; its draws and tags are"):
        train_surrogate(store, tmp_path / "n", config=settings(), start=other)
    with pytest.raises(MissingLabelsError, match="conditioned on energy, angle, but the labels asked for are energy"):
        train_surrogate(store, tmp_path / "n", config=settings(labels=("energy",)), start=other)


def test_missing_labels_are_named_with_what_there_is(store, tmp_path):
    with pytest.raises(MissingLabelsError, match=r"no 'mass' to condition.*tags are 'energy', 'spread'") as caught:
        train_surrogate(store, tmp_path / "n", config=settings(labels=("energy", "mass")))
    assert caught.value.fields["missing"] == ("mass",)
    assert not (tmp_path / "n").exists()


def test_a_label_that_is_an_array_is_refused(store):
    with pytest.raises(InvalidInputError, match=r"'spread' has shape \(8, 8, 8\); a label must be a single number"):
        resolve_surrogate_config(store, settings(labels=("spread",)))


def test_an_unknown_observation_is_refused(store):
    with pytest.raises(InvalidInputError, match="no observation 'image'; it has 'shower'"):
        resolve_surrogate_config(store, settings(observation="image"))


def varied(change):
    """Return the program of blobs with something done to the image, or instead of it."""
    inner = blob().function

    def program():
        return change(inner)

    return Simulator(program, name=change.__name__)


def simulate(change, folder, num_traces=120):
    return ts.simulate(varied(change), folder, num_traces=num_traces, seed=2)


def sometimes_none(inner):
    inner() if ts.sample(ts.Bernoulli(0.9), name="is_seen") else ts.sample(ts.Uniform(10.0, 100.0), name="energy")


def sometimes_no_energy(inner):
    if ts.sample(ts.Bernoulli(0.9), name="has_energy"):
        ts.tag(1.0, name="beam")
    inner()


def not_finite(inner):
    ts.tag(np.inf if ts.sample(ts.Bernoulli(0.1)) else 1.0, name="mass")
    inner()


def test_a_good_trace_without_an_image_is_refused(tmp_path):
    store = simulate(sometimes_none, tmp_path / "s")
    with pytest.raises(
        InvalidInputError, match=r"Trace \d+ of .* has no observation 'shower' although it did not fail"
    ):
        resolve_surrogate_config(store, settings())


def test_a_label_that_some_traces_lack_is_refused(tmp_path):
    store = simulate(sometimes_no_energy, tmp_path / "s")
    with pytest.raises(MissingLabelsError, match=r"'beam' is missing in \d+ of \d+ traces"):
        resolve_surrogate_config(store, settings(labels=("beam",)))


def test_a_label_that_is_not_finite_is_refused(tmp_path):
    store = simulate(not_finite, tmp_path / "s")
    with pytest.raises(InvalidInputError, match="Label 'mass' is not finite in traces"):
        resolve_surrogate_config(store, settings(labels=("mass",)))


@pytest.mark.parametrize(("value", "complaint"), [(np.nan, "is not finite"), (-1.0, "has negative values")])
def test_images_that_cannot_be_are_refused(tmp_path, value, complaint):
    def program():
        energy = ts.sample(ts.Uniform(10.0, 100.0), name="energy")
        image = np.full(SHAPE, value if energy > 50.0 else 1.0, np.float32)
        ts.observe(ts.Normal(np.ones(SHAPE), np.ones(SHAPE)), image, name="shower")

    store = ts.simulate(Simulator(program, name=complaint), tmp_path / "s", num_traces=200, seed=1)
    with pytest.raises(InvalidInputError, match=f"'shower' {complaint} in traces"):
        train_surrogate(store, tmp_path / "n", config=settings())


def test_too_few_traces_are_refused(tmp_path):
    store = make_store(tmp_path / "s", 50)
    with pytest.raises(InvalidInputError, match="for validation, but 32 are needed"):
        resolve_surrogate_config(store, settings())


def test_bfloat16_trains(store, trained, tmp_path):
    surrogate = train_surrogate(store, tmp_path / "n", config=settings(precision="bfloat16", epochs=1))
    first = next(iter(read_history(tmp_path / "n")))
    exact = next(iter(read_history(trained[0])))
    assert first["loss"] == pytest.approx(exact["loss"], rel=0.05)
    assert first["loss"] != exact["loss"]
    assert all(parameter.dtype.itemsize == 4 for parameter in surrogate.model.parameters())


def test_scalings_see_training_traces_alone(store):
    status, stream = split_columns(store)
    fraction = 0.3
    energies, rows = store.values("energy")
    energies = energies.astype(np.float32)
    kept = {
        name: set(energies[np.isin(rows, np.flatnonzero(select_traces(status, stream, name, fraction)))].tolist())
        for name in ("train", "validation")
    }
    _, labels = find_images(store).fit_part(fraction, seed=1)
    found = set(labels[:, 0].tolist())
    assert found <= kept["train"]
    assert not found & kept["validation"]
