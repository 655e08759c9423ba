"""Reports of real posteriors of small programs."""

import json
import re
from html import escape
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.inference.calibration import calibrate
from tracestore.reports.numbers import format_with_error
from tracestore.reports.report import write_report

OBSERVED = {"obs0": 8.0, "obs1": 9.0}
HISTORY = [
    {"num_traces": 64 * (i + 1), "loss": 10 - i / 10, "validation_loss": 9.5 if i == 19 else None} for i in range(20)
]


@ts.simulator
def gum():
    mu = ts.sample(ts.Normal(1.0, 5**0.5), name="mu")
    ts.observe(ts.Normal(mu, 2**0.5), name="obs0")
    ts.observe(ts.Normal(mu, 2**0.5), name="obs1")
    return mu


@ts.simulator
def odd():
    is_long = ts.sample(ts.Bernoulli(0.1), name="is_long")
    pair = ts.sample(ts.Normal(np.zeros(2), 1.0), name="pair")
    if is_long:
        ts.sample(ts.Normal(0.0, 1.0), name="rare")
    ts.tag(7.5, name="fixed")
    ts.observe(ts.Normal(pair[0], 1.0), name="obs")


@ts.simulator
def nameless():
    ts.observe(ts.Normal(ts.sample(ts.Normal(0.0, 1.0)), 1.0), name="obs")


@pytest.fixture(scope="module")
def posteriors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("posteriors")
    return {
        "is": ts.inference.importance(gum, OBSERVED, folder / "is", num_draws=2000, seed=1),
        "rmh": ts.inference.rmh(gum, OBSERVED, folder / "rmh", num_draws=2000, chains=4, seed=1),
    }


def headings(path):
    return re.findall(r"<h[123]>(?:<span.*?</span>)*([^<]*)", path.read_text("utf-8"))


@pytest.fixture(scope="module")
def written(posteriors, tmp_path_factory):
    """One report with everything in it, and the call that wrote it."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in HISTORY))

    def write(path, history=folder):
        return write_report(
            list(posteriors.values()), path, truth={"mu": 7.25}, training_history=history,
            phases={"simulate": 61.0, "sort": 2.0}, jobs={"Network": posteriors["is"].store.job}, title="Gum",
        )  # fmt: skip

    return write(folder / "deep" / "report.html"), write


def test_report_compares_engines(posteriors, written):
    path, _ = written
    text = path.read_text("utf-8")
    assert "The engines agree on 1 variable." in text
    assert {"Gum", "prior IS", "RMH", "mu", "Chains of RMH", "Importance weights", "Trace graph"} <= set(headings(path))
    assert "result" not in headings(path)
    posterior = posteriors["is"]
    assert f"{posterior.ess:,.0f}" in text
    assert f"{len(posterior):,}" in text
    assert str(posterior.store.job.fields["simulator"]) in text
    assert "1 of 1 continuous variable" in text


def test_numbers_are_those_of_the_posterior(posteriors, written):
    text = written[0].read_text("utf-8")
    for posterior in posteriors.values():
        assert format_with_error(float(posterior.mean("mu")), float(posterior.mcse("mu"))) in text
    weighted = posteriors["is"]
    assert format_with_error(weighted.log_evidence, weighted.log_evidence_se) in text
    assert f"{posteriors['rmh'].rhat('mu'):.3f}" in text


def test_training_and_times_are_told(written):
    text = written[0].read_text("utf-8")
    assert {"Training loss", "What was run"} <= set(headings(written[0]))
    assert "1,280 traces seen in 20 steps. Lowest validation loss 9.500 nat after 1,280 traces." in text
    assert "1 min 01 s" in text
    assert "1 min 03 s" in text


def test_the_same_input_gives_the_same_bytes_and_replaces_the_file(written, tmp_path):
    first, write = written
    path = tmp_path / "report.html"
    path.write_text("old")
    assert write(path, HISTORY).read_bytes() == first.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_engines_that_disagree_are_told(posteriors, tmp_path):
    other = ts.inference.importance(gum, {"obs0": -1.0, "obs1": -2.0}, tmp_path / "other", num_draws=2000, seed=2)
    names = {"mu": "mean [m]", "nobody": "drawn by nobody"}
    path = write_report({"here": posteriors["rmh"], "there": other}, tmp_path / "report.html", names=names)
    assert "The engines disagree on mean [m]" in path.read_text("utf-8")
    assert "drawn by nobody" in path.read_text("utf-8")


def test_unusual_variables_vectors_and_failures_are_shown(tmp_path):
    posterior = ts.inference.importance(odd, {"obs": 0.5}, tmp_path / "odd", num_draws=400, seed=1)
    path = write_report(posterior, tmp_path / "report.html")
    text = path.read_text("utf-8")
    assert {"is_long", "pair[0]", "pair[1]", "rare", "fixed"} <= set(headings(path))
    assert "constant in all draws" in text
    assert "of the posterior; numbers are given that it is present" in text
    assert "only one engine" in text


def test_programs_without_names_show_addresses(tmp_path):
    posterior = ts.inference.importance(nameless, {"obs": 0.5}, tmp_path / "post", num_draws=200, seed=1)
    path = write_report([posterior], tmp_path / "report.html")
    assert any("Normal#1" in heading for heading in headings(path))


def test_a_single_short_chain_is_doubted(tmp_path):
    posterior = ts.inference.rmh(gum, OBSERVED, tmp_path / "rmh", num_draws=3, chains=1, seed=1)
    text = write_report([posterior], tmp_path / "report.html").read_text("utf-8")
    assert "do not trust" in text
    assert all(escape(finding.text, quote=True) in text for finding in posterior.diagnose().findings)


def test_wrong_input_is_refused(posteriors, tmp_path):
    with pytest.raises(InvalidInputError, match="at least one posterior"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(InvalidInputError, match="no training history"):
        write_report(posteriors, tmp_path / "report.html", training_history=tmp_path / "nowhere")
    assert not (tmp_path / "report.html").exists()


def test_two_posteriors_of_one_engine_keep_apart(posteriors, tmp_path):
    again = ts.inference.importance(gum, OBSERVED, tmp_path / "again", num_draws=500, seed=5)
    path = write_report([posteriors["is"], again], tmp_path / "report.html")
    assert {"prior IS (is)", "prior IS (again)"} <= set(headings(path))


def test_verdicts_are_those_of_the_diagnosis(posteriors, written):
    text = written[0].read_text("utf-8")
    for posterior in posteriors.values():
        for finding in posterior.diagnose(names=["mu"]).findings:
            assert escape(finding.text) in text


def test_addresses_link_to_their_source_lines(posteriors, written):
    text = written[0].read_text("utf-8")
    lines = Path(__file__).read_text("utf-8").splitlines()
    number = next(number for number, line in enumerate(lines, 1) if 'name="mu"' in line)
    assert f":gum:{number}</summary>" in text
    marked = re.findall(r'<span class="marked">\s*(\d+)  ([^<]*)', text)
    assert (str(number), escape(lines[number - 1]) + "\n") in marked


def test_the_prior_has_a_trace_graph_where_draws_show_it(posteriors, written, tmp_path):
    assert "<summary>Prior</summary>" in written[0].read_text("utf-8")
    alone = write_report(posteriors["rmh"], tmp_path / "report.html").read_text("utf-8")
    assert "<summary>Posterior, RMH</summary>" in alone
    assert "<summary>Prior</summary>" not in alone


def test_a_posterior_without_weight_is_shown_with_the_reason(tmp_path):
    @ts.simulator
    def narrow():
        ts.observe(ts.Uniform(0.0, ts.sample(ts.Uniform(0.5, 1.0), name="x")), name="obs")

    posterior = ts.inference.importance(narrow, {"obs": 5.0}, tmp_path / "post", num_draws=50, seed=1)
    text = write_report(posterior, tmp_path / "report.html", names=["x"]).read_text("utf-8")
    assert "All 50 draws have weight zero" in text
    assert 'id="simulator"' not in text


def test_calibrations_are_a_section(posteriors, tmp_path):
    calibration = calibrate(gum, tmp_path / "calibration", engine="is", num_trials=12, num_draws=40, seed=1)
    path = write_report(posteriors["is"], tmp_path / "report.html", calibration=tmp_path / "calibration")
    text = path.read_text("utf-8")
    assert '<a href="#calibration">' in text
    assert {"Ranks of the truth", "Coverage"} <= set(headings(path))
    assert all(escape(finding.text) in text for finding in calibration.diagnosis.findings)
