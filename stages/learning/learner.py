"""One optimizer step of one role, and everything that must survive from step to step."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.contract import PROPOSER, SOLVER, Role
from stages.errors import DataError
from stages.learning.advantages import COMPARING
from stages.learning.advantages import rule as advantage_rule
from stages.learning.control import Baseline, next_kl_coef
from stages.learning.loss import LossRule, Tokens, loss_terms
from stages.learning.model import PolicyModel, PromptInputs, write_tensors
from stages.learning.passes import TOKENS_PER_PASS, packed
from stages.learning.ranks import Ranks
from stages.models.device import memory_bounded, repeatable
from stages.models.estimate import Group
from stages.models.finding import Model
from stages.models.fitting import step_advice
from stages.parameters.update import UpdateParams
from stages.policy import DEFAULT_LORA, OPTIMIZER_FILE, Lora, PolicyState, RoleState, read_state

ROLES: tuple[Role, ...] = (SOLVER, PROPOSER)
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainingGroup:
    """The trajectories of one role in one group, all on the same prompt: only those with tokens and a reward.

    token_ids [N][L_i] as sampled, logprobs [N][L_i] as stored, rewards [N]. `prompt` may be None where another
    process computes the group's gradient.
    """

    prompt: PromptInputs | None
    token_ids: list[list[int]]
    logprobs: list[list[float]]
    rewards: list[float]

    @property
    def mean_reward(self) -> float:
        return sum(self.rewards) / len(self.rewards)


@dataclass(frozen=True)
class Row:
    """A trajectory on its way through the learner: which of the groups at hand it belongs to, its tokens, log μ,
    advantage A, and what it counts in the mean over rows and groups."""

    group: int
    tokens: Tensor
    sampled_logprobs: Tensor
    advantage: float
    share: float


class Learner:
    """The policy in memory: the model with both adapters, AdamW's moments, baselines and KL coefficients."""

    def __init__(
        self,
        model: Model,
        params: UpdateParams,
        seed: int,
        ranks: Ranks | None = None,
        lora: Lora = DEFAULT_LORA,
        temperatures: Mapping[Role, float] | None = None,
    ) -> None:
        """A fresh policy at step 0, its adapters untouched. `temperatures`: at which log π enters the loss, 1 unless
        given."""
        self.params = params
        self.ranks = ranks or Ranks()
        self.model = PolicyModel(model, seed, params.gradient_checkpointing, lora)
        self.lora = self.model.lora
        self._rules = {
            role: LossRule(
                params.loss,
                params.kl,
                params.clip_low,
                params.clip_high,
                params.clip_dual,
                (temperatures or {}).get(role, 1.0),
            )
            for role in ROLES
        }
        self._model, self._asked = model, Group()
        kl_coef = params.kl_start if params.kl_fixed is None else params.kl_fixed
        self.roles: dict[Role, RoleState] = dict.fromkeys(ROLES, RoleState(Baseline(), kl_coef))
        self._optimizers = {
            role: torch.optim.AdamW(
                self.model.parameters(role).values(), lr=params.lr, weight_decay=WEIGHT_DECAY, foreach=True
            )
            for role in ROLES
        }

    # ----------------------------------------------------------------------------------------- learning

    def advantages(self, role: Role, groups: Sequence[TrainingGroup]) -> list[list[float]]:
        """A of each row of each group, by the rule that was asked for; the groups of one step share the moving average.

        Of a proposal by itself a rule that compares within its group could say nothing: it has the moving average.
        """
        moving = self.roles[role].baseline.value(first=groups[0].mean_reward)
        name = self.params.advantage
        rules = [
            advantage_rule("ema" if role == PROPOSER and name in COMPARING and len(group.rewards) == 1 else name)
            for group in groups
        ]
        return [rule(group.rewards, moving) for rule, group in zip(rules, groups, strict=True)]

    def observe(self, role: Role, mean_reward: float) -> None:
        """Lets the role's baseline see a group's mean reward."""
        state = self.roles[role]
        self.roles[role] = replace(state, baseline=state.baseline.after(mean_reward))

    def computes(self, place: int) -> bool:
        """Whether this process computes the gradient of the step's group at `place`."""
        return place % self.ranks.size == self.ranks.rank

    def step(self, role: Role, groups: Sequence[TrainingGroup]) -> dict[str, Any]:
        """One optimizer step of `role` on the mean loss of `groups`; returns its row of metrics.

        A step whose gradient is not finite changes no weight and no coefficient; its row shows the norm. Raises
        EngineError when the device's memory runs out.
        """
        state, optimizer = self.roles[role], self._optimizers[role]
        kl_fixed = self.params.kl_fixed
        state = state if kl_fixed is None else replace(state, kl_coef=kl_fixed)
        advantages = self.advantages(role, groups)
        self._asked = _longest(groups)
        with memory_bounded(self._memory_advice):
            parameters = list(self.model.parameters(role).values())
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            figures = torch.zeros(3, device=self.model.device)
            limit = TOKENS_PER_PASS[self.model.device.type]
            own = [pair for place, pair in enumerate(zip(groups, advantages, strict=True)) if self.computes(place)]
            with repeatable(self.model.device):
                for pack in packed(own, lambda pair: len(_prompt(pair[0])), limit):
                    figures += self._backward(role, pack, state.kl_coef, 1 / len(groups))
            self.ranks.sum([*(parameter.grad for parameter in parameters if parameter.grad is not None), figures])
            loss, kl, weight = figures.tolist()
            grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM))
            if all(map(math.isfinite, (grad_norm, loss, kl))):
                optimizer.step()
                self.roles[role] = RoleState(state.baseline, self._next_kl_coef(state.kl_coef, kl), state.updates + 1)
            optimizer.zero_grad(set_to_none=True)
        return {
            "role": role,
            "loss": loss,
            "kl": kl,
            "kl_coef": state.kl_coef,
            "advantages": [advantage for group_advantages in advantages for advantage in group_advantages],
            "grad_norm": grad_norm,
            "importance_weight": weight,
            "tokens": sum(len(tokens) for group in groups for tokens in group.token_ids),
        }

    def _memory_advice(self) -> str:
        """What helps where the step that was asked for has filled the GPU."""
        return step_advice(self._model, self._asked, self.lora, self.params.gradient_checkpointing)

    def _next_kl_coef(self, kl_coef: float, kl: float) -> float:
        if self.params.kl_fixed is not None:
            return self.params.kl_fixed
        return next_kl_coef(kl_coef, kl, self.params.kl_target, self.params.kl_min)

    def _backward(
        self, role: Role, pairs: Sequence[tuple[TrainingGroup, list[float]]], kl_coef: float, share: float
    ) -> Tensor:
        """Adds the gradient of `share` times the sum of the groups' losses, each on its advantages; returns the same
        sums [3] of the loss, of KL and of ŵ. Runs every prompt once and the completions behind them in passes."""
        device = self.model.device
        prompts = [_prompt(group) for group, _ in pairs]
        reference, prefix = self.model.prompts(prompts, role)
        leaves = prefix.leaves()
        figures = torch.zeros(3, device=device)
        for rows in packed(_rows(pairs, share), lambda row: len(row.tokens), TOKENS_PER_PASS[device.type]):
            completions = [[row.tokens for row in rows if row.group == index] for index in range(len(pairs))]
            with torch.no_grad():
                reference_states = self.model.states(prompts, reference, completions, None)
            states = self.model.states(prompts, leaves, completions, role)
            terms = loss_terms(
                states, reference_states, _tokens(rows, device), kl_coef, self.model.head, self._rules[role]
            )
            states.backward(terms.gradient)
            figures += torch.stack([terms.loss, terms.kl_mean, terms.weight_mean])
        prefix.backward(leaves)
        return figures

    # ------------------------------------------------------------------------------------------- on disk

    def load(self, folder: Path) -> PolicyState:
        """Takes up the policy in `folder`: adapters, moments, baselines, coefficients.

        Raises DataError if it is damaged or does not fit, and then leaves the learner as it was.
        """
        state = read_state(folder)
        try:
            moments = load_file(folder / OPTIMIZER_FILE)
        except Exception as error:
            raise DataError(f"{folder / OPTIMIZER_FILE}: missing or damaged ({error})") from error
        adapters = {role: self.model.read_adapter(role, folder / role) for role in ROLES}
        for role in ROLES:
            for name, parameter in self.model.parameters(role).items() if state.roles[role].updates else ():
                for moment in MOMENTS:
                    if (stored := moments.get(f"{role}.{name}.{moment}")) is None or stored.shape != parameter.shape:
                        raise DataError(f"{folder / OPTIMIZER_FILE}: lacks the moment {role}.{name}.{moment}")
        self.roles = dict(state.roles)
        for role in ROLES:
            updates = state.roles[role].updates
            self.model.set_adapter(role, adapters[role])
            for name, parameter in self.model.parameters(role).items():
                if updates:
                    own = {moment: moments[f"{role}.{name}.{moment}"].to(parameter) for moment in MOMENTS}
                    self._optimizers[role].state[parameter] = {"step": torch.tensor(float(updates)), **own}
        return state

    def save(self, folder: Path) -> None:
        """Writes adapters and moments as a policy directory holds them."""
        folder.mkdir()
        moments: dict[str, Tensor] = {}
        for role in ROLES:
            self.model.save_adapter(role, folder / role)
            for name, parameter in self.model.parameters(role).items():
                stored = self._optimizers[role].state.get(parameter)
                if stored:
                    moments |= {f"{role}.{name}.{moment}": stored[moment].cpu().contiguous() for moment in MOMENTS}
        write_tensors(moments, folder / OPTIMIZER_FILE)


def _longest(groups: Sequence[TrainingGroup]) -> Group:
    """What memory is needed for: the longest prompt, the most trajectories, the longest of them."""
    return Group(
        max((len(group.prompt) for group in groups if group.prompt is not None), default=0),
        max(len(group.token_ids) for group in groups),
        max(len(tokens) for group in groups for tokens in group.token_ids),
    )


def _prompt(group: TrainingGroup) -> PromptInputs:
    if group.prompt is None:
        raise ValueError("the group's prompt was not processed in this process")
    return group.prompt


def _rows(pairs: Sequence[tuple[TrainingGroup, list[float]]], share: float) -> Iterator[Row]:
    for index, (group, advantages) in enumerate(pairs):
        for ids, logprobs, advantage in zip(group.token_ids, group.logprobs, advantages, strict=True):
            yield Row(index, torch.tensor(ids), torch.tensor(logprobs), advantage, share / len(advantages))


def _tokens(rows: Sequence[Row], device: torch.device) -> Tokens:
    lengths = torch.tensor([len(row.tokens) for row in rows])
    return Tokens(
        torch.cat([row.tokens for row in rows]).to(device),
        torch.cat([row.sampled_logprobs for row in rows]).to(device),
        torch.tensor([row.advantage for row in rows]).repeat_interleave(lengths).to(device),
        (torch.tensor([row.share for row in rows]) / lengths).repeat_interleave(lengths).to(device),
    )


def forbidden_in(model: Model, token_ids: Sequence[int], vocabulary: int) -> int | None:
    """The first token that this model cannot have sampled, if any."""
    forbidden = set(model.forbidden_tokens)
    return next((token for token in token_ids if token in forbidden or not 0 <= token < vocabulary), None)
