"""Direct preference optimisation (arXiv 2305.18290): of two completions the better one is to gain on the other, as
measured from a reference. With a part of the better one's likelihood, as STIC adds it (arXiv 2405.19716)."""

import torch
from torch import Tensor
from torch.nn import functional

from stages.learning.losses.bounds import Bounds
from stages.learning.losses.token_loss import TokenLoss


def pair_loss(policy: Tensor, reference: Tensor, beta: float, sft_coef: float) -> tuple[Tensor, Tensor]:
    """−log σ(β(Δ_w − Δ_l)) − c · log π(y_w),   Δ = log π(y) − log π_ref(y)   [P]

    and the gains [P, 2], −∂loss/∂log π(y) of the preferred completion y_w and of the other, y_l. policy, reference
    [P, 2] float: the sums of the log-probabilities of their tokens, the preferred one's first; beta β, sft_coef c.
    """
    ahead = policy - reference
    margin = beta * (ahead[:, 0] - ahead[:, 1])
    pull = beta * torch.sigmoid(-margin)
    return -functional.logsigmoid(margin) - sft_coef * policy[:, 0], torch.stack([pull + sft_coef, -pull], dim=-1)


def token_loss(logprob: Tensor, sampled_logprobs: Tensor, advantages: Tensor, bounds: Bounds) -> TokenLoss:
    """Of each token, its slope −A in log π(y) alone, A the gain of its completion: the loss is that of a pair, and no
    sum over tokens   [n]

    logprob log π(y), advantages A, [n] float each; sampled_logprobs and bounds are not used.
    """
    unclipped = torch.zeros_like(logprob, dtype=torch.bool)
    return TokenLoss(torch.zeros_like(logprob), advantages, torch.ones_like(logprob), unclipped)
