"""Sections of a report as HTML, one module each: parts of a `Page` in, text out."""

__all__ = ()
