"""transformers' layers with PEFT's adapters on them, keeping for backward no more than it needs.

A frozen weight has no gradient, so of a projection's input only what the adapters' gradients need must be kept; and
that input is often cheap to make again (see `again`). No layer is written anew: modules of three kinds get another
`forward`, and each is tried against its own before.

    a linear layer with LoRA    one step of autograd in the place of PEFT's six
    a normalisation             made again in backward; by torch's kernel where that is the same
    a gated MLP                 of its activations only gate and up are kept
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stages.contract import Role
from stages.learning.again import Recipe, kept, remade
from stages.learning.sharding import gathered

Forward = Callable[..., Tensor]


class Running:
    """What the lean modules of one model are to do at the moment: whose adapter is on, if any, and, in a prompt, the
    place of each row's last token [M], the only one that the last layer's MLP must be run at."""

    def __init__(self) -> None:
        self.role: Role | None = None
        self.ends: Tensor | None = None

    @contextmanager
    def as_role(self, role: Role | None, ends: Tensor | None = None) -> Iterator[None]:
        before = self.role, self.ends
        self.role, self.ends = role, ends
        try:
            yield
        finally:
            self.role, self.ends = before


def make_lean(text_model: Any, running: Running) -> None:
    """Replaces the `forward` of modules of a language model with PEFT's adapters in its layers."""
    dtype = text_model.dtype
    for module in text_model.modules():
        if hasattr(module, "lora_A"):
            module.forward = _projection(module, running)
        elif type(module).__name__.endswith("Norm"):
            module.forward = _norm(module)
    last = getattr(text_model.layers[-1], "mlp", None)
    for layer in text_model.layers:
        with gathered(layer):
            for module in layer.modules():
                if (mlp := _gated_mlp(module)) and _same(module, mlp, module.down_proj.out_features, dtype):
                    module.forward = _at_ends(mlp, running) if module is last else mlp


# ------------------------------------------------------------------------------------------- projections


def _projection(module: Any, running: Running) -> Forward:
    """That of a frozen linear layer W, b with adapters A [r, in], B [out, r]:   y = x Wᵀ + b + α/r · (x Aᵀ) Bᵀ"""
    base = module.base_layer
    adapters = {role: (module.lora_A[role].weight, module.lora_B[role].weight) for role in module.lora_A}
    [scale] = set(module.scaling.values())

    def forward(x: Tensor) -> Tensor:
        if running.role is None:
            return functional.linear(x, weight_of(base), base.bias)
        recipe, inputs = kept(x)
        a, b = adapters[running.role]
        return _Lora.apply(base, scale, recipe, x, a, b, *inputs)

    return forward


class _Lora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, base: Any, scale: float, recipe: Recipe | None, x: Tensor, a: Tensor, b: Tensor, *inputs: Tensor
    ) -> Tensor:
        ctx.base, ctx.scale, ctx.recipe = base, scale, recipe
        ctx.save_for_backward(a, b, *inputs)
        flat = x.reshape(-1, x.shape[-1])
        y = functional.linear(flat, weight_of(base), base.bias)
        y.addmm_(flat @ _as(a, x.dtype).T, _as(b, x.dtype).T, alpha=scale)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        a, b, *inputs = ctx.saved_tensors
        x = inputs[0] if ctx.recipe is None else ctx.recipe.again(inputs).detach()
        dy = gradients[0]
        flat, dy = x.reshape(-1, a.shape[1]), dy.reshape(-1, dy.shape[-1])
        low_a, low_b = _as(a, x.dtype), _as(b, x.dtype)
        d_inner = (dy @ low_b).mul_(ctx.scale)  # [n, r]
        inner = (flat @ low_a.T).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[3]:
            dx = (dy @ weight_of(ctx.base)).addmm_(d_inner, low_a).view(*gradients[0].shape[:-1], -1)
        da, db = (d_inner.T @ flat).to(a.dtype), (dy.T @ inner).to(b.dtype)
        return (None, None, None, dx, da, db, *[None] * len(inputs))


def weight_of(linear: Any) -> Tensor:
    """[out, in], in the dtype that is computed in; of 4 bits made anew each time."""
    state = getattr(linear.weight, "quant_state", None)
    if state is None:
        return linear.weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(linear.weight, state)


def _as(adapter: Tensor, dtype: torch.dtype) -> Tensor:
    """The adapter in the dtype of what it meets: cast once after each time it has changed."""
    if adapter.dtype == dtype:
        return adapter
    made = vars(adapter).get("cast")
    if made is None or made[0] != (adapter._version, dtype):
        made = adapter.cast = (adapter._version, dtype), adapter.detach().to(dtype)
    return made[1]


# ------------------------------------------------------------------------------------------------ norms


def _norm(module: Any) -> Forward:
    stock = module.forward
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))

    def kernel(x: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, eps)  # type: ignore[union-attr]

    plain = isinstance(weight, Tensor) and weight.dim() == 1 and eps is not None
    function = kernel if plain and _same(module, kernel, len(weight), weight.dtype) else stock  # type: ignore

    def forward(*inputs: Any, **settings: Any) -> Tensor:
        if settings or not all(isinstance(given, Tensor) for given in inputs):
            return stock(*inputs, **settings)
        return remade(function, *inputs)

    return forward


# ----------------------------------------------------------------------------------------- gated MLPs


def _gated_mlp(module: Any) -> Forward | None:
    """down(act(gate(x)) · up(x)), if the module has these parts."""
    act = getattr(module, "act_fn", None) or getattr(module, "activation_fn", None)
    down = getattr(module, "down_proj", None)
    if not callable(act) or not isinstance(down, torch.nn.Module):
        return None
    activation = act.forward if isinstance(act, torch.nn.Module) else act  # past what hooks are on modules

    def gated(gate: Tensor, up: Tensor) -> Tensor:
        return activation(gate) * up

    def gated_in_one(both: Tensor) -> Tensor:
        return gated(*both.chunk(2, dim=-1))

    gate, up, gate_up = (getattr(module, name, None) for name in ("gate_proj", "up_proj", "gate_up_proj"))
    if isinstance(gate, torch.nn.Module) and isinstance(up, torch.nn.Module):
        return lambda x: down(remade(gated, gate(x), up(x)))
    if isinstance(gate_up, torch.nn.Module):
        return lambda x: down(remade(gated_in_one, gate_up(x)))
    return None


def _at_ends(mlp: Forward, running: Running) -> Forward:
    """The MLP of the last layer. Past its attention only the tokens that predict something matter: of a prompt that is
    the last, and what stands for the others is zero."""

    def forward(x: Tensor) -> Tensor:
        if running.ends is None:
            return mlp(x)
        rows = torch.arange(len(x), device=x.device)
        out = torch.zeros_like(x)
        out[rows, running.ends] = mlp(x[rows, running.ends][:, None])[:, 0]
        return out

    return forward


@torch.no_grad()
def _same(module: Any, function: Forward, width: int, dtype: torch.dtype) -> bool:
    """Whether `function` does with [3, 1, width] what the module does: tried, not guessed from names."""
    device = next(module.parameters()).device
    x = torch.linspace(0, 50, 3 * width, device=device).sin().view(3, 1, width).to(dtype)
    expected = module(x)
    error = (function(x) - expected).abs().max()
    return bool(error <= 8 * torch.finfo(dtype).eps * expected.abs().max())
