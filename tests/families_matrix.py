"""Each family through everything that the commands do with a model: `python -m tests.families_matrix [FAMILY…]`.

A line a family: largest |log μ − log π| of what vLLM and transformers sample from a policy that has moved, π by the
learner and by a plain forward pass of transformers and PEFT; the stages of two iterations; and the merged checkpoint
against the policy. `docs/models.md` is what comes out.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import chdir, closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stages.contract import PROPOSER, SOLVER, InputRef, Metadata, PolicyRef
from stages.export import export
from stages.learning.control import Baseline
from stages.learning.model import PolicyModel
from stages.models.finding import Model, find_model
from stages.models.prompting import COMPLETION_TYPES, PromptBuilder
from stages.models.support import support
from stages.parameters.sampling import Decoding, Pixels, SamplerName
from stages.policy import OPTIMIZER_FILE, PolicyState, RoleState, write_state
from stages.sampling import Request, Sample, Wanted, open_sampler
from tests.conftest import draw
from tests.families import FAMILIES, build

SETTINGS = """
sampler = "{sampler}"
model = "{model}"

[propose]
groups = 2
max-tokens = 12

[rollout]
samples = 3
max-tokens = 12

[score]
no-warmup = true
embedding = "hidden"

[update]
lr = 1e-2
"""


def moved_policy(model: Model, folder: Path) -> Path:
    """A policy directory whose adapters are far from the base model."""
    from safetensors.torch import save_file

    learner = PolicyModel(model, seed=0)
    noise = torch.Generator().manual_seed(5)
    folder.mkdir()
    for role in (SOLVER, PROPOSER):
        with torch.no_grad():
            for name, parameter in learner.parameters(role).items():
                scale = 0.05 if "lora_B" in name else 0.2
                parameter.copy_(scale * torch.randn(parameter.shape, generator=noise))
        learner.save_adapter(role, folder / role)
    lineage = Metadata("update", {}, 0, (InputRef("scored.parquet", "ab"),), model.ref, PolicyRef())
    roles = {role: RoleState(Baseline(), 1e-3, 1) for role in (SOLVER, PROPOSER)}
    save_file({}, folder / OPTIMIZER_FILE)
    write_state(folder, PolicyState(4, roles, lineage, learner.lora))
    return folder


def requests(folder: Path) -> list[Request]:
    """Two prompts, each with a picture of its own shape, twice."""
    pictures = [
        Image.open(draw(folder / "asked" / f"{seed}.png", seed, (64, 48 + 40 * seed))).convert("RGB") for seed in (0, 1)
    ]
    return [Request((pictures[index // 2],), f"Question {index // 2}?", 100 + index) for index in range(4)]


def sampled(name: SamplerName, model: Model, adapter: Path | None, folder: Path, pixels: Pixels) -> list[Sample]:
    with closing(open_sampler(Wanted(name, model, adapter, pixels))) as sampler:
        return [each for each in sampler.sample(requests(folder), Decoding(max_tokens=12)) if isinstance(each, Sample)]


Logprobs = Callable[[Request, Sample], Tensor]


def by_the_learner(model: Model, adapter: Path, pixels: Pixels) -> Logprobs:
    """log π [L] of a sample's tokens, by the learner."""
    policy = PolicyModel(model, seed=1)
    policy.set_adapter(SOLVER, policy.read_adapter(SOLVER, adapter))

    @torch.no_grad()
    def logprobs(request: Request, sample: Sample) -> Tensor:
        prompt = policy.process(request.images, request.prompt, pixels)
        _, prefix = policy.prompts([prompt], SOLVER)
        tokens = torch.tensor(sample.token_ids)
        logits = policy.head.logits(policy.states([prompt], prefix, [[tokens]], SOLVER))
        return torch.log_softmax(logits, -1).gather(1, tokens[:, None])[:, 0]

    return logprobs


def by_transformers(model: Model, adapter: Path | None, pixels: Pixels) -> Logprobs:
    """log π [L] of a sample's tokens, by one plain forward pass over prompt and completion."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    stock: Any = AutoModelForImageTextToText.from_pretrained(model.path, dtype=torch.float32).eval()
    if adapter is not None:
        stock = PeftModel.from_pretrained(stock, adapter)
    prompts = PromptBuilder(model, pixels)

    @torch.no_grad()
    def logprobs(request: Request, sample: Sample) -> Tensor:
        inputs = dict(prompts.inputs(request.images, request.prompt))
        tokens = torch.tensor([sample.token_ids])
        shape = inputs["input_ids"].shape
        for name, value in inputs.items():
            if isinstance(value, Tensor) and value.shape == shape:
                kinds = COMPLETION_TYPES.get(model.config["model_type"], {})
                behind = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
                inputs[name] = torch.cat([value, behind.get(name, torch.full_like(tokens, kinds.get(name, 0)))], dim=1)
        logits = stock(**inputs).logits[0, shape[1] - 1 : -1]
        logits = logits.index_fill(1, torch.tensor(model.forbidden_tokens), -torch.inf)
        return torch.log_softmax(logits, -1).gather(1, tokens[0, :, None])[:, 0]

    return logprobs


def apart(samples: Sequence[Sample], asked: Sequence[Request], logprobs: Logprobs) -> float:
    """Largest |log μ − log π|, in nats, of the samples' tokens."""
    return max(
        float((logprobs(request, sample) - torch.tensor(sample.logprobs)).abs().max())
        for request, sample in zip(asked, samples, strict=True)
    )


def two_iterations(model: Path, folder: Path, sampler: SamplerName) -> str:
    """Two turns of the loop, in `folder`: all five commands, and the second turn with the policy of the first. What it
    says where it fails, else nothing."""
    from typer.testing import CliRunner

    from ireasoner_cli.app import app

    for seed in range(3):
        draw(folder / "pool" / f"{seed}.png", seed)
    (folder / "ireasoner.toml").write_text(SETTINGS.format(model=model.resolve(), sampler=sampler))
    with chdir(folder):
        done = CliRunner().invoke(app, ["run", "--images", "pool", "--out", "run", "--iterations", "2"])
    return "" if done.exit_code == 0 else done.output.strip().splitlines()[-1]


def merged(policy: Path, folder: Path) -> Model:
    """The policy's Solver as a checkpoint of its own."""
    export(policy, folder / "merged")
    return find_model(str(folder / "merged"))


def attempt(work: Callable[[], object]) -> str:
    try:
        found = work()
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"
    return f"{found:.1e}" if isinstance(found, float) else str(found or "done")


def _samplers(refused: str | None) -> list[SamplerName]:
    """Those that are asked; refused: why vLLM cannot be."""
    return ["transformers"] if refused else ["transformers", "vllm"]


def look_at(name: str, folder: Path) -> None:
    """Prints what becomes of one family."""
    model = find_model(str(build(name, folder / "model")))
    found = support(model)
    print(name)
    for what, reason in vars(found).items():
        print(f"  {what:28} {reason or 'supported'}")
    pixels = Pixels()
    policy = folder / "policy"
    print(f"  {'a policy':28} {attempt(lambda: moved_policy(model, policy).name)}", flush=True)
    asked, adapter = requests(folder), policy / SOLVER
    for sampler in _samplers(found.adapters):
        try:
            samples = sampled(sampler, model, adapter, folder, pixels)
        except Exception as error:
            print(f"  {sampler:28} {type(error).__name__}: {str(error)[:200]}", flush=True)
            continue

        def differ(samples: list[Sample], by: Callable[..., Any]) -> float:
            return apart(samples, asked, by(model, adapter, pixels))

        for by in (by_the_learner, by_transformers):
            value = attempt(partial(differ, samples, by))
            print(f"  {sampler + ', ' + by.__name__:28} {value}", flush=True)
    print(f"  {'two iterations':28} {attempt(lambda: two_iterations(model.path, folder, 'transformers'))}", flush=True)

    def again(sampler: SamplerName) -> float:
        """What is sampled from the merged checkpoint, by the policy."""
        whole = folder / "merged"
        samples = sampled(
            sampler, merged(policy, folder) if not whole.exists() else find_model(str(whole)), None, folder, pixels
        )
        return apart(samples, asked, by_transformers(model, adapter, pixels))

    for sampler in _samplers(found.sampling):
        print(f"  {'merged, ' + sampler:28} {attempt(partial(again, sampler))}", flush=True)


def main(names: list[str]) -> None:
    """A process a family: vLLM leaves much behind in one."""
    if names[:1] == ["--one"]:
        with tempfile.TemporaryDirectory() as folder:
            look_at(names[1], Path(folder))
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in names or FAMILIES:
        subprocess.run([sys.executable, "-m", "tests.families_matrix", "--one", name], stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main(sys.argv[1:])
