"""Where a store is or shall be, with what is decided when it is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tracestore.formats.base import CodecChoice
from tracestore.storage import Location, Storage, open_storage

__all__ = ["StoreLocation", "StorePath", "to_location"]


@dataclass(frozen=True)
class StoreLocation:
    """A place for a store, given wherever a path is: to `simulate`, to an inference engine, to `sort_store`.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> place = StoreLocation("zarr-traces", backend="zarr", codec="zstd")
    >>> ts.simulate(gum, place, num_traces=10, seed=1).backend
    'zarr'
    """

    path: Location
    """A path, or a URL: ``s3://BUCKET/PREFIX``, ``memory://NAME``."""
    backend: str = "arrow"
    """Format of the segments: ``arrow``, the fastest on local disks, or ``zarr``, which any Zarr reader opens."""
    codec: CodecChoice = "auto"
    """How observations are compressed: ``none``, ``lz4``, ``zstd``, or ``auto``; or a dict of these by name."""
    storage_options: Mapping[str, object] = field(default_factory=dict)
    """For URLs: options of the object store, such as ``endpoint`` and ``region``."""

    def open(self) -> Storage:
        """Open the storage; whether there is a store in it is not asked."""
        return open_storage(self.path, self.storage_options)


StorePath = Location | StoreLocation


def to_location(path: StorePath, **decided: object) -> StoreLocation:
    """Make a path a location.

    Parameters
    ----------
    path
        A location is returned as it is.
    **decided
        Fields of the location of a plain path.
    """
    return path if isinstance(path, StoreLocation) else StoreLocation(path, **decided)  # type: ignore[arg-type]
