"""The frozen base model with two LoRA adapters on it, and its forward pass over prompts and their completions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.contract import PROPOSER, SOLVER, Role
from stages.errors import DataError, EngineError
from stages.learning.decoder import Decoder, Prefix
from stages.learning.loss import Head
from stages.learning.passes import TOKENS_PER_PASS, packed
from stages.models.finding import Model
from stages.models.loading import load_base
from stages.models.prompting import PromptBuilder
from stages.parameters.sampling import Pixels
from stages.policy import ADAPTER_FILE, DEFAULT_LORA, Lora


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Raises OSError when the disk does not take them, as other writes do."""
    path.touch()
    mode = path.stat().st_mode  # as the umask has it; safetensors puts a private file in its place
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)


@dataclass(frozen=True)
class PromptInputs:
    """A prompt and its images, processed, not yet on the device: input_ids [P] int64, is_image [P] bool,
    position_ids [3, P] int64; pixel_values [patches, pixels] float32 and grid [images, 3] int64, None without an
    image."""

    input_ids: Tensor
    is_image: Tensor
    position_ids: Tensor
    pixel_values: Tensor | None
    grid: Tensor | None

    def __len__(self) -> int:
        return len(self.input_ids)


class PolicyModel:
    """One base model, one LoRA adapter a role; π is the base with an adapter on, π_ref the base with none."""

    def __init__(
        self, model: Model, seed: int, gradient_checkpointing: bool = False, lora: Lora = DEFAULT_LORA
    ) -> None:
        """Loads `model` and puts fresh adapters on it, whose random halves come from `seed`."""
        self._base = load_base(model)
        if not hasattr(self._base.model, "language_model"):
            raise EngineError(f"{model.ref.name}: only Qwen2.5-VL models can be trained, or give hidden states")
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules=lora.target_modules,
            task_type="CAUSAL_LM",
            base_model_name_or_path=model.ref.name,
        )
        torch.manual_seed(seed)
        self._peft = get_peft_model(self._base, config, adapter_name=SOLVER)
        self._peft.add_adapter(PROPOSER, config)
        self._adapters: dict[Role, dict[str, Tensor]] = {
            role: {
                name.replace(f".{role}.", "."): parameter.requires_grad_()
                for name, parameter in self._peft.named_parameters()
                if f".{role}." in name
            }
            for role in (SOLVER, PROPOSER)
        }
        self._language_model = self._base.model.language_model
        self._decoder = Decoder(self._language_model, gradient_checkpointing)
        self._forbidden = torch.tensor(model.forbidden_tokens, dtype=torch.long, device=self.device)
        self._model = model
        self._builders: dict[Pixels, PromptBuilder] = {}

    @property
    def device(self) -> torch.device:
        return self._base.device

    @property
    def depth(self) -> int:
        """How many layers the language model has."""
        return self._decoder.depth

    # ------------------------------------------------------------------------------------ the adapters

    def parameters(self, role: Role) -> dict[str, Tensor]:
        """The role's adapter, float32, by the names its file gives them (without the adapter's own name)."""
        return self._adapters[role]

    def read_adapter(self, role: Role, folder: Path) -> dict[str, Tensor]:
        """The tensors of the adapter in `folder`, by the names of `parameters`.

        Raises DataError when it is damaged or does not fit the model.
        """
        try:
            stored = load_file(folder / ADAPTER_FILE)
        except Exception as error:  # safetensors raises its own class for damage
            raise DataError(f"{folder / ADAPTER_FILE}: missing or damaged ({error})") from error
        own = self.parameters(role)
        if {name: tensor.shape for name, tensor in own.items()} != {n: t.shape for n, t in stored.items()}:
            raise DataError(f"{folder}: this adapter does not fit the model {self._model.ref.name}")
        return stored

    def set_adapter(self, role: Role, tensors: Mapping[str, Tensor]) -> None:
        """Puts `tensors`, as `read_adapter` returns them, in the place of the role's own."""
        with torch.no_grad():
            for name, parameter in self.parameters(role).items():
                parameter.copy_(tensors[name])

    def save_adapter(self, role: Role, folder: Path) -> None:
        """Writes the adapter as PEFT and vLLM read it."""
        folder.mkdir()
        config = self._peft.peft_config[role]
        training, config.inference_mode = config.inference_mode, True
        config.save_pretrained(str(folder))
        config.inference_mode = training
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.parameters(role).items()}
        write_tensors(tensors, folder / ADAPTER_FILE)

    # ------------------------------------------------------------------------------------- the forward

    def process(self, pictures: tuple[Image, ...], text: str, pixels: Pixels) -> PromptInputs:
        """What the model takes of a prompt. Needs no device, and may run beside what does.

        Where the images go is taken from where the processor put them, not from token ids.
        """
        if pixels not in self._builders:
            self._builders[pixels] = PromptBuilder(self._model, pixels)
        inputs = self._builders[pixels].inputs(pictures, text)
        ids, types, grid = inputs["input_ids"], inputs["mm_token_type_ids"], inputs.get("image_grid_thw")
        positions, _ = self._base.model.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=grid)
        return PromptInputs(ids[0], types[0] == 1, positions[:, 0], inputs.get("pixel_values"), grid)

    def prompts(self, prompts: Sequence[PromptInputs], role: Role) -> tuple[Prefix, Prefix]:
        """Runs the prompts once each through π_ref and through π: (without gradient, with it).

        The frozen vision tower sees each image once, for both.
        """
        with torch.no_grad():
            embeds = self._embed(prompts)
            positions = torch.cat([prompt.position_ids for prompt in prompts], dim=1).to(self.device)
            lengths = [len(prompt) for prompt in prompts]
            reference = self._decoder.prompts(embeds, positions, lengths, None)
        return reference, self._decoder.prompts(embeds, positions, lengths, role)

    def _embed(self, prompts: Sequence[PromptInputs]) -> Tensor:
        """Input embeddings [ΣP, d], the images' features in their places."""
        embeds = self._language_model.embed_tokens(torch.cat([prompt.input_ids for prompt in prompts]).to(self.device))
        pictures = [(prompt.pixel_values, prompt.grid) for prompt in prompts if prompt.pixel_values is not None]
        if not pictures:
            return embeds
        pixel_values, grids = zip(*pictures, strict=True)
        features = self._base.model.get_image_features(
            torch.cat(pixel_values).to(self.device),
            torch.cat(grids).to(self.device),
            return_dict=True,
        ).pooler_output
        is_image = torch.cat([prompt.is_image for prompt in prompts]).to(self.device)
        return embeds.masked_scatter(is_image[:, None], torch.cat(features).to(embeds.dtype))

    def states(
        self,
        prompts: Sequence[PromptInputs],
        prefix: Prefix,
        completions: Sequence[Sequence[Tensor]],
        role: Role | None,
    ) -> Tensor:
        """The hidden states [ΣL, d] that predict each completion token, in the order of `completions`.

        completions: of each prompt, token ids [L_i] int64, L_i ≥ 1; a prompt may have none here. The last token
        predicts nothing and is not run; the first is predicted by the prompt. No role: π_ref.
        """
        behind = self._behind(prompts, prefix, [[tokens[:-1] for tokens in own] for own in completions], role)
        first = (prefix.last[index, None] for index, own in enumerate(completions) for _ in own)
        return torch.cat([part for pair in zip(first, behind, strict=True) for part in pair])

    @torch.no_grad()
    def token_states(
        self, prompt: PromptInputs, completions: Sequence[Tensor], role: Role | None, depth: int
    ) -> Iterator[Tensor]:
        """The hidden states [L_i, d] at each token of completions behind one prompt, after the first `depth` layers:
        what transformers calls `hidden_states[depth]`. The prompt is run once, the completions a few at a time.

        completions: token ids [L_i] int64, L_i ≥ 1. No role: the base model.
        """
        positions = prompt.position_ids.to(self.device)
        prefix = self._decoder.prompts(self._embed([prompt]), positions, [len(prompt)], role, depth)
        for some in packed(completions, len, TOKENS_PER_PASS[self.device.type]):
            yield from self._behind([prompt], prefix, [some], role)

    def _behind(
        self,
        prompts: Sequence[PromptInputs],
        prefix: Prefix,
        completions: Sequence[Sequence[Tensor]],
        role: Role | None,
    ) -> Sequence[Tensor]:
        """The hidden states [L_i, d] at each token of the completions behind the prompts."""
        starts = [int(prompt.position_ids.max()) + 1 for prompt in prompts]
        continued = [(start, tokens) for start, own in zip(starts, completions, strict=True) for tokens in own]
        positions = torch.cat([torch.arange(start, start + len(tokens)) for start, tokens in continued])
        run = self._decoder.completions(
            self._language_model.embed_tokens(torch.cat([tokens for _, tokens in continued]).to(self.device)),
            positions.expand(3, -1).to(self.device),
            prefix,
            [[len(tokens) for tokens in own] for own in completions],
            role,
        )
        return run.split([len(tokens) for _, tokens in continued])

    @property
    def head(self) -> Head:
        return Head(self._base.lm_head.weight, self._forbidden)
