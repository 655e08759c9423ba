"""Posteriors over traces: inference engines, the posterior as a weighted view of stores, diagnostics, reports."""
