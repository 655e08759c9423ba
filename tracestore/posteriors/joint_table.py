"""Several variables of a posterior side by side, over the draws that have all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics.chains import is_constant
from tracestore.errors import DegenerateWeightsError, InvalidInputError
from tracestore.posteriors.draw_table import DrawTable

__all__ = ["JointTable", "joint_table"]

Column = NDArray[np.float64]


@dataclass(frozen=True)
class JointTable:
    """Values of several variables, row by row of the same draws.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import branching
    >>> posterior = ts.inference.importance(branching, {"obs": 6}, "joint", num_draws=500, seed=1)
    >>> table = posterior.joint(["r", "extra"])
    >>> table.labels, len(table) < 500, table["extra"].shape == table.weights.shape
    (('r', 'extra'), True, True)
    """

    columns: dict[str, Column]
    """Values by name, shape ``(M, *shape)``."""
    weights: Column
    """Shape ``(M,)``; the weights of *all* draws of the posterior sum to one, so these sum to the presence."""
    chain: NDArray[np.int64]
    """Shape ``(M,)``."""
    draw: NDArray[np.int64]
    """Shape ``(M,)``: position in the chain, or in the job."""

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    @property
    def presence(self) -> float:
        """Posterior probability that a trace has all of the variables."""
        return min(float(self.weights.sum()), 1.0)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the columns of `matrix`: those of scalars as they are, elements with their index in brackets."""
        return tuple(
            name + (f"[{', '.join(map(str, index))}]" if index else "")
            for name, column in self.columns.items()
            for index in np.ndindex(*column.shape[1:])
        )

    @property
    def matrix(self) -> Column:
        """All scalars side by side, shape ``(M, len(labels))``."""
        return np.concatenate([column.reshape(len(column), -1) for column in self.columns.values()], axis=1)

    def covariance(self) -> Column:
        """Return the covariance matrix given that all variables are present, shape ``(labels, labels)``.

        Raises
        ------
        DegenerateWeightsError
            When all of them are present only in draws of weight zero.
        """
        used = self.weights > 0.0
        if not used.any():
            message = f"{', '.join(self.columns)} are together only in draws of weight zero; they have no covariance."
            raise DegenerateWeightsError(message, names=tuple(self.columns))
        weights = self.weights[used] / self.weights[used].sum()
        values = self.matrix[used]
        deviations = values - weights @ values
        covariance: Column = (deviations * weights[:, None]).T @ deviations
        return covariance

    def correlation(self) -> Column:
        """Return the correlation matrix, shape ``(labels, labels)``; NaN where a variable never varies."""
        covariance = self.covariance()
        deviation = np.sqrt(np.diag(covariance))
        # what never varies has a deviation of rounding errors
        constant = [is_constant(column) for column in self.matrix[self.weights > 0.0].T]
        deviation[constant] = np.nan
        correlation: Column = np.clip(covariance / np.outer(deviation, deviation), -1.0, 1.0)
        return correlation


def joint_table(table: DrawTable, weights: Column, names: Sequence[str]) -> JointTable:
    """Align variables over the draws that have all of them.

    Parameters
    ----------
    table
        The draws.
    weights
        Normalized weights of all draws, shape ``(rows,)``.
    names
        Names or addresses.

    Raises
    ------
    UnknownAddressError
        When no draw has a name.
    InvalidInputError
        When there is no name, a name twice, or no draw has all of them.
    """
    if isinstance(names, str) or not names or len(set(names)) != len(names):
        message = f"`names` must be a list of different names; got {names!r}."
        raise InvalidInputError(message, argument="names")
    found = {name: table.present(name) for name in names}
    together = np.ones(len(table), np.bool_)
    for _, rows in found.values():
        has = np.zeros(len(table), np.bool_)
        has[rows] = True
        together &= has
    if not together.any():
        message = f"No draw has all of {', '.join(map(repr, names))}; they exclude each other."
        raise InvalidInputError(message, names=tuple(names))
    columns = {name: values[together[rows]] for name, (values, rows) in found.items()}
    return JointTable(columns, weights[together], table.chain[together], table.draw[together])
