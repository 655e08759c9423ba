"""Addresses and trace types of posteriors, and the source lines behind them."""

import importlib
import sys

import numpy as np
import pytest

import tracestore as ts
from tracestore.reports.layout_shares import layout_shares
from tracestore.reports.program import describe_sequence, read_program
from tracestore.reports.source_lines import SourceFinder
from tracestore.simulators.toys import branching, gum_marsaglia
from tracestore.traces.layout import Layout, Site, SiteKind

HELPER = """
import tracestore as ts

class Detector:
    def seen(self, x):
        return [ts.sample(ts.Normal(x / 2, 1.0)) for _ in range(2)]

def energy(scale):
    def inner():
        return ts.sample(ts.Gamma(2.0, scale))
    return inner()
"""
PROGRAM = """
import json
import tracestore as ts
from shower_parts import Detector, energy

def shower():
    first = energy(1.0)
    second = energy(2.0)
    total = sum(Detector().seen(first / 3))
    ts.sample(
        ts.Normal(0.0, 1.0),
    )
    ts.sample(ts.Normal(0.0, 1.0), address="by.hand:label")
    ts.observe(ts.Normal(total + second, 1.0), name="obs")
"""


@pytest.fixture
def shower(tmp_path, monkeypatch):
    (tmp_path / "shower_parts.py").write_text(HELPER)
    (tmp_path / "shower_program.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    program = importlib.import_module("shower_program").shower
    for name in ("shower_parts", "shower_program"):
        monkeypatch.delitem(sys.modules, name)
    yield program
    for name in ("shower_parts", "shower_program"):
        sys.modules.pop(name, None)


def test_every_draw_is_found_at_its_line_without_running_the_source(shower, tmp_path):
    store = ts.simulate(shower, tmp_path / "traces", num_traces=3, seed=1)
    finder = SourceFinder("shower_program:shower")
    found = {}
    for base in dict.fromkeys(site.base for layout in store.layouts.values() for site in layout.sites):
        source = finder.find(base)
        found[base.partition("~")[0]] = source and (source.module, source.function, source.line, source.last_line)
    assert found["shower:first/energy:return/energy.<locals>.inner:return"] == (
        "shower_parts", "energy.<locals>.inner", 10, 10,
    )  # fmt: skip
    assert ("shower_parts", "Detector.seen", 6, 6) in found.values()
    assert ("shower_program", "shower", 10, 12) in found.values()
    assert ("shower_program", "shower", 14, 14) in found.values()
    assert found["by.hand:label"] is None
    assert "shower_parts" not in sys.modules


def test_a_source_that_changed_gives_no_location_and_never_a_wrong_one(shower, tmp_path):
    store = ts.simulate(shower, tmp_path / "traces", num_traces=3, seed=1)
    bases = dict.fromkeys(site.base for layout in store.layouts.values() for site in layout.sites)
    first = next(base for base in bases if base.startswith("shower:first"))
    seen = next(base for base in bases if "ts.observe" in base)
    edited = PROGRAM.replace("shower_parts", "edited_parts").replace("total + second", "second + total")
    (tmp_path / "edited_program.py").write_text(edited)
    (tmp_path / "edited_parts.py").write_text(HELPER)
    finder = SourceFinder("edited_program:shower")
    assert finder.find(first).module == "edited_parts"
    assert finder.find(seen) is None


def test_unknown_modules_and_names_give_no_location():
    for simulator in ("", "no_such_module:f", "json", "a name of my own"):
        assert SourceFinder(simulator).find("f:x~Normal") is None


def test_excerpts_stay_within_the_function():
    source = SourceFinder("tracestore.simulators.toys:branching").find("branching:r~Poisson")
    texts = [text for _, text in source.excerpt]
    assert texts[0] == "def branching() -> int:"
    assert texts[-1].strip().startswith("return r") or len(texts) == 8
    assert not any("HMM" in text for text in texts)


def sites_of(text):
    visits: dict[str, int] = {}
    sites = []
    for base in text:
        visits[base] = visits.get(base, 0) + 1
        sites.append(Site(f"{base}#{visits[base]}", SiteKind.SAMPLE, True, "", "Normal", (), 2))
    return Layout(tuple(sites))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a", "A"),
        ("aaaa", "A#1..4"),
        ("ab", "A B"),
        ("ababab", "(A B)x3"),
        ("cababab", "C (A B)x3"),
        ("aba", "A B A#2"),
        ("aabb", "A#1..2 B#1..2"),
        ("abcabcd", "(A B C)x2 D"),
    ],
)
def test_repeats_in_a_sequence_are_collapsed(path, words):
    assert describe_sequence(sites_of(path), {"a": "A", "b": "B", "c": "C", "d": "D"}) == words


def test_long_sequences_end_in_dots():
    rng = np.random.default_rng(1)
    letters = [chr(97 + n) for n in range(20)]
    layout = sites_of([letters[n] for n in rng.integers(0, 20, 500)])
    words = describe_sequence(layout, {letter: letter.upper() for letter in letters})
    assert len(words) <= 404
    assert words.endswith(" ...")


def test_use_and_moments_are_those_of_the_posterior(tmp_path):
    posterior = ts.inference.importance(branching, {"obs": 6}, tmp_path / "post", num_draws=400, seed=1)
    program = read_program({"IS": posterior}, {"IS": layout_shares(posterior)})
    uses = program.uses["IS"]
    extra = next(address for address in program.addresses if address.label == "extra")
    assert uses[extra.base].share == pytest.approx(posterior.presence("extra"))
    assert uses[extra.base].mean == pytest.approx(posterior.mean("extra"))
    assert uses[extra.base].sd == pytest.approx(posterior.std("extra"))
    shares = [row.shares["IS"] for row in program.trace_types]
    assert sum(shares) == pytest.approx(1.0)
    assert [row.sequence for row in program.trace_types] == ["A1", "A1 A2"]
    counts = [row.counts["IS"] for row in program.trace_types]
    assert sum(counts) == 400


def test_views_have_moments_of_their_own(tmp_path):
    posterior = ts.inference.importance(branching, {"obs": 6}, tmp_path / "post", num_draws=400, seed=1)
    part = posterior.condition({"r": (None, 4)})
    program = read_program({"IS": part}, {"IS": layout_shares(part)})
    r = program.addresses[0]
    assert program.uses["IS"][r.base].mean == pytest.approx(part.mean("r"))


def traces_of(posterior):
    """Traces in the order of the posterior."""
    return [posterior.store[int(row)] for row in posterior.table.store_rows]


def test_visits_count_loops(tmp_path):
    store_posterior = ts.inference.importance(
        gum_marsaglia, {"obs0": 8.0, "obs1": 9.0}, tmp_path / "post", num_draws=200, seed=1
    )
    program = read_program({"IS": store_posterior}, {"IS": layout_shares(store_posterior)})
    x = program.addresses[0]
    visits = np.array([sum(site.base == x.base for site in trace.sites) for trace in traces_of(store_posterior)])
    assert program.uses["IS"][x.base].mean_visits == pytest.approx(float(store_posterior.weights @ visits))
    assert program.uses["IS"][x.base].most_visits == visits.max()


def test_nothing_to_tell_is_none():
    assert read_program({}, {}) is None
