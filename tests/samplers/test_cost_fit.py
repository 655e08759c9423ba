from types import SimpleNamespace

import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.samplers.cost_fit import CostRecorder, fit_costs

PER_STEP, PER_TRACE, PER_SITE, PER_BYTE = 3e-3, 2e-4, 1e-5, 2e-9


def make_steps(num_steps=200, *, seed=1, noise=0.0):
    """Counts of steps of many sizes and lengths, and times by a known model."""
    rng = np.random.default_rng(seed)
    num_traces = rng.integers(8, 128, num_steps)
    num_sites = num_traces * rng.integers(5, 80, num_steps)
    observed = num_traces * rng.integers(1_000, 60_000, num_steps)
    seconds = PER_STEP + PER_TRACE * num_traces + PER_SITE * num_sites + PER_BYTE * observed
    return num_traces, num_sites, observed, seconds * np.exp(noise * rng.standard_normal(num_steps))


def coefficients(fit):
    return [fit.per_step, fit.cost.per_trace, fit.cost.per_site, fit.cost.per_observation_byte]


def test_exact_times_give_their_coefficients():
    fit = fit_costs(*make_steps())
    assert coefficients(fit) == pytest.approx([PER_STEP, PER_TRACE, PER_SITE, PER_BYTE], rel=1e-6)
    assert fit.r_squared == pytest.approx(1)
    assert (fit.num_steps, fit.num_outliers, fit.inseparable) == (200, 0, ())


def test_noise_moves_the_coefficients_little():
    fit = fit_costs(*make_steps(400, noise=0.05))
    assert coefficients(fit)[1:] == pytest.approx([PER_TRACE, PER_SITE, PER_BYTE], rel=0.1)
    assert 0.95 < fit.r_squared < 1


@pytest.mark.parametrize("seed", range(5))
def test_slow_steps_are_left_out(seed):
    traces, sites, observed, seconds = make_steps(400, seed=seed, noise=0.02)
    clean = fit_costs(traces, sites, observed, seconds)
    slow = np.random.default_rng(seed).choice(400, 20, replace=False)
    seconds[slow] *= 10
    fit = fit_costs(traces, sites, observed, seconds)
    assert fit.num_outliers >= 20
    assert coefficients(fit)[1:] == pytest.approx(coefficients(clean)[1:], rel=0.04)


def test_no_coefficient_is_negative():
    num_traces, num_sites, observed, _ = make_steps()
    fit = fit_costs(num_traces, num_sites, observed, 1.0 + 0.1 * num_sites - 1e-7 * observed)
    assert fit.cost.per_observation_byte == 0
    assert fit.cost.per_site == pytest.approx(0.1, rel=0.01)


def test_bytes_that_are_a_multiple_of_traces_go_to_the_traces():
    num_traces, num_sites, _, _ = make_steps()
    fit = fit_costs(num_traces, num_sites, 4_000 * num_traces, PER_TRACE * num_traces + PER_SITE * num_sites)
    assert fit.inseparable == ("per_observation_byte",)
    assert coefficients(fit) == pytest.approx([0, PER_TRACE, PER_SITE, 0], rel=1e-6, abs=1e-12)


def test_traces_of_one_length_have_no_cost_per_site():
    num_traces, _, observed, _ = make_steps()
    fit = fit_costs(num_traces, 7 * num_traces, observed, PER_TRACE * num_traces + PER_BYTE * observed)
    assert fit.inseparable == ("per_site",)
    assert fit.cost.per_trace == pytest.approx(PER_TRACE)


def test_batches_of_one_size_have_no_cost_per_trace():
    _, num_sites, _, _ = make_steps()
    same = np.full(200, 64)
    fit = fit_costs(same, num_sites, 100 * same, PER_STEP + PER_SITE * num_sites)
    assert fit.inseparable == ("per_trace", "per_observation_byte")
    assert coefficients(fit) == pytest.approx([PER_STEP, 0, PER_SITE, 0], rel=1e-6)


def test_no_observations_cost_nothing():
    num_traces, num_sites, _, _ = make_steps()
    fit = fit_costs(num_traces, num_sites, np.zeros(200), PER_TRACE * num_traces + PER_SITE * num_sites)
    assert fit.cost.per_site == pytest.approx(PER_SITE)


def test_units_of_time_only_scale_the_costs():
    traces, sites, observed, seconds = make_steps(noise=0.05)
    fit, nanoseconds = fit_costs(traces, sites, observed, seconds), fit_costs(traces, sites, observed, seconds * 1e9)
    assert np.array(coefficients(nanoseconds)) == pytest.approx(np.array(coefficients(fit)) * 1e9)


def test_steps_that_are_all_alike_are_refused():
    with pytest.raises(InvalidInputError, match="All steps are alike"):
        fit_costs(np.full(20, 64), np.full(20, 640), np.full(20, 100), np.linspace(1, 2, 20))


def test_times_that_do_not_grow_are_refused():
    num_traces, num_sites, observed, _ = make_steps()
    with pytest.raises(InvalidInputError, match="do not grow"):
        fit_costs(num_traces, num_sites, observed, np.full(200, 0.5))


def test_too_few_steps_are_refused():
    with pytest.raises(InvalidInputError, match=r"at least 8 steps; got shape \(7,\)"):
        fit_costs(*(column[:7] for column in make_steps()))


@pytest.mark.parametrize("name", ["num_traces", "num_sites", "observation_bytes"])
def test_columns_of_another_length_are_refused(name):
    columns = dict(zip(("num_traces", "num_sites", "observation_bytes", "seconds"), make_steps(), strict=True))
    columns[name] = columns[name][1:]
    with pytest.raises(InvalidInputError, match=rf"`{name}` must have shape \(200,\), as `seconds` has; got \(199,\)"):
        fit_costs(**columns)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_impossible_times_are_refused(value):
    traces, sites, observed, seconds = make_steps()
    seconds[3] = value
    with pytest.raises(InvalidInputError, match="`seconds` must be finite and not negative; entry 3 is"):
        fit_costs(traces, sites, observed, seconds)


def make_batch(lengths):
    """A batch of two layouts, with observations of ten single-precision numbers."""

    class Batch(SimpleNamespace):
        def __len__(self):
            return len(self.layout_index)

    return Batch(
        layouts=(SimpleNamespace(num_sites=4), SimpleNamespace(num_sites=20)),
        layout_index=np.array(lengths),
        observations={"seen": np.zeros((len(lengths), 10), np.float32)},
    )


def test_recorder_counts_what_is_in_a_batch():
    recorder, rng = CostRecorder(), np.random.default_rng(2)
    for _ in range(30):
        lengths = rng.integers(0, 2, rng.integers(1, 60))
        batch = make_batch(lengths)
        recorder.record(batch, 0.5 + 0.25 * len(batch) + 0.125 * np.sum(np.where(lengths, 20, 4)))
    fit = recorder.fit()
    assert len(recorder) == 30
    assert coefficients(fit) == pytest.approx([0.5, 0.25, 0.125, 0], abs=1e-6)


def test_recorder_without_steps_has_no_fit():
    with pytest.raises(InvalidInputError, match=r"at least 8 steps; got shape \(0,\)"):
        CostRecorder().fit()
