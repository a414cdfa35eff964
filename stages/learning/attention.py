"""Attention as transformers' layers call it, without copies of keys and values.

Keys and values have fewer heads than queries (grouped-query attention), and are not copied for each: heads that share a
key either are broadcast over it, or, under a mask, become queries one behind the other.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from stages.errors import EngineError
from stages.learning.again import remade

NAME = "ireasoner"  # in transformers' register
UNKNOWN = ("position_bias", "s_aux", "softcap")  # arguments that change what attention is
ALIGNMENT = 8  # elements; rows of a mask that begin elsewhere are copied by each call of torch's


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query [B, heads, L, d]; key, value [B, key_heads, K, d]; attention_mask [B, 1, L, K] bool as `sdpa_mask` makes
    it, or None: causal, unless the module or `is_causal` says otherwise. Returns [B, L, heads, d], and no weights."""
    for name in UNKNOWN:
        if others.get(name) is not None:
            raise EngineError(f"{type(module).__name__}: attention with {name} cannot be learned")
    batch, heads, length, _ = query.shape
    key_heads = key.shape[1]
    shared = heads // key_heads
    key, value = (tensor.flatten(0, 1)[:, None] for tensor in (key, value))
    if attention_mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        query = query.reshape(batch * key_heads, shared, length, -1)
        key, value = (tensor.expand(-1, shared, -1, -1) for tensor in (key, value))
        out = scaled_dot_product_attention(query, key, value, scale=scaling, is_causal=causal and length > 1)
    else:
        # Under a mask, keys that are broadcast over heads are read wrongly by torch's memory-efficient kernel
        # (pytorch/pytorch#191937), and would have a gradient a head.
        query = query.reshape(batch * key_heads, 1, shared * length, -1)
        bias = _bias(attention_mask, shared, key_heads, query.dtype)
        out = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scaling)

    def packed(out: Tensor) -> Tensor:
        return out.view(batch, key_heads, shared, length, -1).permute(0, 3, 1, 2, 4).flatten(2, 3).contiguous()

    return remade(packed, out), None


def _bias(mask: Tensor, shared: int, key_heads: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of `shared` heads one behind the other, [1 or B · key_heads, 1, shared · L, K]. It is
    made once for all the layers that a mask goes to."""
    made: dict[Any, Tensor] = vars(mask).setdefault("of_heads", {})
    if (key := (shared, key_heads, dtype)) not in made:
        rows = mask[:1] if mask.stride(0) == 0 else mask.repeat_interleave(key_heads, 0)
        length, keys = rows.shape[-2:]
        whole = rows.new_zeros(len(rows), 1, shared, length, -(-keys // ALIGNMENT) * ALIGNMENT, dtype=dtype)
        made[key] = whole[..., :keys].masked_fill_(~rows[:, :, None], -torch.inf).flatten(2, 3)
    return made[key]


def use_in(config: Any) -> None:
    """Lets the layers of a language model of `config` attend so."""
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME
