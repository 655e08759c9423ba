"""An S3-compatible server on the loopback interface, for every test that needs objects.

Import `object_server` and `object_url` into the test module that uses them, and put `SERVER_WARNINGS` among its marks.
"""

import itertools
import secrets
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

BUCKET = "traces"
# the server is of another project, and so are its deprecations
SERVER_WARNINGS = pytest.mark.filterwarnings("ignore::DeprecationWarning:(moto|werkzeug|flask|botocore)")


def object_options(endpoint: str) -> dict[str, object]:
    """Everything that a client needs: without keys it would ask the network for some."""
    return {
        "endpoint": endpoint,
        "region": "us-east-1",
        "access_key_id": "key",
        "secret_access_key": "secret",
        "virtual_hosted_style_request": False,
        "allow_http": True,
        "timeout": "20s",
        "retry_config": {"max_retries": 2},
    }


def one_write_at_a_time(application: Callable[..., Any]) -> Callable[..., Any]:
    """Make puts atomic: the server looks for the name, then writes, and other requests could come between."""
    lock = threading.Lock()

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["REQUEST_METHOD"] != "PUT":
            return application(environ, start_response)
        with lock:
            return list(application(environ, start_response))

    return serve


@pytest.fixture(scope="session")
def object_server() -> Iterator[str]:
    """The endpoint of a server with one empty bucket."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    server._server.app = one_write_at_a_time(server._server.app)
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")):
            pass
        yield endpoint
    finally:
        server.stop()


@pytest.fixture
def object_url(object_server: str) -> Callable[[], tuple[str, dict[str, object]]]:
    """A function that returns a URL with a prefix that nobody has used, and its options."""
    numbers = itertools.count()
    token = secrets.token_hex(8)

    def make() -> tuple[str, dict[str, object]]:
        return f"s3://{BUCKET}/{token}-{next(numbers)}", object_options(object_server)

    return make
