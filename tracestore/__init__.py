"""Execution traces of stochastic simulators: record them, store them, learn from them, infer with them.

This module is the facade. It imports nothing: every public name is loaded on first use from the room that
`_TABLE` gives, so that ``import tracestore`` is quick and never loads an optional dependency.
"""

from typing import TYPE_CHECKING

__all__ = [
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "DaskExecutor",
    "Distribution",
    "Exponential",
    "Gamma",
    "LogNormal",
    "MPIExecutor",
    "Mixture",
    "MultivariateNormal",
    "Normal",
    "PPXSimulator",
    "PiecewiseUniform",
    "Poisson",
    "ProcessExecutor",
    "SerialExecutor",
    "StoreLocation",
    "Trace",
    "TraceBatch",
    "TraceStatus",
    "TraceStore",
    "TracestoreError",
    "TruncatedNormal",
    "Uniform",
    "VonMises",
    "Weibull",
    "__version__",
    "batched_simulator",
    "diagnostics",
    "errors",
    "events",
    "execution",
    "executors",
    "formats",
    "hijack",
    "hijacking",
    "import_pyprob",
    "importers",
    "inference",
    "native",
    "networks",
    "observe",
    "pages",
    "posteriors",
    "ppx",
    "profiling",
    "rejection",
    "reports",
    "sample",
    "samplers",
    "simulate",
    "simulator",
    "simulators",
    "sort_store",
    "sorting",
    "storage",
    "store",
    "surrogates",
    "tag",
    "trace_loader",
    "traces",
    "training",
    "workflows",
]

# public name -> module that defines it; "" marks a room, which is the module tracestore.<name> itself
_TABLE: dict[str, str] = {
    **dict.fromkeys(
        [
            "Bernoulli",
            "Beta",
            "Binomial",
            "Categorical",
            "Distribution",
            "Exponential",
            "Gamma",
            "LogNormal",
            "Mixture",
            "MultivariateNormal",
            "Normal",
            "PiecewiseUniform",
            "Poisson",
            "TruncatedNormal",
            "Uniform",
            "VonMises",
            "Weibull",
        ],
        "tracestore.traces.distributions",
    ),
    "DaskExecutor": "tracestore.executors.dask",
    "MPIExecutor": "tracestore.executors.mpi",
    "PPXSimulator": "tracestore.ppx.simulator",
    "ProcessExecutor": "tracestore.executors.processes",
    "SerialExecutor": "tracestore.executors.base",
    "StoreLocation": "tracestore.store.location",
    "Trace": "tracestore.traces.trace",
    "TraceBatch": "tracestore.traces.batch",
    "TraceStatus": "tracestore.traces.trace",
    "TraceStore": "tracestore.store.trace_store",
    "TracestoreError": "tracestore.errors",
    "batched_simulator": "tracestore.simulators.batched",
    "hijack": "tracestore.hijacking.context",
    "import_pyprob": "tracestore.importers.pyprob_import",
    "observe": "tracestore.simulators.runtime",
    "rejection": "tracestore.simulators.rejection",
    "sample": "tracestore.simulators.runtime",
    "simulate": "tracestore.execution.generate",
    "simulator": "tracestore.simulators.base",
    "sort_store": "tracestore.sorting.execute",
    "tag": "tracestore.simulators.runtime",
    "trace_loader": "tracestore.samplers.torch_loader",
    **dict.fromkeys(
        [
            "diagnostics",
            "errors",
            "events",
            "execution",
            "executors",
            "formats",
            "hijacking",
            "importers",
            "inference",
            "native",
            "networks",
            "pages",
            "posteriors",
            "ppx",
            "profiling",
            "reports",
            "samplers",
            "simulators",
            "sorting",
            "storage",
            "store",
            "surrogates",
            "traces",
            "training",
            "workflows",
        ],
        "",
    ),
}

if TYPE_CHECKING:
    from tracestore import (
        diagnostics,
        errors,
        events,
        execution,
        executors,
        formats,
        hijacking,
        importers,
        inference,
        native,
        networks,
        pages,
        posteriors,
        ppx,
        profiling,
        reports,
        samplers,
        simulators,
        sorting,
        storage,
        store,
        surrogates,
        traces,
        training,
        workflows,
    )
    from tracestore.errors import TracestoreError
    from tracestore.execution.generate import simulate
    from tracestore.executors.base import SerialExecutor
    from tracestore.executors.dask import DaskExecutor
    from tracestore.executors.mpi import MPIExecutor
    from tracestore.executors.processes import ProcessExecutor
    from tracestore.hijacking.context import hijack
    from tracestore.importers.pyprob_import import import_pyprob
    from tracestore.ppx.simulator import PPXSimulator
    from tracestore.samplers.torch_loader import trace_loader
    from tracestore.simulators.base import simulator
    from tracestore.simulators.batched import batched_simulator
    from tracestore.simulators.rejection import rejection
    from tracestore.simulators.runtime import observe, sample, tag
    from tracestore.sorting.execute import sort_store
    from tracestore.store.location import StoreLocation
    from tracestore.store.trace_store import TraceStore
    from tracestore.traces.batch import TraceBatch
    from tracestore.traces.distributions import (
        Bernoulli,
        Beta,
        Binomial,
        Categorical,
        Distribution,
        Exponential,
        Gamma,
        LogNormal,
        Mixture,
        MultivariateNormal,
        Normal,
        PiecewiseUniform,
        Poisson,
        TruncatedNormal,
        Uniform,
        VonMises,
        Weibull,
    )
    from tracestore.traces.trace import Trace, TraceStatus

    __version__: str

else:  # hidden from type checkers, which would otherwise accept any attribute

    def __getattr__(name: str) -> object:
        import importlib

        if name == "__version__":
            value = _version()
        elif name not in _TABLE:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        elif _TABLE[name]:
            value = getattr(importlib.import_module(_TABLE[name]), name)
        else:
            return importlib.import_module(f"{__name__}.{name}")  # the import binds the attribute
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tracestore")
    except PackageNotFoundError:  # a source tree on the path, not installed
        return "0+unknown"
