"""How many proposals, about which pictures, and how they are sampled or where they are taken from."""

from dataclasses import dataclass
from pathlib import Path
from pkgutil import iter_modules

from stages.parameters.option import option
from stages.parameters.sampling import Decoding, Sampling

EXISTING = "Questions that need not be sampled"
PUZZLES = sorted(
    module.name.replace("_", "-")
    for module in iter_modules([str(Path(__file__).parent.parent / "puzzles")])
    if module.name != "puzzle"
)


@dataclass(frozen=True)
class ProposeParams:
    """The options of `propose`."""

    groups: int = option(64, "Proposals in all: one an image, or as many as --per-image says.", minimum=1)
    per_image: int = option(1, "Proposals about each image, one after another.", minimum=1)
    step: int | None = option(
        None,
        "Training step that the groups' are counted from, which decides their pictures, ids and seeds.",
        minimum=0,
        shown="the policy's",
    )
    image_column: str | None = option(
        None, "The column of the pictures.", shown="image, images, or the only one with pictures"
    )
    embed_images: bool = option(False, "Store the images in the shard.")
    questions: str | None = option(
        None,
        "A column with questions, which are taken instead of sampled: no model is loaded.",
        shown=False,
        panel=EXISTING,
    )
    task: str | None = option(
        None,
        f"Questions about what was done to the picture, whose answers are known: {', '.join(PUZZLES)}. No model is "
        "loaded.",
        shown=False,
        panel=EXISTING,
    )
    target: str | None = option(
        None, "The column with their answers, for `score --target known`.", shown=False, panel=EXISTING
    )
    sampling: Sampling = Sampling(decoding=Decoding(max_tokens=128))
