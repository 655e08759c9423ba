"""What time is spent on: from a stack of frames to a category, by a table of rules. Knows nothing of clocks.

The innermost frame that has a category of its own decides. Frames of other libraries have none: numpy called by the
program is the program, numpy called by the recorder is recording.
"""

import os
import site
import sysconfig
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["CATEGORIES", "RULES", "Category", "Frame", "category_of", "classify", "is_own_code", "is_program"]


class Category(NamedTuple):
    """One thing that time is spent on."""

    name: str
    meaning: str
    color: str
    """For figures, as CSS; tells itself from the others on light and on dark paper."""


CATEGORIES = (
    Category("simulator", "the program itself, and the libraries that it calls", "#4c9be8"),
    Category("hook", "draws of existing code rerouted to the recorder", "#b07aa1"),
    Category("waiting", "for a program in another process, messages handed over", "#9aa3ab"),
    Category("address", "the place of a draw, from the calling code", "#e0a32e"),
    Category("drawing", "values from priors and likelihoods", "#59a86b"),
    Category("scoring", "log probabilities", "#2f9c95"),
    Category("recording", "sites, values and traces kept", "#e8804c"),
    Category("writing", "columns, compression, files", "#d5605f"),
    Category("network", "proposals of a trained network", "#8b7fd6"),
    Category("engine", "the loop over traces: random streams, chunks, weights", "#c98fb0"),
)
"""All categories, in the order in which they are shown."""


class Frame(NamedTuple):
    """One level of a call stack."""

    module: str
    function: str
    """Qualified name."""
    file: str
    line: int


RULES: dict[tuple[str, str], str] = {
    ("tracestore.execution", ""): "engine",
    ("tracestore.executors", ""): "engine",
    ("tracestore.inference", ""): "engine",
    ("tracestore.posteriors", ""): "engine",
    ("tracestore.progress", ""): "engine",
    ("tracestore.simulators", ""): "simulator",  # the bundled ones
    ("tracestore.surrogates", ""): "simulator",
    ("tracestore.native.kernel", ""): "simulator",  # kernels are called by the program
    ("tracestore.native.kernel_library", ""): "simulator",
    ("tracestore.native.torch_kernel", ""): "simulator",
    ("tracestore.simulators.addresses", ""): "address",
    ("tracestore.traces.address", ""): "address",
    ("tracestore.native.call_stack", ""): "address",
    ("tracestore.native.elf", ""): "address",
    ("tracestore.native.frame_rules", ""): "address",
    ("tracestore.native.symbols", ""): "address",
    ("tracestore.native", ""): "hook",
    ("tracestore.hijacking", ""): "hook",
    ("tracestore.ppx", ""): "hook",
    ("tracestore.simulators.native_draws", ""): "hook",
    ("tracestore.simulators.native_loops", ""): "hook",
    ("tracestore.simulators.native_slots", ""): "hook",
    ("tracestore.simulators.outside", ""): "waiting",
    ("tracestore.ppx.link", "wait_any"): "waiting",
    ("tracestore.ppx.process", "wait"): "waiting",
    ("tracestore.ppx.sockets", "send_frame"): "waiting",  # the other process gets the processor
    ("tracestore.ppx.sockets", "wait_any"): "waiting",
    ("tracestore.ppx.sockets", "wait_sources"): "waiting",
    ("tracestore.simulators.base", ""): "recording",
    ("tracestore.simulators.batch_arrays", ""): "recording",
    ("tracestore.simulators.batch_recorder", ""): "recording",
    ("tracestore.simulators.batched", ""): "recording",
    ("tracestore.simulators.recorder", ""): "recording",
    ("tracestore.simulators.rejection", ""): "recording",
    ("tracestore.simulators.replay_check", ""): "engine",
    ("tracestore.simulators.runtime", ""): "recording",
    ("tracestore.simulators.single_row", ""): "recording",
    ("tracestore.simulators.sites", ""): "recording",
    ("tracestore.simulators.tensor_arrays", ""): "recording",
    ("tracestore.simulators.tensor_log_probs", ""): "scoring",
    ("tracestore.simulators.tensor_recorder", ""): "recording",
    ("tracestore.simulators.tensor_supports", ""): "recording",
    # what calls the program: libraries below these frames work for it
    ("tracestore.hijacking.context", "hijacked"): "simulator",
    ("tracestore.simulators.base", "_call"): "simulator",
    ("tracestore.simulators.batched", "__call__"): "simulator",
    # the rest of that room is of whoever calls it: the recorder, or what writes
    ("tracestore.traces.batch", "from_traces"): "recording",
    ("tracestore.traces.distributions", "__init__"): "recording",
    ("tracestore.traces.distributions", "parameters"): "recording",
    ("tracestore.traces.distributions", "sample"): "drawing",
    ("tracestore.traces.distributions", "sample_rows"): "drawing",
    ("tracestore.traces.distributions", "log_prob"): "scoring",
    ("tracestore.traces.distributions", "log_prob_rows"): "scoring",
    ("tracestore.formats", ""): "writing",
    ("tracestore.storage", ""): "writing",
    ("tracestore.store", ""): "writing",
    ("tracestore.networks", ""): "network",
    ("tracestore.training", ""): "network",
    ("tracestore.execution.proposing", ""): "network",
}
"""Categories by module, or folder of modules, and last part of a function's name; the longest module counts."""

DISTRIBUTIONS = "tracestore.traces.distributions"
"""What is in there by another name than those above helps whoever calls it: to draw, or to score."""
CALLERS = ("_call", "hijacked", "__call__")
"""Functions that do nothing but call the program, so that libraries below them count as it."""


def classify(stack: Sequence[Frame]) -> str:
    """Say what the time of a stack is spent on.

    Parameters
    ----------
    stack
        Outermost frame first.

    Returns
    -------
    str
        Name of a category.

    Examples
    --------
    >>> program = Frame("shop", "sell", "/home/me/shop.py", 12)
    >>> classify([program])
    'simulator'
    >>> classify([program, Frame("tracestore.simulators.addresses", "current_place", "", 1)])
    'address'
    """
    for frame in reversed(stack):
        found = category_of(frame.module, frame.function, frame.file)
        if found is not None:
            return found
    return "engine"


@lru_cache(maxsize=65_536)
def category_of(module: str, function: str, file: str) -> str | None:
    """Return the category of a frame by itself; None where its caller decides.

    Parameters
    ----------
    module, function, file
        As in `Frame`.

    Examples
    --------
    >>> category_of("tracestore.store.writer", "StoreWriter.write", "")
    'writing'
    >>> category_of("json", "dumps", os.__file__) is None
    True
    """
    if module.partition(".")[0] != "tracestore":
        return "simulator" if is_own_code(file) else None
    last = function.rpartition(".")[2]
    place = module
    while place:
        for name in (last, ""):
            if (place, name) in RULES:
                return RULES[place, name]
        if place == DISTRIBUTIONS:
            return None
        place = place.rpartition(".")[0]
    return None


def is_program(frame: Frame) -> bool:
    """Return whether a frame is a line of the simulator: the user's own, or of a bundled one.

    Parameters
    ----------
    frame
        One level of a stack.

    Examples
    --------
    >>> is_program(Frame("tracestore.simulators.toys", "gum", "toys.py", 20))
    True
    """
    if category_of(frame.module, frame.function, frame.file) != "simulator":
        return False
    is_ours = frame.module.startswith("tracestore.")
    if frame.module.startswith("tracestore.native."):
        return False  # what calls a kernel is a line of the program, not how it is called
    return not is_ours or frame.function.rpartition(".")[2] not in CALLERS


@lru_cache(maxsize=4096)
def is_own_code(file: str) -> bool:
    """Return whether a source file is the user's, and no part of Python, an installed library or generated code.

    Parameters
    ----------
    file
        As code objects name it.

    Examples
    --------
    >>> is_own_code("/home/me/program.py"), is_own_code(os.__file__), is_own_code("<frozen importlib._bootstrap>")
    (True, False, False)
    """
    if file.startswith("<"):
        return file.startswith(("<stdin>", "<doctest", "<ipython"))
    return not file.startswith(_library_folders())


@lru_cache(maxsize=1)
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    known = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    known |= {*site.getsitepackages(), site.getusersitepackages()}
    folders = [Path(os.__file__).parent, *map(Path, known)]
    return tuple({f"{place}{os.sep}" for folder in folders for place in (folder, folder.resolve())})
