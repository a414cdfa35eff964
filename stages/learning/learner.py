"""One optimizer step of one role, and everything that must survive from step to step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image
from safetensors.torch import load_file
from torch import Tensor

from stages.contract import PROPOSER, SOLVER, Role
from stages.errors import DataError
from stages.learning.control import Baseline, next_kl_coef
from stages.learning.loss import group_loss, token_terms
from stages.learning.model import PolicyModel, write_tensors
from stages.models import Model
from stages.policy import OPTIMIZER_FILE, STATE_FILE, PolicyState, RoleState, read_state
from stages.sampling import Pixels
from stages.shards import sync_file

ROLES: tuple[Role, ...] = (SOLVER, PROPOSER)
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class UpdateParams:
    """The settings of an update, by the names of their options."""

    lr: float = 1e-6
    groups_per_step: int = 1
    proposer_every: int = 5
    baseline: Literal["ema", "group"] = "ema"
    kl_start: float = 1e-3
    kl_target: float = 0.02
    kl_min: float = 1e-8
    limit: int | None = None


@dataclass(frozen=True)
class TrainingGroup:
    """The trajectories of one role in one group, all on the same prompt: only those with tokens and a reward.

    token_ids [N][L_i] as sampled, logprobs [N][L_i] as stored, rewards [N].
    """

    image: Image
    prompt: str
    pixels: Pixels
    token_ids: list[list[int]]
    logprobs: list[list[float]]
    rewards: list[float]

    @property
    def mean_reward(self) -> float:
        return sum(self.rewards) / len(self.rewards)


class Learner:
    """The policy in memory: the model with both adapters, AdamW's moments, baselines and KL coefficients."""

    def __init__(self, model: Model, params: UpdateParams, seed: int) -> None:
        """A fresh policy at step 0, its adapters untouched."""
        self.params = params
        self.model = PolicyModel(model, seed)
        self.roles: dict[Role, RoleState] = dict.fromkeys(ROLES, RoleState(Baseline(), params.kl_start))
        self._optimizers = {
            role: torch.optim.AdamW(
                self.model.parameters(role).values(), lr=params.lr, weight_decay=WEIGHT_DECAY, foreach=True
            )
            for role in ROLES
        }

    # ----------------------------------------------------------------------------------------- learning

    def advantages(self, role: Role, groups: Sequence[TrainingGroup]) -> list[list[float]]:
        """A = reward − b for each row of each group; the groups of one step share b."""
        if role == SOLVER and self.params.baseline == "group":
            baselines = [group.mean_reward for group in groups]
        else:
            baselines = [self.roles[role].baseline.value(first=groups[0].mean_reward)] * len(groups)
        return [
            [reward - baseline for reward in group.rewards] for group, baseline in zip(groups, baselines, strict=True)
        ]

    def observe(self, role: Role, mean_reward: float) -> None:
        """Lets the role's baseline see a group's mean reward."""
        state = self.roles[role]
        self.roles[role] = replace(state, baseline=state.baseline.after(mean_reward))

    def step(self, role: Role, groups: Sequence[TrainingGroup]) -> dict[str, Any]:
        """One optimizer step of `role` on the mean loss of `groups`; returns its row of metrics.

        A step whose gradient is not finite changes no weight and no coefficient; its row shows the norm.
        """
        state, optimizer = self.roles[role], self._optimizers[role]
        advantages = self.advantages(role, groups)
        self.model.use(role)
        optimizer.zero_grad(set_to_none=True)
        loss = kl = weight = 0.0
        for group, group_advantages in zip(groups, advantages, strict=True):
            result = self._backward(group, group_advantages, state.kl_coef, 1 / len(groups))
            loss += result[0] / len(groups)
            kl += result[1] / len(groups)
            weight += result[2] / len(groups)
        parameters = list(self.model.parameters(role).values())
        grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM))
        if torch.isfinite(torch.tensor([grad_norm, loss, kl])).all():
            optimizer.step()
            kl_coef = next_kl_coef(state.kl_coef, kl, self.params.kl_target, self.params.kl_min)
            self.roles[role] = RoleState(state.baseline, kl_coef, state.updates + 1)
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

    def _backward(
        self, group: TrainingGroup, advantages: list[float], kl_coef: float, share: float
    ) -> tuple[float, float, float]:
        """Adds the gradient of `share` times the group's loss; returns loss, KL and mean ŵ."""
        device = self.model.device
        prompt = self.model.prompt(group.image, group.prompt, group.pixels)
        tokens = [torch.tensor(ids, dtype=torch.long, device=device) for ids in group.token_ids]
        with self.model.reference():
            reference_states = self.model.hidden_states(prompt, tokens)
        terms = token_terms(
            self.model.hidden_states(prompt, tokens), reference_states, torch.cat(tokens), self.model.logits
        )
        result = group_loss(
            terms,
            [len(ids) for ids in tokens],
            torch.tensor([value for row in group.logprobs for value in row], device=device),
            torch.tensor(advantages, device=device),
            kl_coef,
        )
        (share * result.loss).backward()
        return float(result.loss.detach()), result.kl, result.importance_weight

    # ------------------------------------------------------------------------------------------- on disk

    def load(self, folder: Path) -> PolicyState:
        """Takes up the policy in `folder`: adapters, moments, baselines, coefficients. Raises DataError if it is
        damaged or does not fit."""
        state = read_state(folder)
        self.roles = dict(state.roles)
        try:
            moments = load_file(folder / OPTIMIZER_FILE)
        except Exception as error:
            raise DataError(f"{folder / OPTIMIZER_FILE}: missing or damaged ({error})") from error
        for role in ROLES:
            self.model.load_adapter(role, folder / role)
            if state.roles[role].updates:
                self._load_moments(role, moments, folder)
        return state

    def _load_moments(self, role: Role, moments: dict[str, Tensor], folder: Path) -> None:
        step = torch.tensor(float(self.roles[role].updates))
        for name, parameter in self.model.parameters(role).items():
            try:
                stored = {moment: moments[f"{role}.{name}.{moment}"].to(parameter) for moment in MOMENTS}
            except KeyError as error:
                raise DataError(f"{folder / OPTIMIZER_FILE}: lacks the moment {error}") from error
            self._optimizers[role].state[parameter] = {"step": step.clone(), **stored}

    def save(self, folder: Path, state: PolicyState) -> None:
        """Writes a whole policy directory, but for its metrics; everything is on disk when this returns."""
        folder.mkdir()
        moments: dict[str, Tensor] = {}
        for role in ROLES:
            self.model.save_adapter(role, folder / role)
            for name, parameter in self.model.parameters(role).items():
                stored = self._optimizers[role].state.get(parameter)
                if stored:
                    moments |= {f"{role}.{name}.{moment}": stored[moment].cpu().contiguous() for moment in MOMENTS}
        write_tensors(moments, folder / OPTIMIZER_FILE)
        (folder / STATE_FILE).write_text(state.to_json(), encoding="utf-8")
        for file in (OPTIMIZER_FILE, STATE_FILE):
            sync_file(folder / file)


def forbidden_in(model: Model, token_ids: Sequence[int], vocabulary: int) -> int | None:
    """The first token that this model cannot have sampled, if any."""
    forbidden = set(model.forbidden_tokens)
    return next((token for token in token_ids if token in forbidden or not 0 <= token < vocabulary), None)
