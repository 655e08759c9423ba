"""Write what a training did as one HTML page that opens offline, without scripts. Loads no network."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from tracestore.networks.persistence import JOB_FILE, NETWORK_FILE, WEIGHTS_FILE, read_json
from tracestore.pages import render_document, write_page
from tracestore.training.checkpoint import Checkpoints
from tracestore.training.config import TrainConfig
from tracestore.training.curves import PARTS, Floats, TrainingCurves, read_curves, smoothed
from tracestore.training.job import CONFIG_FILE
from tracestore.training.training_plots import (
    draw_balance,
    draw_bytes,
    draw_gradient_norm,
    draw_learning_rate,
    draw_loss,
    draw_parts,
    draw_speed,
)

__all__ = ["write_training_page"]

COMPONENTS = {
    "observation": "observation embedding",
    "core": "core",
    "address": "address embedding",
    "instance": "instance embedding",
    "family": "family embedding",
    "value": "value embedding",
    "heads": "proposal heads",
}
"""Names for people of the beginnings of tensor names."""
BUFFER = re.compile(r"active|observation\.parts\.\d+\.(mean|scale)")

Facts = Iterable[tuple[str, str]]


def write_training_page(network_folder: str | Path, path: str | Path, *, title: str | None = None) -> Path:
    """Write a page about a training, finished or not; it is replaced in one step.

    Parameters
    ----------
    network_folder
        Where `train` writes or has written the network.
    path
        The HTML file.
    title
        Heading of the page; by default it names the folder.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StoreNotFoundError
        When the folder has no history of a training.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators import toys
    >>> store = ts.simulate(toys.gum, "traces", num_traces=100, seed=1)
    >>> network = ts.training.train(store, "network", config=ts.training.TrainConfig(epochs=1))
    >>> write_training_page("network", "training.html").name
    'training.html'
    """
    folder = Path(network_folder)
    curves = read_curves(folder)
    config = TrainConfig.from_dict(read_json(folder / CONFIG_FILE))
    return write_page(path, _render(folder, curves, config, title or f"Training of {folder}"))


def _render(folder: Path, curves: TrainingCurves, config: TrainConfig, title: str) -> str:
    is_finished = (folder / NETWORK_FILE).is_file()
    source = read_json(folder / JOB_FILE)["fields"]
    ranks = _count(curves.balance.num_ranks, "rank")
    words = [f"{curves.num_traces[-1]:,.0f} traces trained on, in {_count(len(curves.step), 'step')} on {ranks}"]
    if source.get("simulator"):
        words.append(f"simulator {source['simulator']}")
    lead = f'<p class="lead">{escape("; ".join(words))}.</p>'
    if not is_finished:
        lead += '\n<p class="lead">The training is not finished; the same command or call continues it.</p>'
    body = "\n".join((_losses(curves, config), _times(curves), _ranks(curves), _network(folder, curves, config)))
    return render_document(title, lead, body, f"tracestore {version('tracestore')}, seed {config.seed}")


def _losses(curves: TrainingCurves, config: TrainConfig) -> str:
    loss = _figure(
        "Loss",
        draw_loss(curves),
        "The expected loss differs from the Kullback-Leibler divergence of proposal and posterior only by a constant "
        "of the simulator. The ring is the network that is kept.",
        wide=True,
    )
    figures = (
        _figure("Learning rate", draw_learning_rate(curves), f"Schedule: {config.schedule}."),
        _figure(
            "Gradient",
            draw_gradient_norm(curves, limit=config.max_gradient_norm),
            "Of the mean loss of a step, before it is clipped. Many clipped steps ask for a lower learning rate.",
        ),
    )
    return f'<section>\n<h2>Learning</h2>\n{loss}\n<div class="grid halves">{"".join(figures)}</div>\n</section>'


def _times(curves: TrainingCurves) -> str:
    shares = curves.balance.part_seconds.sum(axis=0)
    shares = shares / max(float(shares.sum()), 1e-9)
    told = ", ".join(f"{part} {share:.0%}" for part, share in zip(PARTS, shares, strict=True))
    mean = curves.num_traces[-1] / max(float(curves.seconds[-1]), 1e-3)
    figures = (
        _figure(
            "Speed",
            draw_speed(curves),
            f"All ranks together, {mean:,.0f} on average. Validation and checkpoints are in the wall time.",
        ),
        _figure(
            "Parts of a step",
            draw_parts(curves.balance),
            f"On average: {told}. read: waiting for the minibatch; sync: waiting for other ranks.",
        ),
    )
    return f'<section>\n<h2>Time</h2>\n<div class="grid halves">{"".join(figures)}</div>\n</section>'


def _ranks(curves: TrainingCurves) -> str:
    balance = curves.balance
    if balance.num_ranks == 1:
        return ""
    actual, best = float(balance.slowest.sum()), float(balance.mean.sum())
    figure = _figure(
        "Actual and best time",
        draw_balance(balance),
        f"A step lasts as long as its busiest rank: {actual:,.1f} s in all. With all ranks alike it would be "
        f"{best:,.1f} s; the imbalance is {balance.imbalance:.3f}. Waiting for other ranks is in neither.",
        wide=True,
    )
    total, dense = float(curves.reduced_bytes.sum()), float(curves.dense_bytes.sum())
    steps = len(curves.step)
    saved = (
        f"A step summed {_bytes(total / steps)} a rank instead of {_bytes(dense / steps)}: 1/{dense / total:.1f}."
        if total > 0
        else "Nothing was summed over ranks."
    )
    cards = (
        _figure("Sums over ranks", draw_bytes(curves), saved),
        _table(
            "Waiting of each rank",
            _waiting(balance.part_seconds),
            "A rank that waits little is one for which the others wait.",
        ),
    )
    return f'<section>\n<h2>Ranks</h2>\n{figure}\n<div class="grid halves">{"".join(cards)}</div>\n</section>'


def _waiting(part_seconds: Floats) -> Facts:
    """Tell the share of time that ranks wait: all of a few, or the extremes of many."""
    shares = part_seconds[:, PARTS.index("sync")] / np.maximum(part_seconds.sum(axis=1), 1e-9)
    if len(shares) <= 8:
        return [(f"rank {rank}", f"{share:.1%}") for rank, share in enumerate(shares)]
    order = np.argsort(shares)
    ends = [(f"rank {rank}", f"{shares[rank]:.1%}") for rank in (*order[:3], *order[-3:])]
    return [*ends[:3], ("mean of all", f"{shares.mean():.1%}"), *ends[3:]]


def _network(folder: Path, curves: TrainingCurves, config: TrainConfig) -> str:
    is_finished = (folder / NETWORK_FILE).is_file()
    found = folder if is_finished else Checkpoints(folder).latest()
    cards = [_table("Numbers", _numbers(curves, read_json(folder / NETWORK_FILE)["summary"] if is_finished else {}))]
    if found is not None:
        record = read_json(found / NETWORK_FILE)
        with safe_open(found / WEIGHTS_FILE, "numpy") as weights:
            sizes = {name: int(np.prod(weights.get_slice(name).get_shape())) for name in weights.keys()}  # noqa: SIM118
            proposing = weights.get_tensor("active").any(axis=1)
        cards.append(_parameters(sizes))
        cards.append(_addresses(record["rows"], proposing))
    cards.append(_table("Settings", _settings(config), "Those that differ from the defaults, and sizes."))
    return f'<section>\n<h2>Network</h2>\n<div class="grid halves">{"".join(cards)}</div>\n</section>'


def _numbers(curves: TrainingCurves, summary: Mapping[str, float]) -> Facts:
    yield "training loss, smoothed", f"{smoothed(curves.loss, len(curves.loss) / 100)[-1]:.4f}"
    if "validation_loss" in summary:
        yield "validation loss", f"{summary['validation_loss']:.4f}"
        yield "of step", f"{summary['best_step']:,}"
    if "num_training_traces" in summary:
        yield "traces to train on", f"{summary['num_training_traces']:,}"
        yield "traces to validate on", f"{summary['num_validation_traces']:,}"
    if summary.get("num_failed"):
        yield "traces left out, since their simulator failed", f"{summary['num_failed']:,}"
    if "num_proposing" in summary:
        yield "addresses with a proposal", f"{summary['num_proposing']:,}"
        yield "addresses at the prior", f"{summary['num_seen'] - summary['num_proposing']:,}"
    if curves.num_skipped:
        yield "steps skipped, without a finite loss", f"{curves.num_skipped:,}"
    yield "wall time", _duration(float(curves.seconds[-1]))
    yield "traces/s", f"{curves.num_traces[-1] / max(float(curves.seconds[-1]), 1e-3):,.0f}"


def _parameters(sizes: Mapping[str, int]) -> str:
    counts: Counter[str] = Counter()
    for name, size in sizes.items():
        if BUFFER.fullmatch(name) is None:
            beginning = name.partition(".")[0]
            counts[COMPONENTS.get(beginning, beginning)] += size
    rows = [(name, f"{count:,}") for name, count in counts.most_common() if count]
    return _table("Parameters", [*rows, ("all", f"{counts.total():,}")])


def _addresses(rows: Sequence[Mapping[str, Any]], proposing: Sequence[bool]) -> str:
    """Count the rows of each prior family, and those that leave all their draws to the prior."""
    all_of = Counter(str(row["family"]) for row in rows)
    with_proposal = Counter(str(row["family"]) for row, is_on in zip(rows, proposing, strict=True) if is_on)
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("family", "addresses", "with a proposal", "at the prior")
    )
    body = "".join(
        f'<tr><th scope="row">{escape(family)}</th><td>{count:,}</td><td>{with_proposal[family]:,}</td>'
        f"<td>{count - with_proposal[family]:,}</td></tr>"
        for family, count in all_of.most_common()
    )
    return (
        f'<div class="card"><h3>Addresses</h3><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        '<p class="note">Rows of the network: base addresses, or addresses where each has layers of its own. A '
        "finished network leaves to the prior what its proposals did not beat on validation traces.</p></div>"
    )


def _settings(config: TrainConfig) -> Facts:
    own, plain = (_flatten(one.to_dict()) for one in (config, TrainConfig()))
    always = ("batch_size", "epochs", "network.core", "network.core_size")
    for name, value in own.items():
        if name in always or value != plain.get(name):
            yield name, f"{value:g}" if isinstance(value, float) else str(value)


def _flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _bytes(number: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} GB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _figure(title: str, svg: str, caption: str, *, wide: bool = False) -> str:
    kind = "card broad" if wide else "card"
    return f'<figure class="{kind}"><h3>{title}</h3>{svg}<figcaption>{escape(caption)}</figcaption></figure>'


def _table(title: str, facts: Facts, note: str = "") -> str:
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in facts)
    remark = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<div class="card"><h3>{title}</h3><table><tbody>{rows}</tbody></table>{remark}</div>'
