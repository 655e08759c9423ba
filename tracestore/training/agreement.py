"""What ranks must agree on before they train together: versions and settings, and the rows of new addresses.

Every rank sees what all ranks say and comes to its conclusion by itself: no rank leads.
"""

import json
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from tracestore.errors import RankMismatchError
from tracestore.traces.layout import Site, SiteKind
from tracestore.training.communicator import Communicator

__all__ = ["agree_on_sites", "average_tensors", "require_same", "take_from_first"]


def require_same(communicator: Communicator, facts: Mapping[str, str]) -> None:
    """Compare facts over ranks; if they differ, all ranks raise the same error.

    Parameters
    ----------
    communicator
        The ranks.
    facts
        What this rank has, by a name that people understand, such as ``{"tracestore": "0.2.0"}``.

    Raises
    ------
    RankMismatchError
        When a fact differs, or some ranks do not have it; the message names the values and their ranks.

    Examples
    --------
    >>> from tracestore.training.communicator import SoleProcess
    >>> require_same(SoleProcess(), {"torch": "2.13.0"})
    """
    everyone: list[dict[str, str]] = [json.loads(text) for text in communicator.gather(_to_json(dict(facts)))]
    names = dict.fromkeys(name for one in everyone for name in one)
    different: dict[str, dict[str, list[int]]] = {}
    for name in names:
        ranks_of: dict[str, list[int]] = {}
        for rank, one in enumerate(everyone):
            ranks_of.setdefault(repr(one[name]) if name in one else "absent", []).append(rank)
        if len(ranks_of) > 1:
            different[name] = ranks_of
    if different:
        found = "; ".join(
            f"{name} is {', '.join(f'{value} on {_ranks(ranks)}' for value, ranks in ranks_of.items())}"
            for name, ranks_of in different.items()
        )
        message = f"The ranks do not match: {found}; start all of them with the same code, settings and data."
        raise RankMismatchError(message, different=different)


def agree_on_sites(
    communicator: Communicator, sites: Iterable[Site], *, key: Callable[[Site], str] | None = None
) -> list[Site]:
    """Return the sites that any rank has met newly, the same list on all ranks.

    When no rank has one, this costs one small sum.

    Parameters
    ----------
    communicator
        The ranks.
    sites
        What this rank has met newly.
    key
        Sites with the same key count once, the first in order; all different sites are returned without it.

    Returns
    -------
    list of Site
        Ordered by base address and instance, whoever met them.

    Examples
    --------
    >>> from tracestore.training.communicator import SoleProcess
    >>> raw = [Site(f"decay~Uniform#{visit}", SiteKind.SAMPLE, True, "", "Uniform", (), 2) for visit in (12, 3)]
    >>> [site.instance for site in agree_on_sites(SoleProcess(), raw)]
    [3, 12]
    >>> [site.instance for site in agree_on_sites(SoleProcess(), raw, key=lambda site: site.base)]
    [3]
    """
    mine = list(sites)
    count = torch.tensor([len(mine)])
    communicator.sum_(count).wait()
    if not count.item():
        return []
    payloads = communicator.gather(_to_json([_site_to_json(site) for site in mine]))
    everything = [_site_from_json(row) for payload in payloads for row in json.loads(payload)]
    everything.sort(key=lambda site: (site.base, site.instance, site.record))
    first: dict[str, Site] = {}
    for site in everything:
        first.setdefault(site.record if key is None else key(site), site)
    return list(first.values())


def take_from_first(communicator: Communicator, tensors: Iterable[Tensor]) -> None:
    """Give all ranks the numbers of rank 0, in place.

    Parameters
    ----------
    communicator
        The ranks.
    tensors
        The same number of contiguous tensors, of the same shapes, on all ranks.

    Examples
    --------
    >>> from tracestore.training.communicator import SoleProcess
    >>> take_from_first(SoleProcess(), [torch.ones(3)])
    """
    for tensor in tensors:
        if communicator.rank:
            tensor.zero_()
        communicator.sum_(tensor).wait()


def average_tensors(communicator: Communicator, tensors: Iterable[Tensor]) -> None:
    """Give all ranks the mean over ranks, in place.

    Parameters
    ----------
    communicator
        The ranks.
    tensors
        The same number of contiguous floating-point tensors, of the same shapes, on all ranks.

    Examples
    --------
    >>> from tracestore.training.communicator import SoleProcess
    >>> tensor = torch.ones(3)
    >>> average_tensors(SoleProcess(), [tensor])
    >>> tensor.tolist()
    [1.0, 1.0, 1.0]
    """
    for tensor in tensors:
        communicator.sum_(tensor).wait()
        tensor /= communicator.num_ranks


def _site_to_json(site: Site) -> list[object]:
    return [
        site.address,
        int(site.kind),
        site.is_controlled,
        site.name,
        site.family,
        site.shape,
        site.num_parameters,
    ]


def _site_from_json(row: list[object]) -> Site:
    address, kind, is_controlled, name, family, shape, num_parameters = row
    assert isinstance(kind, int)
    assert isinstance(shape, list)
    assert isinstance(num_parameters, int)
    return Site(str(address), SiteKind(kind), bool(is_controlled), str(name), str(family), tuple(shape), num_parameters)


def _to_json(thing: object) -> bytes:
    return json.dumps(thing, separators=(",", ":")).encode()


def _ranks(ranks: list[int]) -> str:
    """Name ranks as people do: ``ranks 0-2, 5``."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {text}"
