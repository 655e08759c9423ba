"""Compute the items of an iterator in a background thread, while the caller works on those before."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tracestore.errors import InvalidInputError

__all__ = ["read_ahead"]

Item = TypeVar("Item")


class _End:
    """What comes after the last item."""


def read_ahead(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """Yield the items of an iterator, of which one thread computes up to `depth` ahead.

    The thread ends with the generator, also when it is closed early. An error comes out where its item would have.

    Parameters
    ----------
    items
        Advanced in the thread only.
    depth
        Items that are kept ready, at least 1.

    Raises
    ------
    InvalidInputError
        When the depth is not positive.

    Examples
    --------
    >>> list(read_ahead(iter("abc"), 2))
    ['a', 'b', 'c']
    """
    if depth < 1:
        message = f"`depth` must be at least 1; got {depth}."
        raise InvalidInputError(message, argument="depth", found=depth)
    pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    pending: deque[Future[Item | _End]] = deque()
    end = _End()
    try:
        for _ in range(depth):
            pending.append(pool.submit(next, items, end))
        while not isinstance(item := pending.popleft().result(), _End):
            pending.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
