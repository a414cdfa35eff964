"""The language model's forward pass, as learning needs it: prompts once, their completions behind them.

The same computation as Qwen2.5-VL's in transformers (to which the tests hold it), over packed rows and in two parts:

    prompts [ΣP]  ──▶  Prefix: keys and values of every layer, and the state that predicts each first token
    completions [ΣL] behind it, any number at a time  ──▶  the states that predict their other tokens

The second part may be run again and again over one prefix, and backward after each, so that the activations of
all completions never live together; the gradients gather in the prefix's leaves, and one backward through the prompts
takes them from there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from stages.contract import PROPOSER, SOLVER, Role
from stages.errors import EngineError
from stages.learning.attention import Attended, Behind, attend_behind, attend_to_itself, causal_behind
from stages.learning.lora import LoraLinear, Prepare, project

Attend = Callable[[Tensor, Tensor, Tensor], Attended]


@dataclass(frozen=True)
class Prefix:
    """What completions need of their prompts: keys and values of each layer that is run, [ΣP, key_heads, head_dim], and
    `last` [M, d], the hidden state of each prompt's last token after these. lengths: P of each of the M prompts."""

    keys: list[Tensor]
    values: list[Tensor]
    last: Tensor
    lengths: list[int]

    def leaves(self) -> "Prefix":
        """The same numbers cut off from the graph behind them, ready to gather gradients."""
        keys, values = ([tensor.detach().requires_grad_() for tensor in side] for side in (self.keys, self.values))
        return Prefix(keys, values, self.last.detach().requires_grad_(), self.lengths)

    def backward(self, leaves: "Prefix") -> None:
        """Takes the gradients that `leaves` have gathered on through the prompts."""
        pairs = zip([*self.keys, *self.values, self.last], [*leaves.keys, *leaves.values, leaves.last], strict=True)
        tensors, gradients = zip(*((own, leaf.grad) for own, leaf in pairs if leaf.grad is not None), strict=True)
        torch.autograd.backward(tensors, gradients)


@dataclass(frozen=True)
class Layer:
    """One decoder layer: its two norms, and its projections in the groups that share an input."""

    attention_norm: Prepare
    qkv: list[LoraLinear]
    output: list[LoraLinear]
    mlp_norm: Prepare
    gate_up: list[LoraLinear]
    down: list[LoraLinear]


class Decoder:
    """The language model `language_model` of a PEFT-wrapped Qwen2.5-VL, its weights and adapters used in place."""

    def __init__(self, language_model: Any, gradient_checkpointing: bool = False) -> None:
        """Raises EngineError for a variant whose attention is not over the whole sequence."""
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

        config = language_model.config
        if set(config.layer_types) != {"full_attention"} or config.hidden_act != "silu":
            raise EngineError("this Qwen2.5-VL variant cannot be trained: only full attention and SiLU are supported")
        self._rotate = partial(apply_rotary_pos_emb, unsqueeze_dim=1)
        self._rotary = language_model.rotary_emb
        self._head_dim = language_model.layers[0].self_attn.head_dim
        self._norm = _norm(language_model.norm)
        self._layers = [_layer(module) for module in language_model.layers]
        self._gradient_checkpointing = gradient_checkpointing

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return len(self._layers)

    def prompts(
        self, embeds: Tensor, position_ids: Tensor, lengths: list[int], role: Role | None, depth: int | None = None
    ) -> Prefix:
        """Runs prompts of `lengths`, packed: embeds [ΣP, d], position_ids [3, ΣP]. No role: the base model. `depth`:
        only the first so many layers, here and in the completions behind this prefix."""
        ends = torch.tensor(lengths, device=embeds.device).cumsum(0) - 1
        rope = self._rope(embeds, position_ids)
        keys, values, states = [], [], embeds
        layers = self._layers[:depth]
        for index, layer in enumerate(layers):
            # Past the last layer's keys and values, only the tokens that predict something matter.
            rows = ends if index == len(layers) - 1 else None
            attend = partial(attend_to_itself, lengths=lengths)
            states, k, v = self._run(layer, states, rope, attend, role, rows)
            keys.append(k)
            values.append(v)
        return Prefix(keys, values, self._finished(states, len(keys)), lengths)

    def completions(
        self, embeds: Tensor, position_ids: Tensor, prefix: Prefix, lengths: Sequence[Sequence[int]], role: Role | None
    ) -> Tensor:
        """Hidden states [ΣL, d] of completions behind `prefix`, after the layers that it was run through; embeds
        [ΣL, d], position_ids [3, ΣL].

        lengths: of the completions of each prompt, in the order of the prompts; there may be none.
        """
        if not len(embeds):
            return embeds
        starts = torch.tensor([0, *prefix.lengths]).cumsum(0).tolist()
        groups = [
            (slice(start, start + prompt), [length for length in own if length], prompt)
            for start, prompt, own in zip(starts, prefix.lengths, lengths, strict=False)
            if any(own)
        ]
        visible = [causal_behind(prompt, max(own), embeds.device) for _, own, prompt in groups]
        rope = self._rope(embeds, position_ids)
        states = embeds
        for layer, keys, values in zip(self._layers[: len(prefix.keys)], prefix.keys, prefix.values, strict=True):
            behind = [
                Behind(keys[place], values[place], own, seen)
                for (place, own, _), seen in zip(groups, visible, strict=True)
            ]
            states, _, _ = self._run(layer, states, rope, partial(attend_behind, groups=behind), role, None)
        return self._finished(states, len(prefix.keys))

    def _finished(self, states: Tensor, depth: int) -> Tensor:
        """The final norm belongs to the last layer, as in transformers' `hidden_states`."""
        return self._norm(states) if depth == self.depth else states

    def _rope(self, embeds: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [S, head_dim], of position_ids [3, S]."""
        cos, sin = self._rotary(embeds, position_ids[:, None])
        return cos[0], sin[0]

    def _run(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        if self._gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._forward, *arguments, use_reentrant=False, preserve_rng_state=False)
        return self._forward(*arguments)

    def _forward(
        self,
        layer: Layer,
        states: Tensor,
        rope: tuple[Tensor, Tensor],
        attend: Attend,
        role: Role | None,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer: states [S, d] → states (of `rows` only, unless None), keys and values [S, key_heads, head_dim]."""
        q, k, v = (
            tensor.unflatten(-1, (-1, self._head_dim))
            for tensor in project(layer.attention_norm, [states], layer.qkv, role)
        )
        q, k = self._rotate(q, k, *rope)
        attended = attend(q, k, v)
        pack = attended.pack
        if rows is not None:
            states, pack = states[rows], partial(_rows_of, attended.pack, rows)
        states = states + project(pack, attended.outputs, layer.output, role)[0]
        gate_up = project(layer.mlp_norm, [states], layer.gate_up, role)
        return states + project(_gated, gate_up, layer.down, role)[0], k, v


def _layer(module: Any) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    return Layer(
        _norm(module.input_layernorm),
        [_linear(attention.q_proj), _linear(attention.k_proj), _linear(attention.v_proj)],
        [_linear(attention.o_proj)],
        _norm(module.post_attention_layernorm),
        [_linear(mlp.gate_proj), _linear(mlp.up_proj)],
        [_linear(mlp.down_proj)],
    )


def _linear(module: Any) -> LoraLinear:
    """A PEFT LoRA layer's own tensors; of a linear layer without, adapters of rank 0."""
    if not hasattr(module, "lora_A"):
        none = {
            role: (module.weight.new_empty(0, module.in_features), module.weight.new_empty(module.out_features, 0))
            for role in (SOLVER, PROPOSER)
        }
        return LoraLinear(module.weight, module.bias, none, 0.0)
    adapters = {role: (module.lora_A[role].weight, module.lora_B[role].weight) for role in module.lora_A}
    [scale] = set(module.scaling.values())
    return LoraLinear(module.base_layer.weight, module.base_layer.bias, adapters, scale)


def _norm(module: Any) -> Prepare:
    weight = module.weight
    return partial(functional.rms_norm, normalized_shape=weight.shape, weight=weight, eps=module.variance_epsilon)


def _rows_of(pack: Prepare, rows: Tensor, *outputs: Tensor) -> Tensor:
    return pack(*outputs)[rows]


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up
