"""Programs of the C++ front end."""

import pytest


@pytest.fixture(scope="session")
def built(tmp_path_factory, worker_id="master"):
    """Build the examples and the models of the tests; return the folder."""
    pytest.importorskip("zmq")
    from tests.cpp.front_end import build, missing_tools

    if missing := missing_tools():
        pytest.skip(missing)
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # one folder for all workers of a session
    return build(shared / "cpp-front-end", "gum", "gum_marsaglia", "branching", "hmm", "detector", "models")


@pytest.fixture
def examples(built):
    return built / "examples"


@pytest.fixture
def models(built):
    return built / "tests" / "models"
