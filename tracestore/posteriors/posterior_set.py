"""Posteriors of many observations in one store, as a sequence."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import DegenerateWeightsError, InvalidInputError, UnknownAddressError
from tracestore.posteriors.draw_table import DrawTable
from tracestore.posteriors.draw_view import DrawView
from tracestore.posteriors.origin import engine_fields
from tracestore.posteriors.posterior import Posterior
from tracestore.posteriors.variable import Number
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore

__all__ = ["PosteriorSet", "open_posterior_set"]

Column = NDArray[np.float64]


class PosteriorSet(Sequence[Posterior]):
    """Posteriors of one simulator for many observations; the k-th one is that of observation k.

    All of them look at one table: a column is read once, whichever of them asks for it.

    Parameters
    ----------
    store
        Output of an engine for many observations: the column ``chain`` has the number of the observation, ``draw``
        that of the draw for it.

    Raises
    ------
    InvalidInputError
        When the store is not such an output.

    Examples
    --------
    >>> from dataclasses import replace
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> from tracestore.store.job import Job
    >>> fields = {"engine": "is", "simulator": "gum", "num_observations": 2}
    >>> store = TraceStore.create("many", job=Job("infer", fields))  # as `ts.inference.ic_many` writes it
    >>> for number, seen in enumerate([1.0, 9.0]):
    ...     given = {"obs0": seen, "obs1": seen}
    ...     posterior = ts.inference.importance(gum, given, f"one-{number}", num_draws=500, seed=1)
    ...     batch = posterior.store.take(np.arange(500))
    ...     _ = store.append(replace(batch, chain=np.full(500, number, np.int32)))
    >>> posteriors = PosteriorSet(store)
    >>> len(posteriors), posteriors.ess.shape, bool(posteriors.mean("mu")[0] < posteriors[1].mean("mu"))
    (2, (2,), True)
    """

    def __init__(self, store: TraceStore) -> None:
        fields = engine_fields(store)
        if "num_observations" not in fields:
            message = (
                f"The store {store.storage.url} holds the posterior of one observation; open it with `open_posterior`."
            )
            raise InvalidInputError(message, path=store.storage.url)
        self.store = store
        self.engine = str(fields["engine"])
        self._num_observations = int(fields["num_observations"])
        self._table = DrawTable([store], has_chains=True)
        self._bounds = np.searchsorted(self._table.chain, np.arange(self._num_observations + 1)).tolist()

    def __len__(self) -> int:
        return self._num_observations

    @overload
    def __getitem__(self, index: int) -> Posterior: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Posterior]: ...
    def __getitem__(self, index: int | slice) -> Posterior | Sequence[Posterior]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            message = f"Observation {index} is outside a set of {len(self)}."
            raise IndexError(message)
        number = index % len(self)
        low, high = self._bounds[number : number + 2]
        return Posterior.of_view(
            DrawView(
                table=self._table.select(slice(low, high)),
                engine=self.engine,
                num_proposed=high - low,
                steps=({"observation": number},),
            )
        )

    def __iter__(self) -> Iterator[Posterior]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:
        return f"PosteriorSet({self.engine}, {len(self)} observations, {len(self._table)} draws)"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of draws, then of tags, of all posteriors."""
        return self._table.names

    @cached_property
    def ess(self) -> Column:
        """Kish's effective sample size of each posterior, shape ``(observations,)``; 0 where no draw has weight."""
        return self._each(lambda posterior: posterior.ess, 0.0)

    @cached_property
    def khat(self) -> Column:
        """Pareto k-hat of each posterior, shape ``(observations,)``; infinite where no draw has weight."""
        return self._each(lambda posterior: posterior.khat, np.inf)

    @cached_property
    def log_evidence(self) -> Column:
        """Log of the marginal likelihood of each observation, shape ``(observations,)``; NaN where there is no draw."""
        return self._each(lambda posterior: posterior.log_evidence, np.nan)

    @cached_property
    def log_evidence_se(self) -> Column:
        """Standard error of each log evidence, shape ``(observations,)``."""
        return self._each(lambda posterior: posterior.log_evidence_se, np.nan)

    def mean(self, name: str) -> Column:
        """Return the posterior means of a variable, shape ``(observations, *shape)``; NaN where no draw has it."""
        return self._stack(name, lambda posterior: posterior.mean(name), ())

    def std(self, name: str) -> Column:
        """Return the standard deviations of a variable, shape ``(observations, *shape)``; NaN where no draw has it."""
        return self._stack(name, lambda posterior: posterior.std(name), ())

    def quantile(self, name: str, probabilities: ArrayLike) -> Column:
        """Return quantiles of a variable for each observation.

        Parameters
        ----------
        name
            Name or address.
        probabilities
            Numbers between 0 and 1, any shape.

        Returns
        -------
        numpy.ndarray
            Shape ``(observations, *probabilities, *shape)``; NaN where no draw of an observation has the variable.
        """
        return self._stack(name, lambda posterior: posterior.quantile(name, probabilities), np.shape(probabilities))

    def _stack(self, name: str, of: Callable[[Posterior], Number], extra: tuple[int, ...]) -> Column:
        shape = self._table.present(name).values.shape[1:]
        found = np.full((len(self), *extra, *shape), np.nan)
        for place, posterior in enumerate(self):
            try:
                found[place] = of(posterior)
            except (DegenerateWeightsError, UnknownAddressError):
                continue  # what stands for it is documented
        return found

    def _each(self, number: Callable[[Posterior], float], otherwise: float) -> Column:
        found = np.full(len(self), otherwise)
        for place, posterior in enumerate(self):
            if len(posterior):
                try:
                    found[place] = number(posterior)
                except DegenerateWeightsError:
                    continue  # what stands for it is documented
        return found


def open_posterior_set(path: StorePath) -> PosteriorSet:
    """Open what an engine wrote for many observations.

    Parameters
    ----------
    path
        Store of draws.

    Raises
    ------
    StoreNotFoundError
        When the path is not a store.
    InvalidInputError
        When the store holds something else.
    """
    return PosteriorSet(TraceStore.open(path))
