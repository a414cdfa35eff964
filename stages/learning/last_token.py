"""The last-token self-reward (LaSeR, arXiv 2510.14943): what a policy thinks of its answer, read off one token more.

    r_s = β_v · (log π(z | x, y) − c)

z is a token that is never sampled, at the position behind the end of turn; c is the mean of that log-probability of the
base model, so that r_s begins near 0. Learning takes it towards 1 where the answer was right, and 0 where it was not:
by β_v = 0.1, towards a probability that is still next to none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.learning.loss import Head


@dataclass(frozen=True)
class LastToken:
    """z, β_v and c."""

    token: int
    scale: float
    reference: float

    def self_reward(self, logprob: Tensor) -> Tensor:
        """r_s of log π(z | x, y)."""
        return self.scale * (logprob - self.reference)


@torch.no_grad()
def last_token_loss(
    states: Tensor, right: Tensor, shares: Tensor, head: Head, last: LastToken
) -> tuple[Tensor, Tensor]:
    """Σ share · (r_s − r_v)², a scalar, and its gradient [R, d] with respect to `states`:

        ∂/∂logits = share · 2 (r_s − r_v) · β_v · (1_z − p)

    states [R, d]: hidden states at the end of turn; right [R]: r_v, 1 or 0; shares [R]: what each row counts.
    """
    logits = head.logits(states.detach())
    slope = head.slope(logits)
    logp = logits.log_softmax(-1)
    gap = last.self_reward(logp[:, last.token]) - right
    pull = 2 * last.scale * shares * gap
    d_logits = -pull[:, None] * logp.exp_()
    d_logits[:, last.token] += pull
    return (shares * gap.square()).sum(), head.gradient(d_logits, slope, states.dtype)


def balanced(right: Sequence[bool], shares: Sequence[float]) -> dict[bool, float]:
    """By how much a row of either class counts more than its share, so that both classes count alike: S / (2 S_class),
    S the sum of the shares; 0 of a class that there is none of. Of equal shares that is n / (2 n_class)."""
    sums = {
        value: math.fsum(own for own, of in zip(shares, right, strict=True) if of == value) for value in (True, False)
    }
    total = math.fsum(sums.values())
    return {value: total / (2 * own) if own else 0.0 for value, own in sums.items()}
