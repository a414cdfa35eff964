"""A model tried before it is learned from: a shared prompt against separate passes.

The learner takes for granted that what stands behind a prompt sees of it what a cache keeps, that what is padded behind
is seen by nothing, that autograd can follow all of it, and that logits are a product of the last states. A family for
which one of these does not hold would be learned from wrongly, without an error. So a small prompt with a picture and
two completions are run both ways: as transformers runs the whole of each, its layers untouched, and as the learner
does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from stages.contract import SOLVER
from stages.errors import EngineError, StageError
from stages.learning.loss import Head, Tokens, loss_terms
from stages.models.prompting import COMPLETION_TYPES, OF_TOKENS
from stages.parameters.sampling import Pixels

PROMPTS = ("What is there to be seen?", "What?")
COMPLETIONS = (6, 3)  # tokens
SPREAD = 0.02  # of the half of an adapter that begins as zero
# Largest difference of log π and of KL, in nats, and that of the gradient relative to its norm: well above what
# rounding makes of them, and below what a token makes that is seen and should not be.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
OF_NARROW_NUMBERS = 0.3


class Trial(NamedTuple):
    """What one way gave: log π and KL from π_ref [ΣL] at the completions' tokens, and the gradient of a loss with
    respect to the adapter, flat."""

    logprob: Tensor
    kl: Tensor
    gradient: Tensor


class Examination:
    """Of a policy (a PolicyModel), with the Solver's adapter away from where it starts."""

    def __init__(self, policy: Any, forbidden_tokens: Sequence[int]) -> None:
        self._policy = policy
        picture = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
        self._prompts = [policy.process((picture,), text, Pixels()) for text in PROMPTS]
        allowed = torch.ones(len(policy.head.weight), dtype=torch.bool)
        allowed[list(forbidden_tokens)] = False
        some = torch.linspace(0, int(allowed.sum()) - 1, sum(COMPLETIONS)).long()
        tokens = allowed.nonzero()[:, 0][some]
        self._completions = tokens.split(COMPLETIONS)
        ones = torch.ones(len(tokens), device=policy.device)
        # With log μ so low every weight is 2, where it is cut off: the loss is Σ KL − 2 A log π.
        self._tokens = Tokens(tokens.to(policy.device), -1e4 * ones, ones.cumsum(0).sin(), ones)

    @contextmanager
    def moved(self) -> Iterator[None]:
        """Within, the adapter is not a fresh one's, and there is no gradient of it yet."""
        moved = [tensor for name, tensor in self._policy.parameters(SOLVER).items() if "lora_B" in name]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for tensor in moved:
                tensor.add_(SPREAD * torch.randn(tensor.shape).to(tensor))
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor in moved:
                    tensor.zero_()
            for tensor in self._policy.parameters(SOLVER).values():
                tensor.grad = None

    def separately(self, base: Any, peft: Any) -> tuple[Trial, Head]:
        """As transformers and PEFT run each whole, and the head that their logits come from. Before anything of them is
        replaced."""
        seen: list[Tensor] = []
        hook = base.get_output_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
        try:
            wholes = [self._whole(completion, base.config.model_type) for completion in self._completions]
            with torch.no_grad(), peft.disable_adapter():
                reference = [peft(**whole, use_cache=False).logits[0] for whole in wholes]
            policy = [peft(**whole, use_cache=False).logits[0] for whole in wholes]
        finally:
            hook.remove()
        head = fitting_head(self._policy.head, base.config.get_text_config(), seen[0][0], reference[0])
        p, q = self._logprobs(policy), self._logprobs(reference)
        logprob = p.gather(-1, self._tokens.ids[:, None])[:, 0]
        kl = (p.exp() * torch.where(p.isfinite(), p - q, 0.0)).sum(-1)
        (kl - 2 * self._tokens.advantages * logprob).sum().backward()
        return Trial(logprob.detach(), kl.detach(), self._gradient()), head

    def _whole(self, completion: Tensor, model_type: str) -> dict[str, Any]:
        given = {name: self._policy.placed(value) for name, value in self._prompts[0].tensors.items()}
        given["input_ids"] = torch.cat([given["input_ids"], completion[None].to(self._policy.device)], dim=1)
        types = COMPLETION_TYPES.get(model_type, {})
        for name in given.keys() & set(OF_TOKENS):
            given[name] = pad(given[name], (0, len(completion)), value=types.get(name, 0))
        return given | {"attention_mask": torch.ones_like(given["input_ids"])}

    def _logprobs(self, logits: Sequence[Tensor]) -> Tensor:
        """[ΣL, V] at the completions' tokens, of the logits [P + L, V] of each whole."""
        rows = [own[-len(tokens) - 1 : -1] for own, tokens in zip(logits, self._completions, strict=True)]
        wide = torch.cat(rows).to(torch.promote_types(rows[0].dtype, torch.float32))
        return torch.log_softmax(wide.index_fill(-1, self._policy.head.forbidden, -torch.inf), dim=-1)

    def together(self) -> Trial:
        """As the learner does it: both completions behind the prompt."""
        policy, prompts = self._policy, self._prompts[:1]
        reference, prefix = policy.prompts(prompts, SOLVER)
        leaves = prefix.leaves()
        with torch.no_grad():
            reference_states = policy.states(prompts, reference, [self._completions], None)
        states = policy.states(prompts, leaves, [self._completions], SOLVER)
        terms = loss_terms(states, reference_states, self._tokens, 1.0, policy.head)
        states.backward(terms.gradient)
        prefix.backward(leaves)
        return Trial(terms.logprob, terms.kl, self._gradient())

    def _gradient(self) -> Tensor:
        parameters = self._policy.parameters(SOLVER).values()
        flat = [torch.zeros_like(own) if own.grad is None else own.grad for own in parameters]
        for own in parameters:
            own.grad = None
        return torch.cat([gradient.flatten() for gradient in flat])

    def runs_in_batches(self) -> bool:
        """Whether prompts of several lengths that run together are as they are by themselves."""
        together = self._policy.run_prompts(self._prompts)
        alone = [self._policy.run_prompts([prompt])[0] for prompt in self._prompts]
        return all(
            own.shape == other.shape and _apart(own, other) <= tolerance(own.dtype) * float(other.abs().max())
            for prefix, by_itself in zip(together, alone, strict=True)
            for own, other in zip(prefix.tensors(), by_itself.tensors(), strict=True)
        )


def compare(name: str, separate: Trial, together: Trial, dtype: torch.dtype) -> None:
    """Raises EngineError, saying what differs by how much, where two trials are not one in all but rounding."""
    bound = tolerance(dtype)
    norm = max(float(separate.gradient.norm()), torch.finfo(separate.gradient.dtype).tiny)
    apart = {
        "log π by {:.2g} nats": _apart(separate.logprob, together.logprob),
        "KL from π_ref by {:.2g} nats": _apart(separate.kl, together.kl),
        "the gradient by {:.2g} of its norm": float((separate.gradient - together.gradient).norm()) / norm,
    }
    wrong = [said.format(by) for said, by in apart.items() if not by <= bound]
    if wrong:
        raise EngineError(
            f"{name}: this model cannot be learned from. Completions behind one prompt and separate passes through "
            f"transformers differ: {', '.join(wrong)}, where rounding explains {bound:g}"
        )


def fitting_head(head: Head, config: Any, states: Tensor, logits: Tensor) -> Head:
    """`head` with the scale and the cap that make `logits` [n, V] of `states` [n, d], of those that a configuration may
    name: which families divide by what they call a scale cannot be told from its name.

    Raises EngineError where none does.
    """
    scales = [1.0]
    for name in ("logit_scale", "logits_scaling"):
        if value := getattr(config, name, None):
            scales += [float(value), 1 / float(value)]
    caps = {None, getattr(config, "final_logit_softcapping", None)}
    heads = [Head(head.weight, head.forbidden[:0], scale, cap) for scale, cap in product(scales, caps)]
    found = {own: _apart(own.logits(states), logits) for own in heads}
    best = min(heads, key=found.__getitem__)
    if not found[best] <= tolerance(states.dtype) * float(logits.abs().max()):
        raise EngineError(
            "its logits are no product of its last states with its output embeddings, scaled or capped: they differ by "
            f"{found[best]:.2g}"
        )
    return Head(head.weight, head.forbidden, best.scale, best.cap)


def tolerance(dtype: torch.dtype) -> float:
    return TOLERANCE.get(dtype, OF_NARROW_NUMBERS)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@contextmanager
def tried(name: str) -> Iterator[None]:
    """Within, whatever goes wrong is that the model cannot be learned from."""
    try:
        yield
    except (StageError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or "it does not say why"
        raise EngineError(
            f"{name}: this model cannot be learned from; a small prompt ends in {type(error).__name__}: {reason}"
        ) from error
