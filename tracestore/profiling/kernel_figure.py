"""A small figure of how a kernel scales: speed-up by threads, beside the ideal."""

from tracestore.profiling.kernel_watch import KernelScaling

__all__ = ["draw_scaling"]

WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 420.0, 220.0, 44.0, 40.0, 12.0


def draw_scaling(kernel: KernelScaling) -> str:
    """Draw speed-up against the number of threads as an SVG element.

    Parameters
    ----------
    kernel
        What was timed.

    Examples
    --------
    >>> draw_scaling(KernelScaling("sum", True, False, 1, 1, 0, ()))
    ''
    """
    if not kernel.speeds:
        return ""
    first = kernel.speeds[0].num_threads
    most = max(*(speed.num_threads for speed in kernel.speeds), first + 1)
    top = max(most / first, *(speed.speedup for speed in kernel.speeds), 1.0)

    def place(threads: float, speedup: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - MARGIN) * threads / most
        return x, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - MARGIN) * speedup / top

    points = [place(speed.num_threads, speed.speedup) for speed in kernel.speeds]
    ideal = [place(first, 1.0), place(most, most / first)]
    grid = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        for value in _ticks(top)
        for _, y in [place(0, value)]
    )
    names = "".join(
        f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{speed.num_threads}</text>'
        for speed, (x, _) in zip(kernel.speeds, points, strict=True)
    )
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#4c9be8"/>' for x, y in points)
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="Speed-up by number of threads"'
        f' style="font: 11px var(--sans); max-width: 520px"><g fill="var(--muted)">{grid}{names}'
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">threads (dashed: ideal)</text>'
        f'<text x="12" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 12 {HEIGHT / 2})">speed-up</text>'
        "</g>"
        f'<polyline points="{_path(ideal)}" fill="none" stroke="var(--muted)" stroke-dasharray="4 4"/>'
        f'<polyline points="{_path(points)}" fill="none" stroke="#4c9be8" stroke-width="2"/>{dots}</svg>'
    )


def _ticks(top: float) -> list[float]:
    step = next(size for size in (0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if top / size <= 5)
    return [step * number for number in range(int(top / step) + 1)]


def _path(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
