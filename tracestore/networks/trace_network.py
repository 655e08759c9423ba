"""What a proposal network computes: one observation embedding, one packed pass of the core, heads per address.

A batch may mix traces of any types: the core runs over all of them at once, step by step, and heads are applied to all
sites of a prior family at once. There is no loop over traces or over trace types.

Shapes: N traces, P modelled sites, E observation embedding, S value embedding, H core output, I inputs of the core.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tracestore.networks.address_dropout import AddressDropout
from tracestore.networks.config import NetworkConfig
from tracestore.networks.cores import Core, make_core
from tracestore.networks.heads import head_key, make_head, num_entries
from tracestore.networks.observations import ObservationEmbedding
from tracestore.networks.proposals import Head
from tracestore.networks.site_index import BatchColumns, SiteIndex
from tracestore.networks.sites import AddressRow, Vocabulary
from tracestore.networks.steps import RowColumns, Steps, make_steps
from tracestore.networks.tables import Table
from tracestore.networks.values import make_value_embedding
from tracestore.traces.address import address_id
from tracestore.traces.layout import Site

__all__ = ["TraceNetwork"]

SEED_STRIDE = 0x9E3779B97F4A7C15
"""Odd multiplier that keeps the seeds of neighboring networks apart in a row's stream."""


class TraceNetwork(nn.Module):
    """Score the draws of traces under proposals that depend on the observations and on the draws before.

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

    Examples
    --------
    >>> network = TraceNetwork({"obs0": ()}, NetworkConfig(core_size=8))
    >>> len(network.vocabulary)
    0
    """

    active: Tensor
    """Whether the network proposes at (row, instance); elsewhere the prior does, though the core follows."""

    def __init__(
        self,
        observation_shapes: Mapping[str, tuple[int, ...]],
        config: NetworkConfig | None = None,
        *,
        rows: Iterable[AddressRow] = (),
        modules: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.config = config = NetworkConfig() if config is None else config
        self.vocabulary = Vocabulary(config.rows, config.max_instance, partial(head_key, config=config))
        self.index = SiteIndex(self.vocabulary)
        num_instances = self.vocabulary.max_instance + 1
        with torch.random.fork_rng(devices=[]):  # layers draw their weights from the global stream: borrow it
            torch.manual_seed(config.seed)
            self.observation = ObservationEmbedding(observation_shapes, config, modules)
            self.instance = nn.Embedding(num_instances, config.instance_size)
            self.core: Core = make_core(config, self._num_inputs())
        self.address = Table(config.address_size)
        self.family = Table(config.family_size)
        self.value = make_value_embedding(config)
        self.heads = nn.ModuleDict()
        self.register_buffer("active", torch.ones(0, num_instances, dtype=torch.bool))
        self._columns: RowColumns | None = None
        self._dropout: AddressDropout | None = None
        known = list(rows)
        for row in known:
            if row.head not in self.heads:
                self.heads[row.head] = make_head(row.head, config)
            self.vocabulary.add(row)
        self._fill_tables(known, 0)

    def _num_inputs(self) -> int:
        config = self.config
        here = config.observation_size + config.place_size
        if config.core == "feedforward":
            return here
        before = config.address_size + config.family_size if config.sees_previous_address else 0
        return here + config.sample_size + before

    # ------------------------------------------------------------------------------------------------ the vocabulary

    @property
    def num_parameters(self) -> int:
        """Number of trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def unknown_sites(self, batch: BatchColumns) -> list[Site]:
        """Return one site for every row that a batch needs and the network lacks, in order of appearance."""
        return self.index.unknown_sites(batch.layouts, batch.layout_index)

    def missing(self, sites: Iterable[Site]) -> list[Site]:
        """Return the first of the sites for every row that they need and the network lacks."""
        first: dict[str, Site] = {}
        for site in sites:
            if self.vocabulary.lacks(site):
                first.setdefault(self.vocabulary.key(site), site)
        return list(first.values())

    def grow(self, sites: Iterable[Site]) -> int:
        """Add rows for sites that have none; returns how many were added.

        Where a row's weights start depends on the seed and its address alone. Parameters of tables are replaced by
        longer ones, old rows first.
        """
        rows: list[AddressRow] = []
        known_families = len(self.vocabulary.families)
        for site in self.missing(sites):
            key = self.vocabulary.head_of(site)
            if self.config.address_dropout and key not in self.vocabulary.hidden_row_of_head:
                rows.append(self._register(site, is_hidden=True))
            rows.append(self._register(site))
        self._fill_tables(rows, known_families)
        return len(rows)

    def row_bytes(self, sites: Iterable[Site]) -> int:
        """Return about how many bytes of weights `grow` would add, without adding them."""
        heads: dict[str, Head] = {}
        total = 0
        for site in self.missing(sites):
            key = self.vocabulary.head_of(site) or ""
            head = heads[key] = heads.get(key) or make_head(key, self.config)
            total += self.config.address_size + self.value.size * self._count_entries(site, head)
            total += head.mlp.row_size if self.config.heads == "own" else 0
        # one more for each head: what all rows share, or what serves hidden addresses
        if self.config.heads == "shared" or self.config.address_dropout:
            total += sum(head.mlp.row_size for key, head in heads.items() if key not in self.heads)
        return 4 * total

    def _register(self, site: Site, *, is_hidden: bool = False) -> AddressRow:
        """Describe a new row and enter it into the vocabulary; its tables are filled later."""
        key = self.vocabulary.head_of(site) or ""
        if key not in self.heads:
            self.heads[key] = make_head(key, self.config).to(self.device)
        head = self._head(key)
        if is_hidden and site.family == "Categorical":  # room for the most categories that this head serves
            site = replace(site, num_parameters=head.prior_width)
        row = AddressRow(
            key=f"?{key}" if is_hidden else self.vocabulary.key(site),
            base="" if is_hidden else site.base,
            family=site.family,
            size=site.num_values,
            num_elements=site.num_values if self.value.takes_raw_values else head.num_coordinates,
            num_parameters=site.num_parameters,
            head=key,
            head_row=0 if self.config.heads == "shared" else self.vocabulary.num_rows_of_head(key),
            first_entry=self.vocabulary.num_entries,
            num_entries=self._count_entries(site, head),
            is_discrete=head.is_discrete,
            is_hidden=is_hidden,
        )
        self.vocabulary.add(row)
        return row

    def _count_entries(self, site: Site, head: Head) -> int:
        is_category = site.family == "Categorical"
        return self.value.count_entries(num_entries(site, head, self.config), site.num_values, is_category=is_category)

    def _fill_tables(self, rows: Sequence[AddressRow], known_families: int) -> None:
        """Give rows that the vocabulary has taken in their places in the tables, one append per table."""
        if not rows:
            return
        streams = [self._stream(row.key) for row in rows]
        address, entries = [], []
        for row, stream in zip(rows, streams, strict=True):
            address.append(torch.randn(self.config.address_size, generator=stream))
            entries.append(
                self.value.initial_entries(row.num_entries, row.num_elements, stream, is_discrete=row.is_discrete)
            )
        self.address.append(torch.stack(address))
        self.value.entries.append(torch.cat(entries))
        for family in list(self.vocabulary.families)[known_families:]:
            self.family.append(torch.randn(1, self.config.family_size, generator=self._stream(family)))
        streams_of_head: dict[str, list[torch.Generator]] = {}
        for row, stream in zip(rows, streams, strict=True):
            streams_of_head.setdefault(row.head, []).append(stream)
        for key, found in streams_of_head.items():
            mlp = self._head(key).mlp
            if self.config.heads == "own":
                mlp.grow(found)
            elif not len(mlp):
                mlp.grow([self._stream(key)])
        self.active = torch.cat([self.active, self.active.new_ones(len(rows), self.active.shape[1])])
        self._columns = self._dropout = None
        self.index.clear()

    def _stream(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed((address_id(name) + SEED_STRIDE * self.config.seed) % 2**63)

    # ------------------------------------------------------------------------------------------------ the computation

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.address.weight.device

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
            self._columns = RowColumns.from_vocabulary(self.vocabulary, self.heads)
        return self._columns

    @property
    def dropout(self) -> AddressDropout:
        """Hides addresses."""
        if self._dropout is None:
            share, seed = self.config.address_dropout, self.config.seed
            self._dropout = AddressDropout(self.vocabulary, share=share, seed=seed)
        return self._dropout

    def steps(self, batch: BatchColumns, *, hide: int | None = None) -> Steps:
        """Gather the modelled sites of a batch into tensors.

        Parameters
        ----------
        batch
            N traces.
        hide
            Number of the minibatch, for training with address dropout: it decides which addresses are hidden. None
            hides none.
        """
        plan = self.index.plan(batch)
        if hide is not None and self.config.address_dropout:
            plan = plan._replace(row=self.dropout.hide(plan.row, hide))
        return make_steps(batch, plan, self.columns, self.head_list, self.value, self.device)

    def embed(self, observations: Mapping[str, Tensor | NDArray[np.generic]]) -> Tensor:
        """Embed observations of shape ``(N, *shape)`` each; returns ``(N, E)``."""
        tensors = {
            name: torch.as_tensor(observations[name]).to(self.device, torch.float32) for name in self.observation.shapes
        }
        embedding: Tensor = self.observation(tensors)
        return embedding

    def place_inputs(self, row_P: Tensor, family_P: Tensor, instance_P: Tensor) -> Tensor:
        """Join what the core sees of the place in the program; returns shape ``(P, address + family + instance)``."""
        return torch.cat([self.address(row_P), self.family(family_P), self.instance(instance_P)], dim=1)

    def core_inputs(self, embedding_PE: Tensor, place_PA: Tensor, before: Tensor | None) -> Tensor:
        """Join what the core sees at each site; returns ``(P, I)``.

        Parameters
        ----------
        embedding_PE
            Embedded observations.
        place_PA
            What `place_inputs` returned.
        before
            What `previous_inputs` returned of the sites before; zeros at the first site of a trace.
        """
        parts = [embedding_PE, place_PA] if before is None else [embedding_PE, place_PA, before]
        return torch.cat(parts, dim=1)

    def previous_inputs(self, sample_PS: Tensor, place_PA: Tensor) -> Tensor | None:
        """Join what the core sees of each site at the site after it; None when it sees nothing."""
        if self.config.core == "feedforward":
            return None
        if not self.config.sees_previous_address:
            return sample_PS
        return torch.cat([sample_PS, place_PA[:, : self.config.address_size + self.config.family_size]], dim=1)

    def head_inputs(self, state_PH: Tensor, place_PA: Tensor) -> Tensor:
        """Join what the heads read at each site."""
        return torch.cat([state_PH, place_PA], dim=1) if self.config.heads == "shared" else state_PH

    def site_log_probs(self, steps: Steps, embedding_NE: Tensor) -> Tensor:
        """Return log q of every modelled site, float64 of shape ``(P,)``.

        Parameters
        ----------
        steps
            The sites.
        embedding_NE
            Embedded observations of their traces.
        """
        place_PA = self.place_inputs(steps.row, steps.family, steps.instance)
        before = self.previous_inputs(self.value(steps.elements), place_PA)
        if before is not None:
            before = torch.cat([before.new_zeros(1, before.shape[1]), before]).index_select(0, steps.previous + 1)
        x_PI = self.core_inputs(embedding_NE.index_select(0, steps.trace), place_PA, before)
        inputs_P = self.head_inputs(self.core(x_PI, steps.batch_sizes), place_PA)
        places, log_probs, heads = [], [], self.head_list
        for group in steps.groups:
            head = heads[group.head]
            proposal = head(inputs_P.index_select(0, group.index_G), group.rows_G, group.priors)
            log_priors = steps.log_prior[group.index_G]
            log_probs.append(head.log_prob(proposal, group.priors, group.values, log_priors))
            places.append(group.index_G)
        return torch.empty_like(steps.log_prior).index_copy(0, torch.cat(places), torch.cat(log_probs))

    def trace_log_probs(self, steps: Steps, embedding_NE: Tensor, *, amortize_rejection: bool = True) -> Tensor:
        """Return log q of the controlled sites of every trace, the prior's where the prior proposes: ``(N,)``.

        Parameters
        ----------
        steps
            The modelled sites.
        embedding_NE
            Embedded observations of the traces.
        amortize_rejection
            Whether the network proposes inside rejection loops, too.
        """
        if len(steps.trace) == 0:
            return steps.prior_log_prob
        log_q_P = self.site_log_probs(steps, embedding_NE)
        is_served = self.active[steps.row, steps.instance]
        if not amortize_rejection:
            is_served = is_served & ~steps.in_rejection
        log_q_P = torch.where(is_served, log_q_P, steps.log_prior)
        return steps.prior_log_prob.index_add(0, steps.trace, log_q_P)

    def touched_rows(self, steps: Steps) -> dict[str, Tensor]:
        """Return the sorted rows of every table that a batch may touch, by the name of the table's parameter.

        Whatever belongs to one row of the vocabulary counts as touched together.
        """
        columns = self.columns
        rows = np.unique(steps.row.cpu().numpy())
        first, count = columns.first_entry[rows], columns.num_entries[rows]
        starts = np.repeat(first - (np.cumsum(count) - count), count)
        touched = {
            "address.weight": rows,
            "family.weight": np.unique(columns.family[rows]),
            "value.entries.weight": np.sort(starts + np.arange(count.sum())),
        }
        for position, (key, head) in enumerate(self.heads.items()):
            head_rows = np.unique(columns.head_row[rows[columns.head[rows] == position]])
            for name, module in head.named_modules(prefix=f"heads.{key}"):
                if isinstance(module, Table):
                    touched[f"{name}.weight"] = head_rows
        return {name: torch.from_numpy(found) for name, found in touched.items()}
