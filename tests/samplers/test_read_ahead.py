import threading

import pytest

from tracestore.errors import InvalidInputError
from tracestore.samplers.read_ahead import read_ahead


def test_items_come_in_order_and_from_another_thread():
    def items():
        for number in range(20):
            yield number, threading.get_ident()

    found = list(read_ahead(items(), 3))
    assert [number for number, _ in found] == list(range(20))
    assert threading.get_ident() not in {thread for _, thread in found}


def test_it_runs_ahead_as_far_as_asked_for():
    begun = threading.Semaphore(0)

    def items():
        for number in range(20):
            begun.release()
            yield number

    ahead = read_ahead(items(), 4)
    next(ahead)
    # 4 at the start, and one more for the item that was taken
    assert all(begun.acquire(timeout=10) for _ in range(5))
    assert not begun.acquire(timeout=0.1)
    ahead.close()


def test_error_comes_where_its_item_would_have():
    def items():
        yield 1
        yield 2
        raise OSError("gone")

    ahead = read_ahead(items(), 5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(ahead)


def test_depth_must_be_positive():
    with pytest.raises(InvalidInputError, match="`depth` must be at least 1; got 0"):
        next(read_ahead(iter([]), 0))
