"""Gradient checkpointing of decoder layers: of what each computes only its input is kept, and the rest made again.

transformers' own would leave the cache out, which is what completions are run behind. Here the layer, run again, finds
the cache as it was before it the first time.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from stages.learning.cache import mapped_layer
from stages.learning.lean import Running

if TYPE_CHECKING:
    from transformers.cache_utils import Cache


def checkpointed(layers: Any, running: Running) -> None:
    """Replaces the `forward` of each of a language model's layers."""
    for index, layer in enumerate(layers):
        layer.forward = _checkpointed(layer.forward, index, running)


def _checkpointed(forward: Callable[..., Any], index: int, running: Running) -> Callable[..., Any]:
    def run(*inputs: Any, past_key_values: "Cache", **settings: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, past_key_values=past_key_values, **settings)
        before = _layer(past_key_values, index)
        role, ends = running.role, running.ends
        first = True

        def made(*inputs: Any) -> Any:
            nonlocal first
            cache = past_key_values if first else _with_layer(past_key_values, index, before)
            first = False
            with running.as_role(role, ends):
                return forward(*inputs, past_key_values=cache, **settings)

        return checkpoint(made, *inputs, use_reentrant=False, preserve_rng_state=False)

    return run


def _layer(cache: "Cache", index: int) -> Any:
    """The cache's own of the decoder's layer `index` as it is; None where that keeps nothing of its own."""
    return mapped_layer(cache.layers[index]) if index < len(cache.layers) else None


def _with_layer(cache: "Cache", index: int, layer: Any) -> "Cache":
    own = copy.copy(cache)
    own.layers = list(cache.layers)
    if layer is not None:
        own.layers[index] = mapped_layer(layer)
    return own
