"""Surrogates inside traced programs and as programs: draws, replay, refusals, stores and engines."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

import tracestore as ts
from tracestore.errors import InvalidInputError, StoreExistsError, StoreNotFoundError
from tracestore.inference import RMHConfig
from tracestore.simulators import PriorController, ReplayController, run_trace
from tracestore.simulators.batch_recorder import BatchReplay
from tracestore.simulators.batched import run_batch
from tracestore.simulators.replay_check import require_deterministic
from tracestore.surrogates import GanConfig, Surrogate, SurrogateConfig, new_surrogate
from tracestore.surrogates.stand_in import draw_surrogate, surrogate_digest, surrogate_simulator
from tracestore.traces.trace import TraceStatus

SHAPE = (8, 8, 8)
SMALL = SurrogateConfig(gan=GanConfig(latent_size=6))


def make_surrogate(seed: int = 1, labels: tuple[str, ...] = ("energy",)) -> Surrogate:
    """Not trained, but scaled to images whose cells grow with the first label."""
    surrogate = new_surrogate(SHAPE, labels, "shower", SMALL, seed=seed)
    rng = np.random.default_rng(1)
    given = np.stack([rng.uniform(10.0, 500.0, 200), *(rng.uniform(60.0, 120.0, 200) for _ in labels[1:])], axis=1)
    images = given[:, :1, None, None] * rng.exponential(1e-4, (200, *SHAPE)) * rng.integers(0, 2, (200, *SHAPE))
    surrogate.model.fit(torch.from_numpy(images).float(), torch.from_numpy(given).float())
    surrogate.record_labels([[10.0, 60.0][: len(labels)], [500.0, 120.0][: len(labels)]])
    return surrogate


SURROGATE = make_surrogate()
PRIOR = ts.Uniform(20.0, 400.0)


def electron(latents="pattern", surrogate=SURROGATE, prior=PRIOR):
    """A program of one trace that measures three numbers of an image."""

    def program() -> None:
        image = draw_surrogate(surrogate, ts.sample(prior, name="energy"), latents=latents)
        ts.tag(image, name="image")
        ts.observe(ts.Normal(image.sum(axis=(0, 1))[:3], 1.0), name="layers")

    return ts.simulators.Simulator(program)


def electrons(latents="pattern", surrogate=SURROGATE, prior=PRIOR):
    """The same for many traces."""

    def program() -> None:
        images = draw_surrogate(surrogate, ts.sample(prior, name="energy"), latents=latents)
        ts.tag(images, name="image")
        ts.observe(ts.Normal(images.sum(axis=(1, 2))[:, :3], 1.0), name="layers")

    return ts.simulators.BatchedSimulator(program)


def run(program, seed=1):
    trace = run_trace(program, PriorController(), np.random.default_rng(seed))
    assert trace.status is TraceStatus.OK, trace.failure
    return trace


@pytest.mark.parametrize(
    ("latents", "names"),
    [("pattern", ["shower.pattern"]), ("values", ["shower.cells", "shower.latents"])],
    ids=["pattern", "values"],
)
def test_the_draws_of_an_image(latents, names):
    assert [site.name for site in run(electron(latents)).sites] == ["energy", *names, "image", "layers"]
    batch = run_batch(electrons(latents), 3, np.random.default_rng(1))
    assert [site.name for site in batch.layouts[0].sites] == ["energy", *names, "image", "layers"]


@pytest.mark.parametrize("latents", ["pattern", "values"])
def test_a_replayed_trace_has_the_same_image_to_the_last_bit(latents):
    trace = run(electron(latents))
    again = run_trace(electron(latents), ReplayController(trace), np.random.default_rng(9))
    np.testing.assert_array_equal(again["image"], trace["image"])


@pytest.mark.parametrize("latents", ["pattern", "values"])
def test_a_replayed_batch_has_the_same_images_to_the_last_bit(latents):
    batch = run_batch(electrons(latents), 5, np.random.default_rng(1))
    again = run_batch(electrons(latents), 5, np.random.default_rng(9), controller=BatchReplay.of(batch))
    np.testing.assert_array_equal(again.named("image")[0], batch.named("image")[0])


@pytest.mark.parametrize("latents", ["pattern", "values"])
def test_an_image_of_a_batch_is_that_of_a_single_run_up_to_rounding(latents):
    batch = run_batch(electrons(latents), 5, np.random.default_rng(1))
    for row in range(5):
        alone = run_trace(electrons(latents), ReplayController(batch[row]), np.random.default_rng(9))
        image = batch.named("image")[0][row]
        np.testing.assert_allclose(alone["image"], image, rtol=0.0, atol=1e-4 * image.max())


def test_images_of_neighboring_patterns_have_nothing_in_common():
    batch = run_batch(
        ts.simulators.BatchedSimulator(lambda: ts.tag(draw_surrogate(SURROGATE, 100.0), name="image")),
        400, np.random.default_rng(1),
    )  # fmt: skip
    first = batch.named("image")[0].reshape(400, -1)
    assert len(np.unique(first, axis=0)) == 400


def test_the_latents_decide_about_the_image_and_their_cells_as_well():
    trace = run(electron("values"))
    names = [site.name for site in trace.sites]

    class Moved:
        def __init__(self, name):
            self.name = name

        def draw(self, site, prior, rng):
            value = trace.value(names.index(site.name))
            return (prior.sample(rng) if site.name == self.name else value), 0.0

    images = [
        run_trace(electron("values"), Moved(name), np.random.default_rng(5))["image"]
        for name in ("nothing", "shower.latents", "shower.cells", "energy")
    ]
    np.testing.assert_array_equal(images[0], trace["image"])
    assert all((image != trace["image"]).any() for image in images[1:])


def test_an_image_can_be_drawn_outside_of_a_run():
    assert draw_surrogate(SURROGATE, 100.0).shape == SHAPE


@pytest.mark.parametrize("energy", [9.0, 501.0, float("nan")])
def test_a_label_outside_of_the_trained_range_fails_the_trace(energy):
    trace = run_trace(
        ts.simulators.Simulator(lambda: draw_surrogate(SURROGATE, energy)), PriorController(), np.random.default_rng(1)
    )
    assert trace.status is TraceStatus.FAILED
    assert "Label 'energy' is" in trace.failure
    assert "trained on 10 to 500" in trace.failure


def test_in_a_batch_only_the_traces_outside_fail():
    batch = run_batch(electrons(prior=ts.Uniform(400.0, 600.0)), 20, np.random.default_rng(1))
    outside = np.flatnonzero(np.array([batch[row]["energy"] for row in range(20)]) > 500.0)
    assert 0 < len(outside) < 20
    assert sorted(batch.failures) == outside.tolist()


def test_a_surrogate_with_two_labels_wants_the_angle():
    tilted = make_surrogate(labels=("energy", "angle"))
    assert draw_surrogate(tilted, 100.0, 75.0).shape == SHAPE
    with pytest.raises(InvalidInputError, match="energy, angle; got 1 of them"):
        draw_surrogate(tilted, 100.0)
    with pytest.raises(InvalidInputError, match="got 2 of them"):
        draw_surrogate(SURROGATE, 100.0, 75.0)


def test_labels_must_be_one_number_a_trace():
    with pytest.raises(InvalidInputError, match=r"Label 'energy' must be a number.*shape \(2,\) for 1 images"):
        draw_surrogate(SURROGATE, np.array([20.0, 30.0]))


def test_unknown_latents_are_refused():
    with pytest.raises(InvalidInputError, match="'pattern', 'values'; got 'all'"):
        draw_surrogate(SURROGATE, 100.0, latents="all")  # type: ignore[arg-type]


def test_draws_can_be_kept_from_inference():
    program = ts.simulators.Simulator(
        lambda: draw_surrogate(SURROGATE, 100.0, latents="values", control=False) and None
    )
    trace = run_trace(program, PriorController(), np.random.default_rng(1))
    assert [site.is_controlled for site in trace.sites] == [False, False]


def test_a_store_of_a_surrogate_simulator(tmp_path):
    program = surrogate_simulator(SURROGATE, {"energy": ts.Uniform(100.0, 200.0)})
    store = ts.simulate(program, tmp_path / "showers", num_traces=40, seed=1)
    energies, images = store.as_arrays(["energy"], observations=["shower"])
    assert images.shape == (40, *SHAPE)
    assert images.dtype == np.float32
    assert energies.min() >= 100.0
    assert energies.max() <= 200.0
    # what a trace observed is what its draws give
    for row in range(3):
        require_deterministic(program, store[row])
    assert store[0].log_likelihood == 0.0


def test_priors_are_uniform_over_the_trained_range_by_default():
    program = surrogate_simulator(make_surrogate(labels=("energy", "angle")))
    assert program.priors == {"energy": ts.Uniform(10.0, 500.0), "angle": ts.Uniform(60.0, 120.0)}


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ({"mass": ts.Uniform(0.0, 1.0)}, "no label mass"),
        ({"energy": ts.Uniform(1.0, 100.0)}, "reaches from 1 to 100, outside of the trained range 10 to 500"),
        ({"energy": ts.Normal(100.0, 1.0)}, "outside of the trained range"),
        ({"energy": ts.Uniform([20.0], [30.0])}, "must be a distribution of one number"),
        ({"energy": 100.0}, "must be a distribution of one number; got 100.0"),
    ],
    ids=["unknown", "too wide", "unbounded", "vector", "number"],
)
def test_priors_are_checked(priors, message):
    with pytest.raises(InvalidInputError, match=message):
        surrogate_simulator(SURROGATE, priors)


def test_a_surrogate_that_was_not_trained_is_refused():
    with pytest.raises(InvalidInputError, match="was never trained"):
        surrogate_simulator(new_surrogate(SHAPE, ["energy"], "shower", SMALL))


def test_a_folder_without_a_surrogate_is_refused(tmp_path):
    with pytest.raises(StoreNotFoundError, match="no surrogate"):
        surrogate_simulator(tmp_path)


def test_the_fingerprint_is_that_of_the_weights(tmp_path):
    SURROGATE.save(tmp_path / "saved")
    programs = [surrogate_simulator(tmp_path / "saved"), surrogate_simulator(SURROGATE)]
    assert programs[0].identity == programs[1].identity
    assert surrogate_simulator(make_surrogate(seed=2)).fingerprint != programs[0].fingerprint
    assert surrogate_digest(SURROGATE) == programs[0].fingerprint


def test_a_job_of_another_surrogate_is_refused(tmp_path):
    ts.simulate(surrogate_simulator(SURROGATE), tmp_path / "showers", num_traces=10, seed=1)
    with pytest.raises(StoreExistsError, match="fingerprint"):
        ts.simulate(surrogate_simulator(make_surrogate(seed=2)), tmp_path / "showers", num_traces=10, seed=1)


@pytest.mark.parametrize("engine", ["importance", "rmh", "lmh"])
def test_engines_refuse_to_condition_on_an_image(engine, tmp_path):
    image = run(surrogate_simulator(SURROGATE)).observations["shower"]
    ask = getattr(ts.inference, engine)
    with pytest.raises(InvalidInputError, match="A surrogate has no likelihood of 'shower'"):
        ask(surrogate_simulator(SURROGATE), {"shower": image}, tmp_path / "posterior", num_draws=20)


def test_proposals_are_learned_from_images_of_a_surrogate(tmp_path):
    store = ts.simulate(surrogate_simulator(SURROGATE), tmp_path / "showers", num_traces=64, seed=1)
    network = ts.training.train(store, tmp_path / "network", config=ts.training.TrainConfig(epochs=1))
    assert set(network.base_addresses) == {"energy~Uniform", "shower.pattern~Uniform"}


@pytest.mark.parametrize("latents", ["pattern", "values"])
def test_chains_move_the_draws_of_an_image(latents, tmp_path):
    seen = {"layers": run(electron(latents)).observations["layers"]}
    posterior = ts.inference.rmh(
        electrons(latents), seen, tmp_path / "post", num_draws=64, chains=16, seed=1, config=RMHConfig(warmup=30)
    )
    assert len(np.unique(posterior.values("energy"))) > 16


def test_a_network_of_the_surrogate_proposes_for_the_program_with_values(tmp_path):
    store = ts.simulate(electrons("values"), tmp_path / "traces", num_traces=64, seed=1)
    network = ts.training.train(store, tmp_path / "network", config=ts.training.TrainConfig(epochs=1))
    seen = {"layers": store[0].observations["layers"]}
    posterior = ts.inference.ic(electrons("values"), seen, tmp_path / "post", network=network, num_draws=32, seed=1)
    assert posterior.ess > 0.0


@pytest.mark.processes
def test_showers_from_the_command_line(tmp_path: Path, capsys) -> None:
    from tracestore.cli import main

    SURROGATE.save(tmp_path / "saved")
    words = ["simulate", f"surrogate:{tmp_path / 'saved'}", str(tmp_path / "store"), "--num-traces", "20"]
    assert main([*words, "--workers", "2"]) == 0
    assert "20 traces of tracestore.surrogates.stand_in:surrogate_simulator(energy=" in capsys.readouterr().out
    assert ts.TraceStore.open(tmp_path / "store").observation_shapes["shower"] == SHAPE


def test_the_command_line_says_when_there_is_no_surrogate(tmp_path: Path, capsys) -> None:
    from tracestore.cli import main

    status = main(["simulate", f"surrogate:{tmp_path / 'nowhere'}", str(tmp_path / "store"), "--num-traces", "20"])
    assert status != 0
    assert "no surrogate" in capsys.readouterr().err
