"""The posterior as a weighted view of the stores that engines wrote."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.diagnostics import chains
from tracestore.diagnostics.psis import pareto_khat
from tracestore.diagnostics.weights import Estimate, kish_ess, log_evidence, normalized_weights
from tracestore.errors import DegenerateWeightsError, DiagnosticError, InvalidInputError
from tracestore.posteriors.chain_states import last_states
from tracestore.posteriors.draw_table import CHAIN_ENGINES, DrawTable, common_engine
from tracestore.posteriors.summary import MoveAcceptance, Summary
from tracestore.posteriors.variable import MAX_ELEMENTS, Draws, Number, Variable, by_chain
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

__all__ = ["Draws", "Posterior", "open_posterior"]

Column = NDArray[np.float64]


class Posterior:
    """Weighted draws of traces, by name, address or tag.

    The traces stay in the store; columns are read when asked for. A variable that only some traces have is described by
    its presence, and by its moments over the draws where it is present. Moments are numbers for scalar variables and
    arrays of the variable's shape for others.

    Parameters
    ----------
    store
        Output of an engine.
    *more
        Further outputs for the same simulator and observation, all weighted or all chains. Log weights are taken as
        they are; chains are numbered on.

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
    >>> folder.cleanup()
    """

    def __init__(self, store: TraceStore, *more: TraceStore) -> None:
        self.stores: tuple[TraceStore, ...] = (store, *more)
        self.engine = common_engine(self.stores)
        self.is_weighted = not set(self.engine.split("+")) & set(CHAIN_ENGINES)
        self._table = DrawTable(self.stores, has_chains=not self.is_weighted)
        self._variables: dict[str, Variable] = {}

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        job = self.store.job
        program = job.fields["simulator"] if job else "?"
        detail = f"ESS {self.ess:.0f}" if self.is_weighted else f"{self.num_chains} chains"
        return f"Posterior({self.engine} of {program!r}, {len(self)} draws, {detail})"

    @property
    def store(self) -> TraceStore:
        """The store, or the first one of several."""
        return self.stores[0]

    @cached_property
    def num_chains(self) -> int:
        """Markov chains; for weighted draws the number of stores."""
        return len(np.unique(self._table.chain))

    @cached_property
    def num_failed(self) -> int:
        """Recorded draws that the simulator failed; they have weight zero."""
        return int(np.count_nonzero(self._table.column("status")))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of draws, then of tags, as they come in the traces; ``result`` is the simulator's return value."""
        return self._table.names

    @cached_property
    def log_weights(self) -> Column:
        """Unnormalized log weights of all draws, shape ``(draws,)``."""
        return self._table.column("log_weight").astype(np.float64)

    @cached_property
    def weights(self) -> Column:
        """Weights of all draws, summing to one, shape ``(draws,)``.

        Raises
        ------
        DegenerateWeightsError
            When no draw has weight.
        """
        weights = normalized_weights(self.log_weights)
        if not weights.any():
            reason = next((f" ({text})" for store in self.stores for text in store.failures().values()), "")
            failed = f"; {self.num_failed} are failed runs{reason}" if self.num_failed else ""
            message = (
                f"All {len(self)} draws have weight zero{failed}. The observation is impossible under the simulator, or"
                " out of reach: check it, ask for more draws, or use `rmh`."
            )
            raise DegenerateWeightsError(message, num_draws=len(self), num_failed=self.num_failed)
        return weights

    def values(self, name: str) -> Draws:
        """Return the draws of one variable, where it is present.

        Parameters
        ----------
        name
            Name, full address, or name of a tag.

        Raises
        ------
        UnknownAddressError
            When no draw has it.
        DegenerateWeightsError
            When no draw has weight.
        """
        return self._variable(name).draws

    def presence(self, name: str) -> float:
        """Return the posterior probability that a trace has the variable at all."""
        return self._variable(name).presence

    def mean(self, name: str) -> Number:
        """Return the posterior mean of a variable."""
        return self._variable(name).mean()

    def var(self, name: str) -> Number:
        """Return the posterior variance of a variable."""
        return self._variable(name).var()

    def std(self, name: str) -> Number:
        """Return the posterior standard deviation of a variable."""
        return self._variable(name).std()

    def quantile(self, name: str, probabilities: ArrayLike) -> Number:
        """Return posterior quantiles: the smallest draw at which the distribution function reaches a probability.

        Parameters
        ----------
        name
            Name or address.
        probabilities
            Numbers between 0 and 1, any shape.

        Returns
        -------
        float or numpy.ndarray
            Of the shape of `probabilities`, followed by that of the variable.

        Raises
        ------
        InvalidInputError
            When a probability is outside 0 and 1.
        """
        return self._variable(name).quantile(probabilities)

    def probabilities(self, name: str) -> dict[float, float]:
        """Return the posterior probability of each value of a discrete scalar, in the order of the values.

        Raises
        ------
        InvalidInputError
            When the variable is a vector or takes other than whole numbers.
        """
        return self._variable(name).probabilities()

    def histogram(self, name: str, bins: int | Sequence[float] = 50) -> tuple[Column, Column]:
        """Return the posterior density of a scalar variable in bins, and the edges of the bins.

        Parameters
        ----------
        name
            Name or address.
        bins
            Number of bins over the range of the draws with weight, or their edges.

        Raises
        ------
        InvalidInputError
            When the variable is a vector.
        """
        return self._variable(name).histogram(bins)

    @cached_property
    def ess(self) -> float:
        """Effective sample size of the posterior as one number.

        For weighted draws Kish's size of the weights. For chains the smallest bulk size over all named variables (short
        vectors element by element) and the log likelihood; what never varies does not count.
        """
        if self.is_weighted:
            return kish_ess(self.log_weights)
        sizes = [chains.ess(by_chain(self._table.column("log_likelihood"), self._table.chain))]
        for variable in map(self._variable, self.names):
            if math.prod(variable.shape) <= MAX_ELEMENTS:
                sizes += variable.finite_sizes()
        return min((size for size in sizes if not math.isnan(size)), default=math.nan)

    def ess_of(self, name: str) -> Number:
        """Return the effective sample size behind one variable.

        For weighted draws Kish's size over the draws where it is present. For chains the bulk size; NaN when the
        variable never varies.
        """
        return self._variable(name).ess()

    def mcse(self, name: str) -> Number:
        """Return the Monte-Carlo standard error of the mean of a variable.

        By the delta method for weighted draws, from the effective sample size for chains.
        """
        return self._variable(name).mcse()

    def rhat(self, name: str) -> Number:
        """Return the rank-normalized split R-hat of a variable over the chains; NaN when it never varies.

        A variable that only some draws have is compared over those, the chains cut to the shortest.

        Raises
        ------
        DiagnosticError
            For weighted draws, and with fewer than two chains or four draws a chain.
        """
        self._require_chains("R-hat compares Markov chains", "Look at `ess` and `khat`.")
        return self._variable(name).rhat()

    def is_constant(self, name: str) -> bool:
        """Tell whether a variable never varies, so that it has no R-hat and no effective sample size."""
        return self._variable(name).is_constant()

    @cached_property
    def khat(self) -> float:
        """Pareto k-hat of the weights; below about 0.7 the estimates can be trusted.

        Raises
        ------
        DiagnosticError
            For chains.
        DegenerateWeightsError
            When no draw has weight.
        """
        self._require_weights("Pareto k-hat judges importance weights", "Look at `rhat` and `ess`.")
        with np.errstate(divide="ignore"):
            return pareto_khat(np.log(self.weights))

    @property
    def log_evidence(self) -> float:
        """Log of the marginal likelihood; failed draws count as impossible ones.

        Raises
        ------
        DiagnosticError
            For chains, which do not estimate it.
        """
        return self._evidence.value

    @property
    def log_evidence_se(self) -> float:
        """Standard error of the log evidence, by the delta method; NaN when every weight is zero."""
        return self._evidence.standard_error

    @property
    def acceptance(self) -> float:
        """Share of the moves after warm-up that were accepted.

        Raises
        ------
        DiagnosticError
            For weighted draws.
        """
        rows = self.acceptance_by_move
        return sum(row.num_accepted for row in rows) / max(sum(row.num_proposed for row in rows), 1)

    @cached_property
    def acceptance_by_move(self) -> tuple[MoveAcceptance, ...]:
        """Moves proposed, accepted and failed after warm-up, by chain and move.

        Raises
        ------
        DiagnosticError
            For weighted draws.
        """
        self._require_chains("Acceptance belongs to Markov chains", "Look at `ess`.")
        rows: list[MoveAcceptance] = []
        for place, store in enumerate(self.stores):
            rows += [
                MoveAcceptance(self._table.first_chain[place] + chain, move, *counts)
                for chain, state in last_states(store).items()
                for move, counts in state["counts"].items()
            ]
        return tuple(rows)

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
        batch = self._table.take(np.searchsorted(reached, marks, side="right"))
        return replace(batch, log_weight=np.zeros(num_draws))

    def summary(
        self, names: Sequence[str] | None = None, *, probabilities: Sequence[float] = (0.05, 0.5, 0.95)
    ) -> Summary:
        """Describe variables: moments, quantiles, errors and diagnostics, one row each; prints as a table.

        Parameters
        ----------
        names
            Names or addresses; all names when None, long vectors left out.
        probabilities
            Probabilities of the quantiles.
        """
        variables = [self._variable(name) for name in names or self.names]
        short = [variable for variable in variables if names or math.prod(variable.shape) <= MAX_ELEMENTS]
        return Summary([row for variable in short for row in variable.summary_rows(probabilities)], probabilities)

    def _variable(self, name: str) -> Variable:
        if name not in self._variables:
            values, rows = self._table.present(name)
            draws = Draws(values, self.weights[rows], self._table.chain[rows], self._table.draw[rows])
            self._variables[name] = Variable(name, draws, has_chains=not self.is_weighted)
        return self._variables[name]

    @cached_property
    def _evidence(self) -> Estimate:
        self._require_weights("Markov chains do not estimate the evidence", "Use `importance` or `ic` for it.")
        return log_evidence(self.log_weights)

    def _require_chains(self, what: str, instead: str) -> None:
        if self.is_weighted:
            message = f"{what}; these are weighted draws of the engine {self.engine!r}. {instead}"
            raise DiagnosticError(message, engine=self.engine)

    def _require_weights(self, what: str, instead: str) -> None:
        if not self.is_weighted:
            message = f"{what}; these are draws of the engine {self.engine!r}. {instead}"
            raise DiagnosticError(message, engine=self.engine)


def open_posterior(path: StorePath, *more: StorePath) -> Posterior:
    """Open what an engine wrote.

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
