"""The learner on this device: held to transformers' own forward pass, to itself, and to float32 on the CPU."""

import hashlib
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ireasoner_cli.doctor.finding import Finding, fail, ok
from stages.contract import SOLVER
from stages.learning.learner import Learner, TrainingGroup
from stages.learning.model import PolicyModel
from stages.models import estimate
from stages.models.estimate import GIB, GroupSize
from stages.models.finding import Model, find_model
from stages.models.prompting import PromptBuilder
from stages.parameters.sampling import Pixels
from stages.parameters.update import UpdateParams
from stages.policy import OPTIMIZER_FILE

# Completions around the blocks of 64 and 128 in which attention is computed; a token less is run than they have.
LENGTHS = (1, 2, 64, 65, 66, 67, 129, 130, 194, 257, 258)
TEXT = "Look at the image and answer the question below."
CLOSE = {"cuda": 3e-2, "cpu": 1e-3}  # relative, of a hidden state in bfloat16 and in float32
REPORT = "please send these lines"


def a_picture(number: int = 0, side: int = 112) -> Image.Image:
    """Noise, the same each time."""
    pixels = random.Random(number).randbytes(3 * 16 * 16)
    return Image.frombytes("RGB", (16, 16), pixels).resize((side, side))


def wide_model(folder: Path) -> Model:
    """Qwen2.5-VL-7B's widths, two layers, random."""
    from ireasoner_cli.demo import architecture

    sizes = architecture.Sizes(
        hidden=3584, layers=2, heads=28, kv_heads=4, intermediate=18944, vision_hidden=1280, vision_layers=2,
        vision_heads=16, vision_intermediate=3420, pixels=224 * 224, init=0.02,
    )  # fmt: skip
    tokenizer = architecture.build_tokenizer([TEXT], vocabulary=400)
    config = architecture.build_config(tokenizer, sizes)
    config.get_text_config().vocab_size = 32768
    model = architecture.build_model(config)
    architecture.save_folder(folder, model, architecture.build_processor(tokenizer, sizes))
    return find_model(str(folder))


@dataclass(frozen=True)
class Drawn:
    """A group at random: token ids of completions, and what they are worth."""

    token_ids: list[list[int]]
    rewards: list[float]


def drawn(model: Model, lengths: tuple[int, ...]) -> Drawn:
    rng, forbidden = random.Random(0), set(model.forbidden_tokens)
    allowed = [token for token in range(min(len(model.embedding_table()), 350)) if token not in forbidden]
    return Drawn([rng.choices(allowed, k=length) for length in lengths], [index % 2 for index in range(len(lengths))])


def group(model: Model, policy: PolicyModel, lengths: tuple[int, ...]) -> TrainingGroup:
    of = drawn(model, lengths)
    prompt = policy.process((a_picture(),), TEXT, Pixels())
    return TrainingGroup([prompt], of.token_ids, [[-5.0] * length for length in lengths], of.rewards)


# ---------------------------------------------------------------------------------------------- attention


def attention(model: Model) -> Finding:
    """The hidden states of completions of many lengths behind one prompt, under π and π_ref, against the whole sequence
    through transformers, in float32 and with attention written out. Finds kernels that are wrong at some lengths."""
    policy = PolicyModel(model, 0)
    completions = [torch.tensor(ids) for ids in drawn(model, LENGTHS).token_ids]
    worst = _worst_errors(model, policy, completions)
    wrong = [length for length, error in worst.items() if error > CLOSE[policy.device.type]]
    text = f"{len(worst)} lengths of completion, worst state off by {max(worst.values()):.1e}"
    figures = {"worst": max(worst.values()), "wrong_lengths": wrong}
    if not wrong:
        return ok("attention", text, **figures)
    return fail("attention", f"{text}; wrong with {', '.join(map(str, wrong))} tokens",
                f"a kernel of torch {torch.__version__} is wrong: do not train here; {REPORT}", **figures)  # fmt: skip


@torch.no_grad()
def _worst_errors(model: Model, policy: PolicyModel, completions: list[Tensor]) -> dict[int, float]:
    """By the length of a completion: the largest relative error of one of its states, infinite of what is no number."""
    prompt = policy.process((a_picture(),), TEXT, Pixels())
    reference, prefix = policy.prompts([prompt], SOLVER)
    worst: dict[int, float] = {}
    for ids, expected in zip(completions, _whole(model, completions, policy.device), strict=True):
        for role, cache in ((None, reference), (SOLVER, prefix)):
            own = policy.states([prompt], cache, [[ids]], role).float()
            error = float(((own - expected).norm(dim=-1) / expected.norm(dim=-1)).max())
            worst[len(ids)] = max(worst.get(len(ids), 0.0), error if math.isfinite(error) else math.inf)
    return worst


def _whole(model: Model, completions: list[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The states [L, d] that predict each token of each completion, its whole sequence at once."""
    from transformers import AutoModelForImageTextToText

    stock = AutoModelForImageTextToText.from_pretrained(
        model.path, dtype=torch.float32, attn_implementation="eager", device_map={"": device}
    ).eval()
    inputs = PromptBuilder(model, Pixels()).inputs((a_picture(),), TEXT)
    ids, types = inputs["input_ids"], inputs["mm_token_type_ids"]
    for tokens in completions:
        inputs["input_ids"] = torch.cat([ids, tokens[None]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, len(tokens)))
        whole = {name: tensor.to(device) for name, tensor in inputs.items()}
        states = stock(**whole, output_hidden_states=True).hidden_states[-1][0]
        yield states[-len(tokens) - 1 : -1]


# ----------------------------------------------------------------------------------------------- gradients


def learned(model: Model, folder: Path, checkpointing: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """AdamW's first moments after one step, which are a tenth of the gradient, clipped; and the step's row. The
    adapters begin away from zero, where all of their tensors have a gradient."""
    learner = Learner(model, UpdateParams(kl_start=0.5, gradient_checkpointing=checkpointing), seed=0)
    generator = torch.Generator().manual_seed(7)
    start = {
        name: 0.02 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in sorted(learner.model.parameters(SOLVER).items())
    }
    learner.model.set_adapter(SOLVER, start)
    row = learner.step(SOLVER, [group(model, learner.model, (66, 53, 40, 27))])
    learner.save(folder)
    moments = load_file(folder / OPTIMIZER_FILE)
    return {name: tensor for name, tensor in moments.items() if name.endswith(".exp_avg")}, row


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def repeatable(model: Model, folder: Path) -> Finding:
    """The same step twice, to the bit, and once with checkpointing."""
    first, _ = learned(model, folder / "first")
    second, _ = learned(model, folder / "second")
    again, _ = learned(model, folder / "checkpointed", checkpointing=True)
    digests = [hashlib.sha256(flat(each).numpy().tobytes()).hexdigest()[:12] for each in (first, second)]
    cosine = float(torch.cosine_similarity(flat(first), flat(again), dim=0))
    text = f"a step twice: {digests[0]}, {digests[1]}; with --gradient-checkpointing the cosine is {cosine:.6f}"
    figures = {"digests": digests, "checkpointed_cosine": cosine}
    if digests[0] == digests[1] and cosine > 0.999:
        return ok("repeatable", text, **figures)
    return fail("repeatable", text, f"a resumed run will not end in the same bytes; {REPORT}", **figures)


def gradient(model: Model, folder: Path) -> Finding:
    """bfloat16 here against float32 on the CPU, which a process that sees no GPU computes; on a CPU, in two processes,
    the same."""
    command = [sys.executable, "-m", "ireasoner_cli.doctor.deep.reference", str(model.path), str(folder / "reference")]
    subprocess.run(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, check=True, capture_output=True)
    right = load_file(folder / "reference" / OPTIMIZER_FILE)
    expected = json.loads((folder / "reference" / "row.json").read_text())
    own, row = learned(model, folder / "own")
    cosine = float(torch.cosine_similarity(flat(own), flat({name: right[name] for name in own}), dim=0))
    norm, kl = row["grad_norm"] / expected["grad_norm"], abs(row["kl"] - expected["kl"])
    text = f"against float32 on the CPU: cosine {cosine:.5f}, norm {100 * (norm - 1):+.2f} %, KL off by {kl:.1e}"
    figures = {"cosine": cosine, "norm_ratio": norm, "kl_difference": kl}
    if cosine > 0.999 and abs(norm - 1) < 0.02 and kl < 0.02 * expected["kl"] + 1e-4:
        return ok("gradient", text, **figures)
    return fail("gradient", text, f"do not train here; {REPORT}", **figures)


# -------------------------------------------------------------------------------------------------- a step


def timed_step(model: Model) -> Finding:
    """Seconds of a step on five answers of 256 tokens, and on a GPU its peak against the estimate."""
    learner = Learner(model, UpdateParams(), seed=0)
    own = group(model, learner.model, (256,) * 5)
    cuda = learner.model.device.type == "cuda"
    learner.step(SOLVER, [own])
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    row = learner.step(SOLVER, [own])
    seconds = time.perf_counter() - started
    asked = replace(GroupSize(), prompt=len(own.prompts[0]))
    text, figures = f"{asked}: {seconds:.2f} s, {row['tokens'] / seconds:,.0f} tokens/s", {"step_seconds": seconds}
    if not cuda:
        return ok("a step", text, **figures)
    peak = torch.cuda.max_memory_allocated()
    told = estimate.learning(estimate.architecture(model.path), asked).total
    text += f"; {peak / GIB:.1f} GiB at the peak, estimated {told / GIB:.1f}"
    figures |= {"peak": peak, "estimated": told}
    if peak > 1.15 * told + GIB:
        return fail("a step", text, f"the estimate of `doctor --model` is too low; {REPORT}", **figures)
    return ok("a step", text, **figures)
