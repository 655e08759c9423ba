"""One step of training, as the algorithm reads; knows nothing of stores, files or the loop around it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from tracestore.errors import NonFiniteLossError
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.training.config import TrainConfig
from tracestore.training.network import ProposalNetwork
from tracestore.training.optimizer import follow_growth, learning_rate, make_optimizer

__all__ = ["StepRecord", "Trainer"]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one step did."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Mean of -log q over the traces of the step; unmodelled sites count their prior."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float


class Trainer:
    """Fit a network to traces, one minibatch at a time.

    Parameters
    ----------
    network
        The network; it grows when a minibatch shows new base addresses.
    config
        Optimizer and schedule.
    num_steps
        Steps of the whole training, for the schedule.

    Examples
    --------
    >>> network = ProposalNetwork({"obs0": ()})
    >>> Trainer(network, TrainConfig(), num_steps=100).step
    0
    """

    def __init__(self, network: ProposalNetwork, config: TrainConfig, *, num_steps: int) -> None:
        self.network = network.to(config.device)
        self.config = config
        self.num_steps = num_steps
        self.optimizer = make_optimizer(self.network, config)
        self.step = 0

    def train_step(self, batch: TensorBatch) -> StepRecord:
        """Improve the network by one minibatch.

        Raises
        ------
        NonFiniteLossError
            When the loss or its gradient is not finite; the network is then unchanged.
        """
        follow_growth(self.optimizer, self.network.grow(batch))
        rate = learning_rate(self.config, self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        log_q_N = self._log_q(batch)
        loss = -log_q_N.mean()
        self._require_finite("loss", loss, batch, log_q_N)

        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_gradient_norm)
        self._require_finite("gradient norm", norm, batch, log_q_N)
        self.optimizer.step()
        self.step += 1
        return StepRecord(self.step, loss.item(), norm.item(), rate)

    @torch.no_grad()
    def validate(self, batches: Iterable[TensorBatch]) -> float:
        """Return the mean of -log q over traces; base addresses without a row count their prior."""
        total, num_traces = 0.0, 0
        for batch in batches:
            total -= float(self._log_q(batch).sum())
            num_traces += len(batch)
        return total / max(num_traces, 1)

    def _log_q(self, batch: TensorBatch) -> torch.Tensor:
        steps = self.network.steps(batch)
        return self.network.trace_log_probs(steps, self.network.embed(batch.observations))

    def _require_finite(self, what: str, value: torch.Tensor, batch: TensorBatch, log_q_N: torch.Tensor) -> None:
        if bool(torch.isfinite(value)):
            return
        bad = batch.trace_index[~torch.isfinite(log_q_N.detach().cpu())].tolist()
        traces = f"traces {', '.join(map(str, bad[:8]))} of the store cause it" if bad else "no single trace causes it"
        message = (
            f"The {what} of step {self.step + 1} is {value.item()}; {traces}. "
            "Look for values that are not finite or a learning rate that is too high."
        )
        raise NonFiniteLossError(message, step=self.step + 1, traces=tuple(bad))
