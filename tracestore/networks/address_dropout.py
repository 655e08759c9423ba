"""Address dropout: in each minibatch some addresses are treated as if the network had never seen them.

Their sites are served by the *hidden row* of their head, which so learns to propose for any address; an address that
is new to a trained network then has something to use. Which addresses a minibatch hides depends on the seed, the
number of the minibatch and the addresses alone: ranks and resumed trainings agree without talking.
"""

import numpy as np
from numpy.typing import NDArray

from tracestore.networks.sites import Vocabulary
from tracestore.samplers.hashing import derive_key, keyed_hash, unit_interval
from tracestore.traces.address import address_id

__all__ = ["AddressDropout"]

PURPOSE = 0x61646472
"""Keeps this use of the seed apart from others."""


class AddressDropout:
    """Replaces rows by the hidden rows of their heads.

    Parameters
    ----------
    vocabulary
        Rows as they are now.
    share
        Probability that a row is hidden.
    seed
        Seed of the choice.

    Examples
    --------
    >>> AddressDropout(Vocabulary("base", 16, lambda site: None), share=0.1, seed=0).hide(np.zeros(0, np.int64), 1)
    array([], dtype=int64)
    """

    def __init__(self, vocabulary: Vocabulary, *, share: float, seed: int) -> None:
        rows = vocabulary.rows
        self._share = share
        self._seed = seed
        self._ids = np.array([address_id(row.key) for row in rows], np.uint64)
        self._hidden_row = np.array([vocabulary.hidden_row_of_head.get(row.head, -1) for row in rows], np.int64)

    def hide(self, rows: NDArray[np.int64], minibatch: int) -> NDArray[np.int64]:
        """Return the rows that shall serve some sites.

        Parameters
        ----------
        rows
            Row of each site's address, shape ``(P,)``.
        minibatch
            Number of the minibatch; all sites of one address are hidden, or none.
        """
        chance = unit_interval(keyed_hash(self._ids, derive_key(self._seed, PURPOSE, minibatch)))
        is_hidden = (chance < self._share) & (self._hidden_row >= 0)
        return np.where(is_hidden, self._hidden_row, np.arange(len(self._ids)))[rows]
