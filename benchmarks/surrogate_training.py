"""Training of a surrogate for some seconds of the clock, and what is then measured on its showers.

Helpers of `benchmarks/surrogates.py`.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import tracestore as ts
from tracestore.reports import measure_showers
from tracestore.surrogates import Surrogate
from tracestore.training.surrogate import train_surrogate
from tracestore.training.surrogate_config import RECIPES


def train_for(
    seconds: float, store: ts.TraceStore, folder: Path, model: str, *, start: Surrogate | None, **settings: Any
) -> tuple[Surrogate, dict[str, object]]:
    """Train by the model's recipe for some seconds; return the surrogate, and how the training went."""
    config = replace(RECIPES[model], seconds=seconds, **settings)
    begin = time.perf_counter()
    surrogate = train_surrogate(store, folder, config=config, start=start, ranks_by="none")
    wall = time.perf_counter() - begin
    names = ("num_steps", "best_step", "validation_loss", "num_parameters", "traces_per_second", "waiting_share")
    return surrogate, {"wall_seconds": wall, **{name: surrogate.summary.get(name) for name in names}}


def judge(surrogate: Surrogate, store: ts.TraceStore, seed: int) -> dict[str, object]:
    """Compare with showers of a store, at the same energies, as numbers; see `reports.measure_showers`."""
    begin = time.perf_counter()
    result = measure_showers(
        store, {"model": surrogate}, num_showers=len(store), seed=seed, batch_size=256, extrapolate=True
    )
    found = result.to_dict()["models"]["model"]
    criteria = {key: (row["value"], row["verdict"]) for key, row in found["criteria"].items()}
    return {
        "auc": found["auc"],
        "auc_interval": found["auc_interval"],
        **{f"chi2_{axis}": test["reduced"] for axis, test in found["chi_square"].items()},
        "criteria": criteria,
        "judge_seconds": time.perf_counter() - begin,
    }
