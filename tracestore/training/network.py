"""The proposal network: one observation embedding, one packed recurrent pass, stacked heads per base address.

A batch may mix traces of any types: the recurrent pass runs over all of them at once, step by step, and heads are
applied to all sites of a prior family at once. There is no loop over traces or over trace types.

Shapes: N traces, P modelled sites, E observation embedding, H recurrent state, I inputs of the recurrent core.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tracestore.errors import InvalidInputError
from tracestore.store.job import Job
from tracestore.traces.address import address_id
from tracestore.traces.layout import Site
from tracestore.training.config import NetworkConfig
from tracestore.training.embeddings import ObservationEmbedding, ValueEmbedding
from tracestore.training.heads import head_key, make_head, num_entries
from tracestore.training.proposals import Head
from tracestore.training.recurrent import RecurrentCore
from tracestore.training.session import NetworkSession
from tracestore.training.site_index import BatchColumns, SiteIndex
from tracestore.training.sites import AddressRow, Vocabulary
from tracestore.training.steps import RowColumns, Steps, make_steps
from tracestore.training.tables import Growth, append_rows

__all__ = ["ProposalNetwork"]

SEED_STRIDE = 0x9E3779B97F4A7C15
"""Odd multiplier that keeps the seeds of neighbouring networks apart in an address's stream."""


class ProposalNetwork(nn.Module):
    """Propose values for the draws of one simulator, given its observations.

    Satisfies `tracestore.execution.provider.ProposalProvider`.

    Parameters
    ----------
    observation_shapes
        Shape of each named observation.
    config
        Sizes and choices.
    rows
        Base addresses that an earlier network knew; otherwise `grow` adds them.
    job
        The job that trains it.

    Examples
    --------
    >>> network = ProposalNetwork({"obs0": ()}, NetworkConfig(recurrent_size=8))
    >>> network.base_addresses
    ()
    """

    active: Tensor
    """Whether the network proposes at (row, instance); elsewhere the prior does, though the state advances."""

    def __init__(
        self,
        observation_shapes: Mapping[str, tuple[int, ...]],
        config: NetworkConfig | None = None,
        *,
        rows: Iterable[AddressRow] = (),
        job: Job | None = None,
    ) -> None:
        super().__init__()
        self.config = config = NetworkConfig() if config is None else config
        self.job = Job("train", {}) if job is None else job
        self.summary: dict[str, float] = {}
        self.vocabulary = Vocabulary(config.max_instance)
        self.index = SiteIndex(self.vocabulary)
        with torch.random.fork_rng(devices=[]):  # layers draw their weights from the global stream: borrow it
            torch.manual_seed(config.seed)
            self.observation = ObservationEmbedding(observation_shapes, config)
            self.instance = nn.Embedding(config.max_instance + 1, config.instance_size)
            num_inputs = config.observation_size + config.address_size + config.instance_size + config.sample_size
            self.core = RecurrentCore(config.recurrent, num_inputs, config.recurrent_size)
        self.address = nn.Parameter(torch.empty(0, config.address_size))
        self.value = ValueEmbedding(config.sample_size)
        self.heads = nn.ModuleDict()
        self.register_buffer("active", torch.ones(0, config.max_instance + 1, dtype=torch.bool))
        self._columns: RowColumns | None = None
        for row in rows:
            self._add_row(row)

    # ------------------------------------------------------------------------------------------------ the vocabulary

    @property
    def base_addresses(self) -> Collection[str]:
        """Base addresses that have a row."""
        return self.vocabulary.bases

    @property
    def num_parameters(self) -> int:
        """Number of trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def grow(self, batch: BatchColumns) -> Growth:
        """Add rows for the base addresses of a batch that have none yet.

        Parameters
        ----------
        batch
            Traces.

        Returns
        -------
        dict
            Replaced parameters and their replacements, for the optimizer; empty when nothing was new.
        """
        replaced: Growth = {}
        for site in self.index.unknown_sites(batch.layouts, batch.layout_index):
            key = head_key(site, self.config)
            if key is not None:
                self._follow(replaced, self._add_row(self._describe(site, key)))
        if replaced:
            self.index.clear()
        return replaced

    def _describe(self, site: Site, key: str) -> AddressRow:
        head = self._head(key) if key in self.heads else make_head(key, self.config)
        return AddressRow(
            base=site.base,
            family=site.family,
            num_parameters=site.num_parameters,
            head=key,
            head_row=sum(row.head == key for row in self.vocabulary.rows),
            first_entry=sum(row.num_entries for row in self.vocabulary.rows),
            num_entries=num_entries(site, head, self.config),
            is_discrete=head.is_discrete,
        )

    def _add_row(self, row: AddressRow) -> Growth:
        seed = (address_id(row.base) + SEED_STRIDE * self.config.seed) % 2**63
        generator = torch.Generator().manual_seed(seed)
        if row.head not in self.heads:
            self.heads[row.head] = make_head(row.head, self.config).to(self.address.device)
        address = torch.randn(1, self.config.address_size, generator=generator)
        growth = append_rows(self, "address", address)
        growth.update(self.value.grow(self._initial_entries(row, generator)))
        growth.update(self._head(row.head).mlp.grow([generator]))
        self.active = torch.cat([self.active, self.active.new_ones(1, self.active.shape[1])])
        self.vocabulary.add(row)
        self._columns = None
        return growth

    def _initial_entries(self, row: AddressRow, generator: torch.Generator) -> Tensor:
        if row.is_discrete:
            return torch.randn(row.num_entries, self.config.sample_size, generator=generator)
        # a straight line: close values start with close embeddings
        slope = torch.randn(1, self.config.sample_size, generator=generator)
        return torch.linspace(-1.0, 1.0, row.num_entries).unsqueeze(1) * slope

    @staticmethod
    def _follow(replaced: Growth, step: Growth) -> None:
        """Chain one growth onto earlier ones, so that keys stay the parameters before the first."""
        origin = {new: old for old, new in replaced.items()}
        for old, new in step.items():
            replaced[origin.get(old, old)] = new

    # ------------------------------------------------------------------------------------------------ the computation

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.address.device

    @property
    def head_list(self) -> list[Head]:
        """The heads, in the order that `RowColumns.head` counts."""
        return [self._head(key) for key in self.heads]

    def _head(self, key: str) -> Head:
        return cast("Head", self.heads[key])

    @property
    def columns(self) -> RowColumns:
        """The vocabulary's rows as arrays."""
        if self._columns is None:
            self._columns = RowColumns.from_vocabulary(self.vocabulary, list(self.heads))
        return self._columns

    def steps(self, batch: BatchColumns) -> Steps:
        """Gather the modelled sites of a batch into tensors."""
        return make_steps(batch, self.index.plan(batch), self.columns, self.head_list, self.device)

    def embed(self, observations: Mapping[str, Tensor | NDArray[np.generic]]) -> Tensor:
        """Embed observations of shape ``(N, *shape)`` each; returns ``(N, E)``."""
        tensors = {
            name: torch.as_tensor(observations[name]).to(self.device, torch.float32) for name in self.observation.shapes
        }
        embedding: Tensor = self.observation(tensors)
        return embedding

    def core_inputs(self, embedding_PE: Tensor, row_P: Tensor, instance_P: Tensor, sample_PS: Tensor) -> Tensor:
        """Join what the recurrent core sees at each site; returns ``(P, I)``."""
        parts = [embedding_PE, self.address.index_select(0, row_P), self.instance(instance_P), sample_PS]
        return torch.cat(parts, dim=1)

    def site_log_probs(self, steps: Steps, embedding_NE: Tensor) -> Tensor:
        """Return log q of every modelled site, float64 of shape ``(P,)``.

        Parameters
        ----------
        steps
            The sites.
        embedding_NE
            Embedded observations of their traces.
        """
        sample_PS = self.value(steps.first_entry, steps.num_entries, steps.place)
        nothing_1S = sample_PS.new_zeros(1, sample_PS.shape[1])
        previous_PS = torch.cat([nothing_1S, sample_PS]).index_select(0, steps.previous + 1)
        x_PI = self.core_inputs(embedding_NE.index_select(0, steps.trace), steps.row, steps.instance, previous_PS)
        state_PH = self.core(x_PI, steps.batch_sizes)
        places, log_probs, heads = [], [], self.head_list
        for group in steps.groups:
            head = heads[group.head]
            proposal = head(state_PH.index_select(0, group.index_G), group.rows_G, group.priors)
            values, log_priors = steps.value[group.index_G], steps.log_prior[group.index_G]
            log_probs.append(head.log_prob(proposal, group.priors, values, log_priors))
            places.append(group.index_G)
        return torch.empty_like(steps.value).index_copy(0, torch.cat(places), torch.cat(log_probs))

    def trace_log_probs(self, steps: Steps, embedding_NE: Tensor) -> Tensor:
        """Return log q of the controlled sites of every trace, the prior's where the prior proposes: ``(N,)``.

        Parameters
        ----------
        steps
            The modelled sites.
        embedding_NE
            Embedded observations of the traces.
        """
        if len(steps.trace) == 0:
            return steps.prior_log_prob
        log_q_P = self.site_log_probs(steps, embedding_NE)
        log_q_P = torch.where(self.active[steps.row, steps.instance], log_q_P, steps.log_prior)
        return steps.prior_log_prob.index_add(0, steps.trace, log_q_P)

    # -------------------------------------------------------------------------------------------------- the provider

    def session(self, observations: Mapping[str, NDArray[np.generic]], num_slots: int) -> NetworkSession:
        """Start proposing for one observation.

        Parameters
        ----------
        observations
            Observed values by name.
        num_slots
            Runs that may be in flight at once.

        Raises
        ------
        InvalidInputError
            When names or shapes differ from those of the training data, or a value is not finite.
        """
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
        return NetworkSession(self, found, num_slots)


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} of shape {shape}" for name, shape in sorted(shapes.items())) or "none"
