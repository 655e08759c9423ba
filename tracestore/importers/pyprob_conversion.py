"""Traces of pyprob as a `TraceBatch`: addresses, sites, observations and log probabilities. Pure; knows no files.

**Addresses.** pyprob's base address ``<place>__<suffix>`` becomes ``<place>~<our suffix>``, and its instance stays. The
mapping is one-to-one: a base that does not end in its suffix (an unresolved ``__A12``) is kept whole, followed by ``~``
unless it has the form of a dictionary's id.

**Pruned traces.** Of a named variable that inference does not choose, pyprob keeps value, name and weight. The weight
is the log likelihood of an observation, and absent for a tag and for a draw that always comes from the prior. So what
has a weight is an observation, what has none a tag, and the caller may say otherwise by name. The likelihood itself is
gone: such a site has neither family nor parameters, and its log prob is the weight, or NaN when that is not known. What
unnamed variables contributed to the weight of the trace is kept as one site ``pruned~Factor``, without a value.

**Weights.** The traces of a data set come from the prior with their observations, so the likelihood is no part of their
weight: ``log_weight`` sums what the draws add to pyprob's, which is 0 without prior inflation.

**Log probabilities** are computed anew, in double precision, wherever the distribution was stored.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.importers.pyprob_priors import Prior, draw_shape, pyprob_suffix, read_prior
from tracestore.importers.pyprob_records import PyprobTrace, PyprobVariable
from tracestore.importers.pyprob_rows import PyprobRow, gather_rows, to_angles, to_numbers, to_observation
from tracestore.traces.address import base_address, format_address
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import from_parameters
from tracestore.traces.layout import MAX_OBSERVE_PARAMETERS, Layout, Site, SiteKind

__all__ = ["ConvertedTraces", "PyprobConverter", "to_place"]

Array = NDArray[np.generic]

MAX_KNOWN_SITES = 2_000_000
"""Site references held before the tables start anew; bounds memory for unbounded simulators."""

_DICTIONARY_ID = re.compile(r"__A\d+\Z")
_NOTHING = (0,)
"""Shape of a site that has no value."""


@dataclass(frozen=True, slots=True)
class ConvertedTraces:
    """Some traces of pyprob as one batch, and what there is to say of the others."""

    batch: TraceBatch | None
    """The traces that could be converted, in order; None when there is none."""
    refused: tuple[tuple[int, str], ...]
    """Stream and reason of each trace that could not be converted."""
    differences: tuple[str, ...]
    """Log probabilities that pyprob stored and that differ from ours by more than single precision explains."""
    num_shortened: int
    """Pruned traces whose unnamed variables pyprob dropped."""
    num_dropped: int
    """Tags whose value is not numbers: they are kept without it."""


class PyprobConverter:
    """Converts traces of pyprob, some at a time.

    Parameters
    ----------
    tags, observations
        Names of variables of pruned traces that are tags, or observations, whatever their weights tell.
    dictionary
        Ids of an address dictionary (``__A12``) to base addresses.
    shapes
        Shape of each observation by name. One of another shape is kept under its name followed by its shape, such as
        ``image[3,4]``, since a store has one shape for each name; so is one without an entry, unless it is a number.

    Examples
    --------
    >>> from tracestore.importers.pyprob_records import PyprobDistribution
    >>> x = PyprobVariable(
    ...     "16__forward__x__Normal__1",
    ...     value=np.array(0.5),
    ...     distribution=PyprobDistribution("Normal", {"loc": np.array(0.0), "scale": np.array(1.0)}),
    ... )
    >>> seen = PyprobVariable(None, value=np.array(0.25, np.float32), log_importance_weight=-1.5)
    >>> trace = PyprobTrace(True, (x,), (0,), {"seen": seen}, log_importance_weight=-1.5)
    >>> batch = PyprobConverter().convert([(0, trace)]).batch
    >>> [site.address for site in batch.layouts[0].sites], batch.log_likelihood.tolist()
    (['16__forward__x~Normal#1', 'seen~Observed#1'], [-1.5])
    """

    def __init__(
        self,
        *,
        tags: Collection[str] = (),
        observations: Collection[str] = (),
        dictionary: Mapping[str, str] | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self._tags, self._observations = frozenset(tags), frozenset(observations)
        self._dictionary = dictionary or {}
        self._shapes = shapes or {}
        self.has_unresolved = False
        """Whether an address in dictionary form had no entry."""
        self._forget()

    def convert(self, traces: Sequence[tuple[int, PyprobTrace]]) -> ConvertedTraces:
        """Convert traces.

        Parameters
        ----------
        traces
            Pairs of stream and trace.
        """
        if self._num_known > MAX_KNOWN_SITES:
            self._forget()
        rows: list[PyprobRow] = []
        refused: list[tuple[int, str]] = []
        for stream, trace in traces:
            try:
                rows.append(self._read(stream, trace))
            except InvalidInputError as error:
                refused.append((stream, str(error)))
        batch, differences, invalid = gather_rows(rows, self._layout) if rows else (None, (), ())
        return ConvertedTraces(
            batch,
            tuple(sorted([*refused, *invalid])),
            differences,
            sum(row.is_shortened for row in rows),
            sum(row.num_dropped for row in rows),
        )

    def _forget(self) -> None:
        self._sites: dict[tuple[object, ...], Site] = {}
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self._num_known = 0

    def _read(self, stream: int, trace: PyprobTrace) -> PyprobRow:
        row = PyprobRow(stream, seconds=float(trace.execution_time_sec or 0.0))
        places = {id(variable): position for position, variable in enumerate(trace.variables)}
        names = {places[id(one)]: name for name, one in trace.named.items() if id(one) in places}
        controlled = frozenset(trace.controlled)
        # a name holds one observation of a trace: of several the last, which is what pyprob knows by the name
        last = {variable.name: id(variable) for variable in trace.variables if variable.observed}
        for position, variable in enumerate(trace.variables):
            name = names.get(position) or variable.name or ""
            if variable.tagged:
                self._add_tag(row, variable, name)
            elif variable.observed:
                self._add_observe(row, variable, name if last[variable.name] == id(variable) else "")
            elif variable.value is None and position not in controlled:
                self._add_tag(row, variable, name)  # an observe that was given no value, and counts for nothing
            else:
                self._add_sample(row, variable, name, is_controlled=position in controlled)
        if trace.is_pruned:
            self._add_named(row, trace, [pair for pair in trace.named.items() if id(pair[1]) not in places])
        if len(set(map(id, row.sites))) < len(row.sites):
            message = "Two of its variables have the same address."
            raise InvalidInputError(message)
        return row

    def _add_sample(self, row: PyprobRow, variable: PyprobVariable, name: str, *, is_controlled: bool) -> None:
        distribution, value = variable.distribution, variable.value
        if distribution is None or value is None or not value.size:
            what = "distribution" if distribution is None else "value"
            message = f"The draw at {variable.address!r} was stored without its {what}."
            raise InvalidInputError(message, address=variable.address)
        prior = read_prior(distribution, draw_shape(value))
        key = (variable.address, name, is_controlled, prior.structure, prior.shape)
        site = self._sites.get(key)
        if site is None:
            kind = SiteKind.SAMPLE
            site = self._new_site(
                key, self._address(variable, prior.suffix), kind, name, prior, is_controlled=is_controlled
            )
        row.sites.append(site)
        row.values.extend(to_angles(value) if prior.family == "VonMises" else to_numbers(value))
        row.parameters.extend(prior.numbers)
        row.log_probs.append(math.nan)
        if variable.log_prob is not None:
            row.compare(variable.log_prob, prior, value)
        if variable.log_importance_weight is not None:
            row.log_weight += variable.log_importance_weight

    def _add_observe(self, row: PyprobRow, variable: PyprobVariable, name: str) -> None:
        distribution, value = variable.distribution, variable.value
        if distribution is None or value is None:
            self._add_number(row, variable.log_prob, variable, "Factor")
            return
        prior = read_prior(distribution, draw_shape(value))
        is_small = len(prior.numbers) <= MAX_OBSERVE_PARAMETERS
        array = to_observation(value)
        kept = self._name_of(name, array.shape)
        key = (variable.address, kept, None, prior.structure, prior.shape)
        site = self._sites.get(key)
        if site is None:
            stored = prior if is_small else prior._replace(numbers=[])
            site = self._new_site(key, self._address(variable, prior.suffix), SiteKind.OBSERVE, kept, stored)
        row.sites.append(site)
        row.keep(kept, array)
        row.parameters.extend(prior.numbers if is_small else ())
        row.log_probs.append(math.nan if is_small else _log_prob(prior, array))
        if variable.log_prob is not None:
            row.compare(variable.log_prob, prior, value)

    def _add_named(self, row: PyprobRow, trace: PyprobTrace, named: list[tuple[str, PyprobVariable]]) -> None:
        """Add what pruning left of the variables that inference does not choose."""
        explained = [variable.log_importance_weight for variable in trace.variables]
        for name, variable in named:
            weight = variable.log_importance_weight
            if name in self._tags or (weight is None and name not in self._observations):
                self._add_tag(row, variable, name)
                continue
            explained.append(weight)
            if variable.value is None:
                self._add_number(row, weight, variable, "Factor", name)
                continue
            array = to_observation(variable.value)
            kept = self._name_of(name, array.shape)
            key = (None, kept, None, name, array.shape)
            site = self._sites.get(key)
            if site is None:
                address = (name, "Observed" + _shape_suffix(array.shape), 1)
                site = self._new_site(key, address, SiteKind.OBSERVE, kept, Prior("", "", array.shape, []))
            row.sites.append(site)
            row.keep(kept, array)
            row.log_probs.append(math.nan if weight is None else weight)
        self._add_dropped(row, trace, [weight for weight in explained if weight is not None], len(named))

    def _add_dropped(self, row: PyprobRow, trace: PyprobTrace, explained: list[float], num_named: int) -> None:
        """Account for variables that pyprob dropped: what they added to the weight is a likelihood, if that is sure."""
        row.is_shortened = trace.length is not None and trace.length > len(trace.variables) + num_named
        total = trace.log_importance_weight
        if total is None:
            if row.is_shortened:
                self._add_number(row, None, None, "Factor", "pruned")
            return
        left = total - sum(explained)
        size = abs(total) + sum(map(abs, explained))
        if math.isfinite(left) and abs(left) > 1e-9 * size:
            # under prior inflation dropped draws have weights, too
            is_inflated = any(variable.log_importance_weight is not None for variable in trace.variables)
            self._add_number(row, None if is_inflated else left, None, "Factor", "pruned")

    def _add_number(
        self, row: PyprobRow, log_prob: float | None, variable: PyprobVariable | None, suffix: str, place: str = ""
    ) -> None:
        """Add an observe site that has a log likelihood and nothing else."""
        address = None if variable is None else variable.address
        key = (address, None, place, suffix)
        site = self._sites.get(key)
        if site is None:
            made = (place, suffix, 1) if variable is None or address is None else self._address(variable, suffix)
            site = self._new_site(key, made, SiteKind.OBSERVE, "", Prior("", "", _NOTHING, []))
        row.sites.append(site)
        row.log_probs.append(math.nan if log_prob is None else log_prob)

    def _add_tag(self, row: PyprobRow, variable: PyprobVariable, name: str) -> None:
        value = variable.value
        if variable.unread_value or (value is not None and value.dtype.kind not in "biuf"):
            row.num_dropped += 1
            value = None
        shape = _NOTHING if value is None else draw_shape(value)
        key = (variable.address, name, "Tag", shape)
        site = self._sites.get(key)
        if site is None:
            suffix = "Tag" + _shape_suffix(shape)
            made = (name, suffix, 1) if variable.address is None else self._address(variable, suffix)
            site = self._new_site(key, made, SiteKind.TAG, name, Prior("", "", shape, []))
        row.sites.append(site)
        row.values.extend([] if value is None else to_numbers(value))
        row.log_probs.append(0.0)

    def _name_of(self, name: str, shape: tuple[int, ...]) -> str:
        if not name or shape == self._shapes.get(name, ()):
            return name
        return name + (_shape_suffix(shape) or "[]")

    def _address(self, variable: PyprobVariable, suffix: str) -> tuple[str, str, int]:
        """Place, suffix and instance of a variable that has an address."""
        base, instance = _split(variable)
        if _DICTIONARY_ID.match(base):
            found = self._dictionary.get(base)
            if found is None:
                self.has_unresolved = True
            else:
                base = found
        return to_place(base, pyprob_suffix(variable.distribution)), suffix, instance

    def _new_site(
        self,
        key: tuple[object, ...],
        address: tuple[str, str, int],
        kind: SiteKind,
        name: str,
        prior: Prior,
        *,
        is_controlled: bool = False,
    ) -> Site:
        place, suffix, instance = address
        full = format_address(base_address(place, suffix), instance)
        _require_storable(full)
        _require_storable(name)
        self._num_known += 1
        site = self._sites[key] = Site(full, kind, is_controlled, name, prior.family, prior.shape, len(prior.numbers))
        return site

    def _layout(self, sites: list[Site]) -> Layout:
        key = tuple(map(id, sites))
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layouts[key] = Layout(tuple(sites))
            self._num_known += len(sites)
        return layout


def to_place(base: str, suffix: str) -> str:
    """Turn a base address of pyprob into a place, one-to-one.

    Parameters
    ----------
    base
        pyprob's base address.
    suffix
        What pyprob appends for the distribution, see `pyprob_suffix`.

    Examples
    --------
    >>> to_place("16__forward__x__Normal", "Normal"), to_place("__A12", "Normal"), to_place("mine", "Normal")
    ('16__forward__x', '__A12', 'mine~')
    """
    place = base.removesuffix(f"__{suffix}")
    if place != base and not place.endswith("~") and not _DICTIONARY_ID.match(place):
        return place
    return base if _DICTIONARY_ID.match(base) else f"{base}~"


def _split(variable: PyprobVariable) -> tuple[str, int]:
    """Return base address and instance; a draw that replaced earlier ones (pyprob 1.0) counts as the first."""
    base, mark, instance = (variable.address or "").rpartition("__")
    if instance == "replaced":
        return variable.address or "", 1
    if not mark or not (instance.isascii() and instance.isdecimal()) or instance.startswith("0"):
        message = f"An address of pyprob ends in '__' and an instance from 1; found {variable.address!r}."
        raise InvalidInputError(message, address=variable.address)
    return base, int(instance)


def _require_storable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        is_storable = False
    else:
        is_storable = "\x1e" not in text and "\x1f" not in text
    if not is_storable:
        message = f"The address or name {text!r} has characters that identities of sites cannot hold."
        raise InvalidInputError(message, address=text)


def _shape_suffix(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]" if shape else ""


def _log_prob(prior: Prior, value: Array) -> float:
    try:
        return from_parameters(prior.structure, prior.numbers, prior.shape).log_prob(value)
    except (ArithmeticError, ValueError) as error:
        message = f"The parameters stored for an observation make no {prior.structure} distribution: {error}"
        raise InvalidInputError(message, family=prior.family) from error
