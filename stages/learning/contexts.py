"""What a completion stands behind: the text and the pictures that a model reads before it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stages import images
from stages.contract import ANSWER, PROPOSER, Metadata
from stages.images.views import is_drawn, shown
from stages.learning.model import PolicyModel, PromptInputs
from stages.parameters.sampling import Pixels


@dataclass(frozen=True)
class Context:
    """A text, the pictures (bytes and path, and hash of each), their bounds, and how they are seen: those of rows that
    share the run of their prompt are equal."""

    text: str
    pictures: tuple[tuple[bytes | None, str | None], ...]
    hashes: tuple[str | None, ...]
    pixels: Pixels
    view: str | None = None
    seed: int | None = None


class Contexts:
    """The contexts of a shard's rows."""

    def __init__(self, recorded: Metadata) -> None:
        sampling = {PROPOSER: recorded.stage_params("propose"), **recorded.passes}
        self._pixels = {
            name: Pixels(params.get("min_pixels"), params.get("max_pixels")) for name, params in sampling.items()
        }

    def of(self, row: Mapping[str, Any]) -> Context:
        """What the row is learned behind: what it was sampled behind, or the prompt that it is to be learned on and the
        pictures as they are."""
        sampled = self.sampled(row)
        if row["learn_prompt"] is None:
            return sampled
        return replace(sampled, text=row["learn_prompt"], view=None, seed=None)

    def sampled(self, row: Mapping[str, Any]) -> Context:
        """The row's prompt, pictures and view, as they were when it was sampled."""
        pictures = [picture or {} for picture in row["images"] or ()]
        files = tuple((picture.get("bytes"), picture.get("path")) for picture in pictures)
        hashes = tuple(row["images_sha256"] or ())
        pixels = self._pixels.get(PROPOSER if row["role"] == PROPOSER else row["pass"] or ANSWER, Pixels())
        seed = row["seed"] if row["view"] and is_drawn(row["view"]) else None
        return Context(row["prompt"] or "", files, hashes, pixels, row["view"], seed)


def processed(model: PolicyModel, context: Context, row: Mapping[str, Any]) -> PromptInputs:
    """The `context` of `row` as the model takes it. Raises DataError for pictures that are gone, have changed or cannot
    be decoded, UsageError for a view that there is not."""
    pictures = shown(images.load_all(row), context.view, context.seed or 0)
    return model.process(pictures, context.text, context.pixels)
