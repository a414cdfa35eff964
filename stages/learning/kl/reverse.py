"""The reverse divergence, KL(π ‖ π_ref): keeps the policy from what the reference does not do."""

import torch
from torch import Tensor


def divergence(logp: Tensor, logq: Tensor, forbidden: Tensor, scale: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """KL = Σ p · (log p − log q)   [n],   ∂KL/∂z = p · (log p − log q − KL)   [n, V]

    With p = π and q = π_ref; arguments and the gradient that is returned: see `stages.learning.kl.rule`.
    """
    gap = logq.neg_().add_(logp)
    # At forbidden tokens both are −∞ and the gap undefined; they have no probability and no part in KL.
    gap.index_fill_(-1, forbidden, 0.0)
    p = logp.exp_()
    kl = torch.linalg.vecdot(p, gap)
    return kl, gap.sub_(kl[:, None]).mul_(scale[:, None]).add_(pull[:, None]).mul_(p)
