"""torch under `hijack`: which prior each operation draws from, gradients, what is refused, what is left alone."""

import math

import numpy as np
import pytest

from tracestore.errors import SimulatorProtocolError
from tracestore.hijacking import hijack, leaks
from tracestore.simulators import PriorController, ReplayController, Simulator, run_trace
from tracestore.traces import TraceStatus

torch = pytest.importorskip("torch")
functional = torch.nn.functional
families = torch.distributions
ONES = torch.ones(4)
GENERATOR = torch.Generator()


@pytest.fixture(autouse=True)
def _first_run(monkeypatch):
    """Look for leaks in every test, although all run the same program."""
    monkeypatch.setattr(leaks, "_num_runs", {})


def record(function, controller=None, **options):
    """Run a function with its draws recorded; return the trace and what the function returned."""
    found = []

    def program():
        with hijack("torch"):
            found.append(function())

    trace = run_trace(Simulator(program), controller or PriorController(), np.random.default_rng(1), **options)
    return trace, found[0] if found else None


def suffixes(trace):
    """Kinds of the sites of a trace."""
    return [site.address.rpartition("~")[2].partition("#")[0] for site in trace.sites]


OPERATIONS = {
    "randn": (lambda: torch.randn(2, 3), "Normal[2,3]"),
    "randn of a generator": (lambda: torch.randn(3, generator=GENERATOR), "Normal[3]"),
    "randn with out": (lambda: torch.randn(3, out=torch.empty(3)), "Normal[3]"),
    "randn_like": (lambda: torch.randn_like(ONES, dtype=torch.float64), "Normal[4]"),
    "scalar randn": (lambda: torch.randn(()), "Normal"),
    "rand": (lambda: torch.rand(3), "Uniform[3]"),
    "rand_like": (lambda: torch.rand_like(ONES), "Uniform[4]"),
    "normal of tensors": (lambda: torch.normal(2.0 * ONES, ONES), "Normal[4]"),
    "normal of a tensor and a number": (lambda: torch.normal(2.0 * ONES, 3.0), "Normal[4]"),
    "normal of a number and a tensor": (lambda: torch.normal(2.0, ONES), "Normal[4]"),
    "normal of numbers": (lambda: torch.normal(2.0, 3.0, (4,)), "Normal[4]"),
    "normal without spread": (lambda: torch.normal(2.0, 0.0, (4,)), "Normal[4]"),
    "normal_": (lambda: torch.empty(4).normal_(2.0, 3.0), "Normal[4]"),
    "uniform_": (lambda: torch.empty(4).uniform_(2.0, 3.0), "Uniform[4]"),
    "exponential_": (lambda: torch.empty(4).exponential_(3.0), "Exponential[4]"),
    "log_normal_": (lambda: torch.empty(4).log_normal_(0.0, 0.5), "LogNormal[4]"),
    "cauchy_": (lambda: torch.empty(4).cauchy_().atan(), "Uniform[4]"),
    "geometric_": (lambda: torch.empty(4).geometric_(0.3), "Exponential[4]"),
    "bernoulli_": (lambda: torch.empty(4).bernoulli_(0.3), "Bernoulli[4]"),
    "bernoulli_ of a tensor": (lambda: torch.empty(4).bernoulli_(0.3 * ONES), "Bernoulli[4]"),
    "bernoulli": (lambda: torch.bernoulli(0.3 * ONES), "Bernoulli[4]"),
    "bernoulli of a number": (lambda: torch.bernoulli(ONES, 0.3), "Bernoulli[4]"),
    "random_ of few": (lambda: torch.empty((), dtype=torch.int64).random_(3, 9), "Categorical(6)"),
    "random_ of all": (lambda: torch.empty(4, dtype=torch.int16).random_(), "Uniform[4]"),
    "random_ of a float": (lambda: torch.empty(4).random_(), "Uniform[4]"),
    "randint": (lambda: torch.randint(2, 7, (4,)), "Uniform[4]"),
    "randint of one": (lambda: torch.randint(7, (1,)), "Categorical(7)"),
    "randint_like": (lambda: torch.randint_like(ONES, 7), "Uniform[4]"),
    "randperm": (lambda: torch.randperm(5)[0], "Uniform[5]"),
    "poisson": (lambda: torch.poisson(3.0 * ONES), "Poisson[4]"),
    "binomial": (lambda: torch.binomial(5.0 * ONES, 0.3 * ONES), "Binomial[4]"),
    "multinomial": (lambda: torch.multinomial(torch.tensor([0.2, 0.8]), 1), "Categorical(2)"),
    "multinomial, several": (lambda: torch.multinomial(torch.tensor([0.2, 0.8]), 4, replacement=True), "Uniform[4]"),
    "multinomial, rows": (lambda: torch.multinomial(torch.tensor([[0.2, 0.8], [1.0, 0.0]]), 1), "Uniform[2,1]"),
    "multinomial without replacement": (
        lambda: torch.multinomial(torch.tensor([0.2, 0.5, 0.0, 0.3]), 2)[0],
        "Exponential[4]",
    ),
    "dropout": (lambda: functional.dropout(ONES, 0.3), "Bernoulli[4]"),
    "rand of half precision": (lambda: torch.rand(4, dtype=torch.float16), "Uniform[4]"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_one_draw_of_the_shape_of_its_result(name):
    trace, _ = record(OPERATIONS[name][0])
    assert suffixes(trace) == [OPERATIONS[name][1]]


@pytest.mark.parametrize("name", OPERATIONS)
def test_recorded_tensors_are_like_those_of_the_operation(name):
    call = OPERATIONS[name][0]
    number = 500
    _, found = record(lambda: [call() for _ in range(number)])
    torch.manual_seed(3)
    expected = [call() for _ in range(number)]
    assert {(one.shape, one.dtype) for one in found} == {(one.shape, one.dtype) for one in expected}
    ours, theirs = (torch.stack(one).double() for one in (found, expected))
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.15)
    assert abs((ours.mean() - theirs.mean()).item()) <= 5.0 * theirs.std().item() / math.sqrt(ours.numel()) + 1e-12


def test_multinomial_without_replacement_takes_the_first_category_by_weight():
    weights = torch.tensor([0.1, 0.6, 0.0, 0.3])
    _, found = record(lambda: [torch.multinomial(weights, 3) for _ in range(1000)])
    first = torch.stack(found)[:, 0].bincount(minlength=4) / 1000.0
    assert all(sorted(one.tolist()) == [0, 1, 3] for one in found)
    assert (first - weights).abs().max() < 0.05


FAMILIES = {
    "Normal": lambda: families.Normal(torch.zeros(2), torch.ones(2)),
    "Bernoulli": lambda: families.Bernoulli(torch.tensor([0.3, 0.4])),
    "Beta": lambda: families.Beta(torch.tensor(2.0), torch.tensor(3.0)),
    "Binomial": lambda: families.Binomial(10, torch.tensor(0.3)),
    "Categorical": lambda: families.Categorical(torch.tensor([0.2, 0.8])),
    "Cauchy": lambda: families.Cauchy(torch.tensor(0.0), torch.tensor(1.0)),
    "Chi2": lambda: families.Chi2(torch.tensor(3.0)),
    "ContinuousBernoulli": lambda: families.ContinuousBernoulli(torch.tensor(0.3)),
    "Dirichlet": lambda: families.Dirichlet(torch.tensor([1.0, 2.0, 3.0])),
    "Exponential": lambda: families.Exponential(torch.tensor(2.0)),
    "FisherSnedecor": lambda: families.FisherSnedecor(torch.tensor(3.0), torch.tensor(9.0)),
    "Gamma": lambda: families.Gamma(torch.tensor(2.0), torch.tensor(3.0)),
    "Geometric": lambda: families.Geometric(torch.tensor(0.3)),
    "Gumbel": lambda: families.Gumbel(torch.tensor(0.0), torch.tensor(1.0)),
    "HalfCauchy": lambda: families.HalfCauchy(torch.tensor(1.0)),
    "HalfNormal": lambda: families.HalfNormal(torch.tensor(1.0)),
    "InverseGamma": lambda: families.InverseGamma(torch.tensor(4.0), torch.tensor(1.0)),
    "Kumaraswamy": lambda: families.Kumaraswamy(torch.tensor(2.0), torch.tensor(1.0)),
    "LKJCholesky": lambda: families.LKJCholesky(3, 1.0),
    "Laplace": lambda: families.Laplace(torch.tensor(0.0), torch.tensor(1.0)),
    "LogNormal": lambda: families.LogNormal(torch.tensor(0.0), torch.tensor(1.0)),
    "LogisticNormal": lambda: families.LogisticNormal(torch.zeros(2), torch.ones(2)),
    "LowRankMultivariateNormal": lambda: families.LowRankMultivariateNormal(
        torch.zeros(3), torch.ones(3, 1), torch.ones(3)
    ),
    "MixtureSameFamily": lambda: families.MixtureSameFamily(
        families.Categorical(torch.tensor([0.2, 0.8])), families.Normal(torch.zeros(2), torch.ones(2))
    ),
    "Multinomial": lambda: families.Multinomial(5, torch.tensor([0.2, 0.8])),
    "MultivariateNormal": lambda: families.MultivariateNormal(torch.zeros(2), torch.eye(2)),
    "NegativeBinomial": lambda: families.NegativeBinomial(3.0, torch.tensor(0.3)),
    "OneHotCategorical": lambda: families.OneHotCategorical(torch.tensor([0.2, 0.8])),
    "Pareto": lambda: families.Pareto(torch.tensor(1.0), torch.tensor(5.0)),
    "Poisson": lambda: families.Poisson(torch.tensor(3.0)),
    "RelaxedBernoulli": lambda: families.RelaxedBernoulli(torch.tensor(0.5), torch.tensor(0.3)),
    "RelaxedOneHotCategorical": lambda: families.RelaxedOneHotCategorical(torch.tensor(0.5), torch.tensor([0.2, 0.8])),
    "StudentT": lambda: families.StudentT(torch.tensor(5.0)),
    "Uniform": lambda: families.Uniform(torch.tensor(0.0), torch.tensor(2.0)),
    "VonMises": lambda: families.VonMises(torch.tensor(0.0), torch.tensor(2.0)),
    "Weibull": lambda: families.Weibull(torch.tensor(1.0), torch.tensor(2.0)),
    "Wishart": lambda: families.Wishart(torch.tensor(4.0), torch.eye(2)),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:Singular sample detected")
def test_every_family_is_recorded_and_replayed(name):
    family = FAMILIES[name]()
    trace, value = record(family.sample)
    assert trace.failure == ""
    assert len(trace) >= 1
    assert torch.isfinite(value).all()
    assert family.support.check(value).all()
    assert torch.equal(record(family.sample, ReplayController(trace))[1], value)


def test_gradients_flow_through_reparametrized_samples():
    loc, scale = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    trace, value = record(lambda: families.Normal(loc, scale).rsample())
    value.backward()
    assert loc.grad.item() == 1.0
    assert scale.grad.item() == pytest.approx(trace.value(0), rel=1e-6)


def test_gradients_of_gamma_and_dirichlet_are_those_of_torch_at_the_recorded_value():
    concentration = torch.tensor([2.0, 3.0, 4.0], requires_grad=True)
    _, value = record(lambda: families.Gamma(concentration, 1.0).rsample())
    value.sum().backward()
    expected = torch._standard_gamma_grad(concentration.detach(), value.detach())
    assert torch.allclose(concentration.grad, expected)
    _, shares = record(lambda: families.Dirichlet(concentration).rsample())
    shares[0].backward()
    assert torch.isfinite(concentration.grad).all()


def test_dropout_keeps_its_gradient():
    inputs = torch.ones(6, requires_grad=True)
    trace, value = record(lambda: functional.dropout(inputs, 0.5))
    value.sum().backward()
    assert inputs.grad.tolist() == (2.0 * trace.value(0)).tolist()


def test_draws_below_one_stay_below_one_in_single_precision():
    class Ones:
        def draw(self, site, prior, rng):
            value = np.ones(prior.shape)
            return value, prior.log_prob(value)

    _, value = record(lambda: torch.rand(3), Ones())
    assert (value < 1.0).all()


def test_a_whole_layer_is_a_program():
    trace, _ = record(lambda: torch.nn.Linear(2, 3))
    assert suffixes(trace) == ["Uniform[3,2]", "Uniform[3]"]


def test_nothing_is_drawn_for_an_empty_tensor_or_a_certain_number():
    trace, (_, certain) = record(lambda: (torch.randn(0), torch.randint(4, 5, (2,))))
    assert len(trace) == 0
    assert certain.tolist() == [4, 4]


def test_seeds_are_ignored_during_a_run_and_states_kept():
    state = torch.get_rng_state()

    def program():
        torch.manual_seed(1)
        first = torch.rand(1)
        torch.manual_seed(1)
        return first, torch.rand(1)

    _, (first, second) = record(program)
    assert first != second
    assert torch.equal(torch.get_rng_state(), state)


def test_outside_of_a_run_seeds_hold():
    torch.manual_seed(1)
    expected = torch.rand(3)
    with hijack("torch"):
        torch.manual_seed(1)
        assert torch.equal(torch.rand(3), expected)


def test_an_operation_without_a_prior_is_refused_by_name():
    with pytest.raises(SimulatorProtocolError, match="rrelu_with_noise of torch cannot be recorded"):
        record(lambda: functional.rrelu(-ONES, training=True))


def test_complex_numbers_are_refused():
    with pytest.raises(SimulatorProtocolError, match="randn of torch cannot be recorded: its result is complex"):
        record(lambda: torch.randn(2, dtype=torch.complex64))


def test_a_refused_operation_ends_the_run_even_when_the_program_swallows_the_error():
    def program():
        try:
            torch.randn(2, dtype=torch.complex64)
        except SimulatorProtocolError:
            return 1

    with pytest.raises(SimulatorProtocolError, match="complex"):
        record(program)


def test_an_operation_that_might_draw_and_does_not_is_left_alone():
    query = torch.ones(1, 1, 2, 2)
    trace, value = record(lambda: functional.scaled_dot_product_attention(query, query, query))
    assert (len(trace), value.sum().item()) == (0, 4.0)


def test_wrong_parameters_raise_what_they_always_did():
    trace, _ = record(lambda: torch.normal(ONES, -ONES))
    assert trace.failure.startswith("RuntimeError: normal expects all elements of std >= 0.0")


def test_a_cap_ends_the_run_as_failed_and_the_next_is_clean():
    capped, _ = record(lambda: [torch.rand(1) for _ in range(50)], max_sites=10)
    assert (capped.status, len(capped)) == (TraceStatus.CAPPED, 10)
    assert len(record(lambda: torch.rand(1))[0]) == 1


def test_functions_are_as_before_after_a_run():
    before = torch.manual_seed, torch.random.manual_seed, torch.seed, torch.set_rng_state
    record(lambda: torch.rand(1))
    assert (torch.manual_seed, torch.random.manual_seed, torch.seed, torch.set_rng_state) == before
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_torch_is_rerouted_without_being_asked_for_when_it_is_loaded():
    def program():
        with hijack():
            torch.rand(1)

    assert len(run_trace(Simulator(program), PriorController(), np.random.default_rng(1))) == 1
