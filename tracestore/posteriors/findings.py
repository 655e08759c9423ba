"""What a diagnosis is made of: a verdict, findings in words with what to do next, and the whole of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["Diagnosis", "Finding", "Verdict", "listed", "percent", "worst_of"]


class Verdict(StrEnum):
    """How far a result can be trusted.

    Examples
    --------
    >>> Verdict.BAD.rank > Verdict.DOUBTFUL.rank > Verdict.GOOD.rank, Verdict.BAD.words
    (True, 'do not trust')
    """

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"

    @property
    def rank(self) -> int:
        """0 for good, 2 for bad."""
        return list(Verdict).index(self)

    @property
    def words(self) -> str:
        """The verdict as people read it."""
        return "do not trust" if self is Verdict.BAD else self.value


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a diagnosis found.

    Examples
    --------
    >>> print(Finding(Verdict.DOUBTFUL, "few-chains", "chains", "There is one chain.", "Run four."))
    doubtful      There is one chain. Run four.
    """

    verdict: Verdict
    code: str
    """What kind of finding it is, for programs: ``khat``, ``rhat``, ``no-weight``, ..."""
    subject: str
    """What it is about: a variable, a chain, an observe, or ``weights``."""
    text: str
    """What was found, one or two sentences."""
    advice: str = ""
    """What to do next; empty where nothing is needed."""

    def __str__(self) -> str:
        return f"{self.verdict.words:<12}  {self.text} {self.advice}".rstrip()

    def to_json(self) -> "dict[str, JSON]":
        """Return the finding as JSON."""
        return {**asdict(self), "verdict": self.verdict.value}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was found about one result, the worst first; prints as text.

    Examples
    --------
    >>> one = Finding(Verdict.GOOD, "ess", "weights", "ESS 900 of 1,000 draws.")
    >>> two = Finding(Verdict.BAD, "khat", "weights", "k-hat 0.90 is above 0.7.", "Train the network longer.")
    >>> diagnosis = Diagnosis("ic of 'gum'", (one, two))
    >>> diagnosis.verdict.name, diagnosis.exit_code, diagnosis.findings[0].code
    ('BAD', 1, 'khat')
    >>> print(diagnosis)
    ic of 'gum': do not trust
      do not trust  k-hat 0.90 is above 0.7. Train the network longer.
      good          ESS 900 of 1,000 draws.
    """

    subject: str
    """What was diagnosed, in words."""
    findings: tuple[Finding, ...]

    def __post_init__(self) -> None:
        ordered = sorted(self.findings, key=lambda finding: -finding.verdict.rank)
        object.__setattr__(self, "findings", tuple(ordered))

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the findings; doubtful when nothing could be judged."""
        return worst_of([finding.verdict for finding in self.findings])

    @property
    def exit_code(self) -> int:
        """1 when the result must not be trusted, 0 otherwise."""
        return int(self.verdict is Verdict.BAD)

    def of(self, code: str) -> tuple[Finding, ...]:
        """Return the findings of one kind.

        Parameters
        ----------
        code
            As in `Finding.code`.
        """
        return tuple(finding for finding in self.findings if finding.code == code)

    def __str__(self) -> str:
        return "\n".join([f"{self.subject}: {self.verdict.words}", *(f"  {finding}" for finding in self.findings)])

    def to_json(self) -> "dict[str, JSON]":
        """Return the diagnosis as JSON."""
        return {
            "subject": self.subject,
            "verdict": self.verdict.value,
            "exit_code": self.exit_code,
            "findings": [finding.to_json() for finding in self.findings],
        }


def worst_of(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst of some verdicts, doubtful without any.

    Parameters
    ----------
    verdicts
        In any order.

    Examples
    --------
    >>> worst_of([Verdict.GOOD, Verdict.BAD]).name, worst_of([]).name
    ('BAD', 'DOUBTFUL')
    """
    return max(verdicts, key=lambda verdict: verdict.rank, default=Verdict.DOUBTFUL)


def listed(names: Sequence[object], limit: int = 4) -> str:
    """Join names for a sentence, the first few of many.

    Parameters
    ----------
    names
        Things with a `repr` that people can read.
    limit
        Most that are shown.

    Examples
    --------
    >>> listed(["a"]), listed(["a", "b", "c"]), listed([1, 2, 3, 4, 5], limit=2)
    ("'a'", "'a', 'b' and 'c'", '1, 2 and 3 more')
    """
    shown = [repr(name) for name in names[:limit]]
    if len(names) > limit:
        shown.append(f"{len(names) - limit} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def percent(share: float) -> str:
    """Write a share as percent, with two digits where it is small.

    Parameters
    ----------
    share
        Between 0 and 1.

    Examples
    --------
    >>> percent(0.5), percent(0.0312), percent(0.00002)
    ('50 %', '3.1 %', '0.002 %')
    """
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.3g} %"
