"""The prompt as the model sees it: chat template, image processing, vision tokens. One place for both engines
and for the learner, so that what is sampled from is what is learned from."""

import re
import sys
from functools import lru_cache
from typing import Any

from PIL.Image import Image

from stages.errors import EngineError, UsageError
from stages.models.finding import Model
from stages.models.loading import prepare_transformers
from stages.parameters.sampling import Pixels

# What a processor may give of each token of a prompt, and by family what it is of a token of a completion: 0 but where
# what is written under 0 is seen both ways.
OF_TOKENS = ("mm_token_type_ids", "token_type_ids")
COMPLETION_TYPES = {"paligemma": {"token_type_ids": 1}}


def pixel_settings(pixels: Pixels) -> dict[str, int]:
    """The image processor's own names for the bounds that are set."""
    bounds = {"min_pixels": pixels.min_pixels, "max_pixels": pixels.max_pixels}
    return {name: value for name, value in bounds.items() if value is not None}


class PromptBuilder:
    """Turns an image and a user text into model inputs with the checkpoint's own processor and chat template."""

    def __init__(self, model: Model, pixels: Pixels) -> None:
        """Raises EngineError when the checkpoint has no processor that loads or no chat template, UsageError when
        bounds are set that its image processor does not have."""
        prepare_transformers()
        from transformers import AutoProcessor

        try:
            self.processor = AutoProcessor.from_pretrained(model.path, trust_remote_code=False)
        except Exception as error:
            raise EngineError(f"{model.ref.name}: its processor cannot be loaded ({error})") from error
        # What is longer than the context is refused where it is sampled, rather than warned of here.
        self.processor.tokenizer.model_max_length = sys.maxsize
        self._images_kwargs: dict[str, Any] = {}
        if pixels != Pixels():
            own = dict(self.processor.image_processor.size)
            if not own.get("shortest_edge") or not own.get("longest_edge"):
                raise UsageError(
                    f"{model.ref.name}: its image processor has sizes of its own, and no bounds in pixels; "
                    "leave out --min-pixels and --max-pixels"
                )
            self._images_kwargs["size"] = {
                "shortest_edge": pixels.min_pixels or own["shortest_edge"],
                "longest_edge": pixels.max_pixels or own["longest_edge"],
            }
        self._special = re.compile("|".join(map(re.escape, model.special_tokens)))
        # The N requests of a group come one after another with the same prompt.
        self.chat_text = lru_cache(maxsize=16)(self._chat_text)
        if not self.processor.chat_template:
            raise EngineError(f"{model.ref.name}: its processor has no chat template, so there is no way to ask it")

    def _chat_text(self, prompt: str, images: int = 1) -> str:
        """The conversation so far as the model reads it: the images and the user's text, then the assistant's turn.

        A special token spelt out in the text is set apart into plain text: a question must not be able to end the
        turn, or to stand for an image that is not there.
        """
        prompt = self._special.sub(lambda token: f"{token[0][0]} {token[0][1:]}", prompt)
        content = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    def inputs(self, images: tuple[Image, ...], prompt: str) -> Any:
        """input_ids [1, P], mm_token_type_ids [1, P], pixel_values and image_grid_thw, as torch tensors.

        `mm_token_type_ids` says where the images are; without it the model would learn blind, without an error.
        """
        return self.processor(
            text=[self.chat_text(prompt, len(images))],
            images=list(images) or None,
            images_kwargs=self._images_kwargs,
            return_mm_token_type_ids=True,
            return_tensors="pt",
        )
