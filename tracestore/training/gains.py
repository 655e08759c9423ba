"""Which proposals earn their place: validation gain of log q over log p, per base address and instance.

A hundred slightly wrong proposals for nuisance draws multiply into ruined weights. So an address whose gain on
traces that were not trained on is not clearly positive goes back to the prior; the recurrent state still follows it.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from tracestore.networks.network import ProposalNetwork
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.training.communicator import Communicator

__all__ = ["GainTable", "measure_gains"]

MIN_SITES = 20
"""With fewer validation sites than this a gain is not believed."""
NUM_ERRORS = 2.0
"""Standard errors that a gain must exceed."""


class GainTable:
    """Sums of log q - log p per (row, instance).

    Parameters
    ----------
    num_rows, num_instances
        Shape of the table.

    Examples
    --------
    >>> table = GainTable(1, 2)
    >>> rows, instances = np.zeros(60, np.int64), np.arange(60) % 2
    >>> table.add(rows, instances, np.where(instances == 1, 1.0, -1.0) + np.linspace(-0.1, 0.1, 60))
    >>> table.is_gain().tolist()
    [[False, True]]
    """

    def __init__(self, num_rows: int, num_instances: int) -> None:
        self.count = np.zeros((num_rows, num_instances))
        self._sum = np.zeros((num_rows, num_instances))
        self._sum_of_squares = np.zeros((num_rows, num_instances))

    def add(self, rows: NDArray[np.int64], instances: NDArray[np.int64], gains: NDArray[np.float64]) -> None:
        """Count sites.

        Parameters
        ----------
        rows, instances
            Where each site belongs, shape ``(P,)``.
        gains
            log q - log p of each, shape ``(P,)``.
        """
        place = np.ravel_multi_index((rows, instances), self.count.shape)
        size = self.count.size
        shape = self.count.shape
        self.count += np.bincount(place, minlength=size).reshape(shape)
        self._sum += np.bincount(place, gains, minlength=size).reshape(shape)
        self._sum_of_squares += np.bincount(place, gains * gains, minlength=size).reshape(shape)

    def sum_over(self, communicator: Communicator) -> None:
        """Add what the other ranks have counted."""
        for sums in (self.count, self._sum, self._sum_of_squares):
            communicator.sum_(torch.from_numpy(sums)).wait()

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean gain in nats; 0 where nothing was counted."""
        return self._sum / np.maximum(self.count, 1)

    def is_gain(self) -> NDArray[np.bool_]:
        """Whether the gain exceeds its standard errors, shape ``(num_rows, num_instances)``."""
        variance = np.maximum(self._sum_of_squares / np.maximum(self.count, 1) - self.mean**2, 0.0)
        error = np.sqrt(variance / np.maximum(self.count - 1, 1))
        return (self.count >= MIN_SITES) & (self.mean > NUM_ERRORS * error)


@torch.no_grad()
def measure_gains(network: ProposalNetwork, batches: Iterable[TensorBatch], communicator: Communicator) -> GainTable:
    """Compare the proposals with the priors on traces that were not trained on.

    Parameters
    ----------
    network
        A trained network; unchanged.
    batches
        This rank's share of the validation traces.
    communicator
        The ranks.
    """
    table = GainTable(*network.active.shape)
    is_hidden = np.array([row.is_hidden for row in network.vocabulary.rows], np.bool_)
    for number, batch in enumerate(batches):
        if len(batch):
            _add_gains(table, network, batch, None, ~is_hidden)
            if is_hidden.any():  # the proposals for unseen addresses are measured on addresses that are hidden
                _add_gains(table, network, batch, number, is_hidden)
    table.sum_over(communicator)
    return table


def _add_gains(
    table: GainTable, network: ProposalNetwork, batch: TensorBatch, hide: int | None, counted_rows: NDArray[np.bool_]
) -> None:
    steps = network.steps(batch, hide=hide)
    if not len(steps.trace):
        return
    log_q = network.site_log_probs(steps, network.embed(batch.observations))
    gains = (log_q - steps.log_prior).cpu().numpy()
    rows, instances = steps.row.cpu().numpy(), steps.instance.cpu().numpy()
    counted = np.isfinite(gains) & counted_rows[rows]  # traces without a finite loss are on record elsewhere
    table.add(rows[counted], instances[counted], gains[counted])
