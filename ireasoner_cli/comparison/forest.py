"""The plot of `compare`: a forest of differences with their intervals, as an SVG that needs nothing else."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from ireasoner_cli.console import plain

if TYPE_CHECKING:
    from stages.evaluation.compare import Comparison

LINE, LEFT, WIDTH, RIGHT, TOP = 24, 220, 420, 220, 40  # pixels
COLOURS = {"better": "#1a7f37", "worse": "#cf222e", "": "#57606a"}


def forest_plot(comparisons: Sequence["Comparison"]) -> str:
    """A line for each task of each comparison: the difference in points, a dot on its 95 % interval."""
    rows: list[tuple[str, tuple[float, float, float] | None, str]] = []  # label, mean with interval, verdict
    for comparison in comparisons:
        rows.append((f"{comparison.other} − {comparison.base}", None, ""))
        for task in comparison.tasks:
            change = task.difference
            rows.append((task.task, (change.mean, change.low, change.high), task.verdict))
        if comparison.average:
            rows.append(("mean of tasks", comparison.average, ""))
    reach = max((abs(100 * end) for _, found, _ in rows if found for end in found), default=1.0) or 1.0
    step = 10 ** math.floor(math.log10(reach))
    limit = step * math.ceil(reach / step)

    def x(points: float) -> float:
        return round(LEFT + WIDTH * (points + limit) / (2 * limit), 1)

    bottom = TOP + LINE * len(rows)
    body = [
        f'<text x="{x(0)}" y="18" text-anchor="middle">difference in points, 95 % interval</text>',
        *(
            f'<line x1="{x(at)}" x2="{x(at)}" y1="{TOP - 8}" y2="{bottom}" stroke="{colour}"/>'
            f'<text x="{x(at)}" y="{bottom + 16}" text-anchor="middle" fill="#57606a">{f"{at:+g}" if at else 0}</text>'
            for at, colour in ((-limit, "#d0d7de"), (0, "#24292f"), (limit, "#d0d7de"))
        ),
    ]
    for place, (label, found, verdict) in enumerate(rows):
        y, name = TOP + LINE * place + LINE // 2, escape(plain(label))
        if found is None:
            body.append(f'<text x="12" y="{y + 4}" font-weight="bold">{name}</text>')
            continue
        mean, low, high = (100 * value for value in found)
        colour = COLOURS[verdict]
        body += [
            f'<text x="24" y="{y + 4}">{name}</text>',
            f'<line x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{x(mean)}" cy="{y}" r="4" fill="{colour}"/>',
            f'<text x="{LEFT + WIDTH + 16}" y="{y + 4}" fill="{colour}">'
            f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] {verdict}</text>",
        ]
    width, height = LEFT + WIDTH + RIGHT, bottom + 28
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )
