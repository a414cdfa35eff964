"""What is kept of a prompt for the completions behind it.

    prompt [1, P]  ──▶  Prefix: what every layer keeps of it, and the state that predicts the first token
    completions [B, L] behind it, any number at a time  ──▶  the states that predict their other tokens

The second part may be run again and again over one prefix, and backward after each, so that the activations of all
completions never live together: the gradients gather in the prefix's leaves, and one backward through the prompts takes
them from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.learning.cache import mapped, tensors

if TYPE_CHECKING:
    from transformers.cache_utils import Cache


@dataclass(frozen=True)
class Prefix:
    """Of one prompt: the cache behind it, a row; `last` [1, d], the hidden state of its last token; and what the model
    remembers of positions for the tokens behind, by the names of its attributes."""

    cache: "Cache"
    last: Tensor
    remembered: dict[str, Any]

    def tensors(self) -> list[Tensor]:
        return [self.last, *(tensor for layer in self.cache.layers for _, tensor in tensors(layer))]


@dataclass(frozen=True)
class Prefixes:
    """Of several prompts, in their order; `together`: how many of them ran at a time."""

    each: Sequence[Prefix]
    together: Sequence[int]

    def leaves(self) -> "Prefixes":
        """The same numbers cut off from the graph behind them, ready to gather gradients."""

        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().requires_grad_()

        own = [Prefix(mapped(own.cache, leaf), leaf(own.last), own.remembered) for own in self.each]
        return Prefixes(own, self.together)

    def backward(self, leaves: "Prefixes") -> None:
        """Takes the gradients that `leaves` have gathered on through the prompts, those that ran together at a time."""
        pairs = zip(self.each, leaves.each, strict=True)
        for count in self.together:
            both = [
                pair for own, leaf in islice(pairs, count) for pair in zip(own.tensors(), leaf.tensors(), strict=True)
            ]
            grown = [(own, leaf.grad) for own, leaf in both if leaf.grad is not None and own.requires_grad]
            torch.autograd.backward([own for own, _ in grown], [gradient for _, gradient in grown])
