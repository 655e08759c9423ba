"""The recorder of a batched run with gradients: draws are functions of coordinates, and scores are tensors."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tracestore._extras import extra
from tracestore.errors import InferenceError, InvalidInputError
from tracestore.simulators.batch_recorder import BatchPrior, BatchRecorder
from tracestore.simulators.tensor_arrays import TensorArrays
from tracestore.simulators.tensor_log_probs import tensor_log_prob
from tracestore.simulators.tensor_supports import support_of
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site, SiteKind

with extra("train"):
    import torch
    from torch import Tensor

__all__ = ["DrawColumns", "TensorRecorder"]


class DrawColumns(NamedTuple):
    """Where the coordinates of a draw stand in the table of all coordinates."""

    site: Site
    start: int
    stop: int

    @property
    def label(self) -> str:
        """How messages call the draw."""
        return self.site.name or self.site.address


class TensorRecorder(BatchRecorder):
    """Scores one batched run as tensors; keeps no trace.

    Parameters
    ----------
    num_traces
        Traces in the batch.
    observations
        Values to condition on, by name.
    max_sites
        The run is stopped when it reaches more sites.
    draws
        The draws that must come, in order.
    table
        Coordinates, or values where coordinates are asked for, shape ``(num_traces, num_coordinates)``.
    standing
        Coordinates that stand in where those of the table lead to no number; None when values are given.
    """

    def __init__(
        self,
        num_traces: int,
        observations: Mapping[str, NDArray[np.generic]],
        max_sites: int,
        draws: Sequence[DrawColumns],
        table: Tensor,
        standing: Tensor | None,
    ) -> None:
        super().__init__(BatchPrior(), np.random.default_rng(0), num_traces, observations, max_sites, TensorArrays())
        self.draws = draws
        self.table = table
        self.standing = standing
        self.num_drawn = 0
        self.is_outside = torch.zeros(num_traces, dtype=torch.bool)
        """Traces of which a coordinate led to no number."""
        self.coordinates: list[Tensor] = []
        self.made: list[Tensor] = []
        """Values of the draws, in order, each of shape ``(num_traces, size)``."""
        zero = torch.zeros(num_traces, dtype=torch.float64)
        self.log_prior_N: Tensor = zero
        self.log_likelihood_N: Tensor = zero
        self.log_jacobian_N: Tensor = zero

    def sample(self, prior: Distribution, name: str, place: str, control: bool) -> Any:  # noqa: ANN401, FBT001
        """Turn the coordinates of a draw into its values, score them, and return them as a tensor."""
        if name and self.given is not None and name in self.given:
            return self.observe(prior, None, name, place, None)
        rows = self._rows(prior)
        site = self._site(place, rows.first.suffix, SiteKind.SAMPLE, control, name, rows.first)
        columns = self._columns(site)
        shape = (self.num_traces, *rows.shape)
        found = self.table[:, columns.start : columns.stop].reshape(shape)
        try:
            support = support_of(prior)
            if self.standing is None:
                self.coordinates.append(support.coordinate_of(found).reshape(self.num_traces, -1))
                values, slopes = found, torch.zeros_like(found)
            else:
                values, slopes = support.value_at(found)
                is_wrong = ~torch.isfinite(values.detach()).reshape(self.num_traces, -1).all(1)
                if is_wrong.any():
                    self.is_outside |= is_wrong
                    mask = is_wrong.reshape(-1, *[1] * len(rows.shape))
                    old = self.standing[:, columns.start : columns.stop].reshape(shape)
                    values, slopes = support.value_at(torch.where(mask, old, found))
            scores = tensor_log_prob(rows, values)
        except InvalidInputError as error:
            self.fatal = InferenceError(f"The draw {columns.label!r} cannot be inferred with gradients: {error}")
            raise self.fatal from error
        self.made.append(values.detach().reshape(self.num_traces, -1))
        self.log_prior_N = self.log_prior_N + scores
        self.log_jacobian_N = self.log_jacobian_N + slopes.reshape(self.num_traces, -1).sum(1)
        return values.clone()  # programs compute in place

    def observe(
        self, likelihood: Distribution, value: ArrayLike | None, name: str, place: str, dtype: DTypeLike | None
    ) -> Any:  # noqa: ANN401
        """Score an observation, which may itself be made of draws, and return it as a tensor."""
        rows = self._rows(likelihood)
        site = self._site(place, rows.first.suffix, SiteKind.OBSERVE, False, name, rows.first)
        is_given = self.given is not None and bool(name) and name in self.given
        if isinstance(value, Tensor) and value.requires_grad and not is_given:
            has_axis = value.ndim > len(rows.shape)
            if has_axis:  # the refusal of a wrong axis is the same as without gradients
                self._read(value.detach().cpu().numpy(), f"the value of the observe {name or site.address!r}")
            values = value.to("cpu", torch.float64).expand(self.num_traces, *rows.shape)
        else:
            array = self._observed_rows(site, rows, value, dtype)
            # one copy serves all traces where they share what is observed
            shared = array[:1] if array.shape[0] and array.strides[0] == 0 else array
            values = torch.from_numpy(np.array(shared)).expand(array.shape)
        try:
            scores = tensor_log_prob(rows, values)
        except InvalidInputError as error:
            self.fatal = InferenceError(f"The observe {name or site.address!r} cannot be followed: {error}")
            raise self.fatal from error
        self.log_likelihood_N = self.log_likelihood_N + scores
        return values

    def tag(self, value: ArrayLike, name: str, place: str) -> None:
        """Record nothing: a tag is never scored."""

    def _columns(self, site: Site) -> DrawColumns:
        number = self.num_drawn
        self.num_drawn += 1
        if number >= len(self.draws) or self.draws[number].site != site:
            expected = f"{self.draws[number].label!r}" if number < len(self.draws) else "no more draws"
            message = (
                f"The draws of the program differ from one run to another: draw {number + 1} is"
                f" {site.name or site.address!r}, where another run had {expected}. Gradients need the same draws in"
                " every run; write a program with branches for one trace, and infer with `rmh`."
            )
            self.fatal = InferenceError(message, found=site.address)
            raise self.fatal
        if not site.is_controlled:
            message = (
                f"The draw {site.name or site.address!r} is declared with `control=False`: inference must not choose"
                " its value, but chains that follow gradients choose all of them. Control it, or infer with `rmh`."
            )
            self.fatal = InferenceError(message, found=site.address)
            raise self.fatal
        return self.draws[number]
