"""How far the draws of a posterior go, as a whole: weights, sizes, evidence, acceptance."""

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics import chains
from tracestore.diagnostics.psis import pareto_khat
from tracestore.diagnostics.weights import kish_ess, normalized_weights
from tracestore.errors import DegenerateWeightsError, DiagnosticError
from tracestore.posteriors.chain_states import acceptance_by_address, acceptance_by_move, trajectories
from tracestore.posteriors.draw_table import DrawTable
from tracestore.posteriors.draw_view import DrawView
from tracestore.posteriors.marginals import Marginals
from tracestore.posteriors.summary import AddressAcceptance, MoveAcceptance, Trajectories
from tracestore.posteriors.variable import MAX_ELEMENTS, Draws, Number, Variable, by_chain
from tracestore.posteriors.weight_findings import no_weight_finding

__all__ = ["DrawQuality"]

Column = NDArray[np.float64]


class DrawQuality(Marginals):
    """Weights of the draws and everything that is known about them as a whole."""

    _view: DrawView
    _variables: dict[str, Variable]

    def __len__(self) -> int:
        return len(self._view.table)

    @property
    def view(self) -> DrawView:
        """Rows and weights of this posterior, for the modules that work with them."""
        return self._view

    @property
    def table(self) -> DrawTable:
        """Columns of the draws, row by row of this posterior."""
        return self._view.table

    @property
    def engine(self) -> str:
        """Engine that made the draws; several joined by ``+``."""
        return self._view.engine

    @property
    def has_chains(self) -> bool:
        """Whether the draws are states of Markov chains."""
        return self._view.has_chains

    @property
    def is_weighted(self) -> bool:
        """Whether draws have different weights; those of Markov chains have none until they are reweighted."""
        return not self._view.has_chains or self._view.is_reweighted

    @property
    def names(self) -> tuple[str, ...]:
        """Names of draws, then of tags, as they come in the traces; ``result`` is the simulator's return value."""
        return self._view.table.names

    @cached_property
    def num_chains(self) -> int:
        """Markov chains; for weighted draws the number of stores."""
        return len(np.unique(self._view.table.chain))

    @cached_property
    def num_failed(self) -> int:
        """Recorded draws that the simulator failed; they have weight zero."""
        return int(np.count_nonzero(self._view.table.column("status")))

    @property
    def log_weights(self) -> Column:
        """Unnormalized log weights of all draws, shape ``(draws,)``."""
        return self._view.log_weights

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
            finding = no_weight_finding(self._view.table, self.engine)
            reason = next((text for store in self._view.table.stores for text in store.failures().values()), "")
            failed = f" {self.num_failed} are failed runs ({reason})." if self.num_failed else ""
            message = f"{finding.text}{failed} {finding.advice}"
            raise DegenerateWeightsError(message, num_draws=len(self), num_failed=self.num_failed)
        return weights

    @cached_property
    def ess(self) -> float:
        """Effective sample size of the posterior as one number.

        For weighted draws Kish's size of the weights. For chains the smallest bulk size over all named variables (short
        vectors element by element) and the log likelihood; what never varies does not count. For reweighted chains the
        smallest number of independent draws that would give the errors of the means, and at most Kish's size.
        """
        if not self._view.has_chains:
            return kish_ess(self.log_weights)
        sizes = []
        if self.is_weighted:
            sizes.append(kish_ess(self.log_weights))
        else:
            sizes.append(chains.ess(by_chain(self._view.table.column("log_likelihood"), self._view.table.chain)))
        for variable in map(self._variable, self.names):
            if math.prod(variable.shape) <= MAX_ELEMENTS:
                sizes += variable.finite_sizes()
        return min((size for size in sizes if not math.isnan(size)), default=math.nan)

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
        if not self.is_weighted:
            self._refuse_chains("Pareto k-hat judges importance weights", "Look at `rhat` and `ess`.")
        with np.errstate(divide="ignore"):
            return pareto_khat(np.log(self.weights))

    @property
    def log_evidence(self) -> float:
        """Log of the marginal likelihood; failed draws count as impossible ones.

        Of a view made by `condition`, that of the observation *and* the condition together; of `reweight`, that of the
        new unnormalized target; of `reobserve`, that of the new observation.

        Raises
        ------
        DiagnosticError
            For chains, which do not estimate it.
        """
        if self._view.has_chains:
            self._refuse_chains("Markov chains do not estimate the evidence", "Use `importance` or `ic` for it.")
        return self._view.evidence.value

    @property
    def log_evidence_se(self) -> float:
        """Standard error of the log evidence, by the delta method; NaN when every weight is zero."""
        return self._view.evidence.standard_error if self.log_evidence > -math.inf else math.nan

    @property
    def acceptance(self) -> float:
        """Share of the moves after warm-up that were accepted, in the chains as they ran.

        Raises
        ------
        DiagnosticError
            For weighted draws, and where no states of chains are recorded.
        """
        rows = self.acceptance_by_move
        return sum(row.num_accepted for row in rows) / max(sum(row.num_proposed for row in rows), 1)

    @cached_property
    def acceptance_by_move(self) -> tuple[MoveAcceptance, ...]:
        """Moves proposed, accepted and failed after warm-up, by chain and move, in the chains as they ran.

        Raises
        ------
        DiagnosticError
            For weighted draws, and where no states of chains are recorded.
        """
        self._require_moves()
        return acceptance_by_move(self._view.table.stores, self._view.table.first_chain)

    @cached_property
    def acceptance_by_address(self) -> tuple[AddressAcceptance, ...]:
        """Moves of single draws, by address, over all chains, the most frequent address first.

        Empty when the chains recorded none.

        Raises
        ------
        DiagnosticError
            For weighted draws.
        """
        self._require_moves()
        return acceptance_by_address(self._view.table.stores)

    @cached_property
    def trajectories(self) -> tuple[Trajectories, ...]:
        """What each chain of an engine with gradients did after warm-up; empty for other chains.

        Raises
        ------
        DiagnosticError
            For weighted draws.
        """
        self._require_moves()
        return trajectories(self._view.table.stores, self._view.table.first_chain)

    def _variable(self, name: str) -> Variable:
        if name not in self._variables:
            table = self._view.table
            values, rows = table.present(name)
            whole = len(rows) == len(self)
            draws = Draws(
                values,
                self.weights if whole else self.weights[rows],
                table.chain if whole else table.chain[rows],
                table.draw if whole else table.draw[rows],
            )
            self._variables[name] = self._described(name, draws)
        return self._variables[name]

    def _described(self, name: str, draws: Draws) -> Variable:
        has_chains = self._view.has_chains
        return Variable(name, draws, has_chains=has_chains, is_reweighted=self._view.is_reweighted)

    def _require_chains(self, what: str, instead: str) -> None:
        if self.is_weighted:
            kind = "reweighted chains" if self._view.has_chains else "weighted draws"
            message = f"{what}; these are {kind} of the engine {self.engine!r}. {instead}"
            raise DiagnosticError(message, engine=self.engine)

    def _require_moves(self) -> None:
        if not self._view.has_chains:
            self._require_chains("Acceptance belongs to Markov chains", "Look at `ess`.")

    def _refuse_chains(self, what: str, instead: str) -> None:
        message = f"{what}; these are draws of the engine {self.engine!r}. {instead}"
        raise DiagnosticError(message, engine=self.engine)
