"""The frozen base model with two LoRA adapters on it, and its forward pass over prompts and their completions.

Its layers are transformers' own, whatever the family; see `prefix` for how a prompt is run once for all that stands
behind it.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stages.contract import PROPOSER, SOLVER, Role
from stages.errors import DataError
from stages.learning.attention import use_in
from stages.learning.cache import empty_cache, keeps_everything, mapped
from stages.learning.checking import Examination, compare, tried
from stages.learning.checkpointing import checkpointed
from stages.learning.lean import Running, make_lean
from stages.learning.loss import Head
from stages.learning.packing import TOKENS_PER_PASS, packed
from stages.learning.prefix import Prefix, Prefixes
from stages.learning.ranks import Ranks
from stages.learning.sharding import Sweeps
from stages.models.device import repeatable, this_device
from stages.models.estimate import WHOLE, Held
from stages.models.finding import Model
from stages.models.language_model import check_learnable, fitting, has_experts, language_model, target_modules
from stages.models.loading import load_base, skeleton
from stages.models.prompting import OF_TOKENS, PromptBuilder
from stages.parameters.sampling import Pixels
from stages.policy import ADAPTER_FILE, DEFAULT_LORA, Lora

# What a family's model remembers of the positions of a prompt for the tokens behind it, by its attributes.
REMEMBERED = ("rope_deltas",)


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
    """A prompt and its images as the model's processor made them, not yet on the device: input_ids [1, P] int64 among
    them; those of pixels, if there are images, by whatever names."""

    tensors: dict[str, Any]

    def __len__(self) -> int:
        return self.tensors["input_ids"].shape[1]


class PolicyModel:
    """One base model, one LoRA adapter a role; π is the base with an adapter on, π_ref the base with none."""

    def __init__(
        self,
        model: Model,
        seed: int,
        gradient_checkpointing: bool = False,
        lora: Lora = DEFAULT_LORA,
        held: Held = WHOLE,
        ranks: Ranks | None = None,
    ) -> None:
        """Loads `model` and puts fresh adapters on it, whose random halves come from `seed`. ranks: those that it is in
        shards over, if `held` has it so.

        Raises EngineError for a model that learning would not get right: it is tried on a small prompt.
        """
        self._model = model
        self._builders: dict[Pixels, PromptBuilder] = {}
        made_empty = skeleton(model)  # what will not do is known before minutes of loading
        check_learnable(made_empty)
        self.lora, self.has_experts = fitting(lora, made_empty), has_experts(made_empty)
        self._base = load_base(model, held)
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules=target_modules(self.lora, self._base),
            task_type="CAUSAL_LM",
            base_model_name_or_path=model.ref.name,
        )
        torch.manual_seed(seed)
        self._peft = get_peft_model(self._base, config, adapter_name=SOLVER)
        self._peft.add_adapter(PROPOSER, copy.deepcopy(config))
        self._adapters: dict[Role, dict[str, Tensor]] = {
            role: {
                name.replace(f".{role}.", "."): parameter
                for name, parameter in self._peft.named_parameters()
                if f".{role}." in name
            }
            for role in (SOLVER, PROPOSER)
        }
        self._inner, self._text = self._base.model, language_model(self._base)
        self._running = Running()
        self._sweeps: Sweeps | None = None
        if ranks is not None and held.ranks > 1:
            device = this_device().torch_device
            self._sweeps = Sweeps(self._text, ranks, device)
            self._base.to(device)  # what is whole
        self._forbidden = torch.tensor(model.forbidden_tokens, dtype=torch.long, device=self.device)
        self.head = Head(self._base.get_output_embeddings().weight, self._forbidden)
        self._in_batches = False
        with tried(model.ref.name):
            self._open(gradient_checkpointing)

    def _open(self, gradient_checkpointing: bool) -> None:
        """Lets the layers run as learning needs them, and holds them to what they did before. Raises EngineError."""
        examination = Examination(self, self._model.forbidden_tokens)
        with repeatable(self.device), examination.moved():
            separate, self.head = examination.separately(self._base, self._peft)
            for parameters in self._adapters.values():
                for parameter in parameters.values():
                    parameter.requires_grad_()  # PEFT freezes those of the other role
            use_in(self._text.config)
            make_lean(self._text, self._running)
            if gradient_checkpointing:
                checkpointed(self._text.layers, self._running)
            compare(self._model.ref.name, separate, examination.together(), self._base.dtype)
            self._in_batches = keeps_everything(empty_cache(self._text.config)) and examination.runs_in_batches()

    @property
    def device(self) -> torch.device:
        return self._base.device

    @property
    def depth(self) -> int:
        """How many layers the language model has."""
        return len(self._text.layers)

    def frozen(self) -> list[Tensor]:
        """The weights that never change: the base model's."""
        return [weight for weight in self._base.parameters() if not weight.requires_grad]

    @property
    def in_shards(self) -> bool:
        """Whether the base is spread over several ranks."""
        return self._sweeps is not None

    def finish(self) -> None:
        """To be called by each rank when it has run what it has to: where the base is in shards, the others may still
        need its own."""
        if self._sweeps:
            self._sweeps.finish()

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
        config = copy.copy(self._peft.peft_config[role])
        config.inference_mode = True
        config.target_modules = self.lora.target_modules  # the rule, in the place of the list that it made
        # Of models with experts PEFT sets these, for adapters on them that there are not.
        config.target_parameters, config.rank_pattern, config.alpha_pattern = None, {}, {}
        config.save_pretrained(str(folder))
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.parameters(role).items()}
        write_tensors(tensors, folder / ADAPTER_FILE)

    # ------------------------------------------------------------------------------------- the forward

    def process(self, pictures: tuple[Image, ...], text: str, pixels: Pixels) -> PromptInputs:
        """What the model takes of a prompt. Needs no device, and may run beside what does."""
        if pixels not in self._builders:
            self._builders[pixels] = PromptBuilder(self._model, pixels)
        inputs = dict(self._builders[pixels].inputs(pictures, text))
        if bool(inputs["attention_mask"].all()):
            del inputs["attention_mask"]
        return PromptInputs(inputs)

    def prompts(self, prompts: Sequence[PromptInputs], role: Role) -> tuple[Prefixes, Prefixes]:
        """Runs the prompts once each through π_ref and through π: (without gradient, with it).

        The frozen vision tower sees each image once, for both.
        """
        reference: list[Prefix] = []
        own: list[Prefix] = []
        together = list(batches(prompts)) if self._in_batches else [[prompt] for prompt in prompts]
        for batch in together:
            encoded = self._encoded(batch)
            with torch.no_grad():
                reference += self._run_prompts(encoded, None)
            own += self._run_prompts(encoded, role)
        counts = list(map(len, together))
        return Prefixes(reference, counts), Prefixes(own, counts)

    @torch.no_grad()
    def run_prompts(self, prompts: Sequence[PromptInputs]) -> Sequence[Prefix]:
        """π_ref of several prompts together, what is given of which is of one shape but for lengths."""
        return self._run_prompts(self._encoded(prompts), None)

    def states(
        self,
        prompts: Sequence[PromptInputs],
        prefix: Prefixes,
        completions: Sequence[Sequence[Tensor]],
        role: Role | None,
    ) -> Tensor:
        """The hidden states [ΣL, d] that predict each completion token, in the order of `completions`.

        completions: of each prompt, token ids [L_i] int64, L_i ≥ 1; a prompt may have none here. The last token
        predicts nothing and is not run; the first is predicted by the prompt. No role: π_ref.
        """
        parts: list[Tensor] = []
        for own, rows in zip(prefix.each, completions, strict=True):
            longer = [tokens[:-1] for tokens in rows if len(tokens) > 1]
            behind = iter(self._run_behind(own, longer, role).last_hidden_state if longer else ())
            for tokens in rows:
                parts += [own.last, next(behind)[: len(tokens) - 1]] if len(tokens) > 1 else [own.last]
        return torch.cat(parts)

    @torch.no_grad()
    def token_states(
        self, prompt: PromptInputs, completions: Sequence[Tensor], role: Role | None, depth: int
    ) -> Iterator[Tensor]:
        """The hidden states [L_i, d] at each token of completions behind one prompt, after the first `depth` layers:
        what transformers calls `hidden_states[depth]`. The prompt is run once, the completions a few at a time.

        completions: token ids [L_i] int64, L_i ≥ 1. No role: the base model.
        """
        with self._only(depth):
            [prefix] = self._run_prompts(self._encoded([prompt]), role)
            for some in packed(completions, len, TOKENS_PER_PASS[self.device.type]):
                states = self._run_behind(prefix, some, role).last_hidden_state
                yield from (row[: len(tokens)] for row, tokens in zip(states, some, strict=True))

    # --------------------------------------------------------------------------- transformers' own forward

    @torch.no_grad()
    def _encoded(self, prompts: Sequence[PromptInputs]) -> "Encoded":
        """Prompts on the device, padded behind, and what the frozen tower makes of their images."""
        first = prompts[0].tensors
        ids = [prompt.tensors["input_ids"][0] for prompt in prompts]
        longest = max(map(len, ids))
        given: dict[str, Any] = {
            # What stands behind a prompt is seen by none of it, and must only be no image.
            "input_ids": torch.stack([torch.cat([row, row[-1:].expand(longest - len(row))]) for row in ids])
        }
        for name in first.keys() - given.keys():
            parts = [prompt.tensors[name] for prompt in prompts]
            if name in OF_TOKENS:
                given[name] = pad_sequence([part[0] for part in parts], batch_first=True)
            else:
                given[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
        given = {name: self.placed(value) for name, value in given.items()}
        encode = self._inner.get_image_features
        own = {name: given[name] for name in inspect.signature(encode).parameters if name in given}
        features = encode(**own, return_dict=True) if "pixel_values" in own else None
        return Encoded(
            {name: value for name, value in given.items() if name != "pixel_values"}, features, list(map(len, ids))
        )

    def placed(self, value: Any) -> Any:
        """What a processor gave, on the device, and of floats in the model's dtype."""
        if not isinstance(value, Tensor):
            return value
        return value.to(self.device, self._base.dtype if value.is_floating_point() else value.dtype)

    def _run_prompts(self, encoded: "Encoded", role: Role | None) -> list[Prefix]:
        """Prefix of each of a batch of prompts."""
        cache = empty_cache(self._text.config)
        for name in REMEMBERED:
            if hasattr(self._inner, name):
                setattr(self._inner, name, None)
        # Layers change what they are given of the images.
        features = None if encoded.features is None else {"image": copy.copy(encoded.features)}
        ends = torch.tensor(encoded.lengths, device=self.device) - 1
        with self._running.as_role(role, ends):
            out = self._inner(**encoded.given, mm_encoder_outputs=features, past_key_values=cache, use_cache=True)
        remembered = {name: value for name in REMEMBERED if (value := getattr(self._inner, name, None)) is not None}
        if len(encoded.lengths) == 1:
            return [Prefix(cache, out.last_hidden_state[:, -1], remembered)]

        def of_row(row: int, length: int) -> Prefix:
            own = mapped(cache, lambda kept: kept[row : row + 1, :, :length])
            last = out.last_hidden_state[row, length - 1, None]
            return Prefix(own, last, {name: value[row : row + 1] for name, value in remembered.items()})

        return [of_row(row, length) for row, length in enumerate(encoded.lengths)]

    def _run_behind(self, prefix: Prefix, completions: Sequence[Tensor], role: Role | None) -> Any:
        """The model's output of completions behind a prompt, rows padded behind: what stands there is seen by no token
        of a completion."""
        ids = pad_sequence(list(completions), batch_first=True).to(self.device)
        cache = mapped(prefix.cache, lambda kept: kept.expand(len(ids), *kept.shape[1:]))
        for name in REMEMBERED:
            if hasattr(self._inner, name):
                setattr(self._inner, name, prefix.remembered.get(name))
        with self._running.as_role(role):
            return self._inner(input_ids=ids, past_key_values=cache, use_cache=True)

    @contextmanager
    def _only(self, depth: int) -> Iterator[None]:
        """Within, the language model ends with the states before its layer `depth`, which are handed out in the place
        of its own."""
        if depth == self.depth:
            yield
            return
        text, forward = self._text, self._text.forward

        def stop(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            raise _Reached(inputs[0] if inputs else named["hidden_states"])

        def shortened(*inputs: Any, **named: Any) -> Any:
            from transformers.modeling_outputs import BaseModelOutputWithPast

            try:
                return forward(*inputs, **named)
            except _Reached as reached:
                return BaseModelOutputWithPast(reached.states, named.get("past_key_values"))

        hook = text.layers[depth].register_forward_pre_hook(stop, with_kwargs=True)
        text.forward = shortened
        try:
            yield
        finally:
            text.forward = forward
            hook.remove()


@dataclass(frozen=True)
class Encoded:
    """A batch of prompts of `lengths` on the device: what the model's forward is given, and its images' features."""

    given: dict[str, Any]
    features: Any
    lengths: list[int]


class _Reached(Exception):
    def __init__(self, states: Tensor) -> None:
        super().__init__("the layer that was asked for")
        self.states = states


def batches(prompts: Sequence[PromptInputs]) -> Iterator[list[PromptInputs]]:
    """Prompts that follow one another and may run together: what is given of each is of one shape but for lengths."""
    for _, alike in groupby(prompts, key=lambda prompt: _shape(prompt.tensors)):
        yield list(alike)


def _shape(tensors: Mapping[str, Any]) -> list[Any]:
    return [
        (
            name,
            "tokens" if name in (*OF_TOKENS, "input_ids") else value.shape[1:] if isinstance(value, Tensor) else name,
        )
        for name, value in sorted(tensors.items())
    ]
