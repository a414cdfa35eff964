"""Views: pictures changed on the way to the model, by the seed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.errors import UsageError
from stages.images.views import PATCH, both, check, is_drawn, parsed, seen, shown

VIEWS = ("resize:20", "jitter:0.5,0.3", "mask:0.6", "pad", "rotate:3", "crop:0.7", "resize:20|jitter:0.5,0.3")


def picture(width: int = 64, height: int = 48) -> Image.Image:
    pixels = np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@given(st.sampled_from(VIEWS), st.integers(0, 2**63 - 1), st.integers(1, 90), st.integers(1, 90))
def test_the_same_seed_shows_the_same(view: str, seed: int, width: int, height: int) -> None:
    original = picture(width, height)
    before = original.tobytes()
    one, other = seen(original, view, seed), seen(original, view, seed)
    assert one.tobytes() == other.tobytes() and one.size == other.size
    assert one.mode == "RGB" and min(one.size) >= 1
    assert original.tobytes() == before
    assert max(one.size) / min(one.size) <= max(1, 1.05 * max(original.size) / min(original.size))


@pytest.mark.parametrize("view", [view for view in VIEWS if view != "resize:20"])
def test_another_seed_shows_another(view: str) -> None:
    assert len({seen(picture(), view, seed).tobytes() for seed in range(20)}) > 1


def test_resized() -> None:
    assert seen(picture(64, 48), "resize:20", 1).size == (27, 20)
    assert seen(picture(10, 48), "resize:20", 1).size == (10, 48)
    assert seen(picture(10, 900), "resize:1", 1).size == (1, 90)


@given(st.integers(0, 2**63 - 1), st.floats(0, 1))
def test_masked_in_so_many_patches(seed: int, share: float) -> None:
    pixels = np.asarray(seen(picture(4 * PATCH, 3 * PATCH), f"mask:{share:.3f}", seed))
    patches = pixels.reshape(3, PATCH, 4, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(12, -1)
    assert (patches == 0).all(axis=1).sum() == round(float(f"{share:.3f}") * 12)
    assert ((patches == 0).all(axis=1) | (patches != 0).all(axis=1)).all()


def test_padded_and_rotated() -> None:
    padded = seen(picture(), "pad", 5)
    border = (padded.width - 64) // 2
    assert 1 <= border <= 12 and padded.size == (64 + 2 * border, 48 + 2 * border)
    assert padded.crop((border, border, border + 64, border + 48)).tobytes() == picture().tobytes()
    assert padded.getpixel((0, 0)) == (255, 255, 255)
    assert seen(picture(), "rotate:3", 5).size == (64, 48)


def test_a_part_of_it() -> None:
    whole = picture(10, 20)
    part = seen(whole, "crop:0.5", 3)
    assert part.size == (5, 10)
    assert any(
        part.tobytes() == whole.crop((x, y, x + 5, y + 10)).tobytes() for x in range(6) for y in range(11)
    )  # fmt: skip
    assert seen(whole, "crop:1", 3).tobytes() == whole.tobytes()


@pytest.mark.parametrize("seed", [0, 1])
def test_quarters_of_a_turn(seed: int) -> None:
    pixels = np.asarray(picture(5, 3))
    for quarters in range(4):
        turned = np.asarray(seen(picture(5, 3), f"turn:{90 * quarters}", seed))
        assert (turned == np.rot90(pixels, -quarters)).all()


def test_quarters_in_another_order() -> None:
    whole = np.asarray(picture(8, 6))
    assert (np.asarray(seen(picture(8, 6), "tiles:1234", 0)) == whole).all()
    tiled = np.asarray(seen(picture(9, 7), "tiles:3142", 0))
    own = np.asarray(picture(9, 7))
    assert (tiled[:3, :4] == own[3:6, :4]).all() and (tiled[:3, 4:] == own[:3, :4]).all()
    assert (tiled[3:, :4] == own[3:6, 4:8]).all() and (tiled[3:, 4:] == own[:3, 4:8]).all()


def test_no_jitter_is_no_change_of_brightness() -> None:
    grey = Image.new("RGB", (4, 4), (90, 90, 90))
    assert seen(grey, "jitter:0,0.5", 3).tobytes() == grey.tobytes()
    levels = {seen(grey, "jitter:0.5,0", seed).tobytes()[:3] for seed in range(200)}
    assert min(levels) >= bytes([45] * 3) and max(levels) <= bytes([135] * 3) and len(levels) > 50


def test_either_of_two_with_equal_chance() -> None:
    small = sum(seen(picture(), "resize:20|pad", seed).width == 27 for seed in range(400))
    assert 150 < small < 250


@pytest.mark.parametrize(
    ("view", "says"),
    [
        ("blur", "no view 'blur'; there are resize:PIXELS"),
        ("resize", "view 'resize': it is resize:PIXELS"),
        ("mask:1.5", "at most 1"),
        ("mask:-1", "it is mask:SHARE"),
        ("jitter:0.5", "BRIGHTNESS,HUE"),
        ("pad:3", "it is pad"),
        ("crop:0", "it is crop:SHARE"),
        ("turn:45", "it is turn:DEGREES"),
        ("tiles:1123", "it is tiles:ORDER"),
        ("tiles:12", "it is tiles:ORDER"),
        ("resize:20|", "no view ''"),
        ("", "no view ''"),
    ],
)
def test_views_that_there_are_not(view: str, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("|", r"\|")):
        parsed(view)


def test_one_view_after_another() -> None:
    turned = seen(picture(), "turn:90", 0)
    assert seen(picture(), "turn:90+resize:20", 4).tobytes() == seen(turned, "resize:20", 4).tobytes()
    assert both("turn:90", "pad") == "turn:90+pad" and both(None, "pad") == "pad" and both(None, None) is None
    with pytest.raises(UsageError, match="no view 'blur'"):
        check("turn:90+blur")


def test_pictures_are_changed_each_by_draws_of_its_own() -> None:
    one, other = shown([picture(), picture()], "crop:0.3", 5)
    assert one.tobytes() != other.tobytes() and one.tobytes() == seen(picture(), "crop:0.3", 5).tobytes()
    assert shown([picture()], None, 5) == (picture(),)


@pytest.mark.parametrize("view", ["turn:90", "tiles:3142", "resize:20", "turn:90+resize:20"])
def test_the_seed_has_no_say(view: str) -> None:
    assert not is_drawn(view)
    assert len({seen(picture(), view, seed).tobytes() for seed in range(9)}) == 1


@pytest.mark.parametrize("view", ["pad", "resize:20|turn:90", "turn:90+mask:0.6"])
def test_the_seed_has_a_say(view: str) -> None:
    assert is_drawn(view)
    assert len({seen(picture(), view, seed).tobytes() for seed in range(20)}) > 1
