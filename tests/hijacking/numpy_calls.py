"""Calls of numpy's methods that tests make, by name: method, arguments, options."""

from typing import Any, NamedTuple

import numpy as np

from tracestore.hijacking import hijack
from tracestore.simulators import PriorController, Simulator, run_trace
from tracestore.traces.trace import Trace


class Call(NamedTuple):
    method: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed


MATRIX = [[2.0, 0.5], [0.5, 1.0]]
# what both kinds of generators have and takes `size` as an option
SIZED = [
    Call("random"),
    Call("uniform", (-1.0, 2.0)),
    Call("standard_normal"),
    Call("normal", (1.0, 2.0)),
    Call("lognormal", (0.1, 0.5)),
    Call("exponential", (2.0,)),
    Call("standard_exponential"),
    Call("gamma", (2.5, 3.0)),
    Call("standard_gamma", (0.7,)),
    Call("chisquare", (3.0,)),
    Call("beta", (2.0, 3.0)),
    Call("power", (3.0,)),
    Call("weibull", (1.7,)),
    Call("rayleigh", (2.0,)),
    Call("vonmises", (0.5, 2.0)),
    Call("poisson", (4.0,)),
    Call("binomial", (10, 0.3)),
    Call("binomial", (1, 0.3)),
    Call("standard_cauchy"),
    Call("laplace", (1.0, 2.0)),
    Call("logistic", (1.0, 2.0)),
    Call("triangular", (-1.0, 0.5, 2.0)),
    Call("gumbel", (1.0, 2.0)),
    Call("pareto", (3.0,)),
    Call("geometric", (0.3,)),
    Call("negative_binomial", (4, 0.3)),
    Call("standard_t", (5.0,)),
    Call("f", (5.0, 7.0)),
    Call("noncentral_chisquare", (3.0, 2.0)),
    Call("noncentral_f", (5.0, 9.0, 2.0)),
    Call("wald", (2.0, 3.0)),
    Call("logseries", (0.6,)),
    Call("zipf", (3.0,)),
    Call("hypergeometric", (7, 5, 6)),
    Call("multinomial", (8, [0.2, 0.3, 0.5])),
    Call("dirichlet", ([0.5, 1.0, 2.0],)),
    Call("multivariate_normal", ([0.0, 1.0], MATRIX)),
    Call("choice", (5,)),
    Call("choice", (5000,)),
    Call("choice", ([1.5, 2.5, 3.5],)),
    Call("choice", (["a", "bb"],), {"p": [0.3, 0.7]}),
]
# array parameters
BROADCAST = [
    Call("normal", ([0.0, 1.0], 2.0)),
    Call("normal", ([[0.0], [1.0]], [1.0, 2.0, 0.0])),
    Call("uniform", ([0.0, 1.0], [2.0, 1.0])),
    Call("exponential", ([1.0, 0.0, 2.0],)),
    Call("poisson", ([1.0, 0.0, 30.0],)),
    Call("binomial", ([1, 10, 0], 0.5)),
    Call("gamma", ([1.0, 2.0], 3.0)),
    Call("geometric", ([0.1, 1.0],)),
    Call("hypergeometric", ([3, 4], 5, 2)),
    Call("logseries", ([0.2, 0.9],)),
    Call("zipf", ([2.0, 4.0],)),
    Call("wald", ([1.0, 2.0], 3.0)),
    Call("beta", ([1.0, 2.0], 3.0)),
]
GENERATOR = [
    Call("random", (), {"dtype": np.float32}),
    Call("random", (3,), {"dtype": np.float32}),
    Call("standard_normal", (3,), {"dtype": np.float32}),
    Call("standard_exponential", (3,), {"dtype": np.float32, "method": "inv"}),
    Call("standard_gamma", (2.0, 3), {"dtype": np.float32}),
    Call("integers", (10,)),
    Call("integers", (5, 6)),
    Call("integers", (-3, 5), {"endpoint": True}),
    Call("integers", (0, 2**40)),
    Call("integers", (0, 2**64), {"dtype": np.uint64}),
    Call("integers", (0, 2**63, 4)),
    Call("integers", (10, None, (2, 3))),
    Call("integers", (0, 2), {"dtype": bool}),
    Call("integers", (0, 2, 5), {"dtype": bool}),
    Call("integers", (0, 200), {"dtype": np.uint8, "size": 3}),
    Call("integers", ([1, 5], [2, 9])),
    Call("integers", (0, [2, 9, 2**40])),
    Call("bytes", (7,)),
    Call("bytes", (0,)),
    Call("choice", (10, 4), {"replace": False}),
    Call("choice", (4, 4), {"replace": False, "p": [0.1, 0.2, 0.3, 0.4]}),
    Call("choice", ([[1, 2], [3, 4], [5, 6]],)),
    Call("choice", ([[1, 2], [3, 4], [5, 6]], 2), {"axis": 1}),
    Call("choice", ([[1, 2], [3, 4], [5, 6]], (2, 2)), {"p": [0.2, 0.3, 0.5]}),
    Call("choice", (3, 0)),
    Call("permutation", (6,)),
    Call("permutation", (1,)),
    Call("permutation", ([3.0, 4.0, 5.0],)),
    Call("permutation", ([[1, 2, 3], [4, 5, 6]],), {"axis": 1}),
    Call("permuted", ([[1, 2, 3], [4, 5, 6]],)),
    Call("permuted", ([[1, 2, 3], [4, 5, 6]],), {"axis": 0}),
    Call("permuted", ([[1, 2, 3], [4, 5, 6]],), {"axis": 1}),
    Call("multinomial", ([3, 5], [[0.2, 0.8], [1.0, 0.0]])),
    Call("multivariate_hypergeometric", ([3, 4, 5], 6)),
    Call("multivariate_hypergeometric", ([3, 0, 5], 6, 3)),
    Call("multivariate_normal", ([0.0, 1.0], MATRIX, 3), {"method": "cholesky"}),
    Call("multivariate_normal", ([0.0, 1.0], [[1.0, 1.0], [1.0, 1.0]])),
    Call("dirichlet", ([0.0, 1.0, 2.0], 2)),
    Call("spawn", (2,)),
]
LEGACY = [
    Call("random_sample"),
    Call("random_sample", (3,)),
    Call("rand"),
    Call("rand", (2, 3)),
    Call("randn"),
    Call("randn", (2, 3)),
    Call("randint", (10,)),
    Call("randint", (3, 10, 4)),
    Call("randint", (0, 100), {"dtype": np.int8, "size": 2}),
    Call("tomaxint"),
    Call("tomaxint", (2,)),
    Call("bytes", (7,)),
    Call("choice", (10, 4, False)),
    Call("permutation", (6,)),
    Call("permutation", ([[1, 2], [3, 4]],)),
    Call("uniform", (2.0, 1.0)),
]


def make(kind: str) -> Any:
    return np.random.default_rng(5) if kind == "Generator" else np.random.RandomState(5)


def recorded(call: Call, kind: str, seed: int = 1, repeats: int = 1) -> tuple[list[Any], Trace]:
    """Answers of a call inside a run, and the trace."""
    generator = make(kind)
    found: list[Any] = []

    def program() -> None:
        with hijack("numpy", leaks="ignore"):
            found.extend(getattr(generator, call.method)(*call.args, **call.options) for _ in range(repeats))

    trace = run_trace(Simulator(program), PriorController(), np.random.default_rng(seed))
    return found, trace
