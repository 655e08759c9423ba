"""A rejection loop that is marked as a whole, so that its passes cannot be told apart."""

import tracestore as ts


@ts.simulator
def marked() -> float:
    """Draw from Beta(2, 2)."""
    with ts.rejection():
        while True:
            x: float = ts.sample(ts.Uniform(0.0, 1.0), name="x")
            if ts.sample(ts.Uniform(0.0, 1.0)) < 4.0 * x * (1.0 - x):
                return x
