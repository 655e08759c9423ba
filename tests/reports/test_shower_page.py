"""The page of a comparison of showers: what is on it, and that it can be read."""

import json
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.reports import compare_showers
from tracestore.reports.showers.curve_plots import distributions_svg, profiles_svg, set_styles, spectra_svg
from tracestore.reports.showers.image_plots import correlations_svg, pictures_svg, singles_svg
from tracestore.reports.showers.measurement import measure_showers
from tracestore.reports.showers.page import write_shower_page
from tracestore.reports.showers.trend_plots import areas_svg, moments_svg, responses_svg
from tracestore.simulators.shower import ShowerConfig, shower_simulator
from tracestore.simulators.shower_geometry import ShowerBox

SMALL = ShowerConfig(
    box=ShowerBox(shape=(8, 9, 10), cell_size=14.0, layer_depth=12.0),
    angle_range=(60.0, 120.0),
    energy_range=(5.0, 50.0),
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    place = tmp_path_factory.mktemp("showers")
    return [
        ts.simulate(shower_simulator(SMALL), place / name, num_traces=400, seed=seed)
        for seed, name in enumerate(("reference", "model"))
    ]


@pytest.fixture(scope="module")
def result(stores):
    return measure_showers(stores[0], {"<b>one": stores[1], "$two": stores[1]})


@pytest.fixture
def no_sections(monkeypatch):
    """Leave out what takes time and another test shows."""
    monkeypatch.setattr("tracestore.reports.showers.page.shower_sections", lambda found: {"Summary": "<p>Nothing.</p>"})


def texts(svg):
    return ["".join(node.itertext()).strip() for node in ET.fromstring(svg).iter() if node.tag.endswith("text")]


@pytest.mark.slow
def test_page_has_all_sections_and_nothing_from_elsewhere(result, tmp_path):
    text = write_shower_page(result, tmp_path / "page.html").read_text("utf-8")
    for name in ("summary", "classifier", "profiles", "response", "cells", "moments", "correlations", "images"):
        assert f'<section id="{name}">' in text
        assert f'href="#{name}"' in text
    assert text.count("<figure") == text.count("<figcaption>") == 2 * 3 + 1 + 2 + 4 + 1 + 2 + 1 + 2
    assert "<b>one" not in text
    assert "&lt;b&gt;one" in text
    assert "<script" not in text
    assert 'href="http' not in text
    assert "src=" not in text


def test_numbers_are_beside_the_page(result, tmp_path, no_sections):
    write_shower_page(result, tmp_path / "page.html")
    document = json.loads((tmp_path / "page.json").read_text("utf-8"))
    assert document == json.loads(json.dumps(result.to_dict()))


@pytest.mark.parametrize(
    ("draw", "labels"),
    [
        (lambda found: profiles_svg(found, "depth", "energy"), ["cell along depth", "energy [MeV per GeV]"]),
        (lambda found: profiles_svg(found, "y", "angle"), ["cell along y", "60 to 80 degrees"]),
        (lambda found: spectra_svg(found, "energy"), ["energy of a cell [GeV]", "cells per shower and bin"]),
        (lambda found: distributions_svg(found, "response", "energy"), ["Ecal / Ep", "density"]),
        (lambda found: distributions_svg(found, "hits", "angle"), ["cells hit"]),
        (lambda found: responses_svg(found, "energy"), ["sampling fraction Ecal / Ep", "energy [GeV]"]),
        (lambda found: moments_svg(found, "angle"), ["mean [cells]", "spread [cells]", "angle [degrees]"]),
        (areas_svg, ["all showers"]),
        (correlations_svg, ["reference", "response", "correlation", "<b>one \N{MINUS SIGN} reference, twice"]),
        (pictures_svg, ["reference", "$two", "cell along depth", "visible energy [GeV]"]),
        (singles_svg, ["reference", "$two", "cell along depth"]),
    ],
    ids=[
        "depth", "angle", "spectra", "response", "hits", "responses", "moments", "areas", "correlations", "pictures",
        "singles",
    ],
)  # fmt: skip
def test_figures_have_labels_with_units(result, draw, labels):
    found = texts(draw(result))
    assert set(labels) <= set(found)


def test_styles_of_sets_differ(result):
    styles = set_styles(result)
    assert len({(style.color, style.dash) for style in styles}) == 3
    assert styles[0].color == "#111418"


def test_a_model_far_off_is_drawn_and_does_not_set_the_scale(stores):
    class Broken:
        labels, label_ranges, observation, shape = ("energy",), ((1.0, 100.0),), "shower", (8, 9, 10)

        def generate(self, labels, *, seed, batch_size=64, extrapolate=False, first_row=0):
            return np.full((len(labels), *self.shape), 1e3, np.float32)

    broken: Any = Broken()
    found = measure_showers(stores[0], {"broken": broken})
    assert found["broken"].auc.value > 0.99
    levels = [float(text) for text in texts(profiles_svg(found, "depth", "energy")) if text.replace(".", "").isdigit()]
    assert max(levels) < 100.0


def test_the_result_comes_back(stores, tmp_path, no_sections):
    found = compare_showers(stores[0], stores[1], tmp_path / "page.html", title="Two runs")
    assert [model.name for model in found.models] == ["model"]
    assert "<h1>Two runs</h1>" in (tmp_path / "page.html").read_text("utf-8")


def test_a_page_cannot_have_the_name_of_its_numbers(stores, tmp_path):
    with pytest.raises(InvalidInputError, match=r"not end in \.json"):
        compare_showers(stores[0], stores[1], tmp_path / "page.json")
    assert not list(tmp_path.iterdir())
