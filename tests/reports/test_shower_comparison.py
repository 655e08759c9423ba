"""Sets of showers compared: numbers, words and refusals, on a small calorimeter."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import GeometryMismatchError, InvalidInputError, StoreNotFoundError
from tracestore.posteriors.findings import Verdict
from tracestore.reports.showers.comparison import labels_differ, match_labels
from tracestore.reports.showers.measurement import measure_showers
from tracestore.reports.showers.numbers import Criterion
from tracestore.reports.showers.sets import bin_edges, plan_showers, read_showers
from tracestore.reports.showers.sources import named_models
from tracestore.reports.showers.words import closest_models, conclusions
from tracestore.simulators.shower import ShowerConfig, shower_simulator
from tracestore.simulators.shower_geometry import ShowerBox
from tracestore.simulators.shower_profiles import Medium

SMALL = ShowerConfig(box=ShowerBox(shape=(9, 8, 12), cell_size=14.0, layer_depth=10.0))


class Replay:
    """A surrogate of the tests: looks the showers up in a store with the same energies, and scales them."""

    labels = ("energy",)
    label_ranges = ((10.0, 500.0),)
    observation = "shower"

    def __init__(self, images, scale=1.0):
        self.images, self.scale, self.calls = images, scale, []
        self.shape = images.shape[1:]

    def generate(self, labels, *, seed, batch_size=64, extrapolate=False, first_row=0):
        self.calls.append((first_row, len(labels), seed))
        return self.scale * self.images[first_row : first_row + len(labels)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("showers")
    configs = {
        "reference": (SMALL, 1),
        "again": (SMALL, 2),
        "other": (replace(SMALL, medium=Medium(critical_energy=0.012), sampling_fraction=0.026), 3),
        "low": (replace(SMALL, energy_range=(10.0, 250.0)), 4),
        "above": (replace(SMALL, energy_range=(600.0, 700.0)), 5),
        "narrow": (replace(SMALL, box=ShowerBox(shape=(9, 9, 12), cell_size=14.0, layer_depth=10.0)), 6),
        "tilted": (replace(SMALL, angle_range=(60.0, 120.0)), 7),
    }
    for name, (config, seed) in configs.items():
        number = 900 if name in {"reference", "again", "other", "low"} else 300
        ts.simulate(shower_simulator(config), place / name, num_traces=number, seed=seed)
    return place


@pytest.fixture(scope="module")
def result(folder):
    models = {"again": folder / "again", "other": str(folder / "other")}
    return measure_showers(folder / "reference", models, seed=3)


def test_another_seed_cannot_be_told_apart(result):
    again = result["again"]
    assert abs(again.auc.value - 0.5) < 0.05
    assert all(chi.deviations < 4.0 for chi in again.chi_square.values())
    assert abs(again.response_difference) < 0.005
    assert all(one.verdict is Verdict.GOOD for one in again.criteria)


def test_another_medium_is_found_out(result):
    other = result["other"]
    assert other.auc.lower > 0.8
    assert other.chi_square["depth"].deviations > 10.0
    assert other.criterion("response").verdict is Verdict.BAD
    assert other.response_difference == pytest.approx(0.04, abs=0.01)
    ratio = other.numbers.ratios["depth"][-1].mean
    assert ratio[0] > 1.1 > ratio[-1]  # the shower begins earlier


def test_halves_of_the_reference_are_the_floor(result):
    assert result.floor.num_compared == 450
    assert abs(result.floor.auc.value - 0.5) < 0.07


def test_words_name_the_closest_and_what_fails(result):
    assert "sampling fraction" in closest_models(result)["again"]
    assert closest_models(result)["other"] == []
    words = conclusions(result)
    assert words[0].startswith("`again` is hardest to tell from the reference")
    assert any(line.startswith("`other` fails") and "sampling fraction (4" in line for line in words)
    assert "`again` is close to the reference in all 11 criteria." in words


def test_numbers_become_json(result):
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    again = document["models"]["again"]
    assert again["auc_interval"][0] < again["auc"] < again["auc_interval"][1]
    assert set(again["chi_square"]) == {"x", "y", "depth"}
    assert again["chi_square"]["depth"]["degrees"] == 12
    assert again["criteria"]["hits"]["verdict"] == "close"
    assert len(again["curves"]["profiles"]["x"]) == len(document["bins"]) == len(again["auc_by_bin"])
    assert document["facts"]["shape"] == [9, 8, 12]
    assert "pictures" not in again["curves"]


def test_same_seed_gives_the_same_numbers(folder):
    several = [measure_showers(folder / "tilted", folder / "tilted", seed=5).to_dict() for _ in range(2)]
    assert several[0] == several[1]


def test_profiles_hold_the_energy_of_the_showers(folder, result):
    store = ts.TraceStore.open(folder / "reference")
    energy, images = store.as_arrays(["energy"], observations=["shower"])
    low, high = result.bins[0].low, result.bins[0].high
    mask = (energy[:, 0] >= low) & (energy[:, 0] <= high)
    kept = np.where(images > 1e-5, images, 0.0)[mask].sum(axis=(1, 2), dtype=np.float64)
    expected = (1000.0 * kept / energy[mask]).mean(axis=0)
    np.testing.assert_allclose(result.reference.profiles["depth"][0].mean, expected, rtol=1e-5)


def test_a_surrogate_generates_for_the_labels_of_the_reference(folder):
    store = ts.TraceStore.open(folder / "reference")
    images = store.as_arrays(["energy"], observations=["shower"]).x
    exact: Any = Replay(images)
    scaled: Any = Replay(images, 1.1)
    found = measure_showers(store, {"exact": exact, "scaled": scaled}, seed=9)
    assert found["exact"].response_difference == 0.0
    assert found["exact"].chi_square["depth"].value == pytest.approx(0.0, abs=1e-12)
    assert found["scaled"].criterion("response").value == pytest.approx(0.1, rel=1e-3)
    assert found["scaled"].criterion("profile_depth").verdict is Verdict.GOOD  # shares of layers are the same
    assert [first for first, _, _ in exact.calls] == list(np.cumsum([0, *(n for _, n, _ in exact.calls)])[:-1])
    assert {seed for _, _, seed in exact.calls} == {9}


def test_fewer_showers_are_taken_evenly(folder):
    found = measure_showers(folder / "reference", folder / "again", num_showers=300)
    assert (found.reference.num_showers, found["again"].num_compared) == (300, 300)
    assert found.bins[-1].high > 490.0


def test_other_energies_are_matched(folder):
    found = measure_showers(folder / "reference", folder / "low")["low"]
    assert 200 <= found.num_compared < 500  # what the reference has below 250 GeV
    assert "distributed otherwise" in found.remarks[0]
    assert abs(found.auc.value - 0.5) < 0.1
    assert found.numbers.num_showers == found.num_compared == found.against.num_showers


def test_angles_have_bins_of_their_own(folder):
    found = measure_showers(folder / "tilted", folder / "tilted")
    assert {one.label for one in found.bins} == {"energy", "angle"}
    assert "angle" in found.feature_names
    assert found.picture_axis == "y"
    upright = measure_showers(folder / "tilted", folder / "tilted", labels=["energy"])
    assert {one.label for one in upright.bins} == {"energy"}


@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        ("narrow", {}, GeometryMismatchError, r"shape \(9, 9, 12\), those of the reference \(9, 8, 12\)"),
        ("above", {}, InvalidInputError, "hardly overlap: 0 showers in common"),
        ("again", {"labels": ["momentum"]}, InvalidInputError, "no value 'momentum'"),
        ("again", {"labels": ["energy", "angle", "x"]}, InvalidInputError, "`labels` are"),
        ("again", {"observation": "image"}, InvalidInputError, "an observation 'image'"),
        ("again", {"num_showers": 100}, InvalidInputError, "needs 200 showers or more"),
        ("again", {"threshold": 0.0}, InvalidInputError, "`threshold` must be a positive energy"),
        ("again", {"energy_edges": [100.0, 10.0]}, InvalidInputError, "`energy_edges` must be"),
        ("nowhere", {}, StoreNotFoundError, "neither a store of showers nor a surrogate"),
    ],
    ids=["geometry", "energies", "label", "labels", "observation", "few", "threshold", "edges", "nothing"],
)
def test_what_cannot_be_compared_is_refused(folder, model, options, error, words):
    with pytest.raises(error, match=words):
        measure_showers(folder / "reference", folder / model, **options)


def test_a_reference_with_angles_needs_models_with_angles(folder):
    with pytest.raises(InvalidInputError, match=r"has no value 'angle'|store of 'again' has none"):
        measure_showers(folder / "tilted", folder / "again")


def test_a_store_without_energies_is_refused(tmp_path):
    @ts.simulator
    def images():
        ts.sample(ts.Normal(0.0, 1.0), name="height")
        ts.observe(ts.Normal(np.zeros((4, 4, 4)), 1.0), name="image")

    store = ts.simulate(images, tmp_path / "images", num_traces=220, seed=1)
    with pytest.raises(InvalidInputError, match=r"no value 'energy'.*it has: .*height"):
        measure_showers(store, store)


def test_a_surrogate_outside_of_its_range_is_refused(folder):
    images = ts.TraceStore.open(folder / "reference").as_arrays(["energy"], observations=["shower"]).x
    model: Any = Replay(images)
    model.label_ranges = ((100.0, 200.0),)
    with pytest.raises(InvalidInputError, match=r"trained on energy from 100 to 200.*`extrapolate=True`"):
        measure_showers(folder / "reference", {"replay": model})
    assert measure_showers(folder / "reference", {"replay": model}, extrapolate=True)["replay"].num_compared == 900


@pytest.mark.parametrize(
    "models",
    [[], ["a/gan", "b/gan"], {"reference": "a"}, {" ": "a"}],
    ids=["none", "twice", "reserved", "empty"],
)
def test_names_of_models_are_their_own(models):
    with pytest.raises(InvalidInputError, match=r"names of their own|one model or more"):
        named_models(models)


def test_cells_at_the_threshold_and_below_zero_count_as_empty():
    images = np.zeros((1, 8, 8, 8), np.float32)
    images[0, 4, 4, :4] = 1.0, 0.5, 0.25, -1.0
    labels = {"energy": np.array([2.0])}
    plan = plan_showers({"energy": np.linspace(1.0, 10.0, 300)}, threshold=0.5)
    found = read_showers("one", labels, (8, 8, 8), lambda low, high: images[low:high], plan)
    assert found.summary.total.tolist() == [1.0]
    assert found.summary.hits[0, 0] == 1
    assert found.lost.tolist() == [0.75]
    assert found.num_negative == 1
    assert found.spectra.sum() == 3


@pytest.mark.parametrize("value", [np.inf, np.nan], ids=["infinite", "nan"])
def test_cells_that_are_not_finite_are_refused_and_named(value):
    images = np.ones((3, 8, 8, 8), np.float32)
    images[1, 0, 0, 0] = value
    plan = plan_showers({"energy": np.linspace(1.0, 10.0, 300)}, threshold=0.5)
    with pytest.raises(InvalidInputError, match="'bad' has cells that are not finite, in its showers 1;"):
        read_showers("bad", {"energy": np.ones(3)}, (8, 8, 8), lambda low, high: images[low:high], plan)


def test_bins_are_joined_where_there_are_few_showers():
    energies = np.random.default_rng(1).uniform(10.0, 500.0, 400)
    edges = bin_edges(energies, 4, 100, is_logarithmic=True)
    assert (np.histogram(energies, edges)[0] >= 100).all()
    assert bin_edges(np.full(50, 7.0), 4, 10).size == 2


def test_matching_leaves_labels_alike(folder):
    rng = np.random.default_rng(2)
    plan = plan_showers({"energy": np.linspace(1.0, 10.0, 300)}, threshold=0.5)

    def made(energies):
        blank = np.ones((len(energies), 8, 8, 8), np.float32)
        return read_showers("a", {"energy": energies}, (8, 8, 8), lambda low, high: blank[low:high], plan)

    one, other = made(rng.uniform(1.0, 10.0, 2000)), made(1.0 + 9.0 * rng.uniform(size=3000) ** 2)
    rows = match_labels(one, other, seed=1)
    assert rows is not None
    assert labels_differ(one.energy, other.energy)
    assert not labels_differ(one.energy[rows[0]], other.energy[rows[1]])
    assert len(rows[0]) == len(rows[1]) > 1200
    assert match_labels(one, made(rng.uniform(1.0, 10.0, 1500)), seed=1) is None


@pytest.mark.parametrize(("value", "verdict"), [(0.05, "GOOD"), (0.14, "DOUBTFUL"), (0.4, "BAD"), (np.nan, "BAD")])
def test_noise_is_taken_out_before_limits(value, verdict):
    assert Criterion("hits", "hits", value, 0.03, 0.05, 0.3).verdict.name == verdict


def test_the_classifier_is_judged_by_its_worst_bin(folder):
    store = ts.TraceStore.open(folder / "reference")
    energies, images = store.as_arrays(["energy"], observations=["shower"])
    is_low = energies[:, 0] < 150.0
    scaled = np.where(is_low[:, None, None, None], 1.3 * images, images)
    models: Any = {"low": Replay(scaled)}
    paired = measure_showers(folder / "reference", models, seed=3)["low"]
    criterion = paired.criterion("auc")
    assert criterion.value > paired.auc.value
    assert "GeV" in criterion.where
    assert criterion.verdict is Verdict.BAD
