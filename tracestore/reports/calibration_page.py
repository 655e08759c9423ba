"""A page of its own for a calibration: one HTML file that opens offline."""

from collections.abc import Sequence
from html import escape
from os import PathLike
from pathlib import Path

from tracestore.errors import InvalidInputError
from tracestore.inference.calibration_result import Calibration, open_calibration
from tracestore.pages import render_document, write_page
from tracestore.reports.sections.calibration import calibration_section

__all__ = ["Calibrations", "read_calibrations", "write_calibration_page"]

Calibrations = Calibration | str | PathLike[str] | Sequence[Calibration | str | PathLike[str]]
"""Results of `calibrate`, or the folders that it wrote: one or several."""


def read_calibrations(calibration: Calibrations) -> list[Calibration]:
    """Open what is not open yet.

    Parameters
    ----------
    calibration
        Results, or the folders that hold them.

    Raises
    ------
    StoreNotFoundError
        When a folder holds no finished calibration.
    FormatError
        When its file is damaged.
    """
    several = [calibration] if isinstance(calibration, Calibration | str | PathLike) else list(calibration)
    return [one if isinstance(one, Calibration) else open_calibration(Path(one)) for one in several]


def write_calibration_page(calibration: Calibrations, path: str | Path, *, title: str = "Calibration report") -> Path:
    """Write a page that shows calibrations: verdicts, ranks of the truth, coverage.

    Parameters
    ----------
    calibration
        Results of `calibrate`, or the folders that it wrote: one or several.
    path
        The HTML file.
    title
        Heading of the page.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InvalidInputError
        When there is no calibration.
    StoreNotFoundError
        When a folder holds no finished calibration.

    Examples
    --------
    >>> from tracestore.inference.calibration import calibrate
    >>> from tracestore.simulators.toys import gum
    >>> calibration = calibrate(gum, "calibration", engine="is", num_trials=20, num_draws=100, seed=1)
    >>> write_calibration_page(calibration, "calibration.html").name
    'calibration.html'
    """
    found = read_calibrations(calibration)
    if not found:
        message = "A calibration page needs at least one calibration; got none."
        raise InvalidInputError(message, argument="calibration")
    simulators = ", ".join(dict.fromkeys(str(one.job.fields.get("simulator")) for one in found))
    lead = f'<p class="lead">{escape(simulators)}</p>'
    return write_page(path, render_document(title, lead, calibration_section(found), ""))
