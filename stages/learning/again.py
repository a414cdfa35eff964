"""Cheap steps that are made again in backward, and what is computed from them without being kept.

A normalisation, a gated activation, a change of layout: each is cheap beside the matrix products around it, and its
output is as large as their inputs. Ordinary autograd keeps that output for what comes next, and much on the way to it.
Here its inputs are kept alone, once, for its own backward and for that of the projections of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Recipe:
    """How a tensor is made of others. In backward it is made once, with its graph, by whoever needs it first; the
    backward of the step itself, which comes last, lets it go."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        self.function = function
        self._needed = [tensor.requires_grad for tensor in inputs]
        self._made: tuple[Tensor, list[Tensor]] | None = None

    def again(self, inputs: Sequence[Tensor]) -> Tensor:
        """The tensor, with its graph."""
        if self._made is None:
            own = [tensor.detach().requires_grad_(need) for tensor, need in zip(inputs, self._needed, strict=True)]
            with torch.enable_grad():
                made = self.function(*own)
            self._made = made, [tensor for tensor in own if tensor.requires_grad]
        return self._made[0]

    def backward(self, inputs: Sequence[Tensor], gradient: Tensor) -> list[Tensor | None]:
        """The gradients of the inputs, None of those that need none."""
        self.again(inputs)
        assert self._made is not None
        (made, leaves), self._made = self._made, None
        found = iter(torch.autograd.grad(made, leaves, gradient))
        return [next(found) if need else None for need in self._needed]


def remade(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), which is computed again in backward."""
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in inputs):
        return function(*inputs)
    recipe = Recipe(function, inputs)
    output = _Remade.apply(recipe, *inputs)
    output.recipe = recipe, inputs
    return output


def kept(tensor: Tensor) -> tuple[Recipe | None, tuple[Tensor, ...]]:
    """What must be kept to have the numbers of `tensor` in backward: itself, or a recipe and what goes into it. A view
    of the whole of a tensor has its recipe, too; its shape is the caller's to restore."""
    for candidate in (tensor, tensor._base):
        if hasattr(candidate, "recipe") and candidate.numel() == tensor.numel() and tensor.is_contiguous():
            return candidate.recipe
    return None, (tensor,)


class _Remade(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recipe: Recipe, *inputs: Tensor) -> Tensor:
        ctx.recipe = recipe
        ctx.save_for_backward(*inputs)
        return recipe.function(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return (None, *ctx.recipe.backward(ctx.saved_tensors, gradients[0]))
