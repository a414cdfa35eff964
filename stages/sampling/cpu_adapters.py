"""LoRA on the CPU in vLLM: the weights of an adapter read where they are.

vLLM's own takes a copy of the adapter's weights for every token, which costs more than all else of sampling by a small
model. The products are the same, to the bit: each token's is still its own.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


def read_adapters_in_place() -> None:
    """Has vLLM's layers with adapters compute so, in this process."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    PunicaWrapperCPU._shrink_prefill = _shrink  # all that its engine calls, of prompts or not
    PunicaWrapperCPU._expand_slice_prefill = _expand_slice


def _shrink(self: "PunicaWrapperCPU", y: Tensor, x: Tensor, w_t_all: Tensor, scale: float) -> None:
    """y = scale · A x of each token, A its adapter's: [tokens, r] of [tokens, in] and [adapters, 1, r, in]."""
    for adapter, tokens in _alike(self):
        y[tokens] = scale * _products(x[tokens].to(y.dtype), w_t_all[adapter, 0])


def _expand_slice(
    self: "PunicaWrapperCPU",
    y: Tensor,
    x: Tensor,
    w_t_all: Tensor,
    y_offset: int,
    y_slice_size: int,
    add_inputs: bool,
) -> None:
    """B x of each token into its place in y, or added to it: of [tokens, r] and [adapters, 1, out, r]."""
    place = slice(y_offset, y_offset + y_slice_size)
    for adapter, tokens in _alike(self):
        products = _products(x[tokens].to(y.dtype), w_t_all[adapter, 0])
        y[tokens, place] = y[tokens, place] + products if add_inputs else products


def _alike(wrapper: "PunicaWrapperCPU") -> Iterator[tuple[int, slice]]:
    """Neighbouring tokens with one adapter, and its place; those with none are left out."""
    starts, lengths, adapters, *_ = wrapper.prefill_metadata
    for start, length, adapter in zip(starts.tolist(), lengths.tolist(), adapters.tolist(), strict=True):
        if adapter >= 0:
            yield adapter, slice(start, start + length)


def _products(inputs: Tensor, weights: Tensor) -> Tensor:
    """W x of each token x by itself, so that no other one has a say in its rounding: [tokens, out] of [tokens, in] and
    [out, in]."""
    return torch.einsum("ti,toi->to", inputs, weights.to(inputs.dtype).expand(len(inputs), -1, -1))
