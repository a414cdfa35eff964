"""Where a vision-language model has its language model, and which of its linear layers take an adapter."""

import re
from dataclasses import replace
from inspect import signature
from typing import Any

from stages.errors import EngineError, UsageError
from stages.policy import ATTENTION, DEFAULT_LORA, PROJECTIONS, Lora


def language_model(base: Any) -> Any:
    """The module with the decoder's layers. Raises EngineError where there is none to be found."""
    decoder = base.get_decoder()
    for found in (decoder, *(getattr(decoder, name, None) for name in ("language_model", "text_model"))):
        if hasattr(found, "layers"):
            return found
    raise EngineError(f"{type(base).__name__}: its language model has no layers to be found, and cannot be learned")


def layers_name(base: Any) -> str:
    """What the decoder's layers are called in the model: `model.language_model.layers`."""
    layers = language_model(base).layers
    return next(name for name, module in base.named_modules() if module is layers)


def has_experts(base: Any) -> bool:
    """Whether its layers have experts in one tensor, where no adapter goes."""
    return any(parameter.dim() > 2 and "expert" in name for name, parameter in language_model(base).named_parameters())


def check_learnable(base: Any) -> None:
    """Raises EngineError for a model, or its skeleton, that cannot be learned from as it is made."""
    name = type(base).__name__
    if hasattr(base.config, "quantization_config"):
        raise EngineError(f"{name}: quantised weights cannot be learned from; use the checkpoint that they are made of")
    language_model(base)
    if (
        not hasattr(base.model, "get_image_features")
        or "mm_encoder_outputs" not in signature(base.model.forward).parameters
    ):
        raise EngineError(f"{name}: it cannot be given what its vision tower has made of an image, and not be learned")


def fitting(lora: Lora, base: Any) -> Lora:
    """`lora` with the projections that the model has, where it names them all; in a model with experts those of its
    attention alone. Raises UsageError where it names some that there are not, EngineError where none is known."""
    candidates = ATTENTION if has_experts(base) else PROJECTIONS
    there = [name for name in candidates if target_modules(replace(lora, targets=(name,)), base)]
    if not there:
        raise EngineError(f"{type(base).__name__}: none of its projections is known by name; it cannot be learned")
    if lora.targets == DEFAULT_LORA.targets:
        return replace(lora, targets=tuple(there))
    if missing := [name for name in lora.targets if name not in there]:
        raise UsageError(
            f"--lora-targets: {type(base).__name__} has no projection {missing[0]!r} that takes an adapter; there are "
            f"{','.join(there)}"
        )
    return lora


def target_modules(lora: Lora, base: Any) -> list[str]:
    """The linear layers of the model that `lora` names, by their paths."""
    import torch

    pattern = re.compile(lora.target_modules)
    return [
        name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear) and pattern.fullmatch(name)
    ]
