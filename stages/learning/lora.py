"""Frozen linear layers with LoRA beside them, keeping for backward no more than it needs.

A frozen weight has no gradient, so of a projection's input only what the adapters' gradients need must be kept; and
that input is itself cheap to make again (a normalisation, a gated activation). Ordinary autograd would keep it, and
every step on the way to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stages.contract import Role

Prepare = Callable[..., Tensor]


@dataclass(frozen=True)
class LoraLinear:
    """A frozen weight [out, in] and bias [out] or None; for each role A [rank, in] and B [out, rank], trained."""

    weight: Tensor
    bias: Tensor | None
    adapters: dict[Role, tuple[Tensor, Tensor]]
    scale: float  # α / rank


def project(
    prepare: Prepare, inputs: Sequence[Tensor], linears: Sequence[LoraLinear], role: Role | None
) -> tuple[Tensor, ...]:
    """y = x Wᵀ + b + scale · (x Aᵀ) Bᵀ for each of `linears`, where x [n, in] = prepare(*inputs).

    Without a role, the base model's. `inputs` are kept for backward, x is not but made again: `prepare` should be
    cheap. The adapters are used in x's dtype; their gradients come back in their own.
    """
    if role is None:
        x = prepare(*inputs)
        return tuple(functional.linear(x, linear.weight, linear.bias) for linear in linears)
    adapters = [tensor for linear in linears for tensor in linear.adapters[role]]
    return _Project.apply(prepare, linears, len(inputs), *inputs, *adapters)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prepare: Prepare, linears: Sequence[LoraLinear], count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.prepare, ctx.linears, ctx.count = prepare, linears, count
        ctx.save_for_backward(*tensors)
        x = prepare(*tensors[:count])
        outputs = []
        for linear, a, b in zip(linears, tensors[count::2], tensors[count + 1 :: 2], strict=True):
            y = functional.linear(x, linear.weight, linear.bias)
            outputs.append(y.addmm_(x @ a.to(x.dtype).T, b.to(x.dtype).T, alpha=linear.scale))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        count, tensors = ctx.count, ctx.saved_tensors
        needed = ctx.needs_input_grad[3 : 3 + count]
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors[:count], needed, strict=True)]
        with torch.enable_grad():
            prepared = ctx.prepare(*inputs)
        x = prepared.detach()
        dx: Tensor | None = None
        adapter_gradients: list[Tensor | None] = []
        for linear, a, b, dy in zip(ctx.linears, tensors[count::2], tensors[count + 1 :: 2], gradients, strict=True):
            if dy is None:
                adapter_gradients += [None, None]
                continue
            low_a, low_b = a.to(x.dtype), b.to(x.dtype)
            d_inner = (dy @ low_b).mul_(linear.scale)  # [n, rank]
            inner = (x @ low_a.T).mul_(linear.scale)
            adapter_gradients += [(d_inner.T @ x).to(a.dtype), (dy.T @ inner).to(b.dtype)]
            if any(needed):
                dx = dy @ linear.weight if dx is None else dx.addmm_(dy, linear.weight)
                dx.addmm_(d_inner, low_a)
        if dx is None:
            return (None, None, None, *[None] * count, *adapter_gradients)
        leaves = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(prepared, leaves, dx))
        return (None, None, None, *[next(found) if need else None for need in needed], *adapter_gradients)
