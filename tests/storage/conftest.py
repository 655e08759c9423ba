"""Servers for the tests of this room."""

from tests.suites.object_server import object_server, object_url
from tests.suites.stubborn_server import stubborn

__all__ = ["object_server", "object_url", "stubborn"]
