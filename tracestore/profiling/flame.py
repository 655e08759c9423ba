"""A flame graph as SVG: width is time, callers are above what they call. One function is one box, whatever its lines.

After Gregg, "The flame graph", Communications of the ACM 59 (6), 2016; here with the root at the top, and colored by
what the time is spent on. The picture needs no script: hovering over a box tells its time and share.
"""

from collections.abc import Sequence
from html import escape

from tracestore.profiling.categories import CATEGORIES, Frame, category_of
from tracestore.profiling.sampler import StackSample
from tracestore.profiling.source import short_path

__all__ = ["draw_flame_graph", "merge_stacks"]

WIDTH, ROW = 1280.0, 19.0
MIN_WIDTH = 0.7
"""Narrower boxes are left out."""
CHARACTER = 6.4
COLORS = {category.name: category.color for category in CATEGORIES}


class Box:
    """One function as it was reached by one chain of callers.

    Parameters
    ----------
    frame
        One of its frames.
    category
        Of its time, or that of its caller where it has none of its own.
    """

    __slots__ = ("category", "children", "frame", "own", "seconds")

    def __init__(self, frame: Frame, category: str) -> None:
        self.frame, self.category = frame, category
        self.seconds = 0.0
        self.own = 0.0
        """Without what it calls."""
        self.children: dict[tuple[str, str, str], Box] = {}


def merge_stacks(samples: Sequence[StackSample]) -> Box:
    """Merge stacks from the root: chains of the same functions are one box each.

    Parameters
    ----------
    samples
        Stacks and their times.

    Returns
    -------
    Box
        The root, which stands for all of the time.

    Examples
    --------
    >>> outer, inner = Frame("shop", "sell", "shop.py", 1), Frame("shop", "pay", "shop.py", 9)
    >>> root = merge_stacks([StackSample((outer,), "", 1.0, 1), StackSample((outer, inner), "", 2.0, 2)])
    >>> root.seconds, [box.seconds for box in root.children.values()]
    (3.0, [3.0])
    """
    root = Box(Frame("", "all", "", 0), "engine")
    for sample in samples:
        box = root
        box.seconds += sample.seconds
        for frame in sample.frames:
            key = (frame.module, frame.function, frame.file)
            if key not in box.children:
                category = category_of(frame.module, frame.function, frame.file) or box.category
                box.children[key] = Box(frame, category)
            box = box.children[key]
            box.seconds += sample.seconds
        box.own += sample.seconds
    return root


def draw_flame_graph(samples: Sequence[StackSample]) -> str:
    """Draw stacks as an SVG element.

    Parameters
    ----------
    samples
        Stacks and their times.

    Examples
    --------
    >>> frame = Frame("shop", "sell", "shop.py", 1)
    >>> "shop:sell" in draw_flame_graph([StackSample((frame,), "", 1.0, 1)])
    True
    """
    root = merge_stacks(samples)
    boxes: list[str] = []
    depth = _draw(root, 0.0, 0, root.seconds or 1.0, boxes)
    height = (depth + 1) * ROW
    label = "Flame graph: width is time, callers are above what they call"
    return (
        f'<svg class="flame" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{label}">'
        f"{''.join(boxes)}</svg>"
    )


def _draw(box: Box, left: float, depth: int, total: float, boxes: list[str]) -> int:
    """Draw a box and those below it; return the greatest depth."""
    width = WIDTH * box.seconds / total
    boxes.append(_rectangle(box, left, depth * ROW, width, total))
    deepest = depth
    for child in sorted(box.children.values(), key=lambda each: (-each.seconds, each.frame)):
        part = WIDTH * child.seconds / total
        if part < MIN_WIDTH:
            continue
        deepest = max(deepest, _draw(child, left, depth + 1, total, boxes))
        left += part
    return deepest


def _rectangle(box: Box, left: float, top: float, width: float, total: float) -> str:
    frame = box.frame
    name = f"{frame.module}:{frame.function}" if frame.module else frame.function
    where = f"\n{short_path(frame.file)}" if frame.file else ""
    title = (
        f"{name}{where}\n{box.category}; {box.seconds:.3f} s, {box.seconds / total:.1%} of all;"
        f" by itself {box.own / total:.1%}"
    )
    room = int((width - 8.0) / CHARACTER)
    short = frame.function.rpartition("<locals>.")[2]
    text = ""
    if room >= 3:
        shown = name if len(name) <= room else short
        shown = shown if len(shown) <= room else shown[: room - 1] + "…"
        ink = "" if frame.module else ' style="fill: var(--ink)"'
        text = f'<text{ink} x="{left + 4:.1f}" y="{top + 13.5:.1f}">{escape(shown)}</text>'
    color = COLORS[box.category] if frame.module else "var(--line)"
    return (
        f'<g><title>{escape(title)}</title><rect x="{left:.2f}" y="{top:.1f}" width="{max(width - 0.6, 0.4):.2f}"'
        f' height="{ROW - 1:.1f}" rx="2" fill="{color}"/>{text}</g>'
    )
