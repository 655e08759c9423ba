"""The page about a plan: complete, self-contained, the same again, and never half written."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.samplers.runs import make_runs
from tracestore.samplers import BatchPlan, BatchPolicy
from tracestore.samplers.plan_report import examine_plan

pytest.importorskip("matplotlib")

from tracestore.samplers.plan_page import write_plan_page
from tracestore.samplers.plan_plots import draw_imbalance, draw_shuffle, draw_steps, draw_types

RUNS = make_runs((1, 4, 130), (2, 9, 71), (3, 2, 40), (2, 9, 119), (4, 50, 37), (5, 60, 3))


def make_report(num_ranks=3, runs=RUNS, **policy):
    policy = {"global_batch": 48, "micro": 4, **policy}
    return examine_plan(BatchPlan(runs, BatchPolicy(**policy), 5), runs, num_ranks, trace_bytes=1e5)


class Outline(HTMLParser):
    """Checks that tags are closed in order, and keeps the text."""

    VOID = ("meta", "path", "use", "image", "rect", "br", "link", "stop")

    def __init__(self):
        super().__init__()
        self.open, self.words, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page(tmp_path):
    return write_plan_page(make_report(), tmp_path / "plan.html", title="Batches of <store>").read_text("utf-8")


def test_page_is_well_formed_and_escapes_its_title(page):
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert "Batches of <store>" in outline.words
    assert "<store>" not in page


def test_page_needs_nothing_from_elsewhere(page):
    outline = Outline()
    outline.feed(page)
    links = [value for _, attributes in outline.tags for name, value in attributes.items() if name in {"src", "href"}]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page


def test_page_shows_every_scheme_and_number(page):
    report = make_report()
    for scheme in report.schemes:
        assert f'<th scope="row">{scheme.name}</th><td>{scheme.imbalance:.4f}</td>' in page
    for name, text in (*report.batch_words(), *report.shuffle_words()):
        assert name.replace("'", "&#x27;") in page
        assert text in page
    assert "Ranks that can share a step: 1, 2, 3, 4, 6, 12." in page
    assert page.count("<figcaption>") == 5
    assert page.count("<svg") == 5


def test_same_report_gives_the_same_page(page, tmp_path):
    again = write_plan_page(make_report(), tmp_path / "again.html", title="Batches of <store>")
    assert again.read_text("utf-8") == page


def test_old_page_stays_when_a_new_one_fails(page, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(28, "no space")

    monkeypatch.setattr("tracestore.pages.document.os.fsync", broken)
    with pytest.raises(OSError, match="no space"):
        write_plan_page(make_report(), tmp_path / "plan.html", title="new")
    assert (tmp_path / "plan.html").read_text("utf-8") == page
    assert [path.name for path in tmp_path.iterdir()] == ["plan.html"]


@pytest.mark.parametrize(
    "options",
    [
        {"num_ranks": 1, "runs": make_runs((1, 3, 1)), "order": "sequential"},
        {"num_ranks": 7, "global_batch": None, "budget": 1200.0},
        {"num_ranks": 4, "runs": make_runs((1, 1, 96), (2, 100_000, 96))},
    ],
    ids=["one trace", "budget", "very different lengths"],
)
def test_unusual_plans_have_a_page(options, tmp_path):
    report = make_report(**options)
    text = write_plan_page(report, tmp_path / "deep" / "plan.html").read_text("utf-8")
    assert text.count("<svg") == 5
    assert "nan" not in re.sub(r"<[^>]*>", " ", text).split()
    assert ("Any number of ranks can share a step." in text) == (report.allowed_ranks is None)


def test_sampled_steps_are_said_to_be(tmp_path):
    plan = BatchPlan(RUNS, BatchPolicy(global_batch=48, micro=4), 5)
    report = examine_plan(plan, RUNS, 3, max_steps=3)
    assert "measured on 3 of them" in write_plan_page(report, tmp_path / "plan.html").read_text("utf-8")


def texts_of(svg):
    return re.findall(r">([^<>]+)</text>", svg)


def test_bars_tell_the_share_of_waiting():
    schemes = make_report().schemes
    found = texts_of(draw_imbalance(schemes))
    for scheme in schemes:
        assert scheme.name in found
        assert f"{100 * (1 - 1 / scheme.imbalance):.1f}" in found


def test_axes_have_titles_and_units():
    report = make_report()
    assert {"cost of a rank", "sites per trace", "read by all ranks", "step of the epoch"} <= set(
        texts_of(draw_steps(report.steps))
    )
    assert {"trace types in the batch of a rank", "batches, %"} <= set(texts_of(draw_types(report.steps)))
    assert {"place in the epoch, %", "place in the store, %"} <= set(texts_of(draw_shuffle(report.shuffle)))


def test_figures_leave_no_global_state():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw_steps(make_report().steps)
    assert dict(mpl.rcParams) == before


def test_numbers_of_very_different_size_are_on_a_logarithmic_axis():
    wide = make_report(4, make_runs((1, 1, 96), (2, 100_000, 96)), mixing=0.0)
    ticks = [text for text in texts_of(draw_steps(wide.steps)) if text.replace(",", "").isdigit()]
    assert {"100", "1,000", "10,000"} <= set(ticks)
    assert np.ptp(wide.steps.num_sites / wide.steps.num_traces) > 1000
