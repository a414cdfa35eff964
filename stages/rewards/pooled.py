"""One vote of several passes: what is said of a question seen in several ways, each way counting the same."""

import numpy as np

from stages.rewards.consensus import NO_ANSWER


def pooled(
    group: np.ndarray, key: np.ndarray, seen: np.ndarray, ways: int, groups: int, weight: np.ndarray, harmonic: bool
) -> np.ndarray:
    """The key of each group's answer with the largest mean share, NO_ANSWER where none has any   [M]

    group [R] int in [0, groups); key [R] int from 0, NO_ANSWER where there is none; seen [R] int in [0, ways): which
    way; weight [R] ≥ 0: what each rollout counts. A share is of the weight of all of a group's rollouts that see it the
    same way, the unanswered among them; a `harmonic` mean is 0 for what one way never says, be it that a group has no
    rollout that sees it so (Self-Harmony, arXiv 2511.01191).
    Ties go to the one sampled first.
    """
    whole = np.zeros((groups, ways))
    np.add.at(whole, (group, seen), weight)
    answered = np.flatnonzero(key != NO_ANSWER)
    keys = np.stack([group[answered], key[answered]])
    (of_group, of_key), first, number = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    share = np.zeros((len(of_group), ways))
    np.add.at(share, (number.reshape(-1), seen[answered]), weight[answered])
    share = np.divide(share, whole[of_group], out=np.zeros_like(share), where=share > 0)
    if harmonic:
        with np.errstate(divide="ignore"):
            mean = ways / (1 / share).sum(axis=1)
    else:
        mean = share.mean(axis=1)
    best = np.full(groups, NO_ANSWER)
    order = np.lexsort((-first, mean.astype(np.float32), of_group))  # a tie is one in whatever order shares were added
    order = order[mean[order] > 0]
    best[of_group[order]] = of_key[order]  # of each group the last, which is the largest
    return best
