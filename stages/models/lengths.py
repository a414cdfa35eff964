"""How many tokens a picture takes, told without loading a model."""

import math
from typing import Any

from stages.models.bounds import counted_frames
from stages.models.finding import Model
from stages.parameters.sampling import Pixels


class PictureLengths:
    """By the image processor of Qwen2-VL and its kin: a picture's sides become whole patches, as many as the bounds on
    its pixels allow, and every patch one token."""

    def __init__(self, model: Model, pixels: Pixels) -> None:
        settings = _image_processor(model)
        size = settings.get("size")
        bounds = size if isinstance(size, dict) else {}
        patch, merge = settings.get("patch_size"), settings.get("merge_size")
        self._patch = patch * merge if isinstance(patch, int) and isinstance(merge, int) else 0
        frames = counted_frames(str(settings.get("image_processor_type")), settings.get("temporal_patch_size", 1))
        own = {key: value / frames for key, value in bounds.items() if isinstance(value, int)}
        self._fewest = pixels.min_pixels or settings.get("min_pixels") or own.get("shortest_edge")
        self._most = pixels.max_pixels or settings.get("max_pixels") or own.get("longest_edge")

    def tokens(self, size: tuple[int, int]) -> int:
        """Of a picture of so many pixels (width, height); 0 where the model's processor is of another make."""
        if not self._patch or not self._fewest or not self._most:
            return 0
        sides = [side / self._patch for side in size]
        patches = math.prod(map(round, sides))
        area, fewest, most = math.prod(sides), self._fewest / self._patch**2, self._most / self._patch**2
        if patches > most:
            return math.prod(max(1, math.floor(side * math.sqrt(most / area))) for side in sides)
        if patches < fewest:
            return math.prod(math.ceil(side * math.sqrt(fewest / area)) for side in sides)
        return patches


def _image_processor(model: Model) -> dict[str, Any]:
    """Its settings, which transformers before its fifth version wrote to a file of their own."""
    newer = model.settings("processor_config.json").get("image_processor")
    return newer if isinstance(newer, dict) else model.settings("preprocessor_config.json")
