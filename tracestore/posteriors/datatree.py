"""Draws of a posterior as a tree of xarray datasets, in the conventions of ArviZ. A leaf: needs xarray.

Dimensions ``chain`` and ``draw`` come first. A tree is rectangular and traces are not: variables that only some draws
have are NaN elsewhere, beside ``NAME__present``, 1 or 0: ArviZ summarizes numbers and fails at truth values. Weights
are never hidden: ``sample_stats`` has them, and the attributes say whether draws must be weighted.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.diagnostics.psis import smooth_log_weights
from tracestore.errors import InvalidInputError
from tracestore.posteriors.observed import observed_values
from tracestore.posteriors.variable import MAX_ELEMENTS

with extra("xarray"):
    import xarray as xr

if TYPE_CHECKING:
    from tracestore.posteriors.draw_quality import DrawQuality

__all__ = ["to_datatree"]

Resample = Literal["stratified", "without_replacement"]
Variables = dict[Hashable, tuple[tuple[str, ...], NDArray[np.generic]]]


@dataclass(frozen=True)
class _Grid:
    """Which draw stands at which place of chain and draw."""

    rows: NDArray[np.int64]
    """Rows of the posterior, shape ``(chains, draws)``."""
    is_resampled: bool


def to_datatree(
    posterior: "DrawQuality",
    names: Sequence[str] | None = None,
    *,
    resample: Resample | None = None,
    num_draws: int | None = None,
    seed: int = 0,
) -> xr.DataTree:
    """Return the draws as a tree of datasets.

    Parameters
    ----------
    posterior
        The draws. Failed runs, which have weight zero and lack variables, are left out and counted in the attributes.
    names
        Names or addresses; all names when None, long vectors left out.
    resample
        None keeps all draws, with their weights in ``sample_stats``. ``stratified`` makes draws of equal weight, one
        with a large weight comes several times. ``without_replacement`` makes a few draws without repeats, nearly of
        equal weight when they are far fewer than the effective sample size.
    num_draws
        Draws to make by resampling: by default the effective sample size, or a tenth of it without replacement.
    seed
        Seed of the resampling.

    Returns
    -------
    xarray.DataTree
        Groups ``posterior`` (``prior`` for draws of the prior), ``sample_stats`` (``sample_stats_prior``) and
        ``observed_data``. Dimensions ``chain`` and ``draw`` count from 0; weighted draws of several stores of one size
        are a chain each, those of different sizes one chain. In ``sample_stats``: ``lp`` (log joint density),
        ``log_prior``, ``log_likelihood_total``, ``log_proposal`` (where there is one), ``log_weight`` as it was,
        ``log_weight_psis`` (normalized, tail smoothed), ``accepted`` (chains), ``trace_type``, ``trace_length``
        (sites), ``trace_id`` (index in the store) and ``store`` (which one).

    Raises
    ------
    UnknownAddressError
        When no draw has a name.
    InvalidInputError
        When chains have different lengths, or the resampling is impossible.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import branching
    >>> posterior = ts.inference.importance(branching, {"obs": 6}, "exported", num_draws=100, seed=1)
    >>> tree = to_datatree(posterior)
    >>> list(tree.children), dict(tree["posterior"].sizes)
    (['posterior', 'sample_stats', 'observed_data'], {'chain': 1, 'draw': 100})
    >>> list(tree["posterior"].data_vars)
    ['r', 'extra', 'extra__present', 'result']
    """
    grid = _grid(posterior, resample, num_draws, seed)
    facts = _attributes(posterior, grid)
    suffix, group = (
        ("_prior", "prior") if posterior.engine == "prior" and not posterior.view.reobserved else ("", "posterior")
    )
    groups = {
        group: _dataset(_variables(posterior, names, grid), grid, facts),
        f"sample_stats{suffix}": _dataset(_statistics(posterior, grid), grid, facts),
    }
    observed: Variables = {}
    for name, value in observed_values(posterior.view).items():
        label = _label(name)
        observed[label] = (_own_dims(label, value.shape), value)
    if observed:
        groups["observed_data"] = xr.Dataset(observed, _coordinates(observed), facts)
    return xr.DataTree.from_dict(groups)


def _grid(posterior: "DrawQuality", resample: Resample | None, num_draws: int | None, seed: int) -> _Grid:
    if resample is None:
        if num_draws is not None:
            message = "`num_draws` belongs to `resample`; without it all draws are kept. Use `thin` for fewer."
            raise InvalidInputError(message, argument="num_draws")
        return _Grid(_kept(posterior), is_resampled=False)
    _require_method(resample)
    rng = np.random.default_rng(seed)
    weights = posterior.weights
    if resample == "stratified":
        wanted = max(1, int(posterior.ess)) if num_draws is None else num_draws
        _require_count(wanted, None)
        reached = np.cumsum(weights)
        marks = (np.arange(wanted) + rng.random(wanted)) / wanted * reached[-1]
        rows = np.minimum(np.searchsorted(reached, marks, side="right"), len(weights) - 1)
    else:
        wanted = max(1, int(posterior.ess / 10)) if num_draws is None else num_draws
        _require_count(wanted, int(np.count_nonzero(weights)))
        rows = np.sort(rng.choice(len(weights), wanted, replace=False, p=weights))
    return _Grid(rows[None, :].astype(np.int64), is_resampled=True)


def _require_method(resample: str) -> None:
    if resample not in ("stratified", "without_replacement"):
        message = f"`resample` must be None, 'stratified' or 'without_replacement'; got {resample!r}."
        raise InvalidInputError(message, argument="resample")


def _require_count(num_draws: int, most: int | None) -> None:
    if num_draws < 1 or (most is not None and num_draws > most):
        limit = "at least 1" if most is None else f"from 1 to {most}, the draws that have weight"
        message = f"`num_draws` must be {limit}; got {num_draws}."
        raise InvalidInputError(message, argument="num_draws")


def _kept(posterior: "DrawQuality") -> NDArray[np.int64]:
    rows = np.flatnonzero(posterior.table.column("status") == 0)
    if not len(rows):
        message = f"All {len(posterior)} draws are failed runs; there is nothing to export."
        raise InvalidInputError(message, num_failed=len(posterior))
    sizes = np.unique(posterior.table.chain[rows], return_counts=True)[1]
    if (sizes == sizes[0]).all():
        return rows.reshape(len(sizes), -1)
    if posterior.has_chains:
        message = (
            f"The chains have different lengths, {int(sizes.min())} to {int(sizes.max())}, and a tree is rectangular."
            " Export them one by one, or with `resample`."
        )
        raise InvalidInputError(message, lengths=tuple(sizes.tolist()))
    return rows[None, :]


def _variables(posterior: "DrawQuality", names: Sequence[str] | None, grid: _Grid) -> Variables:
    found: Variables = {}
    for name in posterior.names if names is None else names:
        values, rows = posterior.table.present(name)
        shape = values.shape[1:]
        if names is None and math.prod(shape) > MAX_ELEMENTS:
            continue
        label = _label(name)
        place = np.full(len(posterior), -1)
        place[rows] = np.arange(len(rows))
        here = place[grid.rows]
        column = values[here]
        column[here < 0] = np.nan
        found[label] = (("chain", "draw", *_own_dims(label, shape)), column)
        if (here < 0).any():
            found[f"{label}__present"] = (("chain", "draw"), (here >= 0).astype(np.int8))
    return found


def _statistics(posterior: "DrawQuality", grid: _Grid) -> Variables:
    table, rows = posterior.table, grid.rows
    log_prior = table.column("log_prior").astype(np.float64)
    log_likelihood = table.column("log_likelihood").astype(np.float64)
    log_proposal = table.column("log_proposal")
    starts = np.cumsum([0, *map(len, table.stores)])
    home = np.searchsorted(starts, table.store_rows, side="right") - 1
    columns: dict[str, NDArray[np.generic]] = {
        "lp": log_prior + log_likelihood,
        "log_prior": log_prior,
        "log_likelihood_total": log_likelihood,
    }
    if not np.isnan(log_proposal).all():
        columns["log_proposal"] = log_proposal
    if posterior.is_weighted:
        columns["log_weight"] = posterior.log_weights
        columns["log_weight_psis"] = smooth_log_weights(posterior.log_weights)[0]
    if posterior.has_chains:
        columns["accepted"] = table.column("accepted")
    columns |= {
        "trace_type": table.per_run("trace_type"),
        "trace_length": table.per_run("num_sites"),
        "trace_id": table.store_rows - starts[home],
        "store": home,
    }
    return {name: (("chain", "draw"), column[rows]) for name, column in columns.items()}


def _attributes(posterior: "DrawQuality", grid: _Grid) -> dict[str, object]:
    """Facts that stand at every group; numbers and texts only, so that files can hold them."""
    seconds = posterior.table.column("seconds").astype(np.float64)
    job = posterior.table.stores[0].job
    fields = {} if job is None else job.fields
    facts: dict[str, object] = {
        "created_at": datetime.now(UTC).isoformat(),
        "inference_library": "tracestore",
        "inference_library_version": version("tracestore"),
        "sampling_time": float(seconds.sum()),
        "engine": posterior.engine,
        "simulator": str(fields.get("simulator", "")),
        "is_weighted": int(posterior.is_weighted and not grid.is_resampled),
        "is_resampled": int(grid.is_resampled),
        "num_failed": posterior.num_failed,
        "ess": float(posterior.ess),
    }
    if not posterior.has_chains:
        facts |= {"log_evidence": posterior.log_evidence, "log_evidence_se": posterior.log_evidence_se}
    return facts


def _dataset(variables: Variables, grid: _Grid, facts: Mapping[str, object]) -> xr.Dataset:
    num_chains, num_draws = grid.rows.shape
    coordinates = {"chain": np.arange(num_chains), "draw": np.arange(num_draws), **_coordinates(variables)}
    return xr.Dataset(variables, coordinates, dict(facts))


def _coordinates(variables: Variables) -> dict[str, NDArray[np.int64]]:
    return {
        dim: np.arange(size)
        for dims, column in variables.values()
        for dim, size in zip(dims, column.shape, strict=True)
        if dim not in ("chain", "draw")
    }


def _own_dims(label: str, shape: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{label}_dim_{axis}" for axis in range(len(shape)))


def _label(name: str) -> str:
    """Name that a tree accepts: no slashes, and none of its dimensions."""
    label = name.replace("/", "_")
    return f"{label}_value" if label in ("chain", "draw") else label
