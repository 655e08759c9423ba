"""Decays of the tau lepton by TAUOLA, with addresses from TAUOLA itself.

The same simulator as `tracestore.simulators.tau.tau`, draw by draw, but the address of a draw is the chain of Fortran
functions that led to it, and rejection loops are marked. That costs time, and the addresses hold for one build of the
library only; its build-id is in the simulator's ``build``.
"""

from functools import lru_cache
from typing import NamedTuple

from tracestore.native import CallStack
from tracestore.native.symbols import elf_file
from tracestore.simulators.base import simulator
from tracestore.simulators.native_draws import NativeDraws, SingleUniformDraw, compiled_draws
from tracestore.simulators.native_loops import OWN, Loop
from tracestore.simulators.runtime import sample
from tracestore.simulators.tau import STEP, SinglePrecisionUniform, library, library_path
from tracestore.simulators.tau_detector import PX, PY, PZ, Product, observe_products

__all__ = ["LOOPS", "build", "tau_stack"]

LOOPS = (
    # one for each group of channels: phase space, then three numbers of its own, until the weight is accepted
    Loop("dadmel", ("drcmu",), (OWN,)),
    Loop("dadmmu", ("drcmu",), (OWN,)),
    Loop("dadmro", ("dphsro",), (OWN,)),
    Loop("dadmaa", (OWN,), (OWN, "dphtre")),
    Loop("dadmks", (OWN,), (OWN, "dphsks")),
    Loop("dadnew", ("dphspk", "dph4pi", "dphsrk", "dphnpi"), (OWN,)),
)
"""Rejection loops of the TAUOLA in alouette 1.0.1, from traces: with these, collapsed traces replay. In the channels
with three pions they do so in single precision only, since TAUOLA keeps something of the passes before."""


def build() -> str:
    """Return what fixes the addresses: the build of the library."""
    return f"alouette {elf_file(library_path()).build_id}"


class _Hooks(NamedTuple):
    draws: NativeDraws
    stack: CallStack
    uniform: SingleUniformDraw
    function: int | None
    """Address of a compiled function that draws."""


@lru_cache(maxsize=1)
def _hooks() -> _Hooks:
    library()  # loads it
    draws, uniform = NativeDraws("TAUOLA", LOOPS), SingleUniformDraw(SinglePrecisionUniform(), STEP)
    stack = CallStack(library_path(), drawing=("tauola_random",))
    compiled = compiled_draws(draws, stack, [uniform], {})
    return _Hooks(draws, stack, uniform, None if compiled is None else compiled.uniform_float_pointer)


@simulator(build=build())
def tau_stack() -> None:
    """Decay a tau of unknown momentum with TAUOLA and observe the calorimeter.

    Named draws: ``px``, ``py``, ``pz`` in GeV. Observation and tags as in
    `tracestore.simulators.tau_detector.observe_products`.
    """
    px = sample(PX, name="px", address="px")
    py = sample(PY, name="py", address="py")
    pz = sample(PZ, name="pz", address="pz")
    observe_products(_decay((float(px), float(py), float(pz))))


def _decay(momentum: tuple[float, float, float]) -> list[Product]:
    draws, stack, uniform, function = _hooks()
    decay = library().decay
    return draws.run(lambda: decay(momentum, lambda: draws.number(uniform, stack.place), function=function))
