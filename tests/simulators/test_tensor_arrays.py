"""Batched programs that compute with torch record what programs with numpy record."""

from typing import Any

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.simulators.base import PriorController, run_trace
from tracestore.simulators.batched import BatchedSimulator, run_batch

torch = pytest.importorskip("torch")
pytest.importorskip("tracestore.simulators.tensor_arrays")


def program(n):
    mu = ts.sample(ts.Normal(0.0, 1.0), name="mu")
    rates = ts.sample(ts.Gamma(2.0, np.ones((1, 3))), name="rates")
    count = ts.sample(ts.Poisson(rates[:, 0]), name="count")
    ts.tag(rates.sum(1), name="total")
    ts.observe(ts.Normal(mu + rates.mean(1) + count, 0.5), name="seen")
    return mu


with_numpy = BatchedSimulator(program, name="numpy")
with_torch = BatchedSimulator(program, name="torch", arrays="torch")


def test_traces_are_the_same():
    numpy_batch: Any = run_batch(with_numpy, 100, np.random.default_rng(1))
    torch_batch: Any = run_batch(with_torch, 100, np.random.default_rng(1))
    assert torch_batch.layouts == numpy_batch.layouts
    np.testing.assert_allclose(torch_batch.values, numpy_batch.values, rtol=1e-14)
    np.testing.assert_allclose(torch_batch.log_probs, numpy_batch.log_probs, rtol=1e-12)
    np.testing.assert_allclose(torch_batch.observations["seen"], numpy_batch.observations["seen"], rtol=1e-12)


def test_programs_see_tensors_without_gradients():
    seen = []

    def look():
        seen.append(ts.sample(ts.Normal(0.0, 1.0), name="x"))
        seen.append(ts.observe(ts.Normal(seen[-1], 1.0), name="y"))
        seen.append(ts.sample(ts.Poisson(2.0)))

    run_batch(BatchedSimulator(look, arrays="torch"), 3, np.random.default_rng(1))
    assert [value.dtype for value in seen] == [torch.float64, torch.float64, torch.int64]
    assert not any(value.requires_grad for value in seen)


def test_weights_of_a_network_leave_no_gradient_in_a_plain_run():
    layer = torch.nn.Linear(1, 1, dtype=torch.float64)

    def look():
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        ts.observe(ts.Normal(layer(x[:, None])[:, 0], 1.0), name="y")
        ts.tag(layer.weight[0, 0], name="weight")
        return layer(x[:, None])[:, 0]

    batch = run_batch(BatchedSimulator(look, arrays="torch"), 3, np.random.default_rng(1))
    assert not batch.failures


def test_one_trace_alone_sees_tensors_too():
    trace = run_trace(with_torch, PriorController(), np.random.default_rng(1))
    assert trace.failure == ""
    assert trace.values.shape == (1 + 3 + 1 + 1 + 1,)


def test_a_store_is_written(tmp_path):
    store = ts.simulate(with_torch, tmp_path / "traces", num_traces=50, seed=1)
    assert len(store) == 50
    assert set(store[0].observations) == {"seen"}


def test_other_arrays_are_refused():
    with pytest.raises(InvalidInputError, match="`arrays` must be one of 'numpy', 'torch'; got 'jax'"):
        BatchedSimulator(program, arrays="jax")


def test_parameters_with_gradients_are_numbers_for_everybody_else():
    mean = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    prior = ts.Normal(mean, 1.0)
    assert prior == ts.Normal([1.0, 2.0], 1.0)
    given: Any = prior.given_tensors
    assert given[0] is mean
    assert ts.Normal(mean.detach(), 1.0).given_tensors is None
