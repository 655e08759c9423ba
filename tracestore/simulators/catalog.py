"""Simulators by name: the bundled ones, and any ``module:object``."""

import importlib
import sys
from pathlib import Path

from tracestore.errors import SimulatorNotFoundError
from tracestore.simulators.base import Simulator, as_simulator

__all__ = ["NAMES", "resolve"]

BUNDLED = {
    "gum": "tracestore.simulators.toys:gum",
    "gum-marsaglia": "tracestore.simulators.toys:gum_marsaglia",
    "branching": "tracestore.simulators.toys:branching",
    "hmm": "tracestore.simulators.toys:hmm",
    "geometric": "tracestore.simulators.toys:geometric",
    "tau": "tracestore.simulators.tau:tau",
    "tau-stack": "tracestore.simulators.tauola_stack:tau_stack",
    "pythia-tau": "tracestore.simulators.pythia:pythia_tau",
    "pythia-ee": "tracestore.simulators.pythia:pythia_ee",
    "shower": "tracestore.simulators.shower:shower",
    "shower-angle": "tracestore.simulators.shower:shower_angle",
    "cross-section": "tracestore.simulators.cross_section:cross_section",
    "cross-section-torch": "tracestore.simulators.cross_section_tensors:cross_section",
}
"""Bundled simulators and where they are."""

NAMES = tuple(BUNDLED)
"""Names of the bundled simulators."""


def resolve(spec: str) -> Simulator:
    """Find a simulator by its bundled name or as ``module:object``.

    Parameters
    ----------
    spec
        A name in `NAMES`, or ``module:object`` importable from the current folder or the Python path.

    Raises
    ------
    SimulatorNotFoundError
        When it does not resolve; the message lists what exists.
    MissingExtraError
        When a bundled simulator needs a package that is not installed.

    Examples
    --------
    >>> resolve("gum").name
    'tracestore.simulators.toys:gum'
    """
    module_name, colon, path = BUNDLED.get(spec, spec).partition(":")
    if not colon or not module_name or not path:
        raise SimulatorNotFoundError(f"There is no simulator {spec!r}; {_what_exists()}", name=spec)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        message = f"There is no module {module_name!r} for the simulator {spec!r}; {_what_exists()}"
        raise SimulatorNotFoundError(message, name=spec) from error
    for part in path.split("."):
        if not hasattr(found, part):
            names = [name for name, value in vars(found).items() if isinstance(value, Simulator)]
            message = (
                f"Module {module_name!r} has no {path!r}; its simulators are: {', '.join(names) or 'none'}. "
                f"{_what_exists()}"
            )
            raise SimulatorNotFoundError(message, name=spec)
        found = getattr(found, part)
    return as_simulator(found)


def _what_exists() -> str:
    return f"give one of {', '.join(NAMES)}, or module:object."
