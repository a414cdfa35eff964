"""The loss of a trajectory, from plain tensors.

    −A · mean_t ŵ_t log π(y_t)  +  β · mean_t KL(π(·|s_t) ‖ π_ref(·|s_t))

KL is exact over the vocabulary. ŵ_t = min(π/μ, 2), without gradient, corrects for the policy having moved since
the tokens were sampled from μ.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAX_IMPORTANCE_WEIGHT = 2.0
POSITIONS_PER_CHUNK = 128  # of [positions, vocabulary] tensors alive at a time

Project = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TokenTerms:
    """Per completion token, [ΣL], float32: log π(y_t), and the exact KL of the distribution it was drawn from."""

    logprob: Tensor
    kl: Tensor


def token_terms(states: Tensor, reference_states: Tensor, tokens: Tensor, project: Project) -> TokenTerms:
    """log π(y_t) and KL_t, with gradient to `states`.

    states, reference_states [ΣL, d]; tokens [ΣL] int64; project: [n, d] → logits [n, V], −∞ where a token cannot
    be sampled. The [n, V] tensors are made a chunk at a time, and again in backward, so that memory does not
    grow with vocabulary × tokens.
    """
    pieces = [
        checkpoint(_chunk_terms, *chunk, project, use_reentrant=False)
        for chunk in zip(
            states.split(POSITIONS_PER_CHUNK),
            reference_states.split(POSITIONS_PER_CHUNK),
            tokens.split(POSITIONS_PER_CHUNK),
            strict=True,
        )
    ]
    logprob, kl = (torch.cat(list(piece)) for piece in zip(*pieces, strict=True))
    return TokenTerms(logprob, kl)


def _chunk_terms(states: Tensor, reference_states: Tensor, tokens: Tensor, project: Project) -> tuple[Tensor, Tensor]:
    logp = torch.log_softmax(project(states), dim=-1)
    with torch.no_grad():
        logq = torch.log_softmax(project(reference_states), dim=-1)
    # At masked tokens both are −∞ and the difference undefined; they have no probability and no part in KL.
    gap = torch.where(torch.isneginf(logp), 0.0, logp - logq)
    kl = (torch.exp(logp) * gap).sum(-1)
    return logp.gather(-1, tokens[:, None])[:, 0], kl


@dataclass(frozen=True)
class GroupLoss:
    """loss: scalar with gradient. kl, importance_weight: means over the rows of the means over their tokens."""

    loss: Tensor
    kl: float
    importance_weight: float


def group_loss(
    terms: TokenTerms, lengths: list[int], sampled_logprobs: Tensor, advantages: Tensor, kl_coef: float
) -> GroupLoss:
    """Mean over a group's rows of the trajectory loss.

    terms [ΣL], rows one after another, `lengths` L_i each; sampled_logprobs [ΣL]: log μ as stored; advantages [N];
    kl_coef β.
    """
    weight = torch.exp(terms.logprob.detach() - sampled_logprobs).clamp(max=MAX_IMPORTANCE_WEIGHT)
    objective = _row_means(weight * terms.logprob, lengths)
    kl = _row_means(terms.kl, lengths)
    loss = (-advantages * objective + kl_coef * kl).mean()
    return GroupLoss(loss, float(kl.detach().mean()), float(_row_means(weight, lengths).mean()))


def _row_means(values: Tensor, lengths: list[int]) -> Tensor:
    return torch.stack([row.mean() for row in values.split(lengths)])
