"""The command line: ``tracestore VERB ...``, or `main` with its words."""

from tracestore.cli.command import main

__all__ = ["main"]
