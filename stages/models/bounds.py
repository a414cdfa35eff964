"""The bounds on a picture's pixels, as the image processors of the families take them: for the learner, transformers
and vLLM alike, or what is sampled from is not what is learned from."""

from typing import Any

from stages.errors import UsageError
from stages.parameters.sampling import Pixels

# Their sizes bound the pixels of all frames, and a picture is as many frames as the vision tower takes at a time.
COUNTING_FRAMES = ("Glm4vImageProcessor", "Glm46VImageProcessor", "GlmgaImageProcessor", "Cosmos3EdgeImageProcessor")


def picture_settings(image_processor: Any, pixels: Pixels, name: str) -> dict[str, Any]:
    """Keyword arguments with which the model `name`'s processor brings a picture within `pixels`; none without bounds.

    The processors that have bounds call an area `edge`. Raises UsageError for one that has none, but sizes of its own.
    """
    if pixels == Pixels():
        return {}
    own = dict(image_processor.size or {})
    if not hasattr(image_processor, "merge_size") or not own.get("shortest_edge") or not own.get("longest_edge"):
        raise UsageError(
            f"{name}: its image processor has sizes of its own, and no bounds in pixels; "
            "leave out --min-pixels and --max-pixels"
        )
    frames = counted_frames(type(image_processor).__name__, image_processor.temporal_patch_size)
    fewest, most = pixels.min_pixels, pixels.max_pixels
    return {
        "size": {
            "shortest_edge": fewest * frames if fewest else own["shortest_edge"],
            "longest_edge": most * frames if most else own["longest_edge"],
        }
    }


def counted_frames(image_processor: str, frames: int) -> int:
    """As how many pixels the class `image_processor` counts one of a picture, which is that many `frames`."""
    return frames if image_processor.removesuffix("Fast") in COUNTING_FRAMES else 1
