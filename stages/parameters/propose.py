"""How many proposals, and how they are sampled."""

from dataclasses import dataclass

from stages.parameters.option import option
from stages.parameters.sampling import Decoding, Sampling


@dataclass(frozen=True)
class ProposeParams:
    """The options of `propose`."""

    groups: int = option(64, "Proposals, one an image.", minimum=1)
    embed_images: bool = option(False, "Store the images in the shard.")
    sampling: Sampling = Sampling(decoding=Decoding(max_tokens=128))
