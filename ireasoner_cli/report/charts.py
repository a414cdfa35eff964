"""From numbers to the geometry of drawings; the template makes SVG of it. Nothing here knows what is drawn."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np

WIDTH, HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 26
BINS = 40
Z = NormalDist().inv_cdf(0.975)  # of a 95 % interval
LEAST = (
    sys.float_info.min
)  # what is less has no power of ten of its own: on a logarithmic axis it lies with 0, at the foot


@dataclass(frozen=True)
class Series:
    """A line: x, y and its 95 % interval low, high [n]. run: whose colour; dashed: a second quantity of that run;
    dots: a mark a point, with its interval as a bar rather than a band."""

    label: str
    run: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    dashed: bool = False
    dots: bool = False


def binned(label: str, run: int, x: np.ndarray, values: np.ndarray, each: int, dashed: bool = False) -> Series:
    """Means of `values` [n] over equal stretches of x [n], with about `each` of them or more in one and at most BINS,
    and the interval of each mean; values that are not known are left out."""
    known = np.isfinite(values) & np.isfinite(x)
    x, values = x[known], values[known]
    if not len(x):
        return Series(label, run, [], [], [], [], dashed)
    count = min(BINS, max(1, len(np.unique(x)) // each))
    edges = np.linspace(x.min(), x.max(), count + 1)
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, count - 1)
    points = []
    for index in np.unique(place):
        own = values[place == index]
        margin = Z * own.std(ddof=1) / math.sqrt(len(own)) if len(own) > 1 else 0.0
        points.append((x[place == index].mean(), own.mean(), own.mean() - margin, own.mean() + margin))
    mid, mean, low, high = (list(map(float, column)) for column in zip(*points, strict=True))
    return Series(label, run, mid, mean, low, high, dashed)


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A point with its interval: where it is, and where the bar begins and ends."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A series as drawn: SVG path data, its points, and for the pointer the numbers themselves as JSON."""

    label: str
    run: int
    dashed: bool
    path: str
    band: str
    marks: list[Mark]
    numbers: str


@dataclass(frozen=True)
class Chart:
    """Lines in one frame, in SVG units."""

    title: str
    note: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    target: Tick | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def chart(
    title: str,
    note: str,
    series: Sequence[Series],
    target: float | None = None,
    log: bool = False,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Chart | None:
    """A chart of those series that have points, None when none has; `bounds` keep the axis from leaving what the
    quantity can be."""
    drawn = [_within(each, bounds) for each in series if len(each.x)]
    if not drawn:
        return None
    x_scale = _Scale(min(min(each.x) for each in drawn), max(max(each.x) for each in drawn), LEFT, WIDTH - RIGHT)
    steps = {value for each in drawn for value in each.x}
    values = [value for each in drawn for value in (*each.low, *each.high, *each.y) if not log or value >= LEAST]
    values += [target] if target is not None else []
    if log and not values:
        return None
    y_scale = _y_scale(values, log, bounds)
    return Chart(
        title,
        note,
        [_line(each, x_scale, y_scale) for each in drawn],
        [Tick(x_scale(value), _number(value)) for value in (steps if len(steps) == 1 else x_scale.ticks(4))],
        [Tick(y_scale(value), _number(value)) for value in y_scale.ticks(4)],
        Tick(y_scale(target), _number(target)) if target is not None else None,
    )


class _Scale:
    """Numbers to places: linear, or logarithmic."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        self._log = log
        low, high = (math.log10(low), math.log10(high)) if log else (low, high)
        if high - low < 1e-12 * max(1.0, abs(high)):
            low, high = low - 0.5, high + 0.5
        self._low, self._high, self._start, self._end = low, high, start, end

    def __call__(self, value: float) -> float:
        if self._log:
            value = math.log10(max(value, 10**self._low))
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 2)

    def ticks(self, about: int) -> list[float]:
        """Round numbers within the scale."""
        rough = (self._high - self._low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
        if self._log:
            step = max(1.0, round(step))
        first = math.ceil(self._low / step - 1e-9)
        last = math.floor(self._high / step + 1e-9)
        places = [round(place * step, 12) for place in range(first, last + 1)]
        return [10**place for place in places] if self._log else places


def _y_scale(values: Sequence[float], log: bool, bounds: tuple[float | None, float | None]) -> _Scale:
    low, high = min(values), max(values)
    if log:
        return _Scale(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)), HEIGHT - BOTTOM, TOP, True)
    floor, ceiling = bounds
    if low == high == floor:  # nothing ever happened
        return _Scale(low, low + 1, HEIGHT - BOTTOM, TOP)
    pad = 0.08 * (high - low) or 0.05 * abs(high)
    low = low - pad if floor is None else max(low - pad, floor)
    high = high + pad if ceiling is None else min(high + pad, ceiling)
    return _Scale(low, high, HEIGHT - BOTTOM, TOP)


def _within(series: Series, bounds: tuple[float | None, float | None]) -> Series:
    """Its intervals cut where the quantity cannot be."""
    floor, ceiling = (-math.inf if bounds[0] is None else bounds[0], math.inf if bounds[1] is None else bounds[1])
    low, high = ([min(max(value, floor), ceiling) for value in values] for values in (series.low, series.high))
    return replace(series, low=low, high=high)


def _line(series: Series, x_scale: _Scale, y_scale: _Scale) -> Line:
    xs = [x_scale(value) for value in series.x]
    ys, lows, highs = ([y_scale(value) for value in values] for values in (series.y, series.low, series.high))
    path = "M" + "L".join(f"{x} {y}" for x, y in zip(xs, ys, strict=True))
    there_and_back = [*zip(xs, highs, strict=True), *reversed(list(zip(xs, lows, strict=True)))]
    band = "M" + "L".join(f"{x} {y}" for x, y in there_and_back) + "Z"
    marks = [Mark(*point) for point in zip(xs, ys, lows, highs, strict=True)] if series.dots or len(xs) == 1 else []
    numbers = {
        "label": series.label,
        "x": xs,
        "at": [_number(value, 6) for value in series.x],
        "value": [_number(value) for value in series.y],
        "interval": [
            f"{_number(low)} … {_number(high)}" if high > low else ""
            for low, high in zip(series.low, series.high, strict=True)
        ],
    }
    return Line(series.label, series.run, series.dashed, path, "" if marks else band, marks, json.dumps(numbers))


def _number(value: float, digits: int = 3) -> str:
    """`0.25`, `1,500`, `3e−05`."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("-", "−")


@dataclass(frozen=True)
class Cell:
    """A field of a heat map. `shade` 0…1, None where nothing is known; `title` is what the pointer says."""

    column: int
    row: int
    shade: float | None
    title: str
    label: str = ""


@dataclass(frozen=True)
class HeatMap:
    """Fields in rows and columns with their headings; `links` may name the group that a row belongs to."""

    title: str
    run: int
    columns: list[str]
    rows: list[str]
    cells: list[Cell]
    links: list[str] = field(default_factory=list)
