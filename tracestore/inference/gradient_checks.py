"""What is checked of a program before chains follow its gradients: that they are there, and that they are right."""

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InferenceError
from tracestore.inference.gradient_target import Draw, GradientTarget

__all__ = ["require_gradients", "require_same_scores"]

Table = NDArray[np.float64]

_STEPS = (1e-4, 1e-6)
"""Sizes of the differences, in scales of the draws; a draw whose gradient fits either is right."""
_RELATIVE, _ABSOLUTE = 1e-3, 1e-7
"""How far a difference may be off: of the slope, and, for rounding, of the log density."""


def require_gradients(target: GradientTarget, points: Table, scales: Table, rng: np.random.Generator) -> None:
    """Refuse a draw whose influence on the log density does not show in the gradient.

    For each draw the log density is differenced along one random direction, for all points at once.

    Parameters
    ----------
    target
        The program.
    points
        Coordinates at which it has a log density, shape ``(num_points, num_coordinates)``.
    scales
        Scale of each coordinate.
    rng
        Random numbers.

    Raises
    ------
    InferenceError
        Naming the draw, its slope and what the gradient makes of it.
    """
    here = target.evaluate(points)
    for draw in target.draws:
        direction = np.zeros_like(points)
        part = slice(draw.start, draw.stop)
        direction[:, part] = rng.standard_normal((len(points), draw.stop - draw.start)) * scales[part]
        expected = (here.gradient * direction).sum(axis=1)
        found = expected
        for step in _STEPS:
            found = _slope(target, points, direction, step)
            off = np.abs(found - expected)
            allowed = _RELATIVE * np.maximum(np.abs(found), np.abs(expected))
            # a point next to a kink is no judge, and neither is one where a difference leaves the support
            is_judge = np.isfinite(found)
            is_wrong = is_judge & (off > allowed + _ABSOLUTE * (1.0 + np.abs(here.log_density)))
            if 2 * is_wrong.sum() <= is_judge.sum():
                break
        else:
            raise _wrong(draw, found, expected)


def require_same_scores(log_joint: Table, recorded: Table) -> None:
    """Refuse a program whose scores in torch are not those that are recorded.

    Parameters
    ----------
    log_joint
        Of some traces, as torch computed it.
    recorded
        Of the same traces, without torch.

    Raises
    ------
    InferenceError
        Saying how far they are apart.
    """
    off = np.abs(log_joint - recorded)
    if (off <= 1e-6 + 1e-8 * np.abs(recorded)).all():
        return
    row = int(np.nanargmax(off))
    message = (
        f"The log joint of a trace is {recorded[row]:.10g} as recorded, and {log_joint[row]:.10g} with gradients. The"
        " program must compute the same either way, in double precision, and `tensor_log_prob` of a distribution of"
        " your own must agree with its `log_prob`."
    )
    raise InferenceError(message, recorded=float(recorded[row]), found=float(log_joint[row]))


def _slope(target: GradientTarget, points: Table, direction: Table, step: float) -> Table:
    ahead = target.evaluate(points + step * direction, points, with_gradient=False).log_density
    behind = target.evaluate(points - step * direction, points, with_gradient=False).log_density
    with np.errstate(invalid="ignore"):
        slope: Table = (ahead - behind) / (2.0 * step)
    return slope


def _wrong(draw: Draw, found: Table, expected: Table) -> InferenceError:
    off = np.where(np.isfinite(found), np.abs(found - expected), -1.0)
    row = int(off.argmax())
    message = (
        f"The draw {draw.label!r} has an influence that its gradient does not show: the log density changes by"
        f" {found[row]:.4g} along a direction of it, and the gradient says {expected[row]:.4g}. Somewhere its value"
        " leaves torch (`numpy`, `item`, `detach`, `float`), is rounded, or decides a branch. Compute with torch"
        " throughout, or infer with `rmh`."
    )
    return InferenceError(message, draw=draw.label, difference=float(found[row]), gradient=float(expected[row]))
