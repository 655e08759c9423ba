"""The posterior as a weighted view of the stores that engines wrote."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.events import Observer
from tracestore.posteriors import draw_view, observed
from tracestore.posteriors.diagnosis import Diagnosis, diagnose
from tracestore.posteriors.draw_quality import DrawQuality
from tracestore.posteriors.draw_view import Condition, DrawView, TraceFunction
from tracestore.posteriors.expectations import Expectation, expectation_of_columns, expectation_over_traces
from tracestore.posteriors.joint_table import JointTable, joint_table
from tracestore.posteriors.proposal_quality import Trained
from tracestore.posteriors.reobservation import Likelihood, reobserve
from tracestore.posteriors.saving import save_view
from tracestore.posteriors.variable import Draws, Variable
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

if TYPE_CHECKING:
    from awkward import Array
    from pandas import DataFrame
    from xarray import DataTree

__all__ = ["Draws", "Posterior", "open_posterior"]

Column = NDArray[np.float64]


class Posterior(DrawQuality):
    """Weighted draws of traces, by name, address or tag.

    The traces stay in the store; columns are read when asked for. A variable that only some traces have is described by
    its presence, and by its moments over the draws where it is present. Moments are numbers for scalar variables and
    arrays of the variable's shape for others. Views (`thin`, `discard`, `condition`, `reweight`, `reobserve`) are
    posteriors, too, and copy no traces.

    Parameters
    ----------
    store
        Output of an engine.
    *more
        Further outputs for the same simulator and observation, all weighted or all chains. Log weights are taken as
        they are: each store must be a proper importance sample of the same target, by whatever proposal and of
        whatever size, as those of `importance` and `ic` are. Chains are numbered on.

    Raises
    ------
    InvalidInputError
        When a store is not an engine's output, or the stores do not belong together.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = folder.name + "/post"
    >>> posterior = ts.inference.importance(gum, {"obs0": 8.0, "obs1": 9.0}, path, num_draws=4000, seed=1)
    >>> posterior.names
    ('mu', 'result')
    >>> bool(abs(posterior.mean("mu") - 7.25) < 4 * posterior.mcse("mu"))
    True
    >>> posterior.condition({"mu": (7.0, None)}).quantile("mu", 0.0) >= 7.0
    True
    >>> folder.cleanup()
    """

    def __init__(self, store: TraceStore, *more: TraceStore) -> None:
        self._view = draw_view.view_of((store, *more))
        self._variables: dict[str, Variable] = {}

    @classmethod
    def of_view(cls, view: DrawView) -> Self:
        """Look at draws that were selected or weighted already."""
        posterior = cls.__new__(cls)
        posterior._view = view
        posterior._variables = {}
        return posterior

    def __repr__(self) -> str:
        job = self.store.job
        program = job.fields["simulator"] if job else "?"
        detail = f"ESS {self.ess:.0f}" if self.is_weighted else f"{self.num_chains} chains"
        view = f", {', '.join(word for step in self._view.steps for word in step)}" if self._view.steps else ""
        return f"Posterior({self.engine} of {program!r}, {len(self)} draws, {detail}{view})"

    @property
    def stores(self) -> tuple[TraceStore, ...]:
        """The stores that hold the traces, those outside of a view included."""
        return self._view.table.stores

    @property
    def store(self) -> TraceStore:
        """The store, or the first one of several."""
        return self.stores[0]

    @property
    def observations(self) -> dict[str, NDArray[np.generic]]:
        """Observed values by name; empty for draws of the prior, each of which made its own."""
        return observed.observed_values(self._view)

    def expectation(self, function: Callable[..., ArrayLike], columns: Sequence[str] | None = None) -> Expectation:
        """Average any function over the posterior.

        Parameters
        ----------
        function
            Of a `Trace`, returning a number or an array of one shape; traces are read a part of the store at a time.
            With `columns` it gets one array a variable instead, shape ``(M, *shape)``, for all draws at once, and
            returns one row a draw.
        columns
            Names of variables. The expectation is then over the draws that have all of them.

        Returns
        -------
        Expectation
            ``value`` and ``mcse``, its Monte-Carlo standard error.

        Raises
        ------
        InvalidInputError
            When the function returns other shapes, or too many numbers of chains to keep.

        Examples
        --------
        >>> import tracestore as ts
        >>> from tracestore.simulators.toys import gum
        >>> posterior = ts.inference.importance(gum, {"obs0": 8.0, "obs1": 9.0}, "post", num_draws=500, seed=1)
        >>> by_trace = posterior.expectation(lambda trace: trace["mu"] ** 2)
        >>> by_column = posterior.expectation(np.square, ["mu"])
        >>> bool(abs(by_trace.value - by_column.value) < 1e-9), bool(by_trace.mcse > 0)
        (True, True)
        """
        if columns is None:
            return expectation_over_traces(self._view, self.weights, function)
        return expectation_of_columns(self._view, self.joint(columns), function)

    def joint(self, names: Sequence[str]) -> JointTable:
        """Put variables side by side, over the draws that have all of them.

        Parameters
        ----------
        names
            Names or addresses.

        Raises
        ------
        InvalidInputError
            When no draw has all of them.
        """
        return joint_table(self._view.table, self.weights, names)

    def covariance(self, names: Sequence[str]) -> Column:
        """Return the covariance matrix of variables given that all are present; vectors element by element."""
        return self.joint(names).covariance()

    def correlation(self, names: Sequence[str]) -> Column:
        """Return the correlation matrix of variables given that all are present; NaN where one never varies."""
        return self.joint(names).correlation()

    def thin(self, every: int) -> "Posterior":
        """View every n-th draw of each chain, or of each store of weighted draws."""
        return Posterior.of_view(draw_view.thin(self._view, every))

    def discard(self, num_draws: int) -> "Posterior":
        """View chains without their first draws.

        Parameters
        ----------
        num_draws
            Draws to leave out at the start of each chain.

        Raises
        ------
        DiagnosticError
            For weighted draws, which have no warm-up.
        InvalidInputError
            When nothing would be left of a chain.
        """
        if not self._view.has_chains:
            self._require_chains("Only Markov chains have a beginning to discard", "Use `thin` for fewer draws.")
        return Posterior.of_view(draw_view.without_first(self._view, num_draws))

    def condition(self, wanted: Condition) -> "Posterior":
        """View the draws that meet a condition; draws that lack one of the names do not meet it.

        Parameters
        ----------
        wanted
            A function of a `Trace` that returns whether to keep it, or criteria by name: a value, a range ``(low,
            high)`` with both ends included and None for an open end, or a function of all values at once that returns
            True or False for each.

        Returns
        -------
        Posterior
            Weights sum to one again. Its `log_evidence` is that of the observation and the condition together.

        Raises
        ------
        DegenerateWeightsError
            When no draw with weight meets the condition.
        """
        return Posterior.of_view(draw_view.condition(self._view, wanted))

    def reweight(self, log_factor: ArrayLike | TraceFunction) -> "Posterior":
        """View the draws with other weights: importance sampling of another target from this posterior.

        Draws of Markov chains become weighted: `khat` and `ess` judge the weights, errors take account of weights and
        chains, R-hat does not apply.

        Parameters
        ----------
        log_factor
            Logarithms of what the weights are multiplied by, shape ``(draws,)``, or a function that returns that of a
            `Trace`. Other priors: the new log density minus the old one.

        Raises
        ------
        InvalidInputError
            When a factor is NaN or infinitely large, or their number is wrong.
        """
        return Posterior.of_view(draw_view.reweight(self._view, log_factor))

    def reobserve(
        self, observations: Mapping[str, ArrayLike], likelihoods: Mapping[str, Likelihood] | None = None
    ) -> "Posterior":
        """View the draws under other observed values or other likelihoods, without running the simulator.

        Right as long as the simulator does not use the observed values; useful as long as `khat` and `ess` of the
        result say so.

        Parameters
        ----------
        observations
            New observed values by name; observes that are not named stay as they are. Draws of the prior, which have
            no observation, get one.
        likelihoods
            Functions that return the distribution of an observe in a `Trace`, by name. Needed for likelihoods of more
            than 64 numbers, which are not in the traces, and for other ones than the simulator's.

        Raises
        ------
        UnknownAddressError
            When no draw has an observe of a name.
        InvalidInputError
            When a value does not fit, or a likelihood is needed and not given.
        DegenerateWeightsError
            When no draw has weight under the new observation.
        """
        return Posterior.of_view(reobserve(self._view, observations, likelihoods or {}))

    def save(self, path: StorePath, *, observer: Observer | None = None) -> "Posterior":
        """Write the traces of this view with their weights into a store of their own.

        Parameters
        ----------
        path
            The new store; the same call continues it after an interruption.
        observer
            Told of progress.

        Returns
        -------
        Posterior
            What the new store holds.

        Raises
        ------
        InvalidInputError
            When the view was reobserved.
        StoreExistsError
            When the path holds something else.
        """
        return Posterior(save_view(self._view, path, observer=observer))

    def diagnose(
        self,
        *,
        rhat_max: float = 1.01,
        ess_per_chain: float = 100.0,
        names: Sequence[str] | None = None,
        network: Trained | None = None,
    ) -> Diagnosis:
        """Judge the draws and say in words what is wrong and what to do next; see `diagnosis.diagnose`."""
        return diagnose(self, rhat_max=rhat_max, ess_per_chain=ess_per_chain, names=names, network=network)

    def resample(self, num_draws: int, rng: np.random.Generator) -> TraceBatch:
        """Draw whole traces of equal weight, by systematic resampling.

        Parameters
        ----------
        num_draws
            Traces to return; one with a large weight comes several times.
        rng
            Random numbers.

        Raises
        ------
        DegenerateWeightsError
            When no draw has weight.
        """
        if num_draws < 1:
            message = f"`num_draws` must be at least 1; got {num_draws}."
            raise InvalidInputError(message, argument="num_draws")
        reached = np.cumsum(self.weights)
        marks = (np.arange(num_draws) + rng.random()) / num_draws * reached[-1]
        batch = self._view.table.take(np.searchsorted(reached, marks, side="right"))
        return replace(batch, log_weight=np.zeros(num_draws))

    def to_datatree(
        self,
        names: Sequence[str] | None = None,
        *,
        resample: Literal["stratified", "without_replacement"] | None = None,
        num_draws: int | None = None,
        seed: int = 0,
    ) -> "DataTree":
        """Return the draws as a `xarray.DataTree` in the conventions of ArviZ; see `datatree.to_datatree`."""
        from tracestore.posteriors.datatree import to_datatree  # needs xarray

        return to_datatree(self, names, resample=resample, num_draws=num_draws, seed=seed)

    def to_pandas(self, names: Sequence[str] | None = None) -> "DataFrame":
        """Return the draws as a `pandas.DataFrame`, one row each; see `data_frame.to_pandas`."""
        from tracestore.posteriors.data_frame import to_pandas  # needs pandas

        return to_pandas(self, names)

    def to_awkward(self) -> "Array":
        """Return whole traces as an Awkward array of records, in memory, in the order of the draws.

        The records are those of `tracestore.formats.awkward.to_awkward`, with the log weights of this view and a field
        ``weight``; all weights sum to one.

        Raises
        ------
        MissingExtraError
            When awkward is not installed.
        """
        from tracestore.formats.awkward import to_awkward  # needs awkward

        table = self._view.table
        batch = replace(table.take(np.arange(len(self))), log_weight=self.log_weights)
        array = to_awkward(batch)
        array["trace"] = table.store_rows
        array["weight"] = self.weights
        return array


def open_posterior(path: StorePath, *more: StorePath) -> Posterior:
    """Open what an engine wrote, or `Posterior.save`.

    Parameters
    ----------
    path
        Store of draws.
    *more
        Stores of further draws for the same simulator and observation.

    Raises
    ------
    StoreNotFoundError
        When a path is not a store.
    InvalidInputError
        When a store is not an engine's output, or the stores do not belong together.
    """
    return Posterior(*(TraceStore.open(place) for place in (path, *more)))
