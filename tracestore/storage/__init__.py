"""Named files at one root: a directory, or a prefix of an object store. Knows nothing of what is in the files."""

from tracestore.storage.base import File, Location, Storage, open_storage
from tracestore.storage.local import LocalStorage, flush_file, raise_if_full

__all__ = ["File", "LocalStorage", "Location", "Storage", "flush_file", "open_storage", "raise_if_full"]
