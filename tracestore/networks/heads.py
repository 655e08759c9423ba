"""Which proposal head serves a site, by the prior's family, the shape of the draw and the configuration.

A key names a table of heads: the prior's structure, then a variant and the number of elements of a vector where there
are such, as in ``Normal``, ``Uniform_binned_3`` or ``Categorical_8`` (there, the width of the table).
"""

from collections.abc import Callable
from typing import NamedTuple

from tracestore.errors import CheckpointMismatchError
from tracestore.networks.circular_proposals import CircularForm
from tracestore.networks.config import NetworkConfig
from tracestore.networks.discrete_proposals import BernoulliForm, CategoricalForm, CountForm
from tracestore.networks.interval_proposals import BinnedForm, TruncatedForm
from tracestore.networks.line_proposals import NormalForm, PositiveForm
from tracestore.networks.proposals import Head, ProposalForm
from tracestore.networks.spline_proposals import SplineForm, has_spline
from tracestore.networks.vector_proposals import IndependentForm, NormalVectorForm
from tracestore.traces.layout import Site

__all__ = ["head_key", "make_head", "num_entries"]

SMALLEST_TABLE = 4
"""Categorical priors of up to this many categories share one table."""
LARGEST_VECTOR = 1024
"""Draws of more elements use the prior: a proposal for so many numbers would be learned from too little."""


class _Family(NamedTuple):
    """How a family is proposed for."""

    num_parameters: int
    """Parameters of a scalar prior."""
    make: Callable[[str, NetworkConfig, bool], ProposalForm]
    """Form of a scalar draw; or, where the flag is set, of an element of a vector."""


_FAMILIES: dict[str, _Family] = {
    "Bernoulli": _Family(1, lambda family, config, is_element: BernoulliForm()),
    "Beta": _Family(4, lambda family, config, is_element: TruncatedForm(family, config)),
    "Binomial": _Family(2, lambda family, config, is_element: CountForm(family, config, has_tail=not is_element)),
    "Exponential": _Family(1, lambda family, config, is_element: PositiveForm(family, config)),
    "Gamma": _Family(2, lambda family, config, is_element: PositiveForm(family, config)),
    "LogNormal": _Family(2, lambda family, config, is_element: PositiveForm(family, config)),
    "Normal": _Family(2, lambda family, config, is_element: NormalForm(config)),
    "Poisson": _Family(1, lambda family, config, is_element: CountForm(family, config, has_tail=not is_element)),
    "TruncatedNormal": _Family(4, lambda family, config, is_element: TruncatedForm(family, config)),
    "Uniform": _Family(2, lambda family, config, is_element: TruncatedForm(family, config)),
    "VonMises": _Family(2, lambda family, config, is_element: CircularForm(config)),
    "Weibull": _Family(2, lambda family, config, is_element: PositiveForm(family, config)),
}
"""Families whose elements are proposed for by a form of their own."""


def head_key(site: Site, config: NetworkConfig) -> str | None:
    """Return the key of the head that serves a site, or None when the site uses the prior.

    Examples
    --------
    >>> from tracestore.traces.layout import SiteKind
    >>> raw = Site("decay~Uniform#1", SiteKind.SAMPLE, True, "", "Uniform", (), 2)
    >>> head_key(raw, NetworkConfig())
    'Uniform_binned'
    """
    size = site.num_values
    if not 1 <= size <= LARGEST_VECTOR:
        return None
    if site.family == "Categorical" and not site.shape:
        # tables of a few widths instead of one per number of categories
        return f"Categorical_{max(SMALLEST_TABLE, 1 << (site.num_parameters - 1).bit_length())}"
    if site.family == "MultivariateNormal":
        return f"MultivariateNormal_{size}" if site.num_parameters == size * (size + 1) else None
    suffix = f"_{size}" if site.shape else ""
    if site.family not in _FAMILIES:
        structure = _sized(site)
        return f"{structure}_spline" if not site.shape and has_spline(structure, site.num_parameters) else None
    if site.num_parameters != _FAMILIES[site.family].num_parameters * size:
        return None
    return f"{site.family}{_variant(site, config)}{suffix}"


def make_head(key: str, config: NetworkConfig) -> Head:
    """Build an empty head for a key of `head_key`.

    Raises
    ------
    CheckpointMismatchError
        When the key is not known; it then comes from another release.
    """
    form = _make_form(key, config)
    if form is None:
        message = (
            f"The network has a proposal head {key!r} that this release does not know; use the release that wrote it."
        )
        raise CheckpointMismatchError(message, head=key)
    return Head(form, config)


def num_entries(site: Site, head: Head, config: NetworkConfig) -> int:
    """Return how many rows of the table of value embeddings a base address takes: as many for each coordinate."""
    if not head.is_discrete:
        return config.sample_knots * head.num_coordinates
    per_coordinate = {"Categorical": site.num_parameters, "Bernoulli": 2}.get(site.family, config.count_bins)
    return per_coordinate * head.num_coordinates


def _variant(site: Site, config: NetworkConfig) -> str:
    if site.family == "Uniform":
        is_binned = config.uniform_proposal == "binned" or (config.uniform_proposal == "auto" and not site.name)
        is_spline = config.uniform_proposal == "spline"
        return "_binned" if is_binned else "_spline" if is_spline else ""
    return "_spline" if config.continuous_proposal == "spline" and has_spline(site.family) else ""


def _sized(site: Site) -> str:
    """Return the structure of a prior: the family, with the size that a lone histogram leaves out."""
    if site.family == "PiecewiseUniform":
        return f"PiecewiseUniform({max((site.num_parameters - 1) // 2, 1)})"
    return site.family


def _make_form(key: str, config: NetworkConfig) -> ProposalForm | None:
    structure, *rest = key.split("_")
    size = int(rest.pop()) if rest and rest[-1].isdecimal() else 0
    variant = rest[0] if len(rest) == 1 else ""
    if len(rest) > 1 or (size < 1 and key.endswith("0")):
        return None
    if structure == "Categorical" and size and not variant:
        return CategoricalForm(size)
    if structure in ("Normal", "MultivariateNormal") and size and not variant:
        return NormalVectorForm(structure, size, config)
    element = _make_element(structure, variant, config, is_element=size > 0)
    return IndependentForm(element, size) if element is not None and size else element


def _make_element(structure: str, variant: str, config: NetworkConfig, *, is_element: bool) -> ProposalForm | None:
    if variant == "binned":
        return BinnedForm(config) if structure == "Uniform" else None
    if variant == "spline":
        return SplineForm(structure, config) if has_spline(structure) else None
    if variant or structure not in _FAMILIES:
        return None
    return _FAMILIES[structure].make(structure, config, is_element)
