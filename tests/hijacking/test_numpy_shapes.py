import warnings

import numpy as np
import pytest

from tests.hijacking.numpy_calls import BROADCAST, GENERATOR, LEGACY, SIZED, Call, make, recorded
from tracestore.hijacking import hijack
from tracestore.simulators import PriorController, Simulator, run_trace

SIZES = [None, 3, (2, 3), (), 0, 1]
CALLS = [
    *[
        (kind, call._replace(options={**call.options, "size": size}))
        for kind in ("Generator", "RandomState")
        for call in SIZED
        for size in SIZES
    ],
    *[(kind, call) for kind in ("Generator", "RandomState") for call in [*SIZED, *BROADCAST]],
    *[("Generator", call) for call in GENERATOR],
    *[("RandomState", call) for call in LEGACY],
]


def described(value):
    if isinstance(value, np.ndarray):
        return (
            np.ndarray,
            value.dtype.kind if value.dtype.kind == "U" else value.dtype,
            value.shape,
            value.flags.writeable,
        )
    if isinstance(value, list):
        return [described(part) for part in value]
    return type(value)


@pytest.mark.parametrize(("kind", "call"), CALLS, ids=[f"{kind}-{call}" for kind, call in CALLS])
def test_answers_have_the_types_and_shapes_of_numpy(kind, call):
    native = getattr(make(kind), call.method)(*call.args, **call.options)
    found, trace = recorded(call, kind)
    assert trace.failure == ""
    assert described(found[0]) == described(native)


@pytest.mark.parametrize(("kind", "call"), CALLS, ids=[f"{kind}-{call}" for kind, call in CALLS])
def test_answers_differ_with_the_trace_alone(kind, call):
    first, trace = recorded(call, kind, seed=1)
    again, _ = recorded(call, kind, seed=1)
    if call.method != "spawn":
        np.testing.assert_array_equal(first[0], again[0])
    assert all(np.isfinite(log_prob) for log_prob in trace.log_probs)


BAD = [
    ("Generator", Call("normal", (0.0, -1.0))),
    ("Generator", Call("normal", ([0.0, 1.0], [1.0, -1.0]))),
    ("Generator", Call("normal", (0.0, 1.0, -3))),
    ("Generator", Call("normal", (0.0, 1.0), {"sigma": 3})),
    ("Generator", Call("normal", ("a", 1.0))),
    ("Generator", Call("normal", ([0.0, 1.0], 1.0, 3))),
    ("Generator", Call("gamma", (-1.0,))),
    ("Generator", Call("gamma", ())),
    ("Generator", Call("poisson", (-1.0,))),
    ("Generator", Call("poisson", (float("nan"),))),
    ("Generator", Call("binomial", (-1, 0.5))),
    ("Generator", Call("binomial", (3, 1.5))),
    ("Generator", Call("geometric", (0.0,))),
    ("Generator", Call("integers", (5, 5))),
    ("Generator", Call("integers", (0, 300), {"dtype": np.uint8})),
    ("Generator", Call("integers", (0, 3), {"dtype": float})),
    ("Generator", Call("choice", (0,))),
    ("Generator", Call("choice", ([],))),
    ("Generator", Call("choice", (3, 4), {"replace": False})),
    ("Generator", Call("choice", (3,), {"p": [0.5, 0.4, 0.0]})),
    ("Generator", Call("choice", (2.5,))),
    ("Generator", Call("random", (3,), {"dtype": np.int64})),
    ("Generator", Call("standard_gamma", (1.0,), {"out": [1.0]})),
    ("Generator", Call("permutation", (2.5,))),
    ("Generator", Call("shuffle", (5,))),
    ("Generator", Call("shuffle", ((1, 2),))),
    ("Generator", Call("dirichlet", ([-1.0, 2.0],))),
    ("Generator", Call("multinomial", (3, [0.9, 0.9, 0.0]))),
    ("Generator", Call("multivariate_normal", ([0.0, 1.0], [[1.0]]))),
    ("Generator", Call("triangular", (2.0, 1.0, 0.0))),
    ("Generator", Call("hypergeometric", (3, 4, 9))),
    ("Generator", Call("zipf", (0.5,))),
    ("RandomState", Call("randint", (0,))),
    ("RandomState", Call("normal", (0.0, -1.0))),
    ("RandomState", Call("seed", (-1,))),
    ("RandomState", Call("choice", (3, 4, False))),
    ("RandomState", Call("rand", (-1,))),
]


@pytest.mark.parametrize(("kind", "call"), BAD, ids=[f"{kind}-{call}" for kind, call in BAD])
def test_bad_arguments_raise_the_errors_of_numpy(kind, call):
    with pytest.raises(Exception) as native:  # noqa: PT011  # any, to be compared with
        getattr(make(kind), call.method)(*call.args, **call.options)
    _, trace = recorded(call, kind)
    assert trace.failure == f"{type(native.value).__name__}: {native.value}"


def in_run(function):
    found = []

    def program():
        with hijack("numpy"):
            found.append(function())

    trace = run_trace(Simulator(program), PriorController(), np.random.default_rng(1))
    assert trace.failure == ""
    return found[0], trace


def test_out_is_filled_and_returned():
    out = np.zeros(4)
    found, _ = in_run(lambda: make("Generator").standard_normal(out=out))
    assert found is out
    assert (out != 0.0).all()


class Top(PriorController):
    """Gives uniform draws their upper bound, as a proposal may."""

    def draw(self, site, prior, rng):
        high = prior.support[1]
        return (np.full(prior.shape, high) if prior.shape else high), 0.0


@pytest.mark.parametrize(
    ("kind", "method", "args", "bound"),
    [
        ("Generator", "random", (), 1),
        ("Generator", "random", (2,), 1),
        ("Generator", "random", (2, np.float32), 1),
        ("Generator", "random", (None, np.float32), 1),
        ("RandomState", "random_sample", (), 1),
        ("RandomState", "random_sample", (2,), 1),
        ("RandomState", "rand", (), 1),
        ("RandomState", "rand", (2,), 1),
        ("Generator", "integers", (0, 5, 2), 5),
        ("Generator", "integers", (0, 5000), 5000),
        ("Generator", "integers", (0, 2**62), 2**62),
        ("Generator", "choice", (5, 3), 5),
        ("Generator", "choice", (5, 3, False), 5),
        ("Generator", "choice", (3, 2, True, [0.5, 0.5, 0.0]), 2),
        ("Generator", "choice", (3, 2, False, [0.5, 0.5, 0.0]), 2),
        ("Generator", "permutation", (5,), 5),
        ("Generator", "standard_cauchy", (), np.inf),
        ("Generator", "laplace", (0.0, 1.0), np.inf),
        ("Generator", "logistic", (0.0, 1.0), np.inf),
        ("Generator", "hypergeometric", ([5, 5], 5, 4), 5),
    ],
)
def test_answers_stay_below_their_bounds(kind, method, args, bound):
    found = []

    def program():
        with hijack("numpy"):
            found.append(getattr(make(kind), method)(*args))

    trace = run_trace(Simulator(program), Top(), np.random.default_rng(1))
    assert trace.failure == ""
    assert np.max(found[0]) < bound


@pytest.mark.parametrize("kind", ["Generator", "RandomState"])
@pytest.mark.parametrize("make_sequence", [list, np.array, bytearray, lambda values: np.array(values)[:, None]])
def test_shuffle_reorders_in_place(kind, make_sequence):
    sequence = make_sequence([*range(30)])
    found, trace = in_run(lambda: make(kind).shuffle(sequence))
    numbers = np.asarray(sequence).ravel().tolist() if isinstance(sequence, np.ndarray) else [*sequence]
    assert found is None
    assert sorted(numbers) == [*range(30)]
    assert numbers != [*range(30)]
    assert [site.shape for site in trace.sites] == [(29,)]


def test_shuffle_along_an_axis_moves_columns():
    table = np.arange(12).reshape(2, 6)
    in_run(lambda: make("Generator").shuffle(table, axis=1))
    assert (table[1] - table[0] == 6).all()


def test_read_only_arrays_are_not_shuffled():
    array = np.arange(5)
    array.flags.writeable = False
    _, trace = recorded(Call("shuffle", (array,)), "Generator")
    assert trace.failure == "ValueError: array is read-only"


def test_permuted_writes_into_out():
    out = np.zeros((2, 3), np.int64)
    found, _ = in_run(lambda: make("Generator").permuted([[1, 2, 3], [4, 5, 6]], axis=1, out=out))
    assert found is out
    assert np.sort(out, axis=1).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_vector_draw_is_one_site():
    _, trace = in_run(lambda: make("Generator").normal([0.0, 1.0, 2.0], 2.0))
    (site,) = trace.sites
    assert site.address.endswith(".normal([0.0,1.0,2.0],2.0)/normal~Normal[3]#1")


def test_old_integers_warn_as_numpy_does():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        value, _ = in_run(lambda: make("RandomState").random_integers(3))
    assert {str(one.category.__name__) for one in found} == {"DeprecationWarning"}
    assert 1 <= value <= 3


def test_odd_sequences_are_refused_by_name():
    class Odd:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return index

        def __setitem__(self, index, value):
            pass

    from tracestore.errors import SimulatorProtocolError

    with pytest.raises(SimulatorProtocolError, match="numpy's `shuffle` cannot be recorded for Odd"):
        in_run(lambda: make("Generator").shuffle(Odd()))
