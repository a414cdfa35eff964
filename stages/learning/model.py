"""The frozen base model with two LoRA adapters on it, and its forward pass over one group."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.contract import PROPOSER, SOLVER, Role
from stages.errors import DataError, EngineError
from stages.models import Model
from stages.sampling import Pixels
from stages.shards import sync_file
from stages.vlm import PromptBuilder, prepare_transformers

LORA_RANK = 16
LORA_ALPHA = 32
# The language model's projections only: a list of suffixes would match the vision tower's as well.
LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
ADAPTER_FILE = "adapter_model.safetensors"


def load_base(model: Model) -> Any:
    """The checkpoint, frozen, in evaluation mode: bfloat16 on a GPU, float32 on a CPU.

    Raises EngineError when the architecture or the weights do not fit, or the device has no room.
    """
    prepare_transformers()
    from transformers import AutoModelForImageTextToText

    gpu = torch.cuda.is_available()
    try:
        base = AutoModelForImageTextToText.from_pretrained(
            model.path,
            dtype=torch.bfloat16 if gpu else torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,  # nothing is unpickled
            trust_remote_code=False,
        )
        return base.requires_grad_(False).eval().to("cuda" if gpu else "cpu")
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EngineError(f"{model.ref.name}: the model cannot be loaded ({reason})") from error


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Raises OSError when the disk does not take them, as other writes do."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error


@dataclass(frozen=True)
class Prompt:
    """A prompt with its image already encoded. embeds [P, d] base-model dtype; position_ids [3, P] int64."""

    embeds: Tensor
    position_ids: Tensor


class PolicyModel:
    """One base model, one LoRA adapter a role; π is the base with an adapter on, π_ref the base with none."""

    def __init__(self, model: Model, seed: int) -> None:
        """Loads `model` and puts fresh adapters on it, whose random halves come from `seed`."""
        self._base = load_base(model)
        if not hasattr(self._base.model, "language_model"):
            raise EngineError(f"{model.ref.name}: only Qwen2.5-VL models can be trained")
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=LORA_RANK,
            lora_alpha=LORA_ALPHA,
            lora_dropout=0.0,
            target_modules=LORA_TARGETS,
            task_type="CAUSAL_LM",
            base_model_name_or_path=model.ref.name,
        )
        torch.manual_seed(seed)
        self._peft = get_peft_model(self._base, config, adapter_name=SOLVER)
        self._peft.add_adapter(PROPOSER, config)
        self._forbidden = torch.tensor(model.forbidden_tokens, dtype=torch.long, device=self.device)
        self._model = model
        self._builders: dict[Pixels, PromptBuilder] = {}

    @property
    def device(self) -> torch.device:
        return self._base.device

    # ------------------------------------------------------------------------------------ the adapters

    def parameters(self, role: Role) -> dict[str, Tensor]:
        """The role's adapter, float32, by the names its file gives them (without the adapter's own name)."""
        return {
            name.replace(f".{role}.", "."): parameter
            for name, parameter in self._peft.named_parameters()
            if f".{role}." in name
        }

    def use(self, role: Role) -> None:
        """Makes the role's adapter the active one, alone trainable. Backward must run while it is."""
        self._peft.set_adapter(role)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within, the model is the base model: adapters off, no gradient."""
        with torch.no_grad(), self._peft.disable_adapter():
            yield

    def load_adapter(self, role: Role, folder: Path) -> None:
        """Raises DataError when the adapter in `folder` is damaged or does not fit the model."""
        try:
            stored = load_file(folder / ADAPTER_FILE)
        except Exception as error:  # safetensors raises its own class for damage
            raise DataError(f"{folder / ADAPTER_FILE}: missing or damaged ({error})") from error
        own = self.parameters(role)
        if {name: tensor.shape for name, tensor in own.items()} != {n: t.shape for n, t in stored.items()}:
            raise DataError(f"{folder}: this adapter does not fit the model {self._model.ref.name}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(stored[name])

    def save_adapter(self, role: Role, folder: Path) -> None:
        """Writes the adapter as PEFT and vLLM read it, on disk when this returns."""
        folder.mkdir()
        config = self._peft.peft_config[role]
        training, config.inference_mode = config.inference_mode, True
        config.save_pretrained(str(folder))
        config.inference_mode = training
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.parameters(role).items()}
        write_tensors(tensors, folder / ADAPTER_FILE)
        for file in folder.iterdir():
            sync_file(file)

    # ------------------------------------------------------------------------------------- the forward

    @torch.no_grad()
    def prompt(self, image: Image, text: str, pixels: Pixels) -> Prompt:
        """Runs the (frozen) vision tower, once, and lays out the prompt around the image.

        Where the image goes is taken from where the processor put it, not from token ids.
        """
        if pixels not in self._builders:
            self._builders[pixels] = PromptBuilder(self._model, pixels)
        inputs = self._builders[pixels].inputs((image,), text).to(self.device)
        model = self._base.model
        embeds = model.language_model.embed_tokens(inputs["input_ids"])
        features = model.get_image_features(
            inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
        ).pooler_output
        is_image = (inputs["mm_token_type_ids"] == 1).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(is_image, torch.cat(features).to(embeds.dtype))
        position_ids, _ = model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
        )
        return Prompt(embeds[0], position_ids[:, 0])

    def hidden_states(self, prompt: Prompt, completions: Sequence[Tensor]) -> Tensor:
        """The final hidden states that predict each completion token, [ΣL, d], in the order of `completions`.

        completions: token ids [L_i], int64, L_i ≥ 1. All of them ride in one row behind a single prompt: each
        sees the prompt and itself, and continues after the prompt's last position, so the states are those of
        separate passes.
        """
        layout = pack(prompt.position_ids, [len(tokens) for tokens in completions])
        tokens = torch.cat(list(completions)).to(self.device)
        model = self._base.model.language_model
        embeds = torch.cat([prompt.embeds, model.embed_tokens(tokens)])
        mask = torch.zeros(layout.visible.shape, dtype=embeds.dtype, device=self.device)
        mask.masked_fill_(~layout.visible, torch.finfo(embeds.dtype).min)
        states = model(
            inputs_embeds=embeds[None],
            position_ids=layout.position_ids[:, None],
            attention_mask=mask[None, None],
            use_cache=False,
        ).last_hidden_state
        return states[0, layout.predictors]

    def logits(self, states: Tensor) -> Tensor:
        """Float32 logits [n, V] of hidden states [n, d]; tokens that cannot be sampled are at −∞."""
        return self._base.lm_head(states).float().index_fill(-1, self._forbidden, -torch.inf)


@dataclass(frozen=True)
class Packing:
    """visible [S, S] bool: row may attend to column. position_ids [3, S]. predictors [ΣL]: for each completion
    token, the place whose state predicts it. S = P + ΣL."""

    visible: Tensor
    position_ids: Tensor
    predictors: Tensor


def pack(prompt_positions: Tensor, lengths: Sequence[int]) -> Packing:
    """Lays N completions of `lengths` behind one prompt with positions [3, P]."""
    device = prompt_positions.device
    prompt_length = prompt_positions.shape[1]
    # 0 is the prompt, 1…N the completions.
    segment = torch.repeat_interleave(
        torch.arange(len(lengths) + 1, device=device), torch.tensor([prompt_length, *lengths], device=device)
    )
    causal = torch.ones(len(segment), len(segment), dtype=torch.bool, device=device).tril_()
    visible = causal & ((segment[None, :] == 0) | (segment[None, :] == segment[:, None]))
    start = int(prompt_positions.max()) + 1
    continued = [torch.arange(start, start + length, device=device).expand(3, -1) for length in lengths]
    predictors, offset = [], prompt_length
    for length in lengths:
        predictors += [prompt_length - 1, *range(offset, offset + length - 1)]
        offset += length
    return Packing(visible, torch.cat([prompt_positions, *continued], dim=1), torch.tensor(predictors, device=device))
