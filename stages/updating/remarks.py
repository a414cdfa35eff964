"""What an update says of numbers that it should not have."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from stages.contract import PROPOSER, SOLVER, Metadata, Role
from stages.learning.drift import too_far
from stages.learning.learner import Learner
from stages.progress import Progress

STILL, ENOUGH_STEPS = 1e-5, 20  # nats a token of KL, below which a policy after so many steps has hardly moved
# Nats a token of |log π − log μ| that two programs' rounding explains.
EXPLAINED, EXPLAINED_OF_NARROW = {torch.float32: 1e-3}, 0.05
UNLIKE_SAMPLED = (
    "the {role}'s tokens have other probabilities now than when they were sampled: |log π − log μ| is {mean:.2g} on "
    "average and up to {largest:.2g}, where {dtype} explains {bound:g}. The pictures may be others now or of another "
    "size, or the model may have been sampled in another dtype, or be computed otherwise by the sampler: vLLM on a CPU "
    "leaves out what image tokens see of later ones, as Gemma's do (--sampler transformers does not)"
)
COST_OF_4_BITS = (
    "--load-in-4bit: of the {role}'s tokens |log π − log μ| is {mean:.2g} on average and up to {largest:.2g}, and the "
    "importance weight ŵ is {weight:.4f} on average; 1 is what the sampled model has"
)
NEARER = "Take a lower --lr, fewer groups an iteration"
NOTHING_TO_LEARN = (
    "the Solver had nothing to learn: every advantage is 0, for the rows of each group have the same reward. One row "
    "alone (rollout --samples 1) always has; --advantage ema and none do not compare"
)
HARDLY_MOVED = (
    f"the policy has hardly moved: after {ENOUGH_STEPS} optimizer steps its KL from the base model is below {STILL:g}. "
    "Raise --lr, now {lr:g}: the papers' 1e-6 is for full fine-tuning or many thousand steps, and LoRA on such models "
    "is trained at 1e-5 to 5e-5"
)


def on_first_steps(rows: Sequence[dict[str, Any]], learner: Learner, scored: Metadata, progress: Progress) -> None:
    """Of the first steps of a policy on what was sampled from it."""
    if said := unlike_sampled(rows, learner, scored):
        progress.say(said)


def on_all_steps(metrics: Sequence[dict[str, Any]], learner: Learner, scored: Metadata, progress: Progress) -> None:
    """Of an update that is over."""
    if _nothing_to_learn(learner, metrics):
        progress.say(NOTHING_TO_LEARN)
    if _hardly_moved(learner, metrics):
        progress.say(HARDLY_MOVED.format(lr=learner.params.lr))
    for said in drifted(metrics, learner, scored):
        progress.say(said)


def unlike_sampled(rows: Sequence[dict[str, Any]], learner: Learner, scored: Metadata) -> str | None:
    """What to say where an update's first steps, whose policy is the one that was sampled from, find that what was
    sampled has other probabilities now than rounding explains. Nothing where the μ of any pass is of another
    distribution: at another temperature, of the likeliest tokens alone, on another prompt, another adapter's, or a
    stand-in's. Of a base in 4 bits: by how much, whatever it is."""
    for role in _sampled_alike(learner, scored):
        first = next((row for row in rows if row["role"] == role), None)
        if first is None:
            continue
        if learner.params.load_in_4bit:
            return COST_OF_4_BITS.format(
                role=role,
                mean=first["logprob_gap"],
                largest=first["logprob_gap_max"],
                weight=first["importance_weight"],
            )
        bound = EXPLAINED.get(dtype := learner.model.head.weight.dtype, EXPLAINED_OF_NARROW)
        if first["logprob_gap"] > bound:
            return UNLIKE_SAMPLED.format(
                role=role,
                mean=first["logprob_gap"],
                largest=first["logprob_gap_max"],
                dtype=str(dtype).removeprefix("torch."),
                bound=bound,
            )
    return None


def drifted(metrics: Sequence[dict[str, Any]], learner: Learner, scored: Metadata) -> Iterator[str]:
    """What to say of each role whose policy has gone further from the one that was sampled from than is harmless, of
    rows whose μ is not of another distribution anyway."""
    lag = ", or --lag 0" if learner.params.lag else ""
    for role in _sampled_alike(learner, scored):
        if reason := too_far([row for row in metrics if row["role"] == role]):
            yield f"the {role} has moved far from where its rows were sampled: {reason}. {NEARER}{lag}"


def _sampled_alike(learner: Learner, scored: Metadata) -> list[Role]:
    """The roles whose rows have, in every pass, the log μ of a policy that is learned."""
    passes = {SOLVER: [*scored.passes.values()], PROPOSER: [scored.stage_params("propose")]}
    return [
        role
        for role, own in passes.items()
        if own and all(_is_of_policy(params, learner.temperature(role)) for params in own)
    ]


def _is_of_policy(params: dict[str, Any], temperature: float) -> bool:
    """Whether rows sampled with these parameters have the log μ of what is learned, at this temperature."""
    return (
        params.get("temperature") == temperature
        and params.get("top_p") == 1
        and params.get("sampler") != "fake"
        and params.get("adapter", SOLVER) == SOLVER
        and not params.get("learn_prompt")
    )


def _nothing_to_learn(learner: Learner, metrics: Sequence[dict[str, Any]]) -> bool:
    """Whether there were steps, and no row that any of them was to make likelier or less likely."""
    rows = [row["advantages"] for row in metrics if row["role"] == SOLVER]
    return bool(rows) and learner.params.loss_aux is None and not any(map(any, rows))


def _hardly_moved(learner: Learner, metrics: Sequence[dict[str, Any]]) -> bool:
    """Whether so many steps have left the policy where it was."""
    latest = {row["role"]: row["kl"] for row in metrics}
    return any(kl < STILL and learner.roles[role].updates >= ENOUGH_STEPS for role, kl in latest.items())
