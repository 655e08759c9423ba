"""The report of an import: every record of the source is in the store or in the report."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tracestore.importers.pyprob_parts import FilePart, PartReport
from tracestore.importers.pyprob_source import PyprobSource
from tracestore.store.trace_store import TraceStore

__all__ = ["PyprobImport", "report_import"]

_SHOWN_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class PyprobImport:
    """What an import made, the work of earlier calls included: ``num_traces_in == num_traces_out + num_reported``."""

    store: TraceStore
    which: str
    """Which files were imported: ``sorted`` or ``unsorted``."""
    files_passed_over: int
    """Files of the other kind in the same directory, which are left out."""
    num_files: int
    files_converted: int
    """Files of which every part is in the store."""
    files_of_unknown_length: int
    """Files that do not say how many traces they have, or cannot be opened: they count with what they hold."""
    num_traces_in: int
    """Traces that the files say they have; of files that do not say, those that they hold."""
    num_traces_out: int
    """Traces that are in the store."""
    num_reported: int
    """Traces that are not, for which there is a reason."""
    num_shortened: int
    """Traces of which pyprob dropped unnamed variables before it stored them."""
    num_dropped_values: int
    """Tags whose value is not numbers; they are kept without it."""
    num_differences: int
    """Log probabilities that pyprob stored and that differ from ours by more than single precision explains."""
    dictionary: str | None
    """The address dictionary that was used."""
    has_unresolved_addresses: bool
    """Whether addresses in dictionary form, such as ``__A12``, stayed as they are."""
    problems: tuple[tuple[str, int | None, str], ...]
    """File, record (None: the whole file, or part of it) and reason; of many in one part of a file, the first."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is wrong: all traces are in the store and all log probabilities agree."""
        return not self.problems

    def __str__(self) -> str:
        counts = f"{self.num_traces_out:,} of {self.num_traces_in:,} traces of {self.num_files:,} {self.which} files"
        lines = [f"{counts} are in {self.store.storage.url}; {self.num_reported:,} are reported"]
        if self.files_converted < self.num_files:
            lines.append(f"  {self.num_files - self.files_converted:,} files are not converted, or only in part")
        if self.files_passed_over:
            other = "unsorted" if self.which == "sorted" else "sorted"
            lines.append(f"  {self.files_passed_over:,} {other} files of the directory are left out")
        if self.files_of_unknown_length:
            lines.append(f"  {self.files_of_unknown_length:,} files do not tell how many traces they have")
        if self.num_shortened:
            lines.append(f"  {self.num_shortened:,} traces lost unnamed variables when pyprob pruned them")
        if self.num_dropped_values:
            lines.append(f"  {self.num_dropped_values:,} tags are kept without their values, which are not numbers")
        if self.dictionary is not None:
            lines.append(f"  addresses are resolved by {self.dictionary}")
        if self.has_unresolved_addresses:
            lines.append("  addresses in dictionary form have no entry and stay as they are, like __A12")
        for file, record, reason in self.problems[:_SHOWN_PROBLEMS]:
            lines.append(f"  {file}{'' if record is None else f', record {record}'}: {reason}")
        if len(self.problems) > _SHOWN_PROBLEMS:
            lines.append(f"  and {len(self.problems) - _SHOWN_PROBLEMS:,} more problems")
        return "\n".join(lines)


def report_import(
    store: TraceStore,
    source: PyprobSource,
    parts: Iterable[FilePart],
    refused: Mapping[int, str],
    dictionary: str | None,
) -> PyprobImport:
    """Put the report together from what parts left in the store.

    Parameters
    ----------
    store
        The store, with everything folded.
    source
        The files.
    parts
        All parts of all files that can be opened.
    refused
        Why parts were not converted in this call, by unit of work.
    dictionary
        The address dictionary in use.
    """
    done = {unit: PartReport.from_json(state) for units, state in store.work_states() for unit in units}
    problems: list[tuple[str, int | None, str]] = [
        (source.files[number].name, None, reason) for number, reason in sorted(source.unopened.items())
    ]
    incomplete = set(source.unopened)
    lost = 0
    seen = set()
    for part in parts:
        report = done.get(part.unit)
        if report is None:
            incomplete.add(part.number)
            lost += part.count
            reason = refused.get(part.unit, "this part is not converted yet; repeat the call.")
            if (part.number, reason) not in seen:
                seen.add((part.number, reason))
                problems.append((part.name, None, reason))
        elif report.length != part.length:
            reason = (
                f"it had {report.length:,} traces when it was converted and has {part.length:,} now; import it into a "
                "new store."
            )
            problems.append((part.name, None, reason))
    reports = list(done.values())
    for report in reports:
        problems += _problems(report)
    converted = sum(report.num_converted for report in reports)
    reported = sum(report.num_reported for report in reports) + lost
    return PyprobImport(
        store=store,
        which=source.which,
        files_passed_over=source.num_passed_over,
        num_files=len(source.files),
        files_converted=len(source.files) - len(incomplete),
        files_of_unknown_length=len(source.undeclared),
        num_traces_in=sum(source.lengths),
        num_traces_out=converted,
        num_reported=reported,
        num_shortened=sum(report.num_shortened for report in reports),
        num_dropped_values=sum(report.num_dropped for report in reports),
        num_differences=sum(report.num_differences for report in reports),
        dictionary=dictionary,
        has_unresolved_addresses=any(report.has_unresolved for report in reports),
        problems=tuple(problems),
    )


def _problems(report: PartReport) -> list[tuple[str, int | None, str]]:
    found: list[tuple[str, int | None, str]] = [(report.name, *problem) for problem in sorted(report.problems)]
    if report.num_differences:
        more = f" ({report.num_differences:,} such differences)" if report.num_differences > 1 else ""
        found.append((report.name, None, f"{report.difference}{more}."))
    return found
