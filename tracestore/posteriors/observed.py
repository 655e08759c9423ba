"""What a posterior was inferred from: the observed values in its traces."""

import numpy as np
from numpy.typing import NDArray

from tracestore.posteriors.draw_view import DrawView

__all__ = ["observed_values"]


def observed_values(view: DrawView) -> dict[str, NDArray[np.generic]]:
    """Return observed values by name; those of a reobservation in place of the recorded ones.

    Parameters
    ----------
    view
        Draws for one observation. Draws of the prior have none but those that `reobserve` gave them.
    """
    found: dict[str, NDArray[np.generic]] = {}
    if view.engine != "prior" and len(view.table):
        names = dict.fromkeys(name for layout in view.table.layouts() for name in layout.observed_names)
        # one trace of each run, until every name was met: all draws saw the same values
        _, first = np.unique(view.table.runs, return_index=True)
        for row in np.sort(first):
            missing = [name for name in names if name not in found]
            if not missing:
                break
            trace = view.table.take(np.array([row]))[0]
            found |= {name: trace.observations[name] for name in missing if name in trace.observations}
        found = {name: found[name] for name in names if name in found}
    return {**found, **{name: value for name, value in view.reobserved.items() if value is not None}}
