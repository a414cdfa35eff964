"""Pictures of charts: the same row of values as bars, as points on a line, as dots, or as slices of a pie.

Whatever the style, a value can be counted: bars, points and dots stand before a line for each unit of height, and
a pie has a tick for each unit around its rim.
"""

import io
import math
from collections.abc import Sequence
from typing import Literal

from PIL import Image, ImageDraw

Style = Literal["bars", "lines", "dots", "pie"]
Ink = tuple[int, int, int]

SIZE = 112  # pixels a side: 8 × 8 patches of 14, merged two by two into 16 image tokens
BASELINE = 106  # y of the axis, in pixels
MARGIN = 4  # pixels left and right of the marks
RADIUS = 46  # of a pie, in pixels

# The first six are far apart in every channel, so that a small vision tower can tell them by their ink; each of the
# others is close to one of them.
COLOURS: dict[str, Ink] = {
    "red": (230, 20, 20),
    "green": (0, 170, 50),
    "blue": (30, 50, 230),
    "yellow": (250, 205, 0),
    "purple": (190, 0, 210),
    "black": (20, 20, 20),
    "orange": (255, 130, 0),
    "pink": (250, 110, 200),
    "teal": (0, 150, 150),
}
PALE, GREY, DARK = (236, 236, 236), (150, 150, 150), (90, 90, 90)
GHOST = (190, 190, 190)  # of marks that no question is about
PAPER, TINTED = (255, 255, 255), (247, 240, 224)


def other_shade(ink: Ink) -> Ink:
    """The same colour as another hand would choose it: paler."""
    red, green, blue = (round(0.75 * channel + 0.25 * 160) for channel in ink)
    return red, green, blue


def paint(
    style: Style,
    values: Sequence[int],
    colours: Sequence[str],
    top: int,
    ghosts: Sequence[int] = (),
    shaded: bool = False,
) -> Image.Image:
    """An RGB picture of SIZE × SIZE pixels; `top` is the greatest value there is room for.

    `ghosts` are the heights of grey bars that stand half behind the marks, one each, or none; `shaded` draws in
    other shades of the same colours, on tinted paper.
    """
    picture = Image.new("RGB", (SIZE, SIZE), TINTED if shaded else PAPER)
    pen = ImageDraw.Draw(picture)
    inks = [other_shade(COLOURS[colour]) if shaded else COLOURS[colour] for colour in colours]
    if style == "pie":
        _paint_pie(pen, values, inks)
    else:
        _paint_upright(pen, style, values, inks, top, ghosts)
    return picture


def _paint_upright(
    pen: ImageDraw.ImageDraw, style: Style, values: Sequence[int], inks: list[Ink], top: int, ghosts: Sequence[int]
) -> None:
    """Bars, points or dots from left to right on an axis, each in a slot of the same width."""
    unit = (BASELINE - 8) // top
    for height in range(1, top + 1):
        pen.line((MARGIN, BASELINE - height * unit, SIZE - MARGIN, BASELINE - height * unit), PALE)
    slot = (SIZE - 2 * MARGIN) / len(values)
    heads = [(round(MARGIN + slot * (i + 0.5)), BASELINE - value * unit) for i, value in enumerate(values)]
    for index, ghost in enumerate(ghosts):
        left = MARGIN + slot * (index + 0.5)
        pen.rectangle((round(left), BASELINE - ghost * unit, round(left + slot * 0.45), BASELINE), GHOST)
    if style == "lines":
        pen.line(heads, GREY, width=2)
    for index, ((x, y), ink) in enumerate(zip(heads, inks, strict=True)):
        if style == "bars":
            left = MARGIN + slot * (index + 0.2)
            pen.rectangle((round(left), y, round(left + slot * 0.6), BASELINE), ink)
        elif style == "lines":
            pen.rectangle((x - 3, y - 3, x + 3, y + 3), ink)
        else:
            pen.ellipse((x - 5, y - 5, x + 5, y + 5), ink)
    pen.line((0, BASELINE, SIZE, BASELINE), DARK)


def _paint_pie(pen: ImageDraw.ImageDraw, values: Sequence[int], inks: list[Ink]) -> None:
    """Slices clockwise from the top, each as wide as its share of all units."""
    centre, units = SIZE // 2, sum(values)
    box = (centre - RADIUS, centre - RADIUS, centre + RADIUS, centre + RADIUS)
    before = 0
    for value, ink in zip(values, inks, strict=True):
        start, end = (360 * edge / units - 90 for edge in (before, before + value))
        pen.pieslice(box, start, end, ink)
        before += value
    for edge in range(units):
        x, y = math.sin(math.tau * edge / units), -math.cos(math.tau * edge / units)
        inner, outer = RADIUS + 2, RADIUS + 7
        pen.line((centre + inner * x, centre + inner * y, centre + outer * x, centre + outer * y), DARK)


def to_png(picture: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
