"""A program as a variable of a module, for executors."""

import sys
from pathlib import Path

from tracestore.ppx.simulator import PPXSimulator

gum = PPXSimulator([sys.executable, str(Path(__file__).with_name("program.py")), "gum"])
