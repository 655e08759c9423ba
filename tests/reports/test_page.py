"""The page and its figures, from hand-made records."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib as mpl

from tracestore.posteriors.findings import Diagnosis, Finding, Verdict
from tracestore.posteriors.summary import AddressAcceptance, MoveAcceptance
from tracestore.reports.chain_plots import chains_svg, running_svg
from tracestore.reports.data import (
    COLORS,
    DASHES,
    Engine,
    History,
    RunFacts,
    Variable,
    make_marginal,
    make_variable,
)
from tracestore.reports.page import Page, render_page
from tracestore.reports.pair_plots import joint_draws, pairs_svg
from tracestore.reports.plots import bin_edges, loss_svg, marginal_svg
from tracestore.reports.verdict import compare, describe_agreement
from tracestore.reports.weight_plots import weights_svg

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Balance(HTMLParser):
    """Collects the text of each heading, and fails on tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            self.headings.append(data)


def make_engine(index=0, *, label="RMH", draws=None, weights=None, chains=2, **fields) -> Engine:
    rng = np.random.default_rng(index)
    columns = {"px": rng.normal(size=200), "n": rng.integers(0, 3, 200)} if draws is None else draws
    number = len(next(iter(columns.values())))
    chain, draw = np.arange(number) % chains, np.arange(number) // chains
    log_weights = None if weights is None else np.log(weights)
    marginals = {
        name: make_marginal(column, weights, chain, draw, mcse=0.1, ess=float(number) / 2)
        for name, column in columns.items()
    }
    fields = {"num_draws": number, "num_chains": chains, "ess": float(number) / 2} | fields
    return Engine(
        label=label, color=COLORS[index], dash=DASHES[index % 4], is_weighted=weights is not None,
        log_weights=log_weights, marginals=marginals, **fields,
    )  # fmt: skip


def variables_of(engines, **options):
    names = dict.fromkeys(name for engine in engines for name in engine.marginals)
    return [make_variable(n, [e.marginals[n] for e in engines if n in e.marginals], **options) for n in names]


def make_page(engines, variables, **parts) -> Page:
    agreements = compare(variables, engines)
    defaults = {
        "title": "A title",
        "lead": "lead",
        "agreements": agreements,
        "agreement": describe_agreement(agreements, len(engines)),
        "marginals": {v.name: marginal_svg(v, engines) for v in variables},
    }
    return Page(engines=engines, variables=variables, **(defaults | parts))


def texts(svg: str) -> list[str]:
    root = ET.fromstring(svg)  # fails when it is not well-formed
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("text")]


def test_page_has_all_parts_and_closes_every_tag():
    engines = [make_engine(0, label="IC", weights=np.full(200, 0.3)), make_engine(1)]
    variables = variables_of(engines, truth=1)
    steps = np.arange(100.0)
    history = History(traces=steps, loss=9 - steps / 20, validation_traces=steps[::20], validation_loss=steps[::20])
    page = make_page(
        engines, variables, pairs=pairs_svg(variables, engines), chains={"RMH": chains_svg(variables, engines[1])},
        running={"RMH": running_svg(variables, engines[1])}, weights=weights_svg(engines[:1]), loss=loss_svg(history),
        loss_words="seen", phases={"simulate": 61.0}, versions={"numpy": "2"},
    )  # fmt: skip
    html = render_page(page)
    headings = Balance(html).headings
    assert headings[0] == "A title"
    for part in ("Summary", "Posterior marginals", "Correlations", "Diagnostics", "Numbers", "What was run"):
        assert part in headings
    assert {"Chains of RMH", "Convergence of RMH", "Importance weights"} <= set(headings)
    assert "1 min 01 s" in html
    assert "numpy 2" in html


def test_parts_that_do_not_exist_leave_no_heading():
    engine = make_engine(draws={"px": np.linspace(0, 1.1, 50)})
    headings = Balance(render_page(make_page([engine], variables_of([engine])))).headings
    assert "Correlations" not in headings
    assert "What was run" not in headings
    assert not any("Chains" in heading or "loss" in heading for heading in headings)


def test_page_refers_to_nothing_outside_itself():
    engines = [make_engine(0, label="IC", weights=np.full(200, 0.3)), make_engine(1)]
    variables = variables_of(engines, truth=1)
    html = render_page(make_page(engines, variables, pairs=pairs_svg(variables, engines)))
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|@import|\bsrc=", html)
    references = re.findall(r"""(?:href=["']|url\(["']?)([^"')]+)""", html)
    assert references
    assert all(reference.startswith("#") for reference in references)
    assert {r.removeprefix("#") for r in references} <= set(re.findall(r'\bid="([^"]+)"', html))


def test_foreign_text_is_escaped_and_never_read_as_mathematics():
    nasty = '<b>&"x" $\\frac{1}$ $'
    facts = RunFacts(place=nasty, verb=nasty, fields={nasty: nasty})
    engine = make_engine(
        label=nasty, facts=facts, diagnosis=Diagnosis(nasty, (Finding(Verdict.BAD, nasty, nasty, nasty, nasty),)),
        moves=(MoveAcceptance(0, nasty, 5, 3, 0),), addresses=(AddressAcceptance(nasty, 5, 3),),
    )  # fmt: skip
    continuous = make_variable("px", [engine.marginals["px"]], label=nasty, truth=1.0)
    discrete = make_variable("n", [engine.marginals["n"]], label=nasty, category_labels=[nasty] * 3)
    variables = [continuous, discrete]
    html = render_page(
        make_page(
            [engine], variables, title=nasty, lead=nasty, chains={nasty: chains_svg(variables, engine)},
            pairs=pairs_svg(variables, [engine]), phases={nasty: 1.0}, loss_words=nasty, versions={nasty: nasty},
        )
    )  # fmt: skip
    Balance(html)
    assert "<b>" not in html
    assert nasty in texts(marginal_svg(continuous, [engine]))
    assert texts(marginal_svg(discrete, [engine])).count(nasty) == 3


DEGENERATE = {
    "constant": np.full(40, 2.5),
    "constant whole number": np.full(40, 3.0),
    "two draws": np.array([0.5, 0.7]),
    "one draw": np.array([0.5]),
    "none": np.zeros(0),
    "never a number": np.full(3, np.nan),
    "some infinite": np.array([0.5, np.inf, 0.7, -np.inf]),
    "huge": np.array([1e100, -1e100, 3.0]),
    "tiny spread": 1.0 + np.arange(30) * 1e-15,
    "all whole": np.arange(400.0),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_variables_are_drawn(case):
    values = DEGENERATE[case]
    engine = make_engine(draws={"x": values, "y": np.linspace(0.05, 1, max(len(values), 1))[: len(values)]})
    variables = variables_of([engine])
    html = render_page(make_page([engine], variables, pairs=pairs_svg(variables, [engine])))
    Balance(html)
    texts(chains_svg(variables, engine))


@pytest.mark.parametrize("case", ["constant", "one draw", "none"])
def test_degenerate_variables_are_compared(case):
    engines = [make_engine(0, draws={"x": DEGENERATE[case]}), make_engine(1, label="B", draws={"x": np.arange(9.5)})]
    Balance(render_page(make_page(engines, variables_of(engines, truth=0.0))))


def test_unusual_variables_are_explained_in_words():
    rare = make_marginal(np.array([0.5, 0.7]), np.array([0.01, 0.02]), share=0.03)
    assert rare.note == "present in 3 % of the posterior; numbers are given that it is present"
    assert make_marginal(np.full(5, 2.0), None).note == "constant in all draws"
    assert make_marginal(np.zeros(0), None).note == "present in no draw"
    assert "2 draws without a finite value" in make_marginal(np.array([0.5, np.nan, np.inf, 1.0]), None).note


def test_engines_without_a_variable_are_named():
    engines = [make_engine(0, draws={"x": np.zeros(0)}), make_engine(1, label="B", draws={"x": np.linspace(0, 1, 9)})]
    html = render_page(make_page(engines, variables_of(engines)))
    assert "no draws" in html


def test_categories_keep_their_labels_and_the_truth():
    marginal = make_marginal(np.array([0, 0, 2]), None)
    variable = make_variable("channel", [marginal], category_labels=["e", "mu", "pi", "K"], truth=3)
    assert variable.categories == ((0.0, "e"), (2.0, "pi"), (3.0, "K"))
    engine = make_engine(draws={"channel": np.array([0, 0, 2])})
    found = texts(marginal_svg(variable, [engine]))
    assert {"e", "pi", "K (truth)"} <= set(found)


def test_continuous_variables_have_no_categories():
    assert make_variable("x", [make_marginal(np.array([0.0, 0.5]), None)]).categories is None
    assert make_variable("x", [make_marginal(np.arange(100.0), None)]).categories is None
    assert make_variable("x", [make_marginal(np.arange(9.0), None)]).is_discrete


def test_histograms_of_all_engines_share_their_bins_and_cover_the_truth():
    engines = [
        make_engine(0, draws={"x": np.linspace(0, 1.5, 90)}),
        make_engine(1, draws={"x": np.linspace(3, 4.5, 90)}),
    ]
    edges = bin_edges(Variable(name="x", label="x", truth=7.0), engines)
    assert edges[0] <= 0
    assert edges[-1] > 7


def test_draws_of_two_variables_are_joined_by_chain_and_draw():
    chain, draw = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    x = make_marginal(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.3, 0.4]), chain, draw)
    y = make_marginal(np.array([30.0, 20.0]), np.array([0.3, 0.2]), chain[[2, 1]], draw[[2, 1]], share=0.5)
    engine = make_engine()
    engine = Engine(
        label="", color="", dash="", num_draws=4, num_chains=2, is_weighted=True, ess=1.0, marginals={"x": x, "y": y}
    )  # fmt: skip
    first, second, weights = joint_draws(engine, *(Variable(name=n, label=n) for n in "xy"))
    order = np.argsort(first)
    assert first[order].tolist() == [2.0, 3.0]
    assert second[order].tolist() == [20.0, 30.0]
    assert weights[order] == pytest.approx([0.4, 0.6])


def test_figures_are_the_same_twice_and_leave_no_state():
    before = dict(mpl.rcParams)
    engines = [make_engine(0), make_engine(1)]
    variables = variables_of(engines, truth=1)
    assert marginal_svg(variables[0], engines) == marginal_svg(variables[0], engines)
    assert pairs_svg(variables, engines) == pairs_svg(variables, engines)
    assert dict(mpl.rcParams) == before


def test_weights_that_are_zero_are_left_out_of_the_figure():
    weights = np.ones(200)
    weights[:50] = 0.0
    with np.errstate(divide="ignore"):
        engine = make_engine(weights=weights)
    assert engine.max_weight == pytest.approx(1 / 150)
    texts(weights_svg([engine]))


def test_long_chains_are_thinned():
    engine = make_engine(draws={"x": np.random.default_rng(1).normal(size=100_000)})
    assert len(chains_svg(variables_of([engine]), engine)) < 60_000


def test_running_figures_need_several_draws_and_something_that_varies():
    constant = make_engine(draws={"x": np.full(400, 2.5)})
    short = make_engine(draws={"x": np.random.default_rng(1).normal(size=12)})
    for engine in (constant, short):
        assert running_svg(variables_of([engine]), engine) == ""
    one = make_engine(draws={"x": np.random.default_rng(1).normal(size=400)}, chains=1)
    assert "one chain has no R-hat" in texts(running_svg(variables_of([one]), one))


def test_ranks_of_chains_that_agree_are_flat_and_of_others_not():
    rng = np.random.default_rng(2)
    together = make_engine(draws={"x": rng.normal(size=4000)})
    apart = make_engine(draws={"x": rng.normal(size=4000) + 3.0 * (np.arange(4000) % 2)})
    tops = []
    for engine in (together, apart):
        variable = variables_of([engine])
        tops.append(texts(chains_svg(variable, engine)))
    assert "ranks by chain" in tops[0]
    assert tops[0] != tops[1]


def test_chains_that_lack_a_variable_are_said_to():
    rng = np.random.default_rng(1)
    marginal = make_marginal(rng.normal(size=60), None, np.zeros(60, int), np.arange(60), share=0.3)
    engine = Engine(
        label="RMH", color=COLORS[0], dash="solid", num_draws=200, num_chains=2, is_weighted=False, ess=9.0,
        marginals={"x": marginal},
    )  # fmt: skip
    variables = variables_of([engine])
    assert "constant, or too few draws" in texts(chains_svg(variables, engine))
    assert running_svg(variables, engine) == ""


@pytest.mark.parametrize(("number", "shape"), [(30, 0.2), (3000, 0.2), (3000, 1.5)])
def test_the_figure_of_weights_tells_khat(number, shape):
    uniform = (np.arange(number) + 0.5) / number
    weights = np.random.default_rng(1).permutation(uniform**-shape)
    engine = make_engine(draws={"x": np.linspace(0, 1.5, number)}, weights=weights, chains=1)
    found = [text for text in texts(weights_svg([engine])) if text.startswith("k-hat ")]
    (text,) = found
    assert float(text.split()[1]) == pytest.approx(shape, abs=0.35)


def test_weights_with_a_single_draw_or_all_alike_are_drawn():
    for weights in (np.ones(1), np.ones(200)):
        engine = make_engine(draws={"x": np.linspace(0, 1.5, len(weights))}, weights=weights, chains=1)
        texts(weights_svg([engine]))


def test_many_findings_are_folded_and_advice_is_told():
    findings = tuple(Finding(Verdict.DOUBTFUL, "code", "x", f"finding {n}.", "Use `rmh`.") for n in range(9))
    engine = make_engine(diagnosis=Diagnosis("", findings))
    html = render_page(make_page([engine], variables_of([engine])))
    Balance(html)
    assert "<summary>3 more</summary>" in html
    assert "Use <code>rmh</code>." in html


def test_moves_are_added_up_over_chains():
    moves = (MoveAcceptance(0, "walk", 100, 20, 3), MoveAcceptance(1, "walk", 100, 60, 0))
    engine = make_engine(moves=moves, addresses=tuple(AddressAcceptance(f"f:x~Normal#{n}", 10, 5) for n in range(25)))
    html = render_page(make_page([engine], variables_of([engine])))
    row = re.search(r'<th scope="row">walk</th>(.*?)<td class="barcell">', html).group(1)
    assert re.findall(r"<td>([^<]*)</td>", row) == ["200", "3", "20 % to 60 %", "40 %"]
    assert "<summary>5 more addresses</summary>" in html


def test_links_of_the_page_lead_to_its_sections():
    engine = make_engine()
    html = render_page(make_page([engine], variables_of([engine])))
    links = re.findall(r'<a href="#([^"]+)"', html)
    assert links == ["summary", "marginals", "diagnostics", "numbers"]
    assert all(f'<section id="{link}">' in html for link in links)
