"""The prompt as the model sees it: chat template, image processing, vision tokens. One place for both engines
and for the learner, so that what is sampled from is what is learned from."""

import re
import sys
from functools import lru_cache
from typing import Any

from PIL.Image import Image

from stages.errors import EngineError
from stages.models.bounds import picture_settings
from stages.models.finding import Model
from stages.models.loading import prepare_transformers
from stages.parameters.sampling import Pixels

# What a processor may give of each token of a prompt, and by family what it is of a token of a completion: 0 but where
# what is written under 0 is seen both ways.
OF_TOKENS = ("mm_token_type_ids", "token_type_ids")
COMPLETION_TYPES = {"paligemma": {"token_type_ids": 1}}


class PromptBuilder:
    """Turns an image and a user text into model inputs with the checkpoint's own processor and chat template."""

    def __init__(self, model: Model, pixels: Pixels) -> None:
        """Raises EngineError when the checkpoint has no processor of images that loads or no chat template, UsageError
        when bounds are set that its image processor does not have."""
        prepare_transformers()
        from transformers import AutoProcessor

        try:
            self.processor = AutoProcessor.from_pretrained(model.path, trust_remote_code=False)
        except Exception as error:
            raise EngineError(f"{model.ref.name}: its processor cannot be loaded ({error})") from error
        if not hasattr(self.processor, "image_processor"):
            raise EngineError(f"{model.ref.name}: not a model of images and text, its folder has no image processor")
        # What is longer than the context is refused where it is sampled, rather than warned of here.
        self.processor.tokenizer.model_max_length = sys.maxsize
        self.picture_settings = picture_settings(self.processor.image_processor, pixels, model.ref.name)
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
        """What the model takes, as torch tensors: input_ids [1, P], attention_mask [1, P], and what its family has for
        pictures, of Qwen's pixel_values, image_grid_thw and mm_token_type_ids [1, P].

        `mm_token_type_ids` says where the images are; without it such a model would learn blind, without an error.
        """
        inputs = self.processor(
            text=[self.chat_text(prompt, len(images))],
            images=list(images) or None,
            images_kwargs=self.picture_settings,
            return_mm_token_type_ids=True,
            return_tensors="pt",
        )
        inputs.pop("labels", None)  # PaliGemma's processor prepares for its own loss
        return inputs
