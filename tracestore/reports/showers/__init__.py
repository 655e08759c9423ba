"""Models of showers beside a reference: what is measured, how it is judged, and the page that shows it."""

__all__ = ()
