"""Traces of pyprob 1.x as plain records: what its data sets hold, without its classes.

Numpy only. Knows nothing of files, pickles or stores. Three places differ from pyprob's own objects:

* A pruned trace (the default of ``save_dataset``) keeps its controlled variables and its named ones. Of a controlled
  variable pyprob keeps distribution, value, address and weight; of a named one that is not controlled only value and
  weight. So the ``address`` of the latter is None, and every field that was pruned away is None or False.
* A tag may hold any Python object. A value that is neither a tensor, an array, a number, a string nor a list of numbers
  is not read; ``unread_value`` names its type.
* The result of the simulator, which may be any Python object, is dropped; ``has_result`` says whether there was one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ParameterValue",
    "PyprobDistribution",
    "PyprobRecordProblem",
    "PyprobTrace",
    "PyprobVariable",
]

ParameterValue: TypeAlias = NDArray[np.float64] | float | int | bool | None


@dataclass(frozen=True, slots=True, eq=False)
class PyprobDistribution:
    """One distribution object of pyprob.

    Parameters
    ----------
    family
        Name of pyprob's class, such as "Normal", "Uniform", "Categorical", "TruncatedNormal" or "Mixture".
    parameters
        Name to value: arrays in float64 in the shape stored, numbers as they are.
    components
        The parts of a "Mixture"; empty for every other family.

    Examples
    --------
    >>> PyprobDistribution("Normal", {"loc": np.array(1.0), "scale": np.array(2.0)}).family
    'Normal'
    """

    family: str
    parameters: Mapping[str, ParameterValue]
    components: "tuple[PyprobDistribution, ...]" = ()


@dataclass(frozen=True, slots=True, eq=False)
class PyprobVariable:
    """One random choice, observation or tag of a trace.

    Parameters
    ----------
    address
        Full address as stored, perhaps in dictionary form ("__A12__3"); None where pruning removed it (see the module).
    address_base, instance
        Address without the instance, and the number of the visit, from 1.
    distribution
        What the value was drawn from or scored by.
    value
        The value, in the shape and dtype stored (half precision as float32); None when absent.
    log_prob
        Log density of the value, summed over its elements.
    log_importance_weight
        Contribution to the weight of the trace.
    control
        Whether inference may choose the value.
    name
        Name given by the simulator.
    observable, observed, reused, tagged
        Flags as stored; False when pruned away.
    unread_value
        Type of a value that an array cannot hold, such as "dict"; ``value`` is then None. Only tags have such values.

    Examples
    --------
    >>> PyprobVariable("20__forward__x__Normal__1", value=np.array(0.5)).value
    array(0.5)
    """

    address: str | None
    address_base: str | None = None
    instance: int | None = None
    distribution: PyprobDistribution | None = None
    value: NDArray[Any] | None = None
    log_prob: float | None = None
    log_importance_weight: float | None = None
    control: bool | None = None
    name: str | None = None
    observable: bool = False
    observed: bool = False
    reused: bool = False
    tagged: bool = False
    unread_value: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PyprobTrace:
    """One trace of a pyprob data set.

    Parameters
    ----------
    is_pruned
        Whether pyprob stored the pruned form.
    variables
        All variables in order of execution; of a pruned trace the controlled ones.
    controlled
        Positions in ``variables`` of the controlled ones, in pyprob's order: ascending, except where pyprob 1.0 and 1.1
        put the last draw of a rejection loop at the place of the first.
    named
        Name to variable (the last one of a name, as pyprob keeps it). The variable is the same object as the one in
        ``variables`` when it is there; of a pruned trace the others have only value and weight.
    log_prob, log_prob_observed, log_importance_weight
        Sums over the trace, as stored.
    length, length_controlled
        Number of all and of the controlled variables, as stored (before pruning).
    execution_time_sec
        Time that the simulator took, in seconds.
    has_result
        Whether the simulator's result was stored; it is not read.

    Examples
    --------
    >>> PyprobTrace(True, (PyprobVariable("a__1"),), (0,), {}).length is None
    True
    """

    is_pruned: bool
    variables: tuple[PyprobVariable, ...]
    controlled: tuple[int, ...]
    named: Mapping[str, PyprobVariable]
    log_prob: float | None = None
    log_prob_observed: float | None = None
    log_importance_weight: float | None = None
    length: int | None = None
    length_controlled: int | None = None
    execution_time_sec: float | None = None
    has_result: bool = False


@dataclass(frozen=True, slots=True)
class PyprobRecordProblem:
    """A record that could not be read.

    Parameters
    ----------
    key
        Key of the record in its file.
    reason
        What is wrong with it, one sentence that names the file.
    forbidden
        What the record asks for that no trace needs, such as ``posix.system``; None when it is only damaged.

    Examples
    --------
    >>> PyprobRecordProblem("7", "record 7 of data is damaged.").key
    '7'
    """

    key: str
    reason: str
    forbidden: str | None = None
