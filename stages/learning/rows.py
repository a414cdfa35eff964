"""The rows of groups on their way through the learner: which belong together, behind which prompt, what each counts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stages.contract import ANSWER
from stages.learning.last_token import balanced
from stages.learning.loss import Tokens
from stages.learning.model import PromptInputs
from stages.learning.packing import TOKENS_PER_PASS, packed


@dataclass(frozen=True)
class TrainingGroup:
    """The trajectories of one role in one group: those with tokens and a reward, or those in pairs.

    prompts: what they are behind, each once; none where another process computes the group's gradient. token_ids
    [N][L_i] as sampled, logprobs [N][L_i] as stored, rewards [N], of pairs none. behind [N]: which of the prompts,
    passes [N]: of which pass each is, where they are not all behind the first and of the Solver's own. pairs [P]: the
    places of the preferred completion and of the other. right [N], where there is a last token to learn: whether the
    answer is the dominant one, None of a completion that was cut off. credit [N][L_i], where steps have their own: the
    advantage of each token. step: the group's training step.
    """

    prompts: Sequence[PromptInputs]
    token_ids: list[list[int]]
    logprobs: list[list[float]]
    rewards: list[float]
    behind: Sequence[int] = ()
    passes: Sequence[str] = ()
    pairs: Sequence[tuple[int, int]] = ()
    right: Sequence[bool | None] = ()
    credit: Sequence[Sequence[float]] = ()
    step: int = 0

    def __len__(self) -> int:
        return len(self.token_ids)

    def by_pass(self) -> dict[str, list[int]]:
        """The places of the rows with rewards, by pass, in order."""
        found: dict[str, list[int]] = {}
        for place in range(len(self.rewards)):
            found.setdefault(self.passes[place] if self.passes else ANSWER, []).append(place)
        return found

    def mean_rewards(self) -> dict[str, float]:
        """By pass."""
        return {name: sum(self.rewards[i] for i in own) / len(own) for name, own in self.by_pass().items()}


@dataclass(frozen=True)
class TrainingRow:
    """A trajectory on its way through the learner: the places of its group and of itself in it; of each token its id,
    log μ and advantage A; and what it counts in the mean over rows and groups. `last`: the token read behind it, and of
    that r_v and what it counts."""

    group: int
    place: int
    tokens: Tensor
    sampled_logprobs: Tensor
    advantages: Tensor
    share: float
    last: int | None = None
    right: bool = False
    last_share: float = 0.0

    @property
    def read(self) -> Tensor:
        """The tokens whose probabilities are asked for."""
        return self.tokens if self.last is None else torch.cat([self.tokens, torch.tensor([self.last])])


@dataclass(frozen=True)
class Bundle:
    """A prompt, and the rows behind it."""

    prompt: PromptInputs
    rows: list[TrainingRow]


def bundles(
    groups: Sequence[TrainingGroup],
    advantages: Sequence[Sequence[float]],
    computed: Callable[[int], bool],
    last: int | None,
    last_coef: float,
) -> list[Bundle]:
    """The rows of the groups at places that are `computed` here, each by the prompt that it is behind. last: the token
    to read behind each answer that was not cut off, and last_coef what its loss counts beside that of the row, right
    and wrong answers of all groups alike."""
    shares = [1 / len(groups) / len(group) for group in groups]
    ended = [
        (right, own) for group, own in zip(groups, shares, strict=True) for right in group.right if right is not None
    ]
    classes = balanced([right for right, _ in ended], [own for _, own in ended])
    found = []
    for place, (group, own, share) in enumerate(zip(groups, advantages, shares, strict=True)):
        if not computed(place):
            continue
        if not group.prompts:
            raise ValueError("the group's prompts were not processed in this process")
        rows = []
        for i, (ids, logprobs, advantage) in enumerate(zip(group.token_ids, group.logprobs, own, strict=True)):
            of_each = group.credit[i] if group.credit else [advantage] * len(ids)
            row = TrainingRow(place, i, torch.tensor(ids), torch.tensor(logprobs), torch.tensor(of_each), share)
            if last is not None and group.right and (right := group.right[i]) is not None:
                row = replace(row, last=last, right=right, last_share=last_coef * share * classes[right])
            rows.append(row)
        behind = group.behind or [0] * len(group)
        for index, prompt in enumerate(group.prompts):
            found.append(Bundle(prompt, [row for row, at in zip(rows, behind, strict=True) if at == index]))
    return found


def in_passes(bundles: Sequence[Bundle], device: torch.device) -> Iterator[list[TrainingRow]]:
    """The rows of all bundles in their order, as many as run together: those behind one prompt."""
    for bundle in bundles:
        yield from packed(bundle.rows, lambda row: len(row.tokens), TOKENS_PER_PASS[device.type])


def completions_of(bundles: Sequence[Bundle], rows: Sequence[TrainingRow], last: bool = False) -> list[list[Tensor]]:
    """The completions of `rows` behind each bundle's prompt, with their `last` tokens or without."""
    wanted = set(map(id, rows))
    return [[row.read if last else row.tokens for row in bundle.rows if id(row) in wanted] for bundle in bundles]


def tokens_of(rows: Sequence[TrainingRow], device: torch.device) -> Tokens:
    """What the loss takes of `rows`, in their order."""
    lengths = torch.tensor([len(row.tokens) for row in rows])
    return Tokens(
        torch.cat([row.tokens for row in rows]).to(device),
        torch.cat([row.sampled_logprobs for row in rows]).to(device),
        torch.cat([row.advantages for row in rows]).to(device),
        (torch.tensor([row.share for row in rows]) / lengths).repeat_interleave(lengths).to(device),
    )
