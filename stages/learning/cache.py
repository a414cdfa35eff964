"""The cache that transformers' layers write keys, values and states to, as learning needs it: gradients pass through.

Layers of attention concatenate what they are given, which autograd follows. Those with a recurrent or a convolution's
state copy it into a fixed buffer, for CUDA graphs' sake; here they assign it.
"""

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

TENSORS = ("keys", "values", "indexer_keys")
TENSORS_BY_INDEX = ("conv_states", "recurrent_states")


class _Assigning:
    """A layer's states, assigned."""

    def update_conv_state(
        self: Any, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **_: Any
    ) -> Tensor:
        size = self.conv_kernel_size[state_idx] or conv_kernel_size or conv_states.shape[-1]
        if self.has_previous_state[state_idx]:
            conv_states = torch.cat([self.conv_states[state_idx], conv_states], dim=-1)
        elif conv_states.shape[-1] < size:
            conv_states = torch.nn.functional.pad(conv_states, (size - conv_states.shape[-1], 0))
        self.dtype, self.device, self.conv_kernel_size[state_idx] = conv_states.dtype, conv_states.device, size
        self.has_previous_state[state_idx] = self.is_conv_states_initialized[state_idx] = True
        self.conv_states[state_idx] = conv_states[..., -size:]
        return conv_states

    def update_recurrent_state(self: Any, recurrent_states: Tensor, state_idx: int = 0, **_: Any) -> Tensor:
        self.is_recurrent_states_initialized[state_idx] = True
        self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states


def empty_cache(config: Any) -> "Cache":
    """An empty cache for a language model of `config`."""
    from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin

    def assigning(layer: Any) -> Any:
        kind = type(layer)
        own: Any = object.__new__(type(f"Assigning{kind.__name__}", (_Assigning, kind), {}))
        vars(own).update(vars(layer))
        return own

    cache = DynamicCache(config=config)
    cache.layers = [
        assigning(layer) if isinstance(layer, LinearAttentionCacheLayerMixin) else layer for layer in cache.layers
    ]
    return cache


def keeps_everything(cache: "Cache") -> bool:
    """Whether it holds keys and values alone, a place for each token: no window, no state that tokens were added to."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)


def tensors(layer: Any) -> Iterator[tuple[Any, Tensor]]:
    """The tensors of one layer of a cache, each behind what names it."""
    for name in TENSORS:
        tensor = getattr(layer, name, None)
        if isinstance(tensor, Tensor) and tensor.numel():
            yield name, tensor
    for name in TENSORS_BY_INDEX:
        for index, tensor in (getattr(layer, name, None) or {}).items():
            if isinstance(tensor, Tensor):
                yield (name, index), tensor


def mapped_layer(layer: Any, function: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Any:
    """A copy of one layer of a cache, with `function` of each of its tensors."""
    own = copy.copy(layer)
    vars(own).update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
    for name, tensor in tensors(layer):
        if isinstance(name, tuple):
            getattr(own, name[0])[name[1]] = function(tensor)
        else:
            setattr(own, name, function(tensor))
    return own


def mapped(cache: "Cache", function: Callable[[Tensor], Tensor]) -> "Cache":
    """A copy of the cache, with `function` of each of its tensors; what is then added to either is not in the other."""
    own = copy.copy(cache)
    own.layers = [mapped_layer(layer, function) for layer in cache.layers]
    return own
