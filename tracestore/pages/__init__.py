"""Pages for people: one HTML file that opens offline, and the look that all of them share (figures need matplotlib)."""

from tracestore.pages.document import render_document, write_page

__all__ = ["render_document", "write_page"]
