"""The cross-section in torch."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tracestore.simulators.batched import run_batch  # noqa: E402
from tracestore.simulators.cross_section import TRUTH, cross_section_simulator, pseudo_data  # noqa: E402
from tracestore.simulators.cross_section_events import CollisionEventRows, total_cross_section  # noqa: E402
from tracestore.simulators.cross_section_tensors import tensor_events_log_prob, tensor_total  # noqa: E402

PARAMETERS = torch.tensor([list(TRUTH.values()), [0.3, 1.7, 9.0, 1.5, 0.4, 2.5]], dtype=torch.float64)


@pytest.fixture(scope="module")
def events():
    return torch.from_numpy(pseudo_data(60, seed=2)["events"])


def test_log_prob_of_shared_events_has_the_right_gradient(events):
    shared = events.expand(2, 60, 2)
    parameters = PARAMETERS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: tensor_events_log_prob(rows, shared), (parameters,), rtol=1e-5)


def test_log_prob_of_own_events_has_the_right_gradient(events):
    own = torch.stack([events[:30], events[30:]])
    parameters = PARAMETERS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: tensor_events_log_prob(rows, own), (parameters,), rtol=1e-5)


def test_rows_score_tensors_like_arrays(events):
    rows = CollisionEventRows(PARAMETERS, 60)
    shared = events.expand(2, 60, 2)
    np.testing.assert_allclose(rows.tensor_log_prob(shared).numpy(), rows.log_prob_rows(shared.numpy()), rtol=1e-12)


def test_rows_of_numbers_score_tensors_too(events):
    shared = events.expand(2, 60, 2)
    scores = CollisionEventRows(PARAMETERS.numpy(), 60).tensor_log_prob(shared)
    assert torch.equal(scores, CollisionEventRows(PARAMETERS, 60).tensor_log_prob(shared))


def test_total_of_a_tensor_is_a_tensor():
    found = total_cross_section(PARAMETERS)
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, tensor_total(PARAMETERS))
    np.testing.assert_allclose(found.numpy(), total_cross_section(PARAMETERS.numpy()), rtol=1e-15)


def test_the_program_draws_the_same_with_tensors():
    data = pseudo_data(60, seed=2)
    batches = [
        run_batch(cross_section_simulator(60, arrays=arrays), 5, np.random.default_rng(1), observations=data)
        for arrays in ("numpy", "torch")
    ]
    assert np.array_equal(batches[0].values, batches[1].values)
    np.testing.assert_allclose(batches[0].log_likelihood, batches[1].log_likelihood, rtol=1e-14)
