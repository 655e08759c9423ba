"""A bundled simulator behind a socket: ``served.py NAME ENDPOINT``."""

import sys

from tracestore.ppx.serving import serve
from tracestore.simulators.catalog import resolve

if __name__ == "__main__":
    serve(resolve(sys.argv[1]), sys.argv[2])
