"""One optimizer step of one role, and everything that must survive from step to step."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.contract import ANSWER, PROPOSER, SOLVER, Role
from stages.errors import DataError
from stages.learning.advantages import COMPARING
from stages.learning.advantages import load as load_advantage
from stages.learning.control import Baseline, next_kl_coef
from stages.learning.drift import effective_sample_size
from stages.learning.last_token import LastToken, last_token_loss
from stages.learning.loss import LossRule, Terms, loss_terms, token_logprobs
from stages.learning.losses.bounds import Bounds
from stages.learning.losses.dpo import pair_loss
from stages.learning.model import PolicyModel, write_tensors
from stages.learning.packing import TOKENS_PER_PASS, packed
from stages.learning.ranks import Ranks
from stages.learning.rows import Bundle, TrainingGroup, TrainingRow, bundles, completions_of, in_passes, tokens_of
from stages.models.device import memory_bounded, repeatable
from stages.models.estimate import GroupSize, Held
from stages.models.finding import Model
from stages.models.fitting import step_advice
from stages.parameters.update import UpdateParams
from stages.policy import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    DEFAULT_LORA,
    OPTIMIZER_FILE,
    TEACHER,
    Lora,
    PolicyState,
    RoleState,
    read_state,
)

ROLES: tuple[Role, ...] = (SOLVER, PROPOSER)
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
FIGURES = 7  # of a step, summed: see Learner._figures
MOMENTS = ("exp_avg", "exp_avg_sq")
ModelSource = Callable[..., PolicyModel]  # PolicyModel itself, or what gives one that is as good as new


@dataclass(frozen=True)
class Readout:
    """What a model makes of groups' rows, a float64 tensor [N] a group: log π of all a row's tokens together, and of
    the last token behind it, 0 where none is read."""

    logprob: list[Tensor]
    last: list[Tensor]


class Learner:
    """The policy in memory: the model with both adapters, AdamW's moments, baselines and KL coefficients.

    Set once they are known: `references`, by training step, log π_ref [N] of the rows in a group's pairs; `last`, the
    token of `--loss-aux`. `teacher`: the tensors of that adapter, where there is one.
    """

    def __init__(
        self,
        model: Model,
        params: UpdateParams,
        seed: int,
        ranks: Ranks | None = None,
        lora: Lora = DEFAULT_LORA,
        temperatures: Mapping[Role, float] | None = None,
        models: ModelSource | None = None,
    ) -> None:
        """A fresh policy at step 0, its adapters untouched. `temperatures`: at which log π enters the loss, 1 unless
        given. `models`: where the model comes from, loaded anew unless given."""
        self.params = params
        self.ranks = ranks or Ranks()
        self._held = Held(self.ranks.size if params.shard_base else 1, params.load_in_4bit)
        shards = (self._held, self.ranks if self._held.ranks > 1 else None)
        self.model = (models or PolicyModel)(model, seed, params.gradient_checkpointing, lora, *shards)
        self.lora = self.model.lora
        bounds = Bounds(params.clip_low, params.clip_high, params.clip_dual)
        self._rules = {
            role: LossRule(params.loss, params.kl, bounds, (temperatures or {}).get(role, 1.0)) for role in ROLES
        }
        self._model, self._asked = model, GroupSize()
        kl_coef = params.kl_start if params.kl_fixed is None else params.kl_fixed
        self.roles: dict[Role, RoleState] = dict.fromkeys(ROLES, RoleState(Baseline(), kl_coef))
        self._optimizers = {
            role: torch.optim.AdamW(
                self.model.parameters(role).values(), lr=params.lr, weight_decay=WEIGHT_DECAY, foreach=True
            )
            for role in ROLES
        }
        self.references: Mapping[int, Sequence[float]] = {}
        self.last: LastToken | None = None
        self._largest_gap = torch.zeros(self.ranks.size)
        self.teacher = self._as_teacher(self.model.parameters(SOLVER))

    # ----------------------------------------------------------------------------------------- learning

    def advantages(self, role: Role, groups: Sequence[TrainingGroup]) -> list[list[float]]:
        """A of each row of each group, by the rule that was asked for, within its pass; groups of one step share the
        pass's moving average. Of rows with credit by step, its mean over the tokens.

        Of a proposal by itself a rule that compares within its group could say nothing: it has the moving average.
        """
        first: dict[str, float] = {}
        for group in groups:
            first = group.mean_rewards() | first
        return [self._advantages(role, group, first) for group in groups]

    def _advantages(self, role: Role, group: TrainingGroup, first: Mapping[str, float]) -> list[float]:
        if group.credit:
            return [sum(own) / len(own) for own in group.credit]
        name = self.params.advantage
        alone = role == PROPOSER and name in COMPARING and len(group.rewards) == 1
        rule = load_advantage("ema" if alone else name)
        found = [0.0] * len(group.rewards)
        for of_pass, places in group.by_pass().items():
            moving = self.roles[role].baseline_of(of_pass).value(first[of_pass])
            for place, advantage in zip(places, rule([group.rewards[i] for i in places], moving), strict=True):
                found[place] = advantage
        return found

    def observe(self, role: Role, mean_reward: float, of_pass: str = ANSWER) -> None:
        """Lets the baseline of a role and pass see a group's mean reward."""
        self.roles[role] = self.roles[role].observing(of_pass, mean_reward)

    def temperature(self, role: Role) -> float:
        """At which log π enters the role's loss."""
        return self._rules[role].temperature

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
        self._asked = _longest(groups)
        with memory_bounded(self._memory_advice):
            parameters = list(self.model.parameters(role).values())
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            figures = torch.zeros(FIGURES, device=self.model.device)
            self._largest_gap = torch.zeros(self.ranks.size, device=self.model.device)  # each process's own
            pairs = 0.0
            with repeatable(self.model.device):
                if self.params.loss == "dpo":
                    pairs, advantages, slopes = self._preferences(role, groups)
                else:
                    slopes = advantages = self.advantages(role, groups)
                for pack in self._packs(self._bundles(groups, slopes)):
                    figures += self._backward(role, pack, state.kl_coef)
                self.model.finish()
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            self.ranks.sum([*gradients, figures, self._largest_gap])
            loss, kl, weight, gap, excess, squares, clipped = figures.tolist()
            loss += pairs
            grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM))
            if all(map(math.isfinite, (grad_norm, loss, kl))):
                optimizer.step()
                kl_coef = self._next_kl_coef(state.kl_coef, kl)
                self.roles[role] = replace(state, kl_coef=kl_coef, updates=state.updates + 1)
                if role == SOLVER:
                    self._teach()
            optimizer.zero_grad(set_to_none=True)
        count = sum(len(tokens) for group in groups for tokens in group.token_ids)
        return {
            "role": role,
            "loss": loss,
            "kl": kl,
            "kl_coef": state.kl_coef,
            "advantages": [advantage for group_advantages in advantages for advantage in group_advantages],
            "grad_norm": grad_norm,
            "importance_weight": weight,
            "effective_sample_size": effective_sample_size(count, excess, squares),
            "clipped": clipped / count,
            "logprob_gap": gap,
            "logprob_gap_max": float(self._largest_gap.max()),
            "tokens": count,
        }

    def _memory_advice(self) -> str:
        """What helps where the step that was asked for has filled the GPU."""
        return step_advice(self._model, self._asked, self.lora, self.params.gradient_checkpointing, self._held)

    def _next_kl_coef(self, kl_coef: float, kl: float) -> float:
        if self.params.kl_fixed is not None:
            return self.params.kl_fixed
        return next_kl_coef(kl_coef, kl, self.params.kl_target, self.params.kl_min)

    def _preferences(
        self, role: Role, groups: Sequence[TrainingGroup]
    ) -> tuple[float, list[list[float]], list[list[float]]]:
        """Of groups with pairs, the loss, the mean over groups of the mean over their pairs; each row's gain; and, for
        that mean, the slope of the row's mean log π(y_t) as one of the group's rows."""
        total, gains, slopes = 0.0, [], []
        for group, logprob in zip(groups, self.readout(role, groups).logprob, strict=True):
            pairs, reference = torch.tensor(group.pairs), torch.tensor(self.references[group.step]).to(logprob)
            params = self.params
            loss, gain = pair_loss(logprob[pairs], reference[pairs], params.dpo_beta, params.sft_coef)
            total += float(loss.mean()) / len(groups)
            own = torch.zeros_like(logprob).index_put_((pairs,), gain).tolist()
            scale = len(group) / len(pairs)
            gains.append(own)
            slopes.append([value * scale * len(ids) for value, ids in zip(own, group.token_ids, strict=True)])
        return total, gains, slopes

    def readout(self, role: Role | None, groups: Sequence[TrainingGroup]) -> Readout:
        """log π of the groups' rows, or, without a role, log π_ref: each process its own groups, then shared."""
        device, head = self.model.device, self.model.head
        found = [torch.zeros(2, len(group), dtype=torch.float64, device=device) for group in groups]
        unweighed = [[0.0] * len(group) for group in groups]
        with memory_bounded(self._memory_advice), torch.no_grad():
            for pack in self._packs(self._bundles(groups, unweighed)):
                prompts = [bundle.prompt for bundle in pack]
                reference, prefix = self.model.prompts(prompts, role or SOLVER)
                for rows in in_passes(pack, device):
                    completions = completions_of(pack, rows, last=True)
                    states = self.model.states(prompts, prefix if role else reference, completions, role)
                    ids = torch.cat([row.read for row in rows]).to(device)
                    logprobs = token_logprobs(states, ids, head).double().split([len(row.read) for row in rows])
                    for row, own in zip(rows, logprobs, strict=True):
                        found[row.group][0, row.place] = own[: len(row.tokens)].sum()
                        found[row.group][1, row.place] = own[len(row.tokens) :].sum()
            self.model.finish()
        self.ranks.sum(found)
        return Readout([values[0].cpu() for values in found], [values[1].cpu() for values in found])

    def _bundles(self, groups: Sequence[TrainingGroup], advantages: Sequence[Sequence[float]]) -> list[Bundle]:
        """Of the groups that this process computes."""
        last = self.last.token if self.last else None
        return bundles(groups, advantages, self.computes, last, self.params.aux_coef)

    def _packs(self, bundles: Sequence[Bundle]) -> Iterator[list[Bundle]]:
        """As many as run together."""
        return packed(bundles, lambda bundle: len(bundle.prompt), TOKENS_PER_PASS[self.model.device.type])

    def _backward(self, role: Role, pack: Sequence[Bundle], kl_coef: float) -> Tensor:
        """Adds the gradient of the rows' part in the loss; returns the same sums of `_figures`. Runs every
        prompt once and the completions behind them in passes."""
        device = self.model.device
        prompts = [bundle.prompt for bundle in pack]
        reference, prefix = self.model.prompts(prompts, role)
        leaves = prefix.leaves()
        figures = torch.zeros(FIGURES, device=device)
        for rows in in_passes(pack, device):
            with torch.no_grad():
                reference_states = self.model.states(prompts, reference, completions_of(pack, rows), None)
            states = self.model.states(prompts, leaves, completions_of(pack, rows, last=True), role)
            own, gradient = self._gradient(role, rows, states, reference_states, kl_coef)
            states.backward(gradient)
            figures += own
        prefix.backward(leaves)
        return figures

    def _gradient(
        self, role: Role, rows: Sequence[TrainingRow], states: Tensor, reference_states: Tensor, kl_coef: float
    ) -> tuple[Tensor, Tensor]:
        """The sums of `_figures` of some rows, and the gradient [n, d] with respect to `states`; those of π_ref
        are of the rows' own tokens alone."""
        device, head = states.device, self.model.head
        rule, tokens = self._rules[role], tokens_of(rows, device)
        read = [row for row in rows if row.last is not None]
        if self.last is None or not read:
            terms = loss_terms(states, reference_states, tokens, kl_coef, head, rule)
            return self._figures(terms), terms.gradient
        ends = torch.tensor([len(row.read) for row in rows]).cumsum(0) - 1
        at = ends[[row.last is not None for row in rows]].to(device)
        is_own = torch.ones(len(states), dtype=torch.bool, device=device).index_fill_(0, at, False)
        terms = loss_terms(states[is_own], reference_states, tokens, kl_coef, head, rule)
        right, shares = (
            torch.tensor(values, device=device).to(terms.kl)
            for values in zip(*((row.right, row.last_share) for row in read), strict=True)
        )
        loss, last_gradient = last_token_loss(states[at], right, shares, head, self.last)
        gradient = torch.empty_like(states)
        gradient[is_own], gradient[at] = terms.gradient, last_gradient
        figures = self._figures(terms)
        figures[0] += loss
        return figures, gradient

    def _figures(self, terms: Terms) -> Tensor:
        """[FIGURES]: the parts in the means of loss, KL, ŵ and |log π − log μ|, and `off_policy`."""
        mine = self._largest_gap[self.ranks.rank]
        torch.maximum(mine, terms.gap.max(), out=mine)
        means = torch.stack([terms.loss, terms.kl_mean, terms.weight_mean, terms.gap_mean])
        return torch.cat([means, terms.off_policy])

    # ------------------------------------------------------------------------------------------ the teacher

    def _as_teacher(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """A teacher begins as its pupil, where one is to be kept."""
        if self.params.teacher_decay is None:
            return None
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def _teach(self) -> None:
        """teacher ← α · teacher + (1 − α) · solver, after each of the Solver's optimizer steps."""
        if self.teacher is not None and self.params.teacher_decay is not None:
            for name, parameter in self.model.parameters(SOLVER).items():
                self.teacher[name].lerp_(parameter, 1 - self.params.teacher_decay)

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
        own_teacher = (folder / TEACHER).is_dir()
        teacher = self.model.read_adapter(SOLVER, folder / TEACHER) if own_teacher else None
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
        solver = self.model.parameters(SOLVER)
        self.teacher = self._as_teacher(solver)
        if teacher is not None:
            self.teacher = {name: tensor.to(solver[name]) for name, tensor in teacher.items()}
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
        if self.teacher is not None:
            (folder / TEACHER).mkdir()
            shutil.copyfile(folder / SOLVER / ADAPTER_CONFIG, folder / TEACHER / ADAPTER_CONFIG)
            tensors = {name: tensor.cpu().contiguous() for name, tensor in self.teacher.items()}
            write_tensors(tensors, folder / TEACHER / ADAPTER_FILE)


def _longest(groups: Sequence[TrainingGroup]) -> GroupSize:
    """What memory is needed for: the longest prompt, the most trajectories, the longest of them."""
    return GroupSize(
        max((len(prompt) for group in groups for prompt in group.prompts), default=0),
        max(len(group.token_ids) for group in groups),
        max(len(tokens) for group in groups for tokens in group.token_ids),
    )


def check_sampled(model: Model, token_ids: Sequence[int], vocabulary: int, where: str) -> None:
    """Raises DataError, which begins with `where`, for a token that this model cannot have sampled."""
    forbidden = set(model.forbidden_tokens)
    for token in token_ids:
        if token is None or token in forbidden or not 0 <= token < vocabulary:
            raise DataError(f"{where}: token {token} cannot have been sampled from {model.ref.name}")
