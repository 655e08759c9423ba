"""Random batches of traces, made without any simulator: the material of storage tests."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tracestore.traces import TRACE_COLUMNS, Layout, Site, SiteKind, TraceBatch
from tracestore.traces.layout import MAX_OBSERVE_PARAMETERS

SHAPES = {"dense": (4, 3), "count": (), "flags": (2,), "empty": (0,)}
DTYPES = {"dense": np.float32, "count": np.int64, "flags": np.bool_, "empty": np.float64}


def make_site(place: str, instance: int, kind: SiteKind, *, name: str = "", shape: tuple[int, ...] = ()) -> Site:
    family = {SiteKind.SAMPLE: "Normal", SiteKind.OBSERVE: "Normal", SiteKind.TAG: ""}[kind]
    suffix = family + (f"[{','.join(map(str, shape))}]" if shape else "")
    num_parameters = 0 if kind is SiteKind.TAG else 2 * int(np.prod(shape, dtype=int))
    return Site(
        address=f"{place}~{suffix}#{instance}",
        kind=kind,
        is_controlled=kind is SiteKind.SAMPLE and place != "free",
        name=name,
        family=family,
        shape=shape,
        num_parameters=num_parameters if num_parameters <= MAX_OBSERVE_PARAMETERS else 0,
    )


def make_layout(num_draws: int, *, vectors: int = 0, observed: Sequence[str] = ("dense",), tag: bool = True) -> Layout:
    """A loop of scalar draws, some vector-valued ones, named observes, and a tag."""
    sites = [make_site("mu", 1, SiteKind.SAMPLE, name="mu")]
    sites += [make_site("loop", index + 1, SiteKind.SAMPLE) for index in range(num_draws)]
    sites += [make_site("vec", index + 1, SiteKind.SAMPLE, name="vec", shape=(3,)) for index in range(vectors)]
    sites += [make_site("unnamed", 1, SiteKind.OBSERVE)]
    sites += [make_site(f"see-{name}", 1, SiteKind.OBSERVE, name=name, shape=SHAPES[name]) for name in observed]
    if tag:
        sites.append(make_site("result", 1, SiteKind.TAG, name="result"))
    return Layout(tuple(sites))


def make_batch(
    seed: int,
    num_traces: int,
    layouts: Sequence[Layout] | None = None,
    *,
    constant_observations: bool = False,
    num_failed: int = 0,
    first_stream: int = 0,
) -> TraceBatch:
    """Random traces: parameters are constant at the first site, trace columns partly constant."""
    rng = np.random.default_rng(seed)
    layouts = tuple(layouts or (make_layout(2), make_layout(0, vectors=1), make_layout(5, observed=("dense", "count"))))
    index = rng.integers(0, len(layouts), num_traces).astype(np.int32)
    chosen = [layouts[place] for place in index]
    parameters = rng.normal(size=sum(layout.num_parameters for layout in chosen))
    ends = np.cumsum([layout.num_parameters for layout in chosen])
    for start, layout in zip(ends - [layout.num_parameters for layout in chosen], chosen, strict=True):
        parameters[start : start + min(2, layout.num_parameters)] = (0.0, 1.0)[: layout.num_parameters]
    columns: dict[str, Any] = {
        "log_prior": rng.normal(size=num_traces),
        "log_likelihood": rng.normal(size=num_traces),
        "log_proposal": np.full(num_traces, np.nan),
        "log_weight": np.zeros(num_traces),
        "stream": np.arange(first_stream, first_stream + num_traces),
        "status": np.zeros(num_traces, np.uint8),
        "seconds": rng.random(num_traces),
        "chain": np.zeros(num_traces),
        "draw": np.arange(num_traces),
        "accepted": rng.random(num_traces) < 0.5,
    }
    failed = rng.choice(num_traces, num_failed, replace=False)
    columns["status"][failed] = 1
    return TraceBatch(
        layouts=layouts,
        layout_index=index,
        values=rng.normal(size=sum(layout.num_values for layout in chosen)),
        log_probs=rng.normal(size=sum(layout.num_sites for layout in chosen)),
        parameters=parameters,
        observations=make_observations(rng, layouts, index, constant=constant_observations),
        failures={int(row): f"ValueError: trace {row}" for row in failed},
        **{name: np.asarray(columns[name], dtype) for name, dtype in TRACE_COLUMNS},
    )


def make_observations(rng, layouts, index, *, constant):
    names = dict.fromkeys(name for layout in layouts for name in layout.observed_names)
    observations = {}
    for name in names:
        shape = (1 if constant else len(index), *SHAPES[name])
        column: np.ndarray = np.asarray(rng.integers(0, 2 if name == "flags" else 1000, shape), DTYPES[name])
        if constant:
            observations[name] = np.broadcast_to(column[0], (len(index), *SHAPES[name]))
            continue
        present = np.array([name in layout.observed_names for layout in layouts])[index]
        column[~present] = 0
        observations[name] = column
    return observations


def with_observation(batch: TraceBatch, name: str, column: np.ndarray) -> TraceBatch:
    return replace(batch, observations={**batch.observations, name: column})


def assert_same(found: TraceBatch, expected: TraceBatch) -> None:
    """Equal trace by trace, bit by bit."""
    assert [found.layouts[i].id for i in found.layout_index] == [expected.layouts[i].id for i in expected.layout_index]
    for name in ("values", "log_probs", "parameters", *(name for name, _ in TRACE_COLUMNS)):
        left, right = getattr(found, name), getattr(expected, name)
        assert left.dtype == right.dtype, name
        assert left.tobytes() == right.tobytes(), name
    assert set(found.observations) == set(expected.observations)
    for name, column in expected.observations.items():
        assert found.observations[name].dtype == column.dtype, name
        assert np.array_equal(found.observations[name], column), name
    assert dict(found.failures) == dict(expected.failures)
