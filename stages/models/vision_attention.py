"""Attention of a vision tower that looks at an image window by window: windows of one length together.

transformers' own calls it once for each window, 64 times a layer for an image of 896 × 896 pixels. A grid of windows
has four lengths at most: of those inside, at its right and lower edges, and in its corner.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# A tower gives all windows at once to an attention with "flash" in its name, and to any other one by one.
WINDOWS = "flash_windows"

Lengths = list[tuple[int, Tensor]]
_lengths: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # by cu_seqlens, which all layers of a pass share


def batch_windows(base: Any) -> None:
    """Has the vision tower of `base` attend so where it has windows; other towers keep the attention they have."""
    from transformers import AttentionInterface

    for tower in base.modules():
        if hasattr(tower, "fullatt_block_indexes"):  # the layers without windows, of Qwen2.5-VL's towers
            AttentionInterface.register(WINDOWS, _attend)
            tower.config._attn_implementation = WINDOWS


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """softmax(q kᵀ · scaling) v within each window, of [1, heads, patches, d]; [1, patches, heads, d]. Window i is the
    patches from cu_seq_lens_q[i] to cu_seq_lens_q[i + 1]."""
    lengths = _windows(cu_seq_lens_q)
    if len(lengths) == 1:
        return _attend_alike(query, key, value, lengths[0][0], scaling).unsqueeze(0), None
    out = query.new_empty(query.shape[2], query.shape[1], query.shape[3])
    for length, places in lengths:
        q, k, v = (tensor.index_select(2, places) for tensor in (query, key, value))
        out.index_copy_(0, places, _attend_alike(q, k, v, length, scaling))
    return out.unsqueeze(0), None


def _attend_alike(query: Tensor, key: Tensor, value: Tensor, length: int, scaling: float) -> Tensor:
    """[patches, heads, d], where every window has `length` patches."""
    windows = (tensor[0].unflatten(1, (-1, length)).transpose(0, 1) for tensor in (query, key, value))
    out = torch.nn.functional.scaled_dot_product_attention(*windows, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1)


def _windows(boundaries: Tensor) -> Lengths:
    """The lengths that windows have, each with the places [windows · length] of the patches in such windows, on the
    device of `boundaries`."""
    if boundaries not in _lengths:
        ends = boundaries.tolist()  # waits for the GPU: once a pass
        by_length: dict[int, list[int]] = {}
        for start, end in pairwise(ends):
            by_length.setdefault(end - start, []).extend(range(start, end))
        by_length.pop(0, None)
        _lengths[boundaries] = [
            (length, torch.tensor(places, device=boundaries.device)) for length, places in by_length.items()
        ]
    return _lengths[boundaries]
