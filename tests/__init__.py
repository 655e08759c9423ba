"""Tests of tracestore; a package, so that no other distribution can put its own `tests` in the way."""
