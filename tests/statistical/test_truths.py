"""The exact answers themselves, against published values and independent computations."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from tests.statistical.programs import PROGRAMS, branching_joint, hmm_marginals
from tracestore.simulators.toys import HMM_INITIAL, HMM_MEANS, HMM_OBSERVATIONS, HMM_TRANSITION

PUBLISHED = {
    "gum 8 9": (7.25, 0.912871, -8.239404),
    "gum -1 -2": (-1.083333, 0.912871, -4.072737),
    "gum_marsaglia 8 9": (7.25, 0.912871, -8.239404),
    "branching 6": (5.112284, None, -2.600149),
    "geometric 3": (2.312594, 0.991232, -2.534085),
    "rare_success 7": (6.110493, 1.994820, -3.072279),
    "two paths 2.2": (0.0772354, None, -1.609586),
    "gdemo 1.5 2": (7 / 6, None, None),
    "knuth 7": (6.455164, 0.934107, -2.714506),
    "random sum 4": (3.999049, None, -3.994361),
    "rejection_beta 5": (7 / 9, None, -2.233592),
    "marked_beta 20": (22 / 24, None, -4.434777),
}


@pytest.mark.parametrize("label", PUBLISHED)
def test_moments_and_evidence(label: str) -> None:
    exact = next(program for program in PROGRAMS if program.label == label)
    mean, sd, log_evidence = PUBLISHED[label]
    assert exact.mean == pytest.approx(mean, abs=1e-6)
    assert sd is None or exact.sd == pytest.approx(sd, abs=1e-6)
    assert log_evidence is None or exact.log_evidence == pytest.approx(log_evidence, abs=1e-6)


def test_evidence_of_gdemo_by_quadrature() -> None:
    exact = next(program for program in PROGRAMS if program.label == "gdemo -0.4 1.1")
    variance = np.exp(np.linspace(-6.0, 12.0, 4001))
    covariance = np.array([[2.0, 1.0], [1.0, 2.0]])
    likelihood = [stats.multivariate_normal.pdf([-0.4, 1.1], [0.0, 0.0], v * covariance) for v in variance]
    evidence = np.trapezoid(np.array(likelihood) * stats.invgamma.pdf(variance, 2.0, scale=3.0), variance)
    assert exact.log_evidence == pytest.approx(math.log(evidence), abs=1e-5)


def test_branching_probabilities() -> None:
    joint = branching_joint(6)
    expected = [0.0304, 0.1228, 0.0440, 0.0, 0.0, 0.3380, 0.2254, 0.1288, 0.0644]
    np.testing.assert_allclose(joint[:9] / joint.sum(), expected, atol=1e-4)


# rows of the table in Wood, van de Meent and Mansinghka (2014)
HMM_TABLE = [
    [0.3775, 0.3092, 0.3133], [0.0416, 0.4045, 0.5539], [0.0541, 0.2552, 0.6907], [0.0455, 0.2301, 0.7244],
    [0.1062, 0.1217, 0.7721], [0.0714, 0.1732, 0.7554], [0.9300, 0.0001, 0.0699], [0.4577, 0.0452, 0.4971],
    [0.0926, 0.2169, 0.6905], [0.1014, 0.1359, 0.7626], [0.0985, 0.1575, 0.7440], [0.1781, 0.2198, 0.6022],
    [0.0000, 0.9848, 0.0152], [0.1130, 0.1674, 0.7195], [0.0557, 0.1848, 0.7595], [0.2017, 0.0472, 0.7511],
    [0.2545, 0.0611, 0.6844],
]  # fmt: skip


def test_hidden_states() -> None:
    marginals, log_evidence = hmm_marginals(HMM_OBSERVATIONS)
    np.testing.assert_allclose(marginals, HMM_TABLE, atol=6e-5)
    assert log_evidence == pytest.approx(-44.424470, abs=1e-6)


def test_forward_backward_against_enumeration() -> None:
    observed = (0.4, -1.2, 2.0)
    marginals, log_evidence = hmm_marginals(observed)
    total, counts = 0.0, np.zeros((4, 3))
    for states in product(range(3), repeat=4):
        joint = HMM_INITIAL[states[0]]
        for step in range(3):
            joint *= HMM_TRANSITION[states[step]][states[step + 1]]
            joint *= math.exp(-0.5 * (observed[step] - HMM_MEANS[states[step + 1]]) ** 2) / math.sqrt(2 * math.pi)
        total += joint
        for step, state in enumerate(states):
            counts[step, state] += joint
    np.testing.assert_allclose(marginals, counts / total, rtol=1e-10)
    assert log_evidence == pytest.approx(math.log(total))
