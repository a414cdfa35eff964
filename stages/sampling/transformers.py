"""Sampling with transformers: the fallback where vLLM is not installed. Right, and slow."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch

from stages.models.device import free_cache, memory_bounded, this_device
from stages.models.loading import load_base
from stages.models.prompting import PromptBuilder
from stages.parameters.sampling import Decoding
from stages.sampling.interface import Refused, Request, Sample, Wanted
from stages.sampling.refusing import NOT_TAKEN, refused, too_long


class TransformersSampler:
    """A plain sampling loop: one prefill for consecutive requests with the same prompt, then token by token, each
    row drawing from its own generator."""

    def __init__(self, wanted: Wanted) -> None:
        model = wanted.model
        self._prompts = PromptBuilder(model, wanted.pixels)
        self._context = model.context(wanted.options.max_model_len) or sys.maxsize
        self._model = load_base(model)
        if wanted.adapter is not None:
            from peft import PeftModel

            self._model = PeftModel.from_pretrained(self._model, wanted.adapter)
        self._model.eval()
        self._tokenizer = model.tokenizer
        self._forbidden = list(model.forbidden_tokens)
        self._ends = set(model.end_of_turn)

    @property
    def device(self) -> dict[str, Any]:
        return this_device().recorded()

    def close(self) -> None:
        self._model = None
        free_cache()

    def sample(self, requests: Iterable[Request], decoding: Decoding) -> Iterator[Sample | Refused]:
        for _, same in groupby(requests, key=lambda request: (id(request.images), request.prompt)):
            yield from self._sample_group(list(same), decoding)

    @memory_bounded("use a smaller --max-pixels, or stop what else runs on it")
    @torch.inference_mode()
    def _sample_group(self, requests: list[Request], decoding: Decoding) -> Sequence[Sample | Refused]:
        try:
            inputs = self._prompts.inputs(requests[0].images, requests[0].prompt).to(self._model.device)
        except NOT_TAKEN as error:
            return [refused(requests[0], error, self._prompts, self._context)] * len(requests)
        length = inputs["input_ids"].shape[1]
        if length >= self._context:
            return [too_long(requests[0], length, self._context)] * len(requests)
        most = min(decoding.max_tokens, self._context - length)
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        tokens: list[list[int]] = [[] for _ in requests]
        logprobs: list[list[float]] = [[] for _ in requests]
        open_rows = list(range(len(requests)))

        last = self._model.get_base_model() if hasattr(self._model, "get_base_model") else self._model
        if getattr(last.model, "rope_deltas", None) is not None:
            last.model.rope_deltas = None  # a prompt without images leaves those of the one before
        outputs = self._model(**inputs, use_cache=True, logits_to_keep=1)
        cache = outputs.past_key_values
        cache.reorder_cache(torch.zeros(len(requests), dtype=torch.long))  # which recurrent layers' have, too
        logits = outputs.logits[:, -1].float().expand(len(requests), -1)
        # Where positions have three dimensions, those of text continue after the prompt's last, the same in all; others
        # the model counts itself, from 1 as PaliGemma does or from 0.
        deltas = getattr(last.model, "rope_deltas", None)
        next_position = None if deltas is None else length + int(deltas[0])
        while open_rows:
            distribution = self._distribution(logits, decoding)
            step = torch.zeros(len(requests), 1, dtype=torch.long)
            for row in open_rows:
                if decoding.temperature == 0:
                    token = int(distribution[row].argmax())
                else:
                    token = int(torch.multinomial(distribution[row].exp(), 1, generator=generators[row]))
                tokens[row].append(token)
                logprobs[row].append(float(distribution[row, token]))
                step[row] = token
            open_rows = [row for row in open_rows if tokens[row][-1] not in self._ends and len(tokens[row]) < most]
            if not open_rows:
                break
            positions = {}
            if next_position is not None:
                shape = (3, len(requests), 1)
                positions = {"position_ids": torch.full(shape, next_position, device=self._model.device)}
                next_position += 1
            outputs = self._model(
                input_ids=step.to(self._model.device), past_key_values=cache, use_cache=True, **positions
            )
            logits = outputs.logits[:, -1].float()
        return [
            Sample(
                text=self._tokenizer.decode(ids, skip_special_tokens=True),
                token_ids=ids,
                logprobs=row_logprobs,
                finish_reason="stop" if ids[-1] in self._ends else "length",
            )
            for ids, row_logprobs in zip(tokens, logprobs, strict=True)
        ]

    def _distribution(self, logits: torch.Tensor, decoding: Decoding) -> torch.Tensor:
        """Log-probabilities [rows, vocabulary] after masking, temperature and top-p, on the CPU."""
        logits = logits.index_fill(1, torch.tensor(self._forbidden, device=logits.device), -torch.inf)
        logprobs = torch.log_softmax(logits / (decoding.temperature or 1.0), dim=-1).cpu()
        if decoding.top_p < 1:
            ranked, order = logprobs.sort(descending=True)
            outside = ranked.exp().cumsum(-1) - ranked.exp() >= decoding.top_p
            logprobs = logprobs.masked_fill(outside.gather(-1, order.argsort(-1)), -torch.inf)
            logprobs = torch.log_softmax(logprobs, dim=-1)
        return logprobs
