"""A batched program run for one trace, under the recorder of one trace: the trace axis is put on and taken off."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tracestore.simulators.batch_arrays import BatchArrays, NumpyArrays
from tracestore.simulators.batch_recorder import read_rows, refuse_loop
from tracestore.simulators.recorder import Recorder
from tracestore.traces.distributions import Distribution
from tracestore.traces.distributions.base import plain_array
from tracestore.traces.distributions.row_draws import Rows

__all__ = ["SingleRow"]


class SingleRow(Recorder):
    """Stands before the recorder of one trace; the program sees a batch of one.

    Parameters
    ----------
    recorder
        Records the trace.
    arrays
        What the program computes with.
    """

    num_traces = 1
    make_loop = None

    def __init__(self, recorder: Recorder, arrays: BatchArrays | None = None) -> None:
        self.recorder = recorder
        self.arrays: BatchArrays = arrays or NumpyArrays()

    @property
    def fatal(self) -> Exception | None:
        """What is wrong with the program, as opposed to this run of it."""
        return self.recorder.fatal

    @fatal.setter
    def fatal(self, error: Exception | None) -> None:
        self.recorder.fatal = error

    @property
    def num_open_loops(self) -> int:
        """Rejection loops that the run is in: none."""
        return 0

    @num_open_loops.setter
    def num_open_loops(self, number: int) -> None:
        if number:
            self.fatal = error = refuse_loop()
            raise error

    def sample(self, prior: Distribution, name: str, place: str, control: bool) -> Any:  # noqa: ANN401, FBT001
        """Draw one value and return it with a trace axis."""
        rows = self._rows(prior)
        value = np.asarray(self.recorder.sample(rows.first, name, place, control))
        return self.arrays.give(value[None])

    def observe(
        self, likelihood: Distribution, value: ArrayLike | None, name: str, place: str, dtype: DTypeLike | None
    ) -> Any:  # noqa: ANN401
        """Score one observation and return it with a trace axis."""
        rows = self._rows(likelihood)
        given: ArrayLike | None = None
        if value is not None:
            array = plain_array(value)
            given = array if array.ndim == len(rows.shape) else self.row(array, f"the value of the observe {name!r}")
        return self.arrays.give(np.asarray(self.recorder.observe(rows.first, given, name, place, dtype))[None])

    def tag(self, value: ArrayLike, name: str, place: str) -> None:
        """Record a value without its trace axis."""
        array = plain_array(value)
        is_numeric = array.dtype.kind in "biuf"
        self.recorder.tag(self.row(array, f"the tag {name or place!r}") if is_numeric else value, name, place)

    def row(self, array: NDArray[np.generic], what: str) -> NDArray[np.generic]:
        """Take the trace axis off what the program made."""
        try:
            return np.asarray(read_rows(array, 1, what)[0])
        except Exception as error:
            self.fatal = error
            raise

    def _rows(self, prior: Distribution) -> Rows:
        try:
            return Rows.of(prior, 1)
        except Exception as error:
            self.fatal = error
            raise
