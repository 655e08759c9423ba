"""Record the draws of unmodified Python programs."""

from tracestore.hijacking.context import SOURCES, Hijack, Source, hijack
from tracestore.hijacking.drawing import Leak, draw, native, note_leak, recording

__all__ = ["SOURCES", "Hijack", "Leak", "Source", "draw", "hijack", "native", "note_leak", "recording"]
