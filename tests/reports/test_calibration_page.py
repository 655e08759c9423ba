"""Pages of calibrations made by hand."""

from xml.etree import ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from tracestore.errors import InvalidInputError, StoreNotFoundError
from tracestore.inference.calibration_result import Calibration, CalibrationQuantity
from tracestore.posteriors.findings import Verdict
from tracestore.reports.calibration_page import read_calibrations, write_calibration_page
from tracestore.reports.calibration_plots import MAX_PANELS, coverage_svg, ranks_svg
from tracestore.store.job import Job


def quantity(name, ranks, num_lost=0) -> CalibrationQuantity:
    return CalibrationQuantity(name, tuple(map(float, ranks)), tuple(range(len(ranks))), num_lost)


def even(number=200):
    return (np.arange(number) + 0.5) / number


def narrow(number=200):
    return np.random.default_rng(1).beta(0.4, 0.4, number)


def calibration(quantities, num_trials=200) -> Calibration:
    return Calibration(Job("calibrate", {"engine": "ic", "simulator": "a:b"}), num_trials, 0, 0, quantities)


def texts(svg):
    return ["".join(node.itertext()).strip() for node in ET.fromstring(svg).iter() if node.tag.endswith("text")]


def test_page_tells_verdicts_in_words_and_numbers(tmp_path):
    found = calibration([quantity("mu", even()), quantity("s < 1", narrow(), 3), quantity("joint", even())])
    text = write_calibration_page(found, tmp_path / "page.html").read_text("utf-8")
    assert "Calibration of IC for a:b, 200 trials" in text
    assert "overconfident (too narrow)" in text
    assert "s &lt; 1</th><td>200</td><td>3</td>" in text
    assert text.count('<span class="badge bad">') == 2  # the whole, and the narrow one
    assert "s < 1" not in text


def test_figures_name_every_quantity():
    quantities = [quantity("mu", even()), quantity("$x$", narrow()), quantity("joint", even())]
    verdicts = [Verdict.GOOD, Verdict.BAD, Verdict.GOOD]
    assert {"mu", "$x$", "joint"} <= set(texts(ranks_svg(quantities, verdicts)))
    found = texts(coverage_svg(quantities, verdicts))
    assert {"mu", "$x$", "Central intervals", "All variables together, TARP"} <= set(found)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_few_trials_are_drawn(number):
    quantities = [quantity("mu", even(number))]
    texts(ranks_svg(quantities, [Verdict.GOOD]))
    texts(coverage_svg(quantities, [Verdict.GOOD]))


def test_the_worst_of_many_quantities_have_panels(tmp_path):
    quantities = [quantity(f"q{n}", even()) for n in range(MAX_PANELS + 4)] + [quantity("last", narrow())]
    path = write_calibration_page(calibration(quantities), tmp_path / "page.html")
    text = path.read_text("utf-8")
    assert "5 more quantities are in the table" in text
    assert 'aria-label="Ranks of the truth: last, q0' in text


def test_quantities_without_ranks_are_left_out(tmp_path):
    text = write_calibration_page(calibration([quantity("mu", [], 7)]), tmp_path / "page.html").read_text("utf-8")
    assert "Ranks of the truth" not in text
    assert "Calibration of IC" in text


def test_nothing_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="at least one calibration"):
        write_calibration_page([], tmp_path / "page.html")
    with pytest.raises(StoreNotFoundError, match="no finished calibration"):
        read_calibrations(tmp_path / "nowhere")
    assert not (tmp_path / "page.html").exists()
