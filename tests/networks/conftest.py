"""Every test here begins with the same random weights, in any order of tests."""

import pytest


@pytest.fixture(autouse=True)
def _seed_weights() -> None:
    pytest.importorskip("torch").manual_seed(0)
