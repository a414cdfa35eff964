"""What a completion stands behind: the text and the pictures that a model reads before it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stages import images
from stages.contract import ANSWER, PROPOSER, Metadata
from stages.errors import DataError
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
        """Raises DataError for bounds of pictures that are recorded as no numbers."""
        sampling = {PROPOSER: recorded.stage_params("propose"), **recorded.passes}
        self._pixels = {name: _pixels(name, params) for name, params in sampling.items()}

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


def _pixels(name: str, params: Mapping[str, Any]) -> Pixels:
    bounds = [params.get(bound) for bound in ("min_pixels", "max_pixels")]
    if odd := next((each for each in bounds if each is not None and not isinstance(each, int)), None):
        raise DataError(f"the shard's metadata: {odd!r} is no number of pixels, as {name} rows were sampled with")
    return Pixels(*bounds)


def processed(model: PolicyModel, context: Context, row: Mapping[str, Any]) -> PromptInputs:
    """The `context` of `row` as the model takes it. Raises DataError for pictures that are gone, have changed or cannot
    be decoded, UsageError for a view that there is not."""
    pictures = shown(images.load_all(row), context.view, context.seed or 0)
    return model.process(pictures, context.text, context.pixels)
