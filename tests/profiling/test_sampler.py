"""The sampler: what it sees, and that it leaves signals as they were."""

import ctypes
import signal
import threading
import time

import pytest

from tracestore.errors import InvalidInputError
from tracestore.profiling.sampler import StackSampler

SPIN_SECONDS = 0.25


def spin(seconds=SPIN_SECONDS):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def rest():
    time.sleep(SPIN_SECONDS)


def seconds_in(sampler, function):
    return sum(
        sample.seconds for sample in sampler.samples() if any(frame.function == function for frame in sample.frames)
    )


@pytest.mark.parametrize("function", [spin, rest], ids=["spins", "sleeps"])
def test_most_of_the_time_is_in_the_function_that_takes_it(function):
    with StackSampler() as sampler:
        function()
    assert seconds_in(sampler, function.__name__) > 0.5 * sampler.seconds


def test_native_code_that_calls_back_keeps_its_time():
    """A signal during native code is handled in the callback's first instruction, and belongs to the caller."""

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    def compare(_, __):
        return 0

    numbers = (ctypes.c_int * 200_000)()
    library = ctypes.CDLL(None)

    def sort():
        library.qsort(numbers, len(numbers), ctypes.sizeof(ctypes.c_int), compare)

    with StackSampler() as sampler:
        sort()
    innermost = [sample for sample in sampler.samples() if sample.frames[-1].function.endswith("compare")]
    assert sum(sample.seconds for sample in innermost) < 0.5 * seconds_in(sampler, sort.__qualname__)


def test_line_is_the_one_that_runs():
    with StackSampler() as sampler:
        rest()
    frame = sampler.samples()[0].frames[-1]
    assert (frame.function, frame.line) == ("rest", rest.__code__.co_firstlineno + 1)


def test_samples_and_own_time_add_up_to_the_whole():
    begun = time.perf_counter()
    with StackSampler() as sampler:
        spin()
    assert sampler.seconds + sampler.own_seconds <= time.perf_counter() - begun
    assert sum(sample.num_samples for sample in sampler.samples()) == sampler.num_samples > 0


def test_samples_hold_the_time_since_the_one_before():
    with StackSampler() as sampler:
        sum(number * number for number in range(300_000))
    assert 0.0 < sum(sample.seconds for sample in sampler.samples()) <= sampler.seconds


def test_handler_and_timer_of_others_are_put_back():
    def other(*_):
        """Do nothing."""

    before, timer = signal.signal(signal.SIGALRM, other), signal.setitimer(signal.ITIMER_REAL, 100.0)
    try:
        with pytest.raises(KeyboardInterrupt), StackSampler():
            raise KeyboardInterrupt
        assert signal.getsignal(signal.SIGALRM) is other
        assert 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100.0
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_platform_without_the_timer_is_refused(monkeypatch):
    monkeypatch.delattr(signal, "setitimer")
    with pytest.raises(InvalidInputError, match="no interval timer"), StackSampler():
        pass


def test_another_thread_is_refused():
    found = []

    def work():
        try:
            StackSampler().__enter__()
        except InvalidInputError as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "main thread" in found[0]
