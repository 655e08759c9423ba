"""Write a report: posteriors of one observation side by side, in one HTML file that opens offline."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from tracestore.errors import DegenerateWeightsError, InvalidInputError
from tracestore.pages import write_page
from tracestore.posteriors.findings import Verdict
from tracestore.posteriors.posterior import Posterior
from tracestore.reports.calibration_page import Calibrations, read_calibrations
from tracestore.reports.chain_plots import chains_svg, running_svg
from tracestore.reports.data import Engine, History, Variable, make_variable
from tracestore.reports.gather import choose_names, label_posteriors, read_engine
from tracestore.reports.layout_shares import LayoutShares, layout_shares
from tracestore.reports.numbers import format_number
from tracestore.reports.page import Page, render_page
from tracestore.reports.pair_plots import pairs_svg
from tracestore.reports.plots import is_wide, loss_svg, marginal_svg
from tracestore.reports.program import read_program
from tracestore.reports.sections.calibration import calibration_section
from tracestore.reports.trace_figures import trace_figures
from tracestore.reports.verdict import compare, describe_agreement, describe_truth
from tracestore.reports.weight_plots import weights_svg
from tracestore.store.job import Job

__all__ = ["write_report"]

MAX_PAIRS = 8
"""Variables in the pair plot."""
MAX_CHAIN_ROWS = 8


def write_report(
    posteriors: Posterior | Sequence[Posterior] | Mapping[str, Posterior],
    path: str | Path,
    *,
    truth: Mapping[str, float] | None = None,
    names: Sequence[str] | Mapping[str, str] | None = None,
    categories: Mapping[str, Sequence[str] | Mapping[int, str]] | None = None,
    training_history: str | Path | Iterable[Mapping[str, object]] | None = None,
    phases: Mapping[str, float] | None = None,
    jobs: Mapping[str, Job | None] | None = None,
    calibration: Calibrations | None = None,
    title: str = "Posterior report",
) -> Path:
    """Write one self-contained HTML page that compares posteriors and says how far to trust them.

    The page needs no network and no scripts; it is replaced in one step, and is the same for the same input.

    Parameters
    ----------
    posteriors
        Posteriors of the same observation: one, several, or by label; labels come from the engines otherwise.
    path
        The HTML file.
    truth
        True values by name, where known.
    names
        Names or addresses to show, in order; a mapping gives each the text that people read, with its unit.
        By default named draws and tags.
    categories
        Labels of the categories of discrete variables, by name.
    training_history
        Loss of the network: its directory, the ``history.jsonl`` in it, or its records.
    phases
        Seconds that each phase of the work took, in order.
    jobs
        What was run before the inference, by what people call it: the jobs of the training data and the network.
    calibration
        Results of `calibrate` for the engines, or the folders that it wrote: one or several.
    title
        Heading of the page.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InvalidInputError
        When there is no posterior, or nothing in them to show.
    StoreNotFoundError
        When a folder holds no finished calibration.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from tracestore.reports.report import write_report
    >>> from tracestore.simulators.toys import gum
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     posterior = ts.inference.importance(gum, {"obs0": 8, "obs1": 9}, folder + "/post", num_draws=200)
    ...     write_report([posterior], folder + "/report.html", names={"mu": "mean"}).name
    'report.html'
    """
    labelled = label_posteriors(posteriors)
    wanted = list(names) if names is not None else choose_names(list(labelled.values()))
    engines = [read_engine(label, p, wanted, i) for i, (label, p) in enumerate(labelled.items())]
    texts = dict(names) if isinstance(names, Mapping) else {}
    variables = _variables(engines, texts, categories or {}, truth or {})
    if not variables:
        message = "The posteriors hold nothing to show: no named draw, tag or controlled draw. Give `names`."
        raise InvalidInputError(message, argument="names")
    found = _read_layouts(labelled)
    described = {label: {"verb": job.verb, **job.fields} for label, job in (jobs or {}).items() if job}
    page = replace(
        _compose(engines, variables, history=_read_history(training_history)),
        title=title, phases=phases or {}, jobs=described, program=read_program(labelled, found),
        graphs=trace_figures(engines, labelled, found),
        calibration=calibration_section(read_calibrations(calibration)) if calibration is not None else "",
    )  # fmt: skip
    return write_page(path, render_page(page))


def _read_layouts(posteriors: Mapping[str, Posterior]) -> dict[str, LayoutShares]:
    found = {}
    for label, posterior in posteriors.items():
        try:
            found[label] = layout_shares(posterior)
        except (DegenerateWeightsError, InvalidInputError):  # no draw has weight; its verdict says so
            continue
    return found


def _variables(
    engines: Sequence[Engine],
    texts: Mapping[str, str],
    categories: Mapping[str, Sequence[str] | Mapping[int, str]],
    truth: Mapping[str, float],
) -> list[Variable]:
    names = dict.fromkeys(name for engine in engines for name in engine.marginals)
    # a vector that one engine never drew is there under its plain name only; its elements come from the others
    names = {n: None for n in names if not any(other.startswith(f"{n}[") for other in names)}
    return [
        make_variable(
            name, [e.marginals[name] for e in engines if name in e.marginals],
            label=texts.get(name), category_labels=categories.get(name),
            truth=float(truth[name]) if name in truth else None,
        )
        for name in names
    ]  # fmt: skip


def _compose(engines: Sequence[Engine], variables: Sequence[Variable], *, history: History | None) -> Page:
    drawn = [v for v in variables if any(not e.marginals[v.name].is_empty for e in engines if v.name in e.marginals)]
    paired = [v for v in drawn if not _is_constant(v, engines)][:MAX_PAIRS]
    trusted = [e for e in engines if e.verdict is not Verdict.BAD]
    agreements = compare(variables, engines)
    weighted = [e for e in engines if e.log_weights is not None and np.isfinite(e.log_weights).any()]
    chains: dict[str, str] = {}
    running: dict[str, str] = {}
    for engine in engines:
        rows = [v for v in drawn if v.name in engine.marginals and not engine.marginals[v.name].is_empty]
        if not engine.is_weighted and rows:
            chains[engine.label] = chains_svg(rows[:MAX_CHAIN_ROWS], engine)
            running[engine.label] = running_svg(rows, engine)
    simulators = dict.fromkeys(str(e.facts.fields.get("simulator", "")) for e in engines if e.facts is not None)
    return Page(
        lead=f"{_listed([e.label for e in engines])} on {_listed([s for s in simulators if s]) or 'one simulator'}",
        engines=engines,
        variables=variables,
        agreements=agreements,
        agreement=describe_agreement(agreements, len(engines)),
        truth_words=[text for e in trusted or engines if (text := describe_truth(variables, e))],
        marginals={v.name: marginal_svg(v, engines) for v in drawn},
        wide=frozenset(v.name for v in drawn if is_wide(v)),
        pairs=pairs_svg(paired, engines) if len(paired) > 1 else "",
        chains=chains,
        running=running,
        weights=weights_svg(weighted) if weighted else "",
        loss=loss_svg(history) if history is not None else "",
        loss_words=_loss_words(history) if history is not None else "",
        versions=_versions(),
    )


def _is_constant(variable: Variable, engines: Sequence[Engine]) -> bool:
    found = [e.marginals[variable.name] for e in engines if variable.name in e.marginals]
    values = np.concatenate([m.values for m in found if not m.is_empty])
    return bool(np.ptp(values) == 0)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _read_history(source: str | Path | Iterable[Mapping[str, object]] | None) -> History | None:
    if source is None:
        return None
    if isinstance(source, str | Path):
        file = Path(source)
        file = file / "history.jsonl" if file.is_dir() else file
        if not file.is_file():
            message = f"There is no training history at {str(file)!r}; give the directory of a trained network."
            raise InvalidInputError(message, argument="training_history")
        source = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
    records = list(source)
    steps = _columns(records, "loss")
    checks = _columns(records, "validation_loss")
    if steps.shape[1] == 0:
        return None
    return History(traces=steps[0], loss=steps[1], validation_traces=checks[0], validation_loss=checks[1])


def _columns(records: Sequence[Mapping[str, object]], name: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    seen = "num_traces"
    found = [(r[seen], r[name]) for r in records if r.get(name) is not None and r.get(seen) is not None]
    table = np.asarray(found, dtype=np.float64).reshape(-1, 2).T
    return table[:, np.isfinite(table).all(axis=0)]


def _loss_words(history: History) -> str:
    words = f"{history.traces[-1]:,.0f} traces seen in {len(history.loss):,} steps."
    if len(history.validation_loss):
        best = int(np.argmin(history.validation_loss))
        lowest = format_number(float(history.validation_loss[best]), 4)
        words += f" Lowest validation loss {lowest} nat after {history.validation_traces[best]:,.0f} traces."
    return words


def _versions() -> dict[str, str]:
    found = {}
    for package in ("tracestore", "numpy", "pyarrow", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # an extra that is absent, or a source tree that is not installed
            continue
    return {**found, "Python": platform.python_version()}
