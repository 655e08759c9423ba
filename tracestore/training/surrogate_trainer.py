"""One step of training a surrogate: its phases one after the other; knows nothing of stores, files or the loop.

What a step computes is a sum over traces, with noise that is a function of the seed, the step and the trace, so it does
not depend on which rank has which trace. On an accelerator a step is waited for once, at its end. N traces, L labels.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from tracestore.errors import NonFiniteLossError
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.surrogates.model import row_generators
from tracestore.surrogates.surrogate import Surrogate
from tracestore.training.communicator import Communicator, SoleProcess, local_device
from tracestore.training.phases import JointState, Phase, make_phases
from tracestore.training.records import StepClock, StepRecord
from tracestore.training.schedules import learning_rate
from tracestore.training.surrogate_config import SurrogateTrainConfig
from tracestore.training.time_budget import TimeBudget

__all__ = ["SurrogateTrainer"]

TRAIN, VALIDATE = 2, 3
"""Purposes of streams of noise, beside the seed; generation has another."""
TIME_STEPS = 100_000
"""Parts of a time budget, for the schedule."""


class SurrogateTrainer:
    """Fit a surrogate to traces, one minibatch at a time, on any number of ranks.

    Every rank calls every method with its share of the minibatch, which may be empty; all end up with the same weights.

    Parameters
    ----------
    surrogate
        What is trained, its scalings set.
    config
        Optimizer and schedule.
    num_steps
        Steps of the whole training, for the schedule.
    communicator
        The ranks; this process alone by default.
    budget
        Time that is left, where the schedule goes by time.

    Examples
    --------
    >>> from tracestore.surrogates import new_surrogate
    >>> surrogate = new_surrogate((8, 8, 8), ["energy"], "shower")
    >>> SurrogateTrainer(surrogate, SurrogateTrainConfig(), num_steps=100).step
    0
    """

    def __init__(
        self,
        surrogate: Surrogate,
        config: SurrogateTrainConfig,
        *,
        num_steps: int,
        communicator: Communicator | None = None,
        budget: TimeBudget | None = None,
    ) -> None:
        self.communicator = SoleProcess() if communicator is None else communicator
        self.network = surrogate
        self.model = surrogate.model.to(local_device(config.device))
        self.config = config
        self.num_steps = num_steps
        self.budget = budget
        self.phases = make_phases(
            dict(self.model.named_parameters()),
            {name: self.model.phase_parameters(name) for name in self.model.phases},
            self.communicator,
            config.optimizer,
            config.average,
        )
        self.optimizer = JointState({phase.name: phase.optimizer for phase in self.phases})
        averages = {phase.name: phase.average for phase in self.phases if phase.average is not None}
        self.average = JointState(averages) if averages else None
        self.step = 0
        self.wants_stop = False
        """Set on any rank, it makes the next record of every rank say so."""
        self._terms: tuple[str, ...] | None = None

    def train_step(self, *batches: TensorBatch) -> StepRecord:
        """Improve the surrogate by one minibatch.

        Raises
        ------
        NonFiniteLossError
            When the loss or its gradient is not finite, on all ranks. The weights are then of no use: go on from the
            last checkpoint.
        """
        (batch,) = batches
        if not self.model.training:
            self.model.train()
        clock, rate = StepClock(), self._rate()
        with clock.part("forward"):
            given = self._to_device(batch)
        sums: dict[str, Tensor] = {}
        is_bad_PN = torch.zeros(len(self.phases), len(batch), dtype=torch.bool, device=self.model.device)
        norms = []
        for number, phase in enumerate(self.phases):
            with phase.entered():
                if len(batch):
                    is_bad_PN[number] = self._differentiate(phase, batch, *given, sums, clock)
                with clock.part("sync"):
                    phase.sync.finish(torch.zeros(0, dtype=torch.float64))
            with clock.part("optimize"):
                norms.append(phase.update(batch.step_size, rate, self.config.max_gradient_norm))
        with clock.part("backward"):  # an accelerator does not wait before; most of what it does is this
            is_bad_PN = is_bad_PN.cpu()
            norm = math.hypot(*torch.stack(norms).tolist())
        with clock.part("sync"):
            terms, num_bad_P, num_stopping = self._add_over_ranks(sums, is_bad_PN.sum(dim=1).tolist())
        self.step += 1
        if any(num_bad_P) or not math.isfinite(norm):
            # a phase with a bad trace spoils the weights, and so all traces of those after it
            first = next((number for number, found in enumerate(num_bad_P) if found), None)
            mine = [] if first is None else batch.trace_index[is_bad_PN[first]].tolist()
            raise self._not_finite(mine, is_loss=first is not None)
        num_traces = batch.step_size
        return StepRecord(
            step=self.step,
            num_traces=num_traces,
            loss=sum(terms.values()) / num_traces,
            gradient_norm=norm,
            learning_rate=rate,
            terms={name: value / num_traces for name, value in terms.items()},
            stops=num_stopping > 0,
            times=clock.times,
            reduced_bytes=sum(phase.sync.record.reduced_bytes for phase in self.phases),
            dense_bytes=sum(phase.sync.record.dense_bytes for phase in self.phases),
        )

    def _to_device(self, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """Return images and labels where the model is; copies from page-locked memory are not waited for."""
        if not len(batch):
            return torch.empty(0), torch.empty(0)
        labels_NL, images_NX = batch.as_arrays(self.network.labels, observations=[self.network.observation])
        device = self.model.device
        return images_NX.to(device, non_blocking=True), labels_NL.to(device, non_blocking=True)

    def _differentiate(
        self,
        phase: Phase,
        batch: TensorBatch,
        images_NX: Tensor,
        labels_NL: Tensor,
        sums: dict[str, Tensor],
        clock: StepClock,
    ) -> Tensor:
        """Add up gradients and terms of this rank's traces; return which of these have no finite loss."""
        with clock.part("forward"), self._autocast():
            number = self.model.phases.index(phase.name)
            rows_N = batch.trace_index.numpy()
            generators = row_generators(rows_N, self.config.seed, TRAIN, self.step, number)
            terms = self.model.losses(phase.name, images_NX, labels_NL, generators)
            loss_N = torch.stack([term.float() for term in terms.values()]).sum(dim=0)
        with clock.part("backward"):
            phase.backward(loss_N.sum())
        for name, term in terms.items():
            sums[f"{phase.name}.{name}"] = term.detach().float().sum()
        return ~torch.isfinite(loss_N.detach())

    def _add_over_ranks(
        self, sums: dict[str, Tensor], num_bad_P: list[int]
    ) -> tuple[dict[str, float], list[float], float]:
        """Return terms, and numbers of bad traces by phase and of ranks that want to stop, of all ranks."""
        if self._terms is None:
            # a rank without traces does not know the terms
            known: list[list[str]] = [
                json.loads(payload) for payload in self.communicator.gather(json.dumps(list(sums)).encode())
            ]
            self._terms = tuple(next((names for names in known if names), ()))
        spent = 0.0 if self.budget is None else self.budget.report()
        mine = torch.stack([sums[name] for name in self._terms]).tolist() if sums else [0.0] * len(self._terms)
        totals = torch.tensor([*mine, *num_bad_P, self.wants_stop, spent], dtype=torch.float64)
        self.communicator.sum_(totals).wait()
        *found, num_stopping, spent = totals.tolist()
        if self.budget is not None:
            self.budget.agree(spent)
        size = len(self._terms)
        return dict(zip(self._terms, found[:size], strict=True)), found[size:], num_stopping

    @torch.no_grad()
    def validate(self, batches: Iterable[TensorBatch]) -> float:
        """Return the score of what the surrogate generates for the labels of the traces of all ranks.

        Raises
        ------
        NonFiniteLossError
            When the score is not finite.
        """
        total = torch.zeros(0, dtype=torch.float64)
        with self.evaluated():
            for batch in batches:
                if len(batch):
                    generators = row_generators(batch.trace_index.numpy(), self.config.seed, VALIDATE)
                    with self._autocast():
                        found = self.model.statistics(*self._to_device(batch), generators).double().cpu()
                    total = total + found if len(total) else found
        size = max(int(payload) for payload in self.communicator.gather(str(len(total)).encode()))
        total = total if len(total) else torch.zeros(size, dtype=torch.float64)
        self.communicator.sum_(total).wait()
        score = self.model.score(total)
        if not math.isfinite(score):
            message = (
                f"The validation loss after step {self.step} is not finite, because what the surrogate makes or "
                "what the store has is not; try a lower learning rate, and look at the images of the validation traces."
            )
            raise NonFiniteLossError(message, step=self.step, traces=())
        return score

    @contextmanager
    def evaluated(self) -> Iterator[Surrogate]:
        """Lend the surrogate as it would be used now: in evaluation mode, with averaged weights if they are kept."""
        self.model.eval()
        try:
            with ExitStack() as stack:
                for phase in self.phases:
                    if phase.average is not None:
                        stack.enter_context(phase.average.applied())
                yield self.network
        finally:
            self.model.train()

    def _rate(self) -> float:
        if self.budget is None:
            return learning_rate(self.config, self.step, self.num_steps, batch_size=self.config.step_size)
        place = min(int(self.budget.share * TIME_STEPS), TIME_STEPS - 1)
        return learning_rate(self.config, place, TIME_STEPS, batch_size=self.config.step_size)

    def _autocast(self) -> torch.autocast:
        is_bfloat16 = self.config.precision == "bfloat16"
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=is_bfloat16)

    def _not_finite(self, mine: list[int], *, is_loss: bool) -> NonFiniteLossError:
        traces: list[int] = []
        if is_loss:
            payloads = self.communicator.gather(json.dumps(mine).encode())
            traces = sorted(trace for payload in payloads for trace in json.loads(payload))
        shown = ", ".join(map(str, traces[:8])) + (f" and {len(traces) - 8} more" if len(traces) > 8 else "")
        what, where = ("loss", f", for traces {shown} of the store") if traces else ("gradient", "")
        message = (
            f"The {what} of step {self.step} is not finite{where}. Look for values that are not finite or a learning "
            "rate that is too high."
        )
        return NonFiniteLossError(message, step=self.step, traces=tuple(traces))
