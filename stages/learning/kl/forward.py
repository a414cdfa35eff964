"""The forward divergence, KL(π_ref ‖ π): keeps the policy at all that the reference does."""

from torch import Tensor


def divergence(logp: Tensor, logq: Tensor, forbidden: Tensor, scale: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """KL = Σ q · (log q − log p)   [n],   ∂KL/∂z = p − q   [n, V]

    With p = π and q = π_ref; arguments and the gradient that is returned: see `stages.learning.kl.rule`.
    """
    gap = logq - logp
    # At forbidden tokens both are −∞ and the gap undefined; they have no probability and no part in KL.
    gap.index_fill_(-1, forbidden, 0.0)
    q = logq.exp_()
    kl = gap.mul_(q).sum(-1)
    return kl, logp.exp_().mul_((scale + pull)[:, None]).addcmul_(q, -scale[:, None])
