"""Draws of a posterior as a pandas data frame. A leaf: needs pandas, which xarray brings along."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tracestore._extras import extra
from tracestore.posteriors.variable import MAX_ELEMENTS

with extra("xarray"):
    import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tracestore.posteriors.draw_quality import DrawQuality

__all__ = ["to_pandas"]


def to_pandas(posterior: "DrawQuality", names: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the draws as a data frame, one row each.

    Parameters
    ----------
    posterior
        The draws.
    names
        Names or addresses; all names when None, long vectors left out.

    Returns
    -------
    pandas.DataFrame
        Index levels ``chain`` and ``draw``. Columns ``weight`` (all sum to one) and ``log_weight``, then one a scalar
        variable or element of a vector, such as ``place[0]``; NaN where a draw lacks it.

    Raises
    ------
    UnknownAddressError
        When no draw has a name.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import branching
    >>> posterior = ts.inference.importance(branching, {"obs": 6}, "framed", num_draws=100, seed=1)
    >>> frame = to_pandas(posterior)
    >>> list(frame.columns), len(frame), list(frame.index.names)
    (['weight', 'log_weight', 'r', 'extra', 'result'], 100, ['chain', 'draw'])
    >>> bool(abs((frame["r"] * frame["weight"]).sum() - posterior.mean("r")) < 1e-12)
    True
    """
    table = posterior.table
    columns: dict[str, NDArray[np.float64]] = {"weight": posterior.weights, "log_weight": posterior.log_weights}
    for name in posterior.names if names is None else names:
        values, rows = table.present(name)
        shape = values.shape[1:]
        if names is None and math.prod(shape) > MAX_ELEMENTS:
            continue
        for index in np.ndindex(*shape):
            column = np.full(len(table), np.nan)
            column[rows] = values[(slice(None), *index)]
            columns[name + (f"[{', '.join(map(str, index))}]" if index else "")] = column
    index_of_draws = pd.MultiIndex.from_arrays([table.chain, table.draw], names=["chain", "draw"])
    return pd.DataFrame(columns, index=index_of_draws)
