"""Other looks at a picture, for a pass that is to see it changed: what is sampled on one is learned on the same."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageEnhance

from stages.errors import UsageError

PATCH = 14  # pixels: what the vision towers of the field look at at a time
LARGEST_BORDER = 0.25  # of the shorter side
GRAMMAR = re.compile(r"([a-z]+)(?::(\d+(?:\.\d*)?(?:,\d+(?:\.\d*)?)*))?")

Draw = Callable[..., Image.Image]  # of a picture, what is drawn by the seed, and the numbers behind the name


def seen(picture: Image.Image, view: str, seed: int) -> Image.Image:
    """The RGB `picture` as `view` shows it, the same for the same `seed`, of any size:

    - `resize:N`       its shorter side N pixels; smaller pictures as they are
    - `jitter:B,H`     brightness × U(1 − B, 1 + B), and the hue turned by U(−H, H) of a full turn
    - `mask:SHARE`     so many of its patches of 14 × 14 pixels black
    - `pad`            within a white border of up to a quarter of its shorter side
    - `rotate:DEGREES` turned by U(−DEGREES, DEGREES) about its centre, white in the corners
    - `crop:SHARE`     a part of it somewhere, so much of either side
    - `turn:DEGREES`   turned clockwise by as many quarters of a turn, always
    - `tiles:ORDER`    its four quarters in this order, always: `tiles:1234` is the picture, of an even size

    of several, `resize:20|mask:0.6`, one; and `turn:90+mask:0.6`, one after the other. Raises UsageError for a view
    that is none of these.
    """
    draws = random.Random(seed)
    for step in view.split("+"):
        name, numbers = draws.choice(parsed(step))
        picture = VIEWS[name].draw(picture, draws, *numbers)
    return picture


def shown(pictures: Sequence[Image.Image], view: str | None, seed: int) -> tuple[Image.Image, ...]:
    """Pictures as a row shows them, each with draws of its own; without a view as they are."""
    if view is None:
        return tuple(pictures)
    return tuple(seen(picture, view, seed + place) for place, picture in enumerate(pictures))


def both(first: str | None, then: str | None) -> str | None:
    """The view that is one view and then another, where there are both."""
    return "+".join(view for view in (first, then) if view is not None) or None


def is_drawn(view: str) -> bool:
    """Whether the seed has a say in it."""
    steps = [parsed(step) for step in view.split("+")]
    return any(len(step) > 1 or not VIEWS[name].fixed for step in steps for name, _ in step)


def check(view: str) -> None:
    """Raises UsageError for a view that there is not."""
    for step in view.split("+"):
        parsed(step)


def parsed(alternatives: str) -> list[tuple[str, list[float]]]:
    """The views of which one is shown, with their numbers. Raises UsageError for one that there is not."""
    found = []
    for one in alternatives.split("|"):
        parts = GRAMMAR.fullmatch(one.strip())
        name = parts[1] if parts else one.split(":")[0].strip()
        if name not in VIEWS:
            raise UsageError(f"no view {name!r}; there are {', '.join(each.form for each in VIEWS.values())}")
        numbers = [float(number) for number in (parts[2] or "").split(",") if number] if parts else []
        kind = VIEWS[name]
        fits = zip(numbers, kind.largest, strict=False)
        far = any(number > most for number, most in fits)
        if parts is None or len(numbers) != len(kind.largest) or far or not kind.allowed(*numbers):
            limits = " and ".join(f"{most:g}" for most in kind.largest)
            raise UsageError(f"view {one.strip()!r}: it is {kind.form}{f', at most {limits}' * bool(limits)}")
        found.append((name, numbers))
    return found


def _resize(picture: Image.Image, draws: random.Random, shorter: float) -> Image.Image:
    scale = max(1, round(shorter)) / min(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _jitter(picture: Image.Image, draws: random.Random, brightness: float, hue: float) -> Image.Image:
    picture = ImageEnhance.Brightness(picture).enhance(draws.uniform(1 - brightness, 1 + brightness))
    turn = round(256 * draws.uniform(-hue, hue))
    tone, saturation, value = picture.convert("HSV").split()
    turned = tone.point([(level + turn) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _mask(picture: Image.Image, draws: random.Random, share: float) -> Image.Image:
    patches = [(x, y) for y in range(0, picture.height, PATCH) for x in range(0, picture.width, PATCH)]
    masked = picture.copy()
    for x, y in draws.sample(patches, round(share * len(patches))):
        masked.paste((0, 0, 0), (x, y, min(x + PATCH, picture.width), min(y + PATCH, picture.height)))
    return masked


def _pad(picture: Image.Image, draws: random.Random) -> Image.Image:
    border = draws.randint(1, max(1, int(LARGEST_BORDER * min(picture.size))))
    padded = Image.new("RGB", (picture.width + 2 * border, picture.height + 2 * border), "white")
    padded.paste(picture, (border, border))
    return padded


def _rotate(picture: Image.Image, draws: random.Random, degrees: float) -> Image.Image:
    turn = draws.uniform(-degrees, degrees)
    return picture.rotate(turn, Image.Resampling.BICUBIC, fillcolor="white")


def _crop(picture: Image.Image, draws: random.Random, share: float) -> Image.Image:
    width, height = (max(1, round(share * side)) for side in picture.size)
    left, top = draws.randint(0, picture.width - width), draws.randint(0, picture.height - height)
    return picture.crop((left, top, left + width, top + height))


def _turn(picture: Image.Image, draws: random.Random, degrees: float) -> Image.Image:
    return picture.rotate(-90 * (degrees // 90), expand=True)


def _tiles(picture: Image.Image, draws: random.Random, order: float) -> Image.Image:
    width, height = (max(1, side // 2) for side in picture.size)
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    tiled = Image.new("RGB", (2 * width, 2 * height))
    for place, tile in zip(corners, f"{order:g}", strict=True):
        left, top = corners[int(tile) - 1]
        tiled.paste(picture.crop((left, top, left + width, top + height)), place)
    return tiled


@dataclass(frozen=True)
class View:
    """A kind of view: how it is written, the largest of each of its numbers, what it does, whether that is the same for
    every seed, and which numbers are none for it beside those that are too large."""

    form: str
    largest: tuple[float, ...]
    draw: Draw
    fixed: bool = False
    allowed: Callable[..., bool] = lambda *numbers: True


VIEWS = {
    "resize": View("resize:PIXELS", (10_000,), _resize, fixed=True),
    "jitter": View("jitter:BRIGHTNESS,HUE", (1, 0.5), _jitter),
    "mask": View("mask:SHARE", (1,), _mask),
    "pad": View("pad", (), _pad),
    "rotate": View("rotate:DEGREES", (180,), _rotate),
    "crop": View("crop:SHARE", (1,), _crop, allowed=lambda share: share > 0),
    "turn": View("turn:DEGREES", (270,), _turn, True, lambda degrees: degrees % 90 == 0),
    "tiles": View("tiles:ORDER", (4321,), _tiles, True, lambda order: sorted(f"{order:g}") == list("1234")),
}
