"""Calibration: verdicts, ranks and coverage of the engines that were calibrated."""

from collections.abc import Sequence
from html import escape

from tracestore.inference.calibration_result import Calibration, CalibrationQuantity
from tracestore.posteriors.findings import Verdict, worst_of
from tracestore.reports.calibration_plots import MAX_PANELS, coverage_svg, ranks_svg
from tracestore.reports.elements import badge, findings_list, section, table
from tracestore.reports.gather import ENGINE_WORDS
from tracestore.reports.numbers import format_number, format_share

__all__ = ["calibration_section"]

MAX_FINDINGS = 8


def calibration_section(calibrations: Sequence[Calibration]) -> str:
    """Return the section with all calibrations; empty without any.

    Parameters
    ----------
    calibrations
        One an engine.
    """
    note = (
        "In each trial a truth comes from the prior and an observation from the truth. Where the posteriors are right "
        "on average, the truth ranks uniformly among their draws."
    )
    return section("calibration", "Calibration", note, *(part for one in calibrations for part in _parts(one)))


def _parts(calibration: Calibration) -> list[str]:
    fields = calibration.job.fields
    engine = str(fields.get("engine"))
    words = ENGINE_WORDS.get(engine, engine)
    title = f"Calibration of {words} for {fields.get('simulator')}, {calibration.num_trials:,} trials"
    card = (
        f'<div class="card"><div class="head"><h3>{escape(title)}</h3>{badge(calibration.verdict)}</div>'
        f"{findings_list(calibration.diagnosis.findings, MAX_FINDINGS)}</div>"
    )
    judged = [quantity for quantity in calibration.quantities if quantity.pit]
    if not judged:
        return [card]
    verdicts = [_verdict(calibration, quantity) for quantity in judged]
    # the joint one is last, and must have its panel
    order = sorted(range(len(judged)), key=lambda place: -verdicts[place].rank) if len(judged) > MAX_PANELS else None
    shown = judged if order is None else [judged[place] for place in order]
    colors = verdicts if order is None else [verdicts[place] for place in order]
    left_out = f" {len(judged) - MAX_PANELS} more quantities are in the table." if len(judged) > MAX_PANELS else ""
    words = (
        "How far the distribution of the ranks is from uniform; the gray band holds it with 95 % probability when the "
        "posteriors are right. A curve above zero throughout: the draws lie above the truth; below: they lie below it. "
        f"Above and then below: posteriors too narrow; below and then above: too wide.{left_out}"
    )
    return [
        card,
        _wide("Ranks of the truth", ranks_svg(shown, colors), words),
        _wide(
            "Coverage",
            coverage_svg(judged, verdicts),
            "A line above the diagonal: regions are too large (underconfident); below: too small (overconfident). The "
            "gray band is as above.",
        ),
        _table(judged, verdicts),
    ]


def _verdict(calibration: Calibration, quantity: CalibrationQuantity) -> Verdict:
    about = [f.verdict for f in calibration.diagnosis.findings if f.subject == quantity.name and f.code != "calibrated"]
    return worst_of(about) if about else Verdict.GOOD


def _wide(title: str, svg: str, words: str) -> str:
    return f'<figure class="wide natural"><h3>{title}</h3>{svg}<figcaption>{words}</figcaption></figure>'


def _table(quantities: Sequence[CalibrationQuantity], verdicts: Sequence[Verdict]) -> str:
    rows = []
    levels = list(quantities[0].coverage)
    for quantity, verdict in zip(quantities, verdicts, strict=True):
        shares = "".join(f"<td>{format_share(share)}</td>" for share in quantity.coverage.values())
        rows.append(
            f'<tr><th scope="row">{escape(quantity.name)}</th><td>{len(quantity.pit):,}</td>'
            f"<td>{quantity.num_lost:,}</td>{shares}<td>{format_number(quantity.p_value, 2)}</td>"
            f"<td>{badge(verdict)}</td></tr>"
        )
    head = ("quantity", "trials", "lost", *(f"in central {level:.0%}" for level in levels), "p-value", "verdict")
    return table("Calibration by quantity", head, [rows])
