"""One step of training, as the algorithm reads; knows nothing of stores, files or the loop around it.

Shapes: N traces of a minibatch.
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from tracestore.errors import NonFiniteLossError
from tracestore.networks.network import ProposalNetwork
from tracestore.networks.steps import Steps
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.training.agreement import agree_on_sites, average_tensors, take_from_first
from tracestore.training.averaging import WeightAverage
from tracestore.training.communicator import Communicator, SoleProcess, local_device
from tracestore.training.config import TrainConfig
from tracestore.training.gradient_sync import GradientSync
from tracestore.training.gradients import drop_gradients, gradient_norm, scale_gradients
from tracestore.training.optimizers import Optimizer
from tracestore.training.records import StepClock, StepRecord
from tracestore.training.schedules import learning_rate

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

SEGMENTS = (("heads.",), ("core.", "value.", "address.", "family.", "instance."), ("observation.",))
"""Beginnings of parameter names, in the order in which the backward pass finishes them."""
MOST_SKIPPED = 20
"""So many steps in a row without a finite loss end a training, whatever the configuration says."""


class Trainer:
    """Fit a network to traces, one minibatch at a time, on any number of ranks.

    Every rank calls every method with its share of the minibatch, which may be empty; all end up with the same network.

    Parameters
    ----------
    network
        The network.
    config
        Optimizer and schedule.
    num_steps
        Steps of the whole training, for the schedule.
    communicator
        The ranks; this process alone by default.
    grows
        Whether minibatches may show addresses that the network has no rows for; ranks then agree on new rows before
        every step, which costs a small sum.

    Examples
    --------
    >>> network = ProposalNetwork({"obs0": ()})
    >>> Trainer(network, TrainConfig(), num_steps=100).step
    0
    """

    def __init__(
        self,
        network: ProposalNetwork,
        config: TrainConfig,
        *,
        num_steps: int,
        communicator: Communicator | None = None,
        grows: bool = True,
    ) -> None:
        self.communicator = SoleProcess() if communicator is None else communicator
        self.network = network.to(local_device(config.device))
        # users' modules have drawn their first weights on every rank
        for module in self.network.observation.user_modules.values():
            take_from_first(self.communicator, (parameter.detach() for parameter in module.parameters()))
        self.config = config
        self.num_steps = num_steps
        self.grows = grows
        self.optimizer = Optimizer(self.network, config.optimizer)
        self.average = None if config.average is None else WeightAverage(self.network, config.average)
        self.sync = GradientSync(self.network, self.communicator, segments=SEGMENTS)
        self.step = 0
        self.wants_stop = False
        """Set on any rank, it makes the next record of every rank say so."""
        self._num_skipped = 0
        if config.compile:
            self.network.observation.compile()

    def train_step(self, *batches: TensorBatch) -> StepRecord:
        """Improve the network by one minibatch, which may come in parts.

        Raises
        ------
        NonFiniteLossError
            When the loss or its gradient is not finite, on all ranks; the network is then unchanged.
        """
        if not self.network.training:
            self.network.train()
        clock = StepClock()
        with clock.part("forward"):
            parts = self._prepare(batches)
            self.sync.begin(self._touched_rows([steps for _, steps in parts]))
        loss_sum, bad_traces = self._add_up_gradients(parts, clock)
        statistics = [loss_sum, sum(map(len, batches)), len(bad_traces), self.wants_stop]
        with clock.part("sync"):
            totals = self.sync.finish(torch.tensor(statistics, dtype=torch.float64))
        loss_sum, num_traces, num_bad, num_stopping = totals.tolist()
        rate = learning_rate(self.config, self.step, self.num_steps, batch_size=self.config.step_size)
        with clock.part("optimize"):
            norm = math.nan if num_bad else self._update(num_traces, rate) if num_traces else 0.0
        found = self._gather_bad(bad_traces) if num_bad else ()
        is_skipped = not math.isfinite(norm)
        if is_skipped:
            self._require_patience(found)
        self._num_skipped = self._num_skipped + 1 if is_skipped else 0
        self.step += 1
        return StepRecord(
            step=self.step,
            num_traces=int(num_traces),
            loss=loss_sum / num_traces if num_traces and not num_bad else math.nan,
            gradient_norm=norm,
            learning_rate=rate,
            bad_traces=found,
            is_skipped=is_skipped,
            stops=num_stopping > 0,
            times=clock.times,
            reduced_bytes=self.sync.record.reduced_bytes,
            dense_bytes=self.sync.record.dense_bytes,
        )

    def _prepare(self, batches: Sequence[TensorBatch]) -> list[tuple[TensorBatch, Steps]]:
        """Give new addresses rows, the same in the same order on all ranks; find the modelled sites."""
        filled = [batch for batch in batches if len(batch)]
        if self.grows:
            unknown = [site for batch in filled for site in self.network.unknown_sites(batch)]
            self.network.grow(agree_on_sites(self.communicator, unknown, key=self.network.vocabulary.key))
        return [(batch, self.network.steps(batch, hide=self.step)) for batch in filled]

    def _touched_rows(self, parts: Sequence[Steps]) -> dict[str, Tensor]:
        """Return the rows of every table that get a gradient here; nobody needs to know on a single rank."""
        if self.communicator.num_ranks == 1:
            return {}
        touched: dict[str, Tensor] = {}
        for steps in parts:
            for name, rows in self.network.touched_rows(steps).items():
                touched[name] = torch.unique(torch.cat([touched[name], rows])) if name in touched else rows
        return touched

    def _add_up_gradients(
        self, parts: Sequence[tuple[TensorBatch, Steps]], clock: StepClock
    ) -> tuple[float, list[int]]:
        """Differentiate the sum of losses of this rank's traces; return it, and the traces without a finite loss."""
        drop_gradients(self.network.parameters())
        loss_sum = 0.0
        for position, (batch, steps) in enumerate(parts):
            with clock.part("forward"), self._autocast():
                log_q_N = self._log_q(batch, steps)
                loss = -log_q_N.sum()
            is_bad_N = ~torch.isfinite(log_q_N.detach()).cpu()
            if is_bad_N.any():
                # nothing of this step will be used, but the other ranks wait for this one
                return loss_sum, batch.trace_index[is_bad_N].tolist()
            loss_sum += float(loss.detach())
            with clock.part("backward"):
                if position < len(parts) - 1:
                    torch.autograd.backward([loss])
                else:
                    self.sync.backward(loss)
        return loss_sum, []

    def _update(self, num_traces: float, rate: float) -> float:
        """Make the gradients those of the mean loss, clip them, and take a step; return their norm before clipping."""
        parameters = list(self.network.parameters())
        norm = float(gradient_norm(parameters)) / num_traces
        if math.isfinite(norm):
            shrink = min(1.0, self.config.max_gradient_norm / norm) if norm > 0.0 else 1.0
            scale_gradients(parameters, shrink / num_traces)
            if self.average is not None:
                self.average.before_step()
            self.optimizer.step(rate)
        return norm

    @torch.no_grad()
    def validate(self, batches: Iterable[TensorBatch]) -> float:
        """Return the mean of -log q over the traces of all ranks; addresses without a row count their prior.

        Raises
        ------
        NonFiniteLossError
            When a trace has no finite loss, unless the configuration says to go on without such traces; or none has.
        """
        for module in self.network.observation.user_modules.values():
            # running statistics, such as those of batch normalization, follow a rank's own traces
            average_tensors(self.communicator, filter(torch.is_floating_point, module.buffers()))
        totals = torch.zeros(3, dtype=torch.float64)
        bad_traces = []
        with self.evaluated():
            for batch in batches:
                if len(batch):
                    with self._autocast():
                        log_q_N = self._log_q(batch, self.network.steps(batch)).cpu()
                    is_good_N = torch.isfinite(log_q_N)
                    bad_traces += batch.trace_index[~is_good_N].tolist()
                    totals += torch.stack([-log_q_N[is_good_N].sum(), is_good_N.sum(), torch.tensor(len(batch))])
        self.communicator.sum_(totals).wait()
        loss_sum, num_good, num_traces = totals.tolist()
        if num_good < num_traces:
            found = self._gather_bad(bad_traces)
            if self.config.bad_loss == "stop" or not num_good:
                message = (
                    f"The validation loss after step {self.step} is not finite; traces {_listed(found)} of the store "
                    "cause it. Look for values that are not finite or a learning rate that is too high."
                )
                raise NonFiniteLossError(message, step=self.step, traces=found)
            logger.warning("Validation leaves out traces whose loss is not finite: %s.", _listed(found))
        return float(loss_sum / max(num_good, 1.0))

    @contextmanager
    def evaluated(self) -> Iterator[ProposalNetwork]:
        """Lend the network as it would be used now: in evaluation mode, with averaged weights if they are kept."""
        self.network.eval()
        try:
            with nullcontext() if self.average is None else self.average.applied():
                yield self.network
        finally:
            self.network.train()

    def _log_q(self, batch: TensorBatch, steps: Steps) -> Tensor:
        return self.network.trace_log_probs(steps, self.network.embed(batch.observations))

    def _autocast(self) -> torch.autocast:
        is_bfloat16 = self.config.precision == "bfloat16"
        return torch.autocast(self.network.device.type, torch.bfloat16, enabled=is_bfloat16)

    def _gather_bad(self, traces: Sequence[int]) -> tuple[int, ...]:
        payloads = self.communicator.gather(json.dumps(traces).encode())
        return tuple(sorted(trace for payload in payloads for trace in json.loads(payload)))

    def _require_patience(self, bad_traces: Sequence[int]) -> None:
        """Raise when the configuration, or the number of skipped steps, does not allow another one."""
        if self.config.bad_loss == "skip" and self._num_skipped < MOST_SKIPPED:
            return
        what = "loss" if bad_traces else "gradient"
        cause = f"traces {_listed(bad_traces)} of the store cause it" if bad_traces else "no single trace causes it"
        message = (
            f"The {what} of step {self.step + 1} is not finite; {cause}. "
            "Look for values that are not finite or a learning rate that is too high."
        )
        raise NonFiniteLossError(message, step=self.step + 1, traces=tuple(bad_traces))


def _listed(traces: Sequence[int]) -> str:
    return ", ".join(map(str, traces[:8])) + (" and others" if len(traces) > 8 else "")
