"""The verb that compares showers."""

import json

import pytest

pytest.importorskip("matplotlib")

import tracestore as ts
from tracestore.simulators.shower import ShowerConfig, shower_simulator
from tracestore.simulators.shower_geometry import ShowerBox


@pytest.fixture
def stores(tmp_path):
    box = ShowerBox(shape=(8, 8, 9), cell_size=14.0, layer_depth=14.0)
    for seed, name in enumerate(("reference", "first", "second")):
        config = ShowerConfig(box=box, energy_range=(5.0, 50.0), sampling_fraction=0.03 if name == "second" else 0.025)
        ts.simulate(shower_simulator(config), tmp_path / name, num_traces=250, seed=seed)


@pytest.fixture
def no_sections(monkeypatch):
    """Leave out figures, which take time and are tested beside their module."""
    monkeypatch.setattr("tracestore.reports.showers.page.shower_sections", lambda found: {"Summary": "<p>Nothing.</p>"})


def test_compare_writes_a_page_and_says_what_it_found(run, stores, no_sections, tmp_path):
    status, output, errors = run("compare", "reference", "first", "other=second", "--out", "page.html")
    assert status == 0, errors
    assert "other fails" in output
    assert output.endswith("comparison in page.html\n")
    assert "read reference: 250 showers" in errors
    assert "other" in (tmp_path / "page.html").read_text("utf-8")


def test_compare_prints_the_numbers(run, stores, no_sections, tmp_path):
    status, output, errors = run("compare", "reference", "first", "--out", "page.html", "--json", "--seed", 2)
    assert status == 0, errors
    assert json.loads(output) == json.loads((tmp_path / "page.json").read_text("utf-8"))


def test_names_that_repeat_are_wrong_usage(run):
    status, _, errors = run("compare", "reference", "a/gan", "b/gan", "--out", "page.html")
    assert status == 2
    assert "two models are called 'gan'; give them names: NAME=MODEL" in errors


def test_what_is_missing_is_named(run, stores, tmp_path):
    status, output, errors = run("compare", "reference", "nowhere", "--out", "page.html")
    assert (status, output) == (1, "")
    assert "'nowhere' is neither a store of showers nor a surrogate" in errors
    assert not (tmp_path / "page.html").exists()
