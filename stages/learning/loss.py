"""The loss of a step, from plain tensors, with its gradient.

    mean_t ℓ_t  +  β · mean_t KL_t          of a trajectory

ℓ is a rule of `losses`, of the token that was sampled: −A · ŵ_t log π(y_t) unless another is chosen; log π may be
taken at a temperature. KL is one of `kl`, exact over the vocabulary, at temperature 1: that of π from π_ref unless
chosen otherwise. Both terms are sums over tokens, and so the gradient of each token's logits is known as soon as they
are: it is taken on the spot, a chunk of tokens at a time, and no [tokens, vocabulary] tensor outlives its chunk or is
made twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.learning.kl import Kl
from stages.learning.kl import load as load_kl
from stages.learning.losses import Loss
from stages.learning.losses import load as load_loss
from stages.learning.losses.bounds import DEFAULT_BOUNDS, Bounds
from stages.learning.losses.token_loss import TokenLoss

# Rows of a [positions, vocabulary] tensor, of which three live at a time, and a fourth at a temperature.
POSITIONS_PER_CHUNK = {"cpu": 96, "cuda": 512}


@dataclass(frozen=True)
class LossRule:
    """Which loss of a token and which divergence; the bounds of `clip`; the temperature (> 0) at which log π enters the
    loss: that of the sampling, where μ is of that temperature, too."""

    loss: Loss = "policy-gradient"
    kl: Kl = "reverse"
    bounds: Bounds = DEFAULT_BOUNDS
    temperature: float = 1.0

    def token_loss(self, logprob: Tensor, tokens: "Tokens") -> TokenLoss:
        """Of log π(y) [T] at the temperature."""
        return load_loss(self.loss)(logprob, tokens.sampled_logprobs, tokens.advantages, self.bounds)


DEFAULT_RULE = LossRule()


@dataclass(frozen=True)
class Tokens:
    """What is learned from, [T] each: ids int64; sampled_logprobs log μ, as stored; advantages A of the token's
    trajectory, or of its step; shares, what the token counts in the mean over tokens, trajectories and groups."""

    ids: Tensor
    sampled_logprobs: Tensor
    advantages: Tensor
    shares: Tensor

    def split(self, size: int) -> "Iterator[Tokens]":
        """Chunks of `size` tokens, in order."""
        parts = zip(*(part.split(size) for part in vars(self).values()), strict=True)
        return (Tokens(*part) for part in parts)


@dataclass(frozen=True)
class Head:
    """The vocabulary projection: weight [V, d], frozen; forbidden [F] int64, tokens that cannot be sampled; and what
    the family does with the product: z = scale · W h, and where there is a cap, cap · tanh(z / cap)."""

    weight: Tensor
    forbidden: Tensor
    scale: float = 1.0
    cap: float | None = None

    def logits(self, states: Tensor) -> Tensor:
        """[n, V], float32 at least, of hidden states [n, d]; −∞ where a token cannot be sampled."""
        if states.is_cuda and states.dtype.itemsize < 4:  # the product is summed in float32: it need not be rounded
            logits = torch.mm(states, self.weight.T, out_dtype=torch.float32)
        else:
            logits = states @ self.weight.T
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.scale != 1:
            logits.mul_(self.scale)
        if self.cap is not None:
            logits.div_(self.cap).tanh_().mul_(self.cap)
        return logits.index_fill_(-1, self.forbidden, -torch.inf)

    def slope(self, logits: Tensor) -> Tensor | None:
        """Of capped logits, by how much each moves with its z: 1 − tanh² [n, V]. None of others: by as much."""
        if self.cap is None:
            return None
        return logits.div(self.cap).square_().neg_().add_(1).index_fill_(-1, self.forbidden, 0.0)

    def gradient(self, d_logits: Tensor, slope: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Of the hidden states [n, d], in their dtype, from that of the logits, which is overwritten."""
        if slope is not None:
            d_logits.mul_(slope)
        d_states = d_logits.to(dtype) @ self.weight
        return d_states if self.scale == 1 else d_states.mul_(self.scale)


@dataclass(frozen=True)
class Terms:
    """logprob, kl [T]: log π(y_t) at the rule's temperature and KL_t, float32 at least; gap [T]: |log π(y_t) − log μ|.
    loss, kl_mean, weight_mean, gap_mean: the shared-out sums of the loss, of KL_t, of the importance weight w and of
    the gap, scalars. off_policy [3]: the tokens' sums of w − 1, of (w − 1)² and of what was clipped. gradient [T, d]:
    of the loss, with respect to the policy's hidden states."""

    logprob: Tensor
    kl: Tensor
    gap: Tensor
    loss: Tensor
    kl_mean: Tensor
    weight_mean: Tensor
    gap_mean: Tensor
    off_policy: Tensor
    gradient: Tensor


@torch.no_grad()
def token_logprobs(states: Tensor, ids: Tensor, head: Head) -> Tensor:
    """log π(y) [T]; states [T, d] predict the tokens `ids` [T]."""
    positions = POSITIONS_PER_CHUNK[states.device.type]
    found = [
        torch.log_softmax(head.logits(some), -1).gather(-1, own[:, None])[:, 0]
        for some, own in zip(states.split(positions), ids.split(positions), strict=True)
    ]
    return torch.cat(found)


def loss_terms(
    states: Tensor,
    reference_states: Tensor,
    tokens: Tokens,
    kl_coef: float,
    head: Head,
    rule: LossRule = DEFAULT_RULE,
) -> Terms:
    """The loss over tokens [T] and its gradient; states, reference_states [T, d]: hidden states of π and of π_ref
    that predict them; kl_coef β."""
    positions = POSITIONS_PER_CHUNK[states.device.type]
    chunks = [
        _chunk_terms(*chunk, kl_coef, head, rule)
        for chunk in zip(
            states.detach().split(positions),
            reference_states.split(positions),
            tokens.split(positions),
            strict=True,
        )
    ]
    logprob, kl, loss, weight, clipped, gradient = (torch.cat(list(parts)) for parts in zip(*chunks, strict=True))
    gap = (logprob - tokens.sampled_logprobs).abs()
    return Terms(
        logprob,
        kl,
        gap,
        (tokens.shares * (kl_coef * kl + loss)).sum(),
        (tokens.shares * kl).sum(),
        (tokens.shares * weight).sum(),
        (tokens.shares * gap).sum(),
        torch.stack([(weight - 1).sum(), (weight - 1).square().sum(), clipped.sum()]),
        gradient,
    )


@torch.no_grad()
def _chunk_terms(
    states: Tensor, reference_states: Tensor, tokens: Tokens, kl_coef: float, head: Head, rule: LossRule
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """log π(y), KL, the token's loss, importance weight and whether it was clipped [n], and the gradient [n, d]. With
    p = π at temperature T, z the logits of π:

    ∂(−log p(y))/∂z = (p − 1_y)/T
    """
    both = head.logits(torch.cat([states, reference_states]))  # one product: the weight is read once
    slope = head.slope(both[: len(states)])
    for logits in both.split(len(states)):
        logits.sub_(logits.logsumexp(-1, keepdim=True))
    logp, logq = both.split(len(states))
    tempered = logp
    if rule.temperature != 1:
        tempered = logp / rule.temperature
        tempered.sub_(tempered.logsumexp(-1, keepdim=True))
    logprob = tempered.gather(-1, tokens.ids[:, None])[:, 0]
    loss, gain, weight, clipped = rule.token_loss(logprob, tokens)
    scale, pull = kl_coef * tokens.shares, tokens.shares * gain * weight
    divergence = load_kl(rule.kl)
    if rule.temperature == 1:
        kl, d_logits = divergence(logp, logq, head.forbidden, scale, pull)
    else:
        pull = pull / rule.temperature
        kl, d_logits = divergence(logp, logq, head.forbidden, scale, torch.zeros_like(pull))
        d_logits.addcmul_(tempered.exp_(), pull[:, None])
    d_logits.scatter_add_(-1, tokens.ids[:, None], -pull[:, None])
    return logprob, kl, loss, weight, clipped, head.gradient(d_logits, slope, states.dtype)
