"""The native kernels of the cross-section, with the formulas in numpy as their fallback."""

import platform
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

from tracestore.native.kernel import Kernel, load_kernel
from tracestore.simulators import cross_section_formulas as formulas

__all__ = ["CrossSectionKernels", "cross_section_kernels"]

TIMES_SLOWER = 5.0
"""Of the fallback, for a million events on one thread; see benchmarks/kernel_speed.py."""


class CrossSectionKernels(NamedTuple):
    """Batched functions of rows of parameters, in the order of `cross_section_formulas.PARAMETERS`."""

    density: Kernel
    """Cross-section at each point, pb / GeV^2."""
    sum_of_logs: Kernel
    """Sum over events of the log of that."""
    total: Kernel
    """Its integral over the region of the measurement, pb."""


@lru_cache(maxsize=1)
def cross_section_kernels() -> CrossSectionKernels:
    """Build and load the kernels, once in a process.

    Raises
    ------
    CompilerError
        When the compiler reports an error.

    Examples
    --------
    >>> kernels = cross_section_kernels()
    >>> kernels.total([0.7, 3.5, 4.5, 0.4, 0.15, 0.6]).round(1)
    np.float64(152975.9)
    """
    flags: tuple[str, ...] = ()
    if platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc":
        flags = ("-DTRACESTORE_SIMD", "-lmvec")  # its vectorized exp and log, four times as fast
    with resources.as_file(resources.files("tracestore.native") / "src" / "cross_section.cpp") as path:
        return CrossSectionKernels(
            load_kernel(
                path, "cross_section",
                num_parameters=6, num_columns=2, output="point", flags=flags, times_slower=TIMES_SLOWER,
                fallback=formulas.cross_section, fallback_gradient=formulas.cross_section_gradient,
            ),
            load_kernel(
                path, "sum_of_log_cross_sections",
                num_parameters=6, num_columns=2, flags=flags, times_slower=TIMES_SLOWER,
                fallback=formulas.sum_of_log_cross_sections,
                fallback_gradient=formulas.sum_of_log_cross_sections_gradient,
            ),
            load_kernel(
                path, "total_cross_section",
                num_parameters=6, flags=flags, times_slower=TIMES_SLOWER,
                fallback=formulas.total_cross_section, fallback_gradient=formulas.total_cross_section_gradient,
            ),
        )  # fmt: skip
