"""Lines of results, printed together at the end of a run: benchmarks report ratios, tests are elsewhere."""

import time
from collections.abc import Callable

import pytest

LINES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scale", type=float, default=1.0, help="multiply the sizes of benchmarks")


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> float:
    return request.config.getoption("--scale")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Add a line to the results."""
    return request.config.stash.setdefault(LINES, []).append


@pytest.fixture
def seconds() -> Callable[..., float]:
    """Least time of a call, after one that does not count: what others do on the machine only adds."""

    def measure(call: Callable[[], object], repeats: int = 5) -> float:
        call()
        times: list[float] = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    return measure


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(LINES, []):
        terminalreporter.write_line(line)
