"""The policy gradient, with a truncated importance weight."""

import torch
from torch import Tensor

from stages.learning.losses.bounds import Bounds
from stages.learning.losses.token_loss import TokenLoss

MAX_IMPORTANCE_WEIGHT = 2.0


def token_loss(logprob: Tensor, sampled_logprobs: Tensor, advantages: Tensor, bounds: Bounds) -> TokenLoss:
    """−A · ŵ · log π(y),   ŵ = min(π/μ, 2) held constant   [n]

    logprob log π(y), sampled_logprobs log μ(y), advantages A, [n] float each; bounds are not used.
    """
    ratio = torch.exp(logprob - sampled_logprobs)
    weight = ratio.clamp(max=MAX_IMPORTANCE_WEIGHT)
    return TokenLoss(-advantages * weight * logprob, advantages, weight, ratio > MAX_IMPORTANCE_WEIGHT)
