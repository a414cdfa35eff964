"""The loss of a step, from plain tensors, with its gradient.

    −A · mean_t ŵ_t log π(y_t)  +  β · mean_t KL(π(·|s_t) ‖ π_ref(·|s_t))          of a trajectory

KL is exact over the vocabulary. ŵ_t = min(π/μ, 2), without gradient, corrects for the policy having moved since
the tokens were sampled from μ. Both terms are sums over tokens, and so the gradient of each token's logits is known
as soon as they are: it is taken on the spot, a chunk of tokens at a time, and no [tokens, vocabulary] tensor outlives
its chunk or is made twice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_IMPORTANCE_WEIGHT = 2.0
# Rows of a [positions, vocabulary] tensor, of which three live at a time.
POSITIONS_PER_CHUNK = {"cpu": 96, "cuda": 512}


@dataclass(frozen=True)
class Tokens:
    """What is learned from, [T] each: ids int64; sampled_logprobs log μ, as stored; advantages A of the token's
    trajectory; shares, what the token counts in the mean over tokens, trajectories and groups."""

    ids: Tensor
    sampled_logprobs: Tensor
    advantages: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Head:
    """The vocabulary projection: weight [V, d], frozen; forbidden [F] int64, tokens that cannot be sampled."""

    weight: Tensor
    forbidden: Tensor

    def logits(self, states: Tensor) -> Tensor:
        """[n, V], float32 at least, of hidden states [n, d]; −∞ where a token cannot be sampled."""
        logits = states @ self.weight.T
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).index_fill_(-1, self.forbidden, -torch.inf)


@dataclass(frozen=True)
class Terms:
    """logprob, kl [T]: log π(y_t) and KL_t, float32 at least. loss, kl_mean, weight_mean: the shared-out sums of the
    loss, of KL_t and of ŵ_t, scalars. gradient [T, d]: of the loss, with respect to the policy's hidden states."""

    logprob: Tensor
    kl: Tensor
    loss: Tensor
    kl_mean: Tensor
    weight_mean: Tensor
    gradient: Tensor


def loss_terms(states: Tensor, reference_states: Tensor, tokens: Tokens, kl_coef: float, head: Head) -> Terms:
    """The loss over tokens [T] and its gradient; states, reference_states [T, d]: hidden states of π and of π_ref
    that predict them; kl_coef β."""
    positions = POSITIONS_PER_CHUNK[states.device.type]
    chunks = [
        _chunk_terms(*chunk, kl_coef, head)
        for chunk in zip(
            states.detach().split(positions),
            reference_states.split(positions),
            tokens.ids.split(positions),
            tokens.sampled_logprobs.split(positions),
            tokens.advantages.split(positions),
            tokens.shares.split(positions),
            strict=True,
        )
    ]
    logprob, kl, weight, gradient = (torch.cat(list(parts)) for parts in zip(*chunks, strict=True))
    per_token = kl_coef * kl - tokens.advantages * weight * logprob
    return Terms(
        logprob,
        kl,
        (tokens.shares * per_token).sum(),
        (tokens.shares * kl).sum(),
        (tokens.shares * weight).sum(),
        gradient,
    )


@torch.no_grad()
def _chunk_terms(
    states: Tensor,
    reference_states: Tensor,
    ids: Tensor,
    sampled_logprobs: Tensor,
    advantages: Tensor,
    shares: Tensor,
    kl_coef: float,
    head: Head,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log π(y), KL, ŵ [n] and the gradient [n, d]. With p = π, z its logits:

    ∂(−log π(y))/∂z = p − 1_y      ∂KL/∂z = p · (log p − log q − KL)
    """
    both = head.logits(torch.cat([states, reference_states]))  # one product: the weight is read once
    for logits in both.split(len(states)):
        logits.sub_(logits.logsumexp(-1, keepdim=True))
    logp, logq = both.split(len(states))
    gap = logq.neg_().add_(logp)
    # At forbidden tokens both are −∞ and the gap undefined; they have no probability and no part in KL.
    gap.index_fill_(-1, head.forbidden, 0.0)
    logprob = logp.gather(-1, ids[:, None])[:, 0]
    weight = torch.exp(logprob - sampled_logprobs).clamp(max=MAX_IMPORTANCE_WEIGHT)
    p = logp.exp_()
    kl = torch.linalg.vecdot(p, gap)
    pull = shares * advantages * weight
    d_logits = gap.sub_(kl[:, None]).mul_((kl_coef * shares)[:, None]).add_(pull[:, None]).mul_(p)
    d_logits.scatter_add_(-1, ids[:, None], -pull[:, None])
    return logprob, kl, weight, d_logits.to(states.dtype) @ head.weight
