"""Guard for optional dependencies: one sentence that names the extra to install."""

from collections.abc import Iterator
from contextlib import contextmanager

from tracestore.errors import MissingExtraError

__all__ = ["extra"]


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a failed import inside the block into a `MissingExtraError`.

    Parameters
    ----------
    name
        The extra of tracestore that installs what the block imports.

    Raises
    ------
    MissingExtraError
        When an import in the block fails.

    Examples
    --------
    >>> with extra("train"):
    ...     import json
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed; run: pip install 'tracestore[{name}]'"
        raise MissingExtraError(message, extra=name, module=error.name) from error
