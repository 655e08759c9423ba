"""Which proposal head serves a site, by the prior's family and the configuration.

Families that are not listed here use the prior; so do vector-valued draws.
"""

from tracestore.errors import CheckpointMismatchError
from tracestore.traces.layout import Site
from tracestore.training.config import NetworkConfig
from tracestore.training.discrete_proposals import BernoulliHead, CategoricalHead, CountHead
from tracestore.training.proposals import BinnedHead, Head, NormalHead, PositiveHead, TruncatedHead

__all__ = ["head_key", "make_head", "num_entries"]

SMALLEST_TABLE = 4
"""Categorical priors of up to this many categories share one table."""

_HEADS: dict[str, tuple[type[Head], int]] = {
    "Bernoulli": (BernoulliHead, 1),
    "Beta": (TruncatedHead, 4),
    "Binomial": (CountHead, 2),
    "Exponential": (PositiveHead, 1),
    "Gamma": (PositiveHead, 2),
    "LogNormal": (PositiveHead, 2),
    "Normal": (NormalHead, 2),
    "Poisson": (CountHead, 1),
    "TruncatedNormal": (TruncatedHead, 4),
    "Uniform": (TruncatedHead, 2),
    "Weibull": (PositiveHead, 2),
}
"""Head of each family, and the number of parameters of a scalar prior."""


def head_key(site: Site, config: NetworkConfig) -> str | None:
    """Return the key of the head that serves a site, or None when the site uses the prior.

    Examples
    --------
    >>> from tracestore.traces.layout import SiteKind
    >>> raw = Site("decay~Uniform#1", SiteKind.SAMPLE, True, "", "Uniform", (), 2)
    >>> head_key(raw, NetworkConfig())
    'Uniform_binned'
    """
    if site.family == "Categorical":
        # tables of a few widths instead of one per number of categories
        return f"Categorical_{max(SMALLEST_TABLE, 1 << (site.num_parameters - 1).bit_length())}"
    if site.family not in _HEADS or site.num_parameters != _HEADS[site.family][1]:
        return None
    if site.family == "Uniform":
        binned = config.uniform_proposal == "binned" or (config.uniform_proposal == "auto" and not site.name)
        return "Uniform_binned" if binned else "Uniform"
    return site.family


def make_head(key: str, config: NetworkConfig) -> Head:
    """Build an empty head for a key of `head_key`.

    Raises
    ------
    CheckpointMismatchError
        When the key is not known; it then comes from another release.
    """
    family, _, variant = key.partition("_")
    if key == "Uniform_binned":
        return BinnedHead(family, config)
    if family == "Categorical" and variant.isdecimal():
        return CategoricalHead(family, config, int(variant))
    if key in _HEADS:
        return _HEADS[key][0](family, config)  # type: ignore[call-arg]  # the output bias is the head's own affair
    message = f"The network has a proposal head {key!r} that this release does not know; use the release that wrote it."
    raise CheckpointMismatchError(message, head=key)


def num_entries(site: Site, head: Head, config: NetworkConfig) -> int:
    """Return how many rows of the table of value embeddings a base address takes."""
    if not head.is_discrete:
        return config.sample_knots
    return {"Categorical": site.num_parameters, "Bernoulli": 2}.get(site.family, config.count_bins)
