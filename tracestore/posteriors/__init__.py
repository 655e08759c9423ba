"""Posteriors: weighted views of the stores that engines wrote."""

from tracestore.posteriors.posterior import Draws, Posterior, open_posterior

__all__ = ["Draws", "Posterior", "open_posterior"]
