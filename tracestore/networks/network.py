"""The proposal network as inference engines know it: a `TraceNetwork` that opens sessions and knows its origin."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tracestore.errors import InvalidInputError
from tracestore.networks.config import NetworkConfig
from tracestore.networks.session import NetworkSession
from tracestore.networks.sites import AddressRow
from tracestore.networks.trace_network import TraceNetwork
from tracestore.store.job import Job

__all__ = ["ProposalNetwork"]


class ProposalNetwork(TraceNetwork):
    """Propose values for the draws of one simulator, given its observations.

    Satisfies `tracestore.execution.provider.ProposalProvider`.

    Parameters
    ----------
    observation_shapes
        Shape of each named observation.
    config
        Sizes and choices.
    rows
        Rows that an earlier network had; otherwise `grow` adds them.
    modules
        Modules of your own that embed observations, by the name of the observation.
    job
        The job that trains it.

    Examples
    --------
    >>> network = ProposalNetwork({"obs0": ()}, NetworkConfig(core_size=8))
    >>> network.base_addresses
    ()
    """

    def __init__(
        self,
        observation_shapes: Mapping[str, tuple[int, ...]],
        config: NetworkConfig | None = None,
        *,
        rows: Iterable[AddressRow] = (),
        modules: Mapping[str, nn.Module] | None = None,
        job: Job | None = None,
    ) -> None:
        super().__init__(observation_shapes, config, rows=rows, modules=modules)
        self.job = Job("train", {}) if job is None else job
        self.summary: dict[str, float] = {}

    @property
    def base_addresses(self) -> Collection[str]:
        """Base addresses that it was trained on."""
        return self.vocabulary.bases

    def session(
        self,
        observations: Mapping[str, NDArray[np.generic]] | Sequence[Mapping[str, NDArray[np.generic]]],
        num_slots: int,
        *,
        amortize_rejection: bool = False,
    ) -> NetworkSession:
        """Start proposing for one or more observations; see `ProposalProvider.session`.

        Parameters
        ----------
        observations
            Observed values by name, or several such mappings.
        num_slots
            Runs that may be in flight at once.
        amortize_rejection
            Whether to propose inside rejection loops, too; otherwise the prior proposes there.

        Raises
        ------
        InvalidInputError
            When names or shapes differ from those of the training data, or a value is not finite.
        """
        given = [observations] if isinstance(observations, Mapping) else observations
        found = [self._checked(each) for each in given]
        stacked = {name: np.stack([each[name] for each in found]) for name in self.observation.shapes}
        return NetworkSession(self, stacked, num_slots, amortize_rejection=amortize_rejection)

    def _checked(self, observations: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        found = {name: np.array(value, np.float32) for name, value in observations.items()}
        shapes = {name: value.shape for name, value in found.items()}
        if shapes != self.observation.shapes:
            message = (
                f"The observations do not fit the network: given are {_listed(shapes)}, "
                f"it was trained with {_listed(self.observation.shapes)}."
            )
            raise InvalidInputError(message, given=shapes, trained=dict(self.observation.shapes))
        for name, value in found.items():
            if not np.isfinite(value).all():
                message = f"Observation {name!r} holds values that are not finite; proposals need finite ones."
                raise InvalidInputError(message, name=name)
        return found


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} of shape {shape}" for name, shape in sorted(shapes.items())) or "none"
