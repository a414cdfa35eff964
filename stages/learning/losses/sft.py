"""Supervised fine-tuning on what was sampled: every row that is given is learned, whatever it earned."""

import torch
from torch import Tensor

from stages.learning.losses.bounds import Bounds
from stages.learning.losses.token_loss import TokenLoss


def token_loss(logprob: Tensor, sampled_logprobs: Tensor, advantages: Tensor, bounds: Bounds) -> TokenLoss:
    """−log π(y)   [n]

    logprob log π(y) [n] float; sampled_logprobs, advantages and bounds are not used.
    """
    ones = torch.ones_like(logprob)
    return TokenLoss(-logprob, ones, ones, torch.zeros_like(ones, dtype=torch.bool))
