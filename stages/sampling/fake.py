"""A sampler that loads no model: deterministic text from the seed, for tests and for trying out a pool, settings and a
chain of files."""

import random
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from stages.contract import PROPOSER
from stages.models.lengths import PictureLengths
from stages.parameters.sampling import Decoding
from stages.prompts import load_prompt
from stages.sampling.interface import Refused, Request, Sample, Wanted
from stages.sampling.refusing import too_long

TAG = re.compile(r"<([a-z][a-z0-9_-]*)>")
OWN = {"think", "answer"}  # what a solution has of itself


class FakeSampler:
    """Writes plausible proposals and solutions, now and then cut short or without an answer.

    What asks for a question is known by the tag that it names, or by being the model folder's own; other tags that are
    named are filled with a number.
    """

    def __init__(self, wanted: Wanted) -> None:
        model = wanted.model
        self.device: dict[str, Any] = {}
        self._asks = load_prompt(PROPOSER, model.path)
        self._tokenizer = model.tokenizer
        self._end = model.end_of_turn[0]
        self._context = model.context(wanted.options.max_model_len) or sys.maxsize
        self._pictures = PictureLengths(model, wanted.pixels)

    def sample(self, requests: Iterable[Request], decoding: Decoding) -> Iterator[Sample | Refused]:
        for request in requests:
            # The chat template's own tokens, a few, are left out.
            pictures = sum(self._pictures.tokens(image.size) for image in request.images)
            length = pictures + len(self._tokenizer.encode(request.prompt).ids)
            if length >= self._context:
                yield too_long(request, length, self._context)
                continue
            rng = random.Random(request.seed)
            proposes = "<question>" in request.prompt or request.prompt == self._asks
            form = list(dict.fromkeys(TAG.findall(request.prompt)))
            text = _proposal(rng) if proposes else _tagged(rng, form) if set(form) - OWN else _solution(rng)
            token_ids = [*self._tokenizer.encode(text, add_special_tokens=False).ids, self._end]
            finished = len(token_ids) <= decoding.max_tokens and rng.random() > 0.05
            if not finished:
                token_ids = token_ids[: min(decoding.max_tokens, max(1, len(token_ids) // 2))]
            yield Sample(
                text=self._tokenizer.decode(token_ids, skip_special_tokens=True),
                token_ids=token_ids,
                logprobs=[-rng.random() for _ in token_ids],
                finish_reason="stop" if finished else "length",
            )

    def close(self) -> None:
        pass


def _proposal(rng: random.Random) -> str:
    if rng.random() < 0.1:
        return "I see an image."
    return f"<question>What is the value of item {rng.randint(1, 9)}?</question>\n<rationale>Read it.</rationale>"


def _tagged(rng: random.Random, form: list[str]) -> str:
    """Most of the tags of `form` in their order, and then, where they are among them, the reasoning and the answer."""
    tags = [(name, rng.randint(0, 10) / 10) for name in form if name not in OWN and rng.random() > 0.1]
    others = [f"<{name}>{value}</{name}>" for name, value in tags]
    return "\n".join([*others, _solution(rng)] if OWN & set(form) else others)


def _solution(rng: random.Random) -> str:
    values = [rng.randint(1, 3) for _ in range(rng.randint(1, 3))]
    steps = "\n".join(f"Step {place}: item {place} is {value}" for place, value in enumerate(values, 1))
    if rng.random() < 0.1:
        return f"<think>\n{steps}\n</think>"
    return f"<think>\n{steps}\n</think>\n<answer>{rng.randint(1, 3)}</answer>"
