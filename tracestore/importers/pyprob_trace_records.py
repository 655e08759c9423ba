"""From the stand-ins of an unpickled pyprob trace to plain records.

Knows the attributes that pyprob 1.0 to 1.5 give to traces, variables and distributions; nothing of files. What each
family stores, and what it is called here:

=====================  ============================================================  ==================================
family                 attributes                                                    parameters
=====================  ============================================================  ==================================
Normal, LogNormal      torch: loc, scale (LogNormal: those of its base)              loc, scale
Uniform                torch: low, high                                              low, high
Categorical            _probs (and _logits)                                          probs
Bernoulli, Binomial    torch: probs or logits or both; Binomial: total_count         probs, else logits; total_count
Poisson, Exponential   torch: rate                                                   rate
Gamma                  torch: concentration, rate                                    concentration, rate
Beta                   torch: a Dirichlet of two; _low, _high                        concentration1, concentration0,
                                                                                     low, high
Weibull                torch: scale, concentration                                   scale, concentration
VonMises               torch: loc, concentration                                     loc, concentration
TruncatedNormal        _mean_non_truncated, _stddev_non_truncated, _low, _high       the same without the underscore
Mixture                _probs, _distributions                                        probs; components
Factor                 _log_prob                                                     log_prob (None: from a function)
=====================  ============================================================  ==================================

"torch" is the distribution object of torch in ``_torch_dist``. pyprob 1.0 has Normal, Uniform, Categorical, Poisson,
Beta, Exponential, TruncatedNormal and Mixture; 1.2 added the rest except Factor, which came with 1.4.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import FormatError
from tracestore.importers.pyprob_pickle import PLAIN_ERRORS
from tracestore.importers.pyprob_records import ParameterValue, PyprobDistribution, PyprobTrace, PyprobVariable
from tracestore.importers.pyprob_stand_ins import StoredArray, StoredObject
from tracestore.importers.pyprob_tensors import StoredTensor

__all__ = ["trace_record"]

_MAX_MIXTURE_DEPTH = 8
_MAX_LIST_ELEMENTS = 1 << 20
_MAX_LIST_DEPTH = 8

# family -> (parameter, attribute of torch's distribution)
_OF_TORCH: dict[str, tuple[tuple[str, str], ...]] = {
    "Normal": (("loc", "loc"), ("scale", "scale")),
    "Uniform": (("low", "low"), ("high", "high")),
    "Poisson": (("rate", "rate"),),
    "Exponential": (("rate", "rate"),),
    "Gamma": (("concentration", "concentration"), ("rate", "rate")),
    "Weibull": (("scale", "scale"), ("concentration", "concentration")),
    "VonMises": (("loc", "loc"), ("concentration", "concentration")),
    "Bernoulli": (),
    "Binomial": (("total_count", "total_count"),),
}
# family -> (parameter, attribute of pyprob's distribution)
_OF_PYPROB: dict[str, tuple[tuple[str, str], ...]] = {
    "Categorical": (("probs", "_probs"),),
    "TruncatedNormal": (
        ("mean_non_truncated", "_mean_non_truncated"),
        ("stddev_non_truncated", "_stddev_non_truncated"),
        ("low", "_low"),
        ("high", "_high"),
    ),
    "Factor": (("log_prob", "_log_prob"),),
}
_MISSING = object()


def trace_record(value: object) -> PyprobTrace:
    """Return the record of an unpickled trace.

    Parameters
    ----------
    value
        What `load_value` returned.

    Raises
    ------
    FormatError
        The value is not a trace, or one of its parts has a type that pyprob does not give to it.

    Examples
    --------
    >>> trace_record(5)
    Traceback (most recent call last):
        ...
    tracestore.errors.FormatError: the value is not a trace of pyprob; found int.
    """
    if not isinstance(value, StoredObject) or value.kind != "pyprob.trace.Trace":
        message = f"the value is not a trace of pyprob; found {_kind(value)}."
        raise FormatError(message)
    try:
        return _TraceReader().trace(_state(value))
    except FormatError:
        raise
    except PLAIN_ERRORS as error:
        message = f"the parts of the trace do not fit together ({type(error).__name__}: {error}); it is damaged."
        raise FormatError(message) from error


class _TraceReader:
    """Converts the parts of one trace; each stored object once, however often the trace refers to it."""

    __slots__ = ("_distributions", "_list_budget", "_lists", "_variables")

    def __init__(self) -> None:
        self._variables: dict[int, PyprobVariable] = {}
        self._distributions: dict[int, PyprobDistribution] = {}
        self._lists: dict[int, NDArray[Any] | None] = {}
        self._list_budget = _MAX_LIST_ELEMENTS

    def trace(self, state: dict[str, Any]) -> PyprobTrace:
        get = state.get
        controlled = _typed(get("variables_controlled"), list, "variables_controlled")
        is_pruned = "variables" not in state
        stored = controlled if is_pruned else _typed(get("variables"), list, "variables")
        variables = tuple([self.variable(variable) for variable in stored])
        if is_pruned:
            positions = tuple(range(len(stored)))
        else:
            place = {id(variable): index for index, variable in enumerate(stored)}
            positions = tuple([place[id(variable)] for variable in controlled])
        named = _typed(get("named_variables"), dict, "named_variables")
        return PyprobTrace(
            is_pruned=is_pruned,
            variables=variables,
            controlled=positions,
            named={
                _text(_typed(name, str, "name"), "name"): self.variable(variable) for name, variable in named.items()
            },
            log_prob=_number(get("log_prob")),
            log_prob_observed=_number(get("log_prob_observed")),
            log_importance_weight=_number(get("log_importance_weight")),
            length=_optional(get("length"), int, "length"),
            length_controlled=_optional(get("length_controlled"), int, "length_controlled"),
            execution_time_sec=_number(get("execution_time_sec")),
            has_result=get("result") is not None,
        )

    def variable(self, stored: object) -> PyprobVariable:
        record = self._variables.get(id(stored))
        if record is None:
            record = self._variables[id(stored)] = self._new_variable(stored)
        return record

    def _new_variable(self, stored: object) -> PyprobVariable:
        if not isinstance(stored, StoredObject) or stored.kind != "pyprob.trace.Variable":
            message = f"a trace lists something that is not a variable of pyprob; found {_kind(stored)}."
            raise FormatError(message)
        get = _state(stored).get
        distribution, value = get("distribution"), get("value")
        array = None if value is None else self._value(value)
        return PyprobVariable(
            address=_text(get("address"), "address"),
            address_base=_text(get("address_base"), "address_base"),
            instance=_optional(get("instance"), int, "instance"),
            distribution=None if distribution is None else self.distribution(distribution, 0),
            value=array,
            log_prob=_number(get("log_prob")),
            log_importance_weight=_number(get("log_importance_weight")),
            control=_optional(get("control"), bool, "control"),
            name=_text(get("name"), "name"),
            observable=_flag(get("observable", False), "observable"),
            observed=_flag(get("observed", False), "observed"),
            reused=_flag(get("reused", False), "reused"),
            tagged=_flag(get("tagged", False), "tagged"),
            unread_value=_kind(value) if array is None and value is not None else None,
        )

    def distribution(self, stored: object, depth: int) -> PyprobDistribution:
        record = self._distributions.get(id(stored))
        if record is None:
            record = self._distributions[id(stored)] = self._new_distribution(stored, depth)
        return record

    def _new_distribution(self, stored: object, depth: int) -> PyprobDistribution:
        if not isinstance(stored, StoredObject) or not stored.kind.startswith("pyprob.distributions."):
            message = f"a variable has a distribution that is not one of pyprob's; found {_kind(stored)}."
            raise FormatError(message)
        family = type(stored).__name__
        state = _state(stored)
        if family in _OF_TORCH:
            of_torch = _state(state.get("_torch_dist"))
            parameters = {name: _parameter(of_torch, key, family) for name, key in _OF_TORCH[family]}
            if family in ("Bernoulli", "Binomial"):
                key = "probs" if "probs" in of_torch else "logits"
                parameters[key] = _parameter(of_torch, key, family)
            return PyprobDistribution(family, parameters)
        if family in _OF_PYPROB:
            return PyprobDistribution(
                family, {name: _parameter(state, key, family) for name, key in _OF_PYPROB[family]}
            )
        if family == "LogNormal":
            base = _state(_state(state.get("_torch_dist")).get("base_dist"))
            if "base_dist" in base:  # torch wraps the base of a batch
                base = _state(base["base_dist"])
            return PyprobDistribution(family, {name: _parameter(base, name, family) for name in ("loc", "scale")})
        if family == "Beta":
            return PyprobDistribution(family, _beta(state))
        if family == "Mixture":
            return self._mixture(state, depth)
        message = f"a variable has a distribution of the family {family}, which has no parameters to read."
        raise FormatError(message)

    def _mixture(self, state: dict[str, Any], depth: int) -> PyprobDistribution:
        if depth >= _MAX_MIXTURE_DEPTH:
            message = f"mixtures are nested more than {_MAX_MIXTURE_DEPTH} deep; the value is damaged."
            raise FormatError(message)
        parts = _typed(state.get("_distributions"), list, "_distributions")
        components = tuple([self.distribution(part, depth + 1) for part in parts])
        return PyprobDistribution("Mixture", {"probs": _parameter(state, "_probs", "Mixture")}, components)

    def _value(self, value: object) -> NDArray[Any] | None:
        """Return the value as an array; None when it is something that an array cannot say, as tags may hold."""
        if type(value) is StoredTensor or type(value) is StoredArray:
            return value.array()
        if type(value) in (bool, int, float):
            array = np.asarray(value)
            return None if array.dtype == object else array
        if isinstance(value, str):
            if id(value) not in self._lists:
                self._lists[id(value)] = np.asarray(value)
            return self._lists[id(value)]
        if isinstance(value, (list, tuple)):
            if id(value) not in self._lists:
                listed = self._lists[id(value)] = _list_array(value, self._list_budget)
                self._list_budget -= 0 if listed is None else listed.size
            return self._lists[id(value)]
        return None


def _list_array(value: list[Any] | tuple[Any, ...], budget: int) -> NDArray[Any] | None:
    """Return an array of a nested list of numbers; None when it holds other things or is ragged."""
    flat: list[Any] = [value]
    shape: list[int] = []
    for _ in range(_MAX_LIST_DEPTH):
        lengths = {len(item) for item in flat}
        if len(lengths) != 1:
            return None
        if len(flat) * max(lengths) > budget:
            message = f"the lists of numbers of a trace have more than {_MAX_LIST_ELEMENTS} elements."
            raise FormatError(message)
        shape.append(lengths.pop())
        flat = [part for item in flat for part in item]
        kinds = {type(part) for part in flat}
        if kinds <= {bool, int, float}:
            array = np.array(flat)
            return None if array.dtype == object else array.reshape(shape)
        if not kinds <= {list, tuple}:
            return None
    return None


def _beta(state: dict[str, Any]) -> dict[str, ParameterValue]:
    both = _parameter(_state(_state(state.get("_torch_dist")).get("_dirichlet")), "concentration", "Beta")
    if not isinstance(both, np.ndarray) or both.ndim == 0 or both.shape[-1] != 2:
        message = "the parameters of a Beta distribution do not have the form that torch gives them."
        raise FormatError(message)
    bounds = {name: _parameter(state, f"_{name}", "Beta") for name in ("low", "high")}
    return {"concentration1": both[..., 0], "concentration0": both[..., 1], **bounds}


def _parameter(state: dict[str, Any], key: str, family: str) -> ParameterValue:
    value = state.get(key, _MISSING)
    if type(value) is StoredTensor:
        return value.doubles()
    if value is None or isinstance(value, (bool, int, float)):
        return value
    found = "nothing" if value is _MISSING else _kind(value)
    message = f"the parameter {key.removeprefix('_')} of a {family} distribution is not a tensor; found {found}."
    raise FormatError(message)


def _state(stored: object) -> dict[str, Any]:
    """Attributes of a stand-in; an object without any has none."""
    if not isinstance(stored, StoredObject):
        message = f"an object of pyprob or torch is expected; found {_kind(stored)}."
        raise FormatError(message)
    state: dict[str, Any] = getattr(stored, "state", {})
    return state


def _kind(value: object) -> str:
    return value.kind if isinstance(value, StoredObject) else type(value).__name__


def _typed(value: Any, kind: type, what: str) -> Any:  # noqa: ANN401  (the caller names the type)
    if type(value) is not kind:
        message = f"`{what}` of a trace is {_kind(value)}; expected {kind.__name__}."
        raise FormatError(message)
    return value


def _optional(value: Any, kind: type, what: str) -> Any:  # noqa: ANN401  (the caller names the type)
    return None if value is None else _typed(value, kind, what)


def _text(value: Any, what: str) -> Any:  # noqa: ANN401  (a string or None, as the caller says)
    if value is not None and not _typed(value, str, what).isascii():
        value.encode("utf-8")  # half of a character pair is not text
    return value


def _flag(value: object, what: str) -> bool:
    if value is not True and value is not False:
        _typed(value, bool, what)
    return value is True


def _number(value: object) -> float | None:
    """Return a log probability, weight or time: a number, or the sum over a tensor."""
    if value is None or type(value) is float:
        return value
    if type(value) is StoredTensor:
        array = value.doubles()
        return float(array[()]) if array.ndim == 0 else float(array.sum())
    if type(value) is StoredArray:
        return float(value.array().sum())
    if isinstance(value, int):
        return float(value)
    message = f"a log probability, weight or time is {_kind(value)}; expected a number."
    raise FormatError(message)
