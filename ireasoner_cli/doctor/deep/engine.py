"""The sampler on this device, held to the learner: what one samples with must be what the other learns from."""

import gc
import math
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ireasoner_cli.doctor.deep.guard import guarded
from ireasoner_cli.doctor.deep.learner import REPORT, a_picture
from ireasoner_cli.doctor.finding import Finding, fail, ok
from stages.contract import SOLVER
from stages.learning.model import PolicyModel
from stages.models.estimate import GIB
from stages.models.finding import Model
from stages.models.support import adapters
from stages.parameters.sampling import Decoding, Pixels, SamplerName
from stages.sampling import Request, Sample, Sampler, Wanted
from stages.sampling.warm import WarmEngine

PICTURES, EACH = 4, 8  # requests: so many pictures, each asked so often
DECODING = Decoding(max_tokens=96)
SPREAD = {"cuda": 0.06, "cpu": 1e-3}  # of log π/μ, in bfloat16 and in float32
ASLEEP = 8 * GIB  # of a GPU in use while the engine sleeps, at most, the learner's context included


def steps(model: Model, folder: Path) -> Iterator[Finding]:
    trial = Trial(model, folder)
    for about, step in (
        ("engine", trial.opens),
        ("samples", trial.samples),
        ("adapters", trial.swaps),
        ("asleep", trial.sleeps),
        ("π against μ", trial.agrees),
        ("awake", trial.wakes),
        ("closed", trial.closes),
    ):
        yield guarded(about, step)


class Trial:
    """One warm engine through everything that `run` asks of it."""

    def __init__(self, model: Model, folder: Path) -> None:
        self._model = model
        self._name: SamplerName = "transformers" if adapters(model) else "vllm"
        self._engines = WarmEngine()
        self._adapter = folder / "adapter"
        self._drawn: dict[Path | None, list[Sample]] = {}
        self._greedy: dict[Path | None, list[list[int]]] = {}
        self._requests = [
            Request((picture,), f"Question {number}: how many bars are there?", 100 * number + turn)
            for number, picture in enumerate(map(a_picture, range(PICTURES)))
            for turn in range(EACH)
        ]

    def _open(self, adapter: Path | None) -> Sampler:
        return self._engines(Wanted(self._name, self._model, adapter))

    def _answers(self, adapter: Path | None) -> list[list[int]]:
        """Greedy ones, one a picture."""
        answers = self._open(adapter).sample(self._requests[::EACH], Decoding(0.0, 1.0, 24))
        return [list(sample.token_ids) for sample in answers if isinstance(sample, Sample)]

    def opens(self) -> Finding:
        """After a learner had the device, as when `run` is taken up within an update."""
        policy = PolicyModel(self._model, 0)
        generator = torch.Generator().manual_seed(1)
        moved = {
            name: 0.02 * torch.randn(tensor.shape, generator=generator) if "lora_B" in name else tensor.detach().clone()
            for name, tensor in sorted(policy.parameters(SOLVER).items())
        }
        policy.set_adapter(SOLVER, moved)
        policy.save_adapter(SOLVER, self._adapter)
        started = time.perf_counter()
        self._open(None)
        return ok("engine", f"{self._name} opened in {time.perf_counter() - started:.0f} s, after a learner")

    def samples(self) -> Finding:
        started = time.perf_counter()
        own = [sample for sample in self._open(None).sample(self._requests, DECODING) if isinstance(sample, Sample)]
        seconds = time.perf_counter() - started
        self._drawn[None] = own
        tokens, distinct = sum(len(sample.token_ids) for sample in own), len({tuple(each.token_ids) for each in own})
        forbidden = set(self._model.forbidden_tokens)
        clean = all(
            not forbidden & set(each.token_ids) and all(map(math.isfinite, each.logprobs)) for each in own
        )  # fmt: skip
        text = f"{len(own)} of {len(self._requests)} answers, {distinct} distinct, {tokens / seconds:,.0f} tokens/s"
        figures = {"answers": len(own), "distinct": distinct, "tokens_per_second": tokens / seconds}
        if clean and len(own) == len(self._requests) and distinct > len(own) // 4:
            return ok("samples", text, **figures)
        return fail("samples", text if clean else f"{text}; forbidden tokens, or log-probabilities that are not finite",
                    f"do not sample here; {REPORT}", **figures)  # fmt: skip

    def swaps(self) -> Finding:
        self._greedy[None] = self._answers(None)
        self._greedy[self._adapter] = self._answers(self._adapter)
        own = self._open(self._adapter).sample(self._requests, DECODING)
        self._drawn[self._adapter] = [sample for sample in own if isinstance(sample, Sample)]
        pairs = zip(self._greedy[None], self._greedy[self._adapter], strict=True)
        changed = sum(base != other for base, other in pairs)
        text = f"{changed} of {PICTURES} greedy answers change with an adapter"
        if changed:
            return ok("adapters", text, changed=changed)
        return fail("adapters", text, f"the engine does not apply it; {REPORT}", changed=changed)

    def sleeps(self) -> Finding:
        self._engines.sleep()
        gc.collect()
        if not torch.cuda.is_available():
            return ok("asleep", "on a CPU there is nothing to leave")
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        used = total - free
        text = f"{used / GIB:.1f} GiB of the GPU in use"
        if used < ASLEEP:
            return ok("asleep", text, bytes=used)
        return fail("asleep", text, "is it somebody else's? `nvidia-smi` says", bytes=used)

    def agrees(self) -> Finding:
        """log π − log μ of the tokens that were sampled: of the base model, and with the adapter."""
        told: list[str] = []
        figures: dict[str, float] = {}
        spread = off = 0.0
        policy = PolicyModel(self._model, 0)
        policy.set_adapter(SOLVER, policy.read_adapter(SOLVER, self._adapter))
        for adapter, samples in self._drawn.items():
            gap = self._gap(policy, adapter is not None, samples)
            weight = float(gap.exp().clamp(max=2).mean())
            name = "adapter" if adapter else "base"
            told.append(f"{name} σ {float(gap.std()):.4f}, mean weight {weight:.4f}")
            figures |= {f"{name}_std": float(gap.std()), f"{name}_weight": weight}
            spread, off = max(spread, float(gap.std())), max(off, abs(weight - 1))
        text = "log π/μ: " + "; ".join(told)
        if len(told) == 2 and spread < SPREAD[policy.device.type] and off < 0.01:
            return ok("π against μ", text, **figures)
        return fail("π against μ", text, f"what samples is not what learns; {REPORT}", **figures)

    @torch.no_grad()
    def _gap(self, policy: PolicyModel, adapted: bool, samples: list[Sample]) -> Tensor:
        """log π − log μ [tokens] of samples in the order of the requests."""
        gaps = []
        for start in range(0, len(samples), EACH):
            request, own = self._requests[start], samples[start : start + EACH]
            prompt = policy.process(request.images, request.prompt, Pixels())
            reference, prefix = policy.prompts([prompt], SOLVER)
            tokens = [torch.tensor(sample.token_ids) for sample in own]
            cache, role = (prefix, SOLVER) if adapted else (reference, None)
            for ids, sample in zip(tokens, own, strict=True):
                states = policy.states([prompt], cache, [[ids]], role)
                logp = torch.log_softmax(policy.head.logits(states), -1).cpu()
                gaps.append(logp.gather(1, ids[:, None])[:, 0] - torch.tensor(sample.logprobs))
        return torch.cat(gaps)

    def wakes(self) -> Finding:
        """The same greedy answers as before it slept, up to what the last bits decide."""
        same = 0
        for adapter in (None, self._adapter):
            pairs = zip(self._answers(adapter), self._greedy[adapter], strict=True)
            same += sum(again[:4] == before[:4] for again, before in pairs)
        text = f"{same} of {2 * PICTURES} greedy answers begin as before it slept"
        if same >= 2 * PICTURES - 1:
            return ok("awake", text, same=same)
        return fail("awake", text, f"what woke is not what went to sleep; {REPORT}", same=same)

    def closes(self) -> Finding:
        """No process of the engine is left; its successor would find the memory taken."""
        before = engine_processes()
        self._engines.close()
        left = engine_processes()
        text = f"{before} engine processes before, {left} after"
        if left or before > 1:
            return fail("closed", text, f"end them by their numbers (`ps`); {REPORT}", before=before, left=left)
        return ok("closed", text, before=before, left=left)


def engine_processes() -> int:
    """How many of this process's children are vLLM's engines."""
    told = subprocess.run(["ps", "-eo", "ppid=,stat=,comm="], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()]
    return sum(parent == str(os.getpid()) and state[0] != "Z" and "VLLM" in name for parent, state, name in rows)
