"""The shower simulators: what a trace holds, images as functions of draws, response, and the likelihood."""

import math

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.simulators import PriorController, ReplayController, run_trace
from tracestore.simulators.shower import (
    ANGLE_CONFIG,
    ShowerConfig,
    ShowerModel,
    draw_shower,
    shower,
    shower_angle,
    shower_simulator,
)
from tracestore.traces import Trace, TraceStatus

MODEL = ShowerModel(ShowerConfig())
FRACTION = ShowerConfig().sampling_fraction


def simulate(program: ts.simulators.Simulator, seed: int) -> Trace:
    trace = run_trace(program, PriorController(), np.random.default_rng(seed))
    assert trace.status is TraceStatus.OK, trace.failure
    return trace


def images(energy: float, number: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([MODEL.cells(energy, rng.standard_normal(2)).sample(rng) for _ in range(number)])


def test_a_trace_is_three_sites_and_an_image() -> None:
    trace = simulate(shower, 1)
    assert [site.name for site in trace.sites] == ["energy", "shape", "shower"]
    assert 10.0 <= trace["energy"] <= 500.0
    assert len(trace.values) == 3
    image = trace.observations["shower"]
    assert image.shape == (25, 25, 25)
    assert image.dtype == np.float32


def test_the_tilted_simulator_draws_an_angle() -> None:
    trace = simulate(shower_angle, 1)
    assert [site.name for site in trace.sites] == ["energy", "angle", "shape", "shower"]
    assert 60.0 <= trace["angle"] <= 120.0
    assert trace.observations["shower"].shape == ANGLE_CONFIG.box.shape == (51, 51, 25)


@pytest.mark.parametrize("program", [shower, shower_angle], ids=["upright", "tilted"])
def test_the_same_stream_gives_the_same_trace(program: ts.simulators.Simulator) -> None:
    one, again, other = (simulate(program, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.observations["shower"], again.observations["shower"])
    assert one.log_joint == again.log_joint != other.log_joint


def test_a_replayed_trace_has_the_same_score() -> None:
    trace = simulate(shower_angle, 5)
    again = run_trace(shower_angle, ReplayController(trace), np.random.default_rng(9), observations=trace.observations)
    assert again.log_joint == trace.log_joint
    np.testing.assert_array_equal(again.values, trace.values)


def test_a_log_uniform_energy_is_a_tag_beside_its_logarithm() -> None:
    trace = simulate(shower_simulator(ShowerConfig(energy_prior="log-uniform")), 2)
    assert [site.name for site in trace.sites] == ["log_energy", "energy", "shape", "shower"]
    assert trace["energy"] == pytest.approx(math.exp(trace["log_energy"]))


def test_simulators_of_different_settings_have_different_names() -> None:
    one, other = (shower_simulator(ShowerConfig(energy_range=(100.0, high))).name for high in (200.0, 300.0))
    assert one != other
    assert one == shower_simulator(ShowerConfig(energy_range=(100.0, 200.0))).name


def test_a_store_gives_images_with_labels(tmp_path) -> None:
    store = ts.simulate(shower_angle, tmp_path / "showers", num_traces=8, seed=1)
    labels, pictures = store.as_arrays(["energy", "angle"], observations=["shower"])
    assert labels.shape == (8, 2)
    assert pictures.shape == (8, 51, 51, 25)
    np.testing.assert_array_equal(pictures[3], store[3].observations["shower"])
    assert (pictures == 0.0).mean() > 0.8


@pytest.mark.statistical
@pytest.mark.parametrize(("energy", "low", "high"), [(10.0, 0.025, 0.05), (100.0, 0.09, 0.14), (500.0, 0.20, 0.28)])
def test_the_share_of_cells_that_are_hit_grows_with_energy(energy: float, low: float, high: float) -> None:
    assert low < (images(energy, 20) > 0.0).mean() < high


@pytest.mark.statistical
@pytest.mark.parametrize("energy", [10.0, 100.0, 500.0])
def test_the_response_is_the_sampling_fraction_less_what_leaks(energy: float) -> None:
    response = images(energy, 100).sum(axis=(1, 2, 3)) / energy
    assert 0.97 * FRACTION < response.mean() < FRACTION


@pytest.mark.statistical
def test_the_resolution_is_that_of_the_number_of_spots() -> None:
    cells = MODEL.cells(20.0, np.zeros(2))
    rng = np.random.default_rng(1)
    totals = np.array([cells.sample(rng).sum() for _ in range(2000)])
    expected = math.sqrt(np.sum(cells.variance)) / np.sum(cells.mean)
    assert totals.std() / totals.mean() == pytest.approx(expected, rel=0.06)
    assert 0.055 < expected * 20.0**0.438 < 0.085


@pytest.mark.statistical
def test_energies_span_eight_decades() -> None:
    pictures = np.concatenate([images(energy, 20) for energy in (10.0, 500.0)])
    assert math.log10(pictures.max() / pictures[pictures > 0.0].min()) > 8.0


@pytest.mark.statistical
def test_showers_of_higher_energy_reach_their_maximum_deeper() -> None:
    deepest = [images(energy, 60).sum(axis=(0, 1, 2)).argmax() for energy in (10.0, 100.0, 500.0)]
    assert deepest[0] < deepest[1] < deepest[2]


def test_deviates_move_the_shower_along_the_depth() -> None:
    layers = np.arange(25)
    profiles = [np.sum(MODEL.cells(100.0, np.array([first, 0.0])).mean, axis=(0, 1)) for first in (-2.0, 0.0, 2.0)]
    depths = [profile @ layers / profile.sum() for profile in profiles]
    assert depths[0] < depths[1] < depths[2]


@pytest.mark.statistical
def test_the_likelihood_is_highest_near_the_energy_that_made_the_image() -> None:
    rng = np.random.default_rng(7)
    deviates = rng.standard_normal(2)
    image = MODEL.cells(80.0, deviates).sample(rng).astype(np.float32)
    energies = np.linspace(60.0, 100.0, 81)
    scores = [MODEL.cells(energy, deviates).log_prob(image) for energy in energies]
    assert energies[np.argmax(scores)] == pytest.approx(80.0, rel=0.03)
    assert max(scores) - scores[0] > 20.0


@pytest.mark.statistical
def test_importance_sampling_finds_the_energy(tmp_path) -> None:
    program = shower_simulator(ShowerConfig(energy_range=(70.0, 90.0)))
    trace = simulate(program, 11)
    posterior = ts.inference.importance(
        program, {"shower": trace.observations["shower"]}, tmp_path / "posterior", num_draws=1500, seed=1
    )
    assert posterior.mean("energy") == pytest.approx(trace["energy"], rel=0.02)


def test_a_shower_inside_a_program_is_a_function_of_its_three_numbers() -> None:
    pictures = []

    @ts.simulator
    def program() -> None:
        pictures.append(draw_shower(MODEL, 50.0))
        ts.observe(ts.Normal(pictures[-1].sum(axis=(0, 1)), 0.01), name="layers")

    trace = simulate(program, 1)
    again = run_trace(program, ReplayController(trace), np.random.default_rng(2), observations=trace.observations)
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert again.log_joint == trace.log_joint
    assert [site.name for site in trace.sites] == ["shower.shape", "shower.spots", "layers"]


def test_patterns_of_neighboring_numbers_differ() -> None:
    pictures = []

    @ts.simulator
    def program() -> None:
        pictures.append(draw_shower(MODEL, 50.0))

    trace = simulate(program, 1)
    step = 2.0**-53
    for number in (0.25, 0.25 + step):
        observed = {"shower.spots": np.array(number), "shower.shape": np.asarray(trace["shower.shape"])}
        run_trace(program, PriorController(), np.random.default_rng(1), observations=observed)
    assert pictures[1].shape == pictures[2].shape == (25, 25, 25)
    assert (pictures[1] != pictures[2]).any()


def test_all_wrong_settings_are_named() -> None:
    with pytest.raises(InvalidInputError, match=r"`sampling_fraction`.*`energy_range`.*`energy_prior`.*`angle_range`"):
        ShowerConfig(sampling_fraction=0.0, energy_range=(0.1, 5.0), energy_prior="flat", angle_range=(10.0, 90.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(("energy", "angle"), [(0.5, 90.0), (math.nan, 90.0), (10.0, 10.0)])
def test_an_electron_outside_of_the_formulas_is_refused(energy: float, angle: float) -> None:
    with pytest.raises(InvalidInputError, match="from 1 GeV on"):
        MODEL.cells(energy, np.zeros(2), angle)
