"""What can be done with a model here, known before anything of it is loaded: from its configuration, and from what vLLM
and transformers, as they are installed, have for its class."""

import inspect
from dataclasses import dataclass
from typing import Any

from stages.errors import EngineError
from stages.models.finding import Model
from stages.models.vllm_classes import class_and_bases, installed_vllm

BOTH_WAYS = ("gemma3",)  # families whose images always see both ways; in Gemma 4 it is a setting
PROMPT_BOTH_WAYS = ("paligemma",)  # the text of the prompt, too, which vLLM has for no model
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")

ELSEWHERE = "use --sampler transformers, or a GPU"
WITHOUT_ADAPTER = "use --sampler transformers, or sample from the --model that `ireasoner export --merge` makes of it"


@dataclass(frozen=True)
class Support:
    """None for what works, else why not, and what works instead. `sampling`: by vLLM, from the model as it is;
    `adapters`: by vLLM, from a policy of it; `learning`: `update` and `score --embedding hidden`."""

    sampling: str | None
    adapters: str | None
    learning: str | None


def support(model: Model) -> Support:
    """Imports transformers, and no vLLM."""
    return Support(sampling(model), adapters(model), learning(model))


def sampling(model: Model) -> str | None:
    """Why vLLM cannot sample from the model here; None where nothing speaks against it."""
    vllm = installed_vllm()
    if vllm is None:
        return "vLLM is not installed; use --sampler transformers"
    if model.config.get("model_type") in PROMPT_BOTH_WAYS:
        return (
            f"{vllm} lets the text of a prompt see one way, where the model has it see both; use --sampler transformers"
        )
    if vllm.cpu and "IsHybrid" in _classes(model):
        return f"{vllm} does not compute its layers with a recurrent state as transformers does; {ELSEWHERE}"
    if vllm.cpu and _sees_both_ways(model):
        return f"{vllm} lets the tokens of an image see one way, where the model has them see both; {ELSEWHERE}"
    return None


def adapters(model: Model) -> str | None:
    """Why vLLM cannot serve a policy's adapter on the model here; None where nothing speaks against it."""
    if reason := sampling(model):
        return reason
    vllm, classes = installed_vllm(), _classes(model)
    if classes and "SupportsLoRA" not in classes:
        return f"{vllm} serves no adapters of {model.architectures[0]}; {WITHOUT_ADAPTER}"
    if vllm and vllm.cpu and _has_experts(model):
        return f"{vllm} serves no adapters of models with experts; {WITHOUT_ADAPTER}"
    return None


def learning(model: Model) -> str | None:
    """Why the model cannot be learned from; None where nothing speaks against it."""
    from stages.models.loading import prepare_transformers

    prepare_transformers()
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

    kind = str(model.config.get("model_type"))
    if kind not in CLASSES:
        return (
            f"transformers {transformers.__version__} has no class for images and text of the type {kind!r}, and code "
            "from a model's own folder is not run; there may be a checkpoint of it for transformers, called -hf"
        )
    if "quantization_config" in model.config:
        return "its weights are quantised; take the checkpoint that it was made of"
    # Models with tokens for their images take what the vision tower makes of them from outside; others do not.
    module = inspect.getmodule(getattr(transformers, CLASSES[kind]))
    if module is None or "mm_encoder_outputs" not in inspect.getsource(module):
        return f"{CLASSES[kind]} does not take images as tokens of its prompt; take a model that does"
    return None


def check_learning(model: Model) -> None:
    """Raises EngineError for a model that cannot be learned from."""
    if reason := learning(model):
        raise EngineError(f"{model.ref.name} cannot be learned from: {reason}")


def _classes(model: Model) -> frozenset[str]:
    return frozenset().union(*map(class_and_bases, model.architectures))


def _text(model: Model) -> dict[str, Any]:
    text = model.config.get("text_config")
    return text if isinstance(text, dict) else model.config


def _sees_both_ways(model: Model) -> bool:
    return model.config.get("model_type") in BOTH_WAYS or _text(model).get("use_bidirectional_attention") == "vision"


def _has_experts(model: Model) -> bool:
    return any(isinstance(count := _text(model).get(key), int) and count > 1 for key in EXPERT_COUNTS)
