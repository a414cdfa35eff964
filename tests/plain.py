"""The plain correct loop: what the learner is held to, and raced against.

Every rollout by itself, prompt and image and all, through the stock forward pass of transformers with plain PEFT on
it, logits at every position, once with the adapters and once without, one backward each.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stages.learning.learner import TrainingGroup
from stages.learning.model import PolicyModel
from stages.models.finding import Model
from stages.models.loading import prepare_transformers
from stages.models.prompting import PromptBuilder
from stages.parameters.sampling import Pixels


@dataclass(frozen=True)
class Example:
    """A group before anything was done to it."""

    image: Image.Image
    prompt: str
    token_ids: list[list[int]]
    logprobs: list[list[float]]
    rewards: list[float]
    pixels: Pixels = field(default_factory=Pixels)

    def group(self, model: PolicyModel) -> TrainingGroup:
        prompt = model.process((self.image,), self.prompt, self.pixels)
        return TrainingGroup([prompt], self.token_ids, self.logprobs, self.rewards)


def stock_model(model: Model, adapter: Path | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """The checkpoint as transformers loads it, frozen, with an adapter as plain PEFT loads it."""
    prepare_transformers()
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    stock = AutoModelForImageTextToText.from_pretrained(model.path, dtype=dtype).eval().requires_grad_(False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if adapter is None:
        return stock.to(device)
    return PeftModel.from_pretrained(stock, adapter, is_trainable=True).to(device)


class PlainLoop:
    """`stock`'s log-probabilities and losses, one rollout at a time."""

    def __init__(self, model: Model, stock: Any) -> None:
        self._model, self._stock = model, stock
        self._builders: dict[Pixels, PromptBuilder] = {}

    def inputs(self, example: Example, ids: Sequence[int]) -> Any:
        """The whole sequence of one rollout, as the stock model takes it."""
        if example.pixels not in self._builders:
            self._builders[example.pixels] = PromptBuilder(self._model, example.pixels)
        inputs = self._builders[example.pixels].inputs((example.image,), example.prompt)
        completion = torch.tensor([list(ids)])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], completion], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        for name in {"mm_token_type_ids", "token_type_ids"} & inputs.keys():
            seen_both_ways = name == "token_type_ids" and self._stock.config.model_type == "paligemma"
            types = torch.full_like(completion, int(seen_both_ways))
            inputs[name] = torch.cat([inputs[name], types], dim=1)
        inputs.pop("labels", None)
        return inputs.to(self._stock.device)

    def logprobs(self, inputs: Any, length: int) -> Tensor:
        """Log-probabilities [length, V] at the last `length` tokens, −∞ for what cannot be sampled."""
        logits = self._stock(**inputs, use_cache=False).logits[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        forbidden = torch.tensor(self._model.forbidden_tokens, device=logits.device)
        return torch.log_softmax(logits.index_fill(1, forbidden, -torch.inf), dim=-1)[-length - 1 : -1]

    def group_logprobs(self, example: Example) -> list[Tensor]:
        """[L_i, V] of each of the group's completions."""
        return [self.logprobs(self.inputs(example, ids), len(ids)) for ids in example.token_ids]

    def backward(self, example: Example, advantages: Sequence[float], kl_coef: float, share: float) -> float:
        """Adds the gradient of `share` times the group's loss, a rollout at a time; returns that part of the loss."""
        total = 0.0
        for ids, sampled, advantage in zip(example.token_ids, example.logprobs, advantages, strict=True):
            inputs = self.inputs(example, ids)
            with torch.no_grad(), self._stock.disable_adapter():
                q = self.logprobs(inputs, len(ids))
            p = self.logprobs(inputs, len(ids))
            logprob = p.gather(1, torch.tensor(ids, device=p.device)[:, None])[:, 0]
            weight = torch.exp(logprob.detach() - torch.tensor(sampled, device=p.device)).clamp(max=2)
            gap = torch.where(p.isfinite(), p - q, 0.0)
            kl = (p.exp() * gap.nan_to_num(0.0)).sum(-1)
            loss = share * (-advantage * (weight * logprob).mean() + kl_coef * kl.mean()) / len(advantages)
            loss.backward()
            total += float(loss.detach())
        return total

    def gradient(self) -> dict[str, Tensor]:
        """What has been added up, by the names that the adapter's file gives its tensors."""
        return {
            name.replace(".default.", "."): parameter.grad
            for name, parameter in self._stock.named_parameters()
            if parameter.grad is not None
        }


@contextmanager
def double_throughout() -> Iterator[None]:
    """Within, what would be float32 is float64, also where a model asks for it, as norms and routers do."""
    to, to_float, default = Tensor.to, Tensor.float, torch.get_default_dtype()

    def wider(self: Tensor, *arguments: Any, **named: Any) -> Tensor:
        arguments = tuple(torch.float64 if given is torch.float32 else given for given in arguments)
        named = {name: torch.float64 if given is torch.float32 else given for name, given in named.items()}
        return to(self, *arguments, **named)

    torch.set_default_dtype(torch.float64)
    Tensor.to, Tensor.float = wider, Tensor.double
    try:
        yield
    finally:
        Tensor.to, Tensor.float = to, to_float
        torch.set_default_dtype(default)
