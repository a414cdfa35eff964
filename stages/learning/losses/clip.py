"""The clipped surrogate (PPO, arXiv 1707.06347), with a second bound for A < 0 (dual clip, arXiv 1912.09729)."""

import torch
from torch import Tensor

from stages.learning.losses.bounds import Bounds
from stages.learning.losses.token_loss import TokenLoss


def token_loss(logprob: Tensor, sampled_logprobs: Tensor, advantages: Tensor, bounds: Bounds) -> TokenLoss:
    """max(−A·ρ, −A·clip(ρ, 1 − low, 1 + high)), and for A < 0 at most −dual·A;   ρ = π/μ   [n]

    Flat, and so without gradient, wherever that is not −A·ρ. logprob log π(y), sampled_logprobs log μ(y),
    advantages A, [n] float each.
    """
    ratio = torch.exp(logprob - sampled_logprobs)
    ratio = ratio.clamp(max=torch.finfo(ratio.dtype).max)  # finite, that no gradient is 0 · ∞
    surrogate = -advantages * ratio
    loss = torch.maximum(surrogate, -advantages * ratio.clamp(1 - bounds.low, 1 + bounds.high))
    if bounds.dual is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -bounds.dual * advantages), loss)
    clipped = loss != surrogate
    return TokenLoss(loss, torch.where(clipped, 0.0, advantages), ratio, clipped)
