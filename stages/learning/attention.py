"""Attention over prompts and the completions behind them, without a mask that grows with the square of the whole.

Rows are packed [S, heads, head_dim], one sequence after another. Keys and values have fewer heads than queries
(grouped-query attention); they are broadcast over the queries of their group, not copied. What the kernels leave is
given back as it is, with the function that packs it: backward keeps the one, and can make the other again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Attended:
    """pack(*outputs) is what was attended to, [S, heads · head_dim]."""

    outputs: list[Tensor]
    pack: Callable[..., Tensor]


def attend_to_itself(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Attended:
    """Causal attention within each of several sequences of `lengths`.

    q [S, heads, head_dim]; k, v [S, key_heads, head_dim], S = Σ lengths.
    """
    parts = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    outputs = [_attend(q[None], k[None], v[None], None) for q, k, v in parts]
    return Attended(outputs, partial(_pack, lengths=[[length] for length in lengths]))


@dataclass(frozen=True)
class Behind:
    """Completions of `lengths` behind one prompt: its keys and values [P, key_heads, head_dim], and which of all keys
    each place in a completion sees: `causal_behind(P, max(lengths))`."""

    keys: Tensor
    values: Tensor
    lengths: list[int]
    visible: Tensor


def attend_behind(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[Behind]) -> Attended:
    """Each completion of each group attends to the whole prompt of its group and, causally, to itself.

    q [S, heads, head_dim]; k, v [S, key_heads, head_dim], S = ΣΣ lengths.
    """

    def behind(prefix: Tensor, own: Tensor, lengths: list[int]) -> Tensor:
        padded = pad_sequence(own.split(lengths), batch_first=True)
        return torch.cat([prefix.expand(len(lengths), *prefix.shape), padded], dim=1)

    sizes = [sum(group.lengths) for group in groups]
    parts = zip(q.split(sizes), k.split(sizes), v.split(sizes), groups, strict=True)
    outputs = [
        _attend(
            pad_sequence(own_q.split(group.lengths), batch_first=True),
            behind(group.keys, own_k, group.lengths),
            behind(group.values, own_v, group.lengths),
            group.visible,
        )
        for own_q, own_k, own_v, group in parts
    ]
    return Attended(outputs, partial(_pack, lengths=[group.lengths for group in groups]))


def causal_behind(prompt: int, length: int, device: torch.device) -> Tensor:
    """Which keys a completion's tokens see, [length, prompt + length] bool. What a completion is padded with stands
    behind it, so that this mask hides the padding too."""
    return torch.ones(length, prompt + length, dtype=torch.bool, device=device).tril_(prompt)


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """q [B, L, heads, d]; k, v [B, K, key_heads, d]; visible [L, K], or None for causal.

    Returns [B, key_heads, heads / key_heads, L, d], a view of what the kernel wrote.
    """
    batch, length, heads, width = q.shape
    keys, key_heads = k.shape[1:3]
    shared = heads // key_heads
    q = q.view(batch, length, key_heads, shared, width).permute(0, 2, 3, 1, 4).reshape(-1, shared, length, width)
    k, v = (tensor.transpose(1, 2).reshape(-1, 1, keys, width).expand(-1, shared, -1, -1) for tensor in (k, v))
    out = scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None)
    return out.view(batch, key_heads, shared, length, width)


def _pack(*outputs: Tensor, lengths: list[list[int]]) -> Tensor:
    """[S, heads · head_dim] of what `_attend` returned for batches of sequences of `lengths`, padding left out."""
    rows = [
        row[:, :, :length].permute(2, 0, 1, 3).flatten(1)
        for output, own in zip(outputs, lengths, strict=True)
        for row, length in zip(output, own, strict=True)
    ]
    return rows[0] if len(rows) == 1 else torch.cat(rows)
