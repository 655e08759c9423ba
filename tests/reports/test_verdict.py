import numpy as np
import pytest

from tracestore.posteriors.findings import Diagnosis, Finding, Verdict
from tracestore.reports.data import Engine, Marginal, Variable, make_marginal, make_variable
from tracestore.reports.verdict import compare, describe_agreement, describe_trust, describe_truth


def engine(label="RMH", *, marginals=None, weighted=False, **fields) -> Engine:
    fields = {"num_draws": 4000, "num_chains": 1 if weighted else 4, "ess": 1000.0} | fields
    return Engine(
        label=label, color="#000000", dash="solid", is_weighted=weighted, marginals=marginals or {}, **fields
    )  # fmt: skip


def around(mean: float, mcse: float, **fields) -> Marginal:
    draws = np.linspace(mean - 1.0, mean + 1.0, 101)
    return make_marginal(draws, None, mcse=mcse, **fields)


def choices(*probabilities: float) -> Marginal:
    number = len(probabilities)
    return make_marginal(np.arange(number), np.array(probabilities), ess=1000.0)


PX = Variable(name="px", label="px [GeV]")


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.0, Verdict.GOOD), (0.38, Verdict.GOOD), (0.5, Verdict.DOUBTFUL), (0.6, Verdict.BAD)]
)
def test_means_are_compared_in_combined_standard_errors(shift, verdict):
    first = engine("IC", marginals={"px": around(1.0, 0.12)})
    second = engine("RMH", marginals={"px": around(1.0 + shift, 0.05)})
    (found,) = compare([PX], [first, second])
    assert found.verdict is verdict
    assert found.num_errors == pytest.approx(shift / 0.13)
    assert found.engines == ("IC", "RMH")


def test_the_worst_pair_is_reported():
    engines = [engine(label, marginals={"px": around(mean, 0.1)}) for label, mean in (("A", 0), ("B", 0.1), ("C", 2))]
    (found,) = compare([PX], engines)
    assert found.engines == ("A", "C")
    verdict, words = describe_agreement([found], 3)
    assert verdict is Verdict.BAD
    assert "disagree on px [GeV]" in words
    assert "14.1 combined standard errors (px [GeV], between A and C)" in words


def test_probabilities_are_compared_by_category():
    first, second = choices(0.5, 0.3, 0.2), choices(0.55, 0.16, 0.29)
    variable = make_variable("channel", [first, second], category_labels=["e", "mu", "pi"])
    engines = [engine("IC", marginals={"channel": first}), engine("RMH", marginals={"channel": second})]
    (found,) = compare([variable], engines)
    assert found.category == "mu"
    assert found.difference == pytest.approx(0.14)
    assert found.verdict is Verdict.BAD
    assert "0.14 (channel mu, between IC and RMH)" in describe_agreement([found], 2)[1]


def test_a_large_difference_within_its_errors_is_doubtful_not_bad():
    first = make_marginal(np.arange(2), np.array([0.6, 0.4]), ess=9.0)
    second = make_marginal(np.arange(2), np.array([0.4, 0.6]), ess=9.0)
    variable = make_variable("b", [first, second])
    engines = [engine("A", marginals={"b": first}), engine("B", marginals={"b": second})]
    assert compare([variable], engines)[0].verdict is Verdict.DOUBTFUL


@pytest.mark.parametrize("number", [1, 2])
def test_nothing_to_compare_is_said(number):
    unknown = make_marginal(np.arange(3.5), None)  # no standard error
    engines = [engine(str(i), marginals={"px": unknown}) for i in range(number)]
    verdict, words = describe_agreement(compare([PX], engines), number)
    assert verdict is None
    assert "cannot be checked" in words


def test_equal_constants_agree_and_unequal_ones_do_not():
    same = [engine(str(i), marginals={"px": make_marginal(np.full(9, 1.5), None)}) for i in range(2)]
    assert compare([PX], same)[0].verdict is Verdict.GOOD
    other = engine("other", marginals={"px": make_marginal(np.full(9, 2.5), None)})
    assert compare([PX], [*same, other])[0].verdict is Verdict.BAD


def test_truth_is_located():
    channel = choices(0.9, 0.1)
    variables = [
        Variable(name="px", label="px", truth=0.5),
        Variable(name="py", label="py", truth=5.0),
        make_variable("channel", [channel], category_labels=["e", "mu"], truth=1),
    ]
    marginals = {"px": around(0, 0.1), "py": around(0, 0.1), "channel": channel}
    words = describe_truth(variables, engine("IC", marginals=marginals))
    assert "1 of 2 continuous variables" in words
    assert "true channel (mu) has probability 0.10" in words
    assert describe_truth([PX], engine(marginals={"px": around(0, 0.1)})) == ""


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ({"IC": Verdict.GOOD, "RMH": Verdict.DOUBTFUL}, ""),
        ({"IC": Verdict.GOOD, "RMH": Verdict.BAD}, "Do not trust RMH, by its own diagnostics"),
        ({"A": Verdict.BAD, "B": Verdict.BAD, "C": Verdict.GOOD}, "Do not trust A and B, by their own diagnostics"),
        ({"A": Verdict.BAD, "B": Verdict.BAD}, "No engine can be trusted"),
    ],
)
def test_engines_that_fail_their_own_diagnostics_are_named(verdicts, words):
    engines = [
        engine(label, diagnosis=Diagnosis(label, (Finding(verdict, "code", "subject", "text"),)))
        for label, verdict in verdicts.items()
    ]
    found = describe_trust(engines)
    assert found.startswith(words)
    assert bool(found) == bool(words)
