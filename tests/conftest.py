"""Settings that hold for every test."""

import importlib
import os
from collections.abc import Callable, Generator
from types import ModuleType
from typing import TypeVar

# before numpy or torch load: one thread each, so that test processes do not fight for cores
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import pytest
from hypothesis import settings

from tracestore.errors import MissingExtraError

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

settings.register_profile("quick", max_examples=30, derandomize=True, deadline=None)
settings.register_profile("nightly", max_examples=1_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow, too")
    parser.addoption("--require-extras", action="store_true", help="a test that skips for a missing package fails")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    skip = pytest.mark.skip(reason="slow; give --run-slow")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _refuse_missing_extra((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _refuse_missing_extra((yield), collector.config)


@pytest.fixture
def import_or_skip() -> Callable[[str], ModuleType]:
    """Import a module of the library; skip the test where the extra that it needs is not installed."""

    def load(name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except MissingExtraError as error:
            pytest.skip(str(error))

    return load


def _refuse_missing_extra(report: Report, config: pytest.Config) -> Report:
    """A lane that has all extras must not look green because one is broken."""
    reason = str(report.longrepr)
    is_missing = "could not import" in reason or "is not installed" in reason
    if report.skipped and is_missing and config.getoption("--require-extras"):
        report.outcome = "failed"
    return report
