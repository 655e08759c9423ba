"""Data sets of other programs, converted into stores: those of pyprob 1.x."""

from tracestore.importers.pyprob_import import import_pyprob
from tracestore.importers.pyprob_report import PyprobImport

__all__ = ["PyprobImport", "import_pyprob"]
