"""A Solver's reward taken apart into the terms that it was made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.rewards.expression import parse


@dataclass(frozen=True)
class RewardTerms:
    """reward = from_answer + from_steps, which are (1−λ)·r_answer and λ·r_step (or r_step alone), times the factor of a
    reward that has one, with

    r_answer = confidence · brevity    p(a)^α and 1 − η·ℓ
    r_step = density · agreement       ρ and the weighted mean of (1 + cos)/2

    A factor is None where the other is 0: nothing is known of it then.
    """

    from_answer: float
    from_steps: float
    confidence: float
    brevity: float | None
    density: float
    agreement: float | None

    @property
    def total(self) -> float:
        return self.from_answer + self.from_steps


@dataclass(frozen=True)
class Summands:
    """reward = Σ weight · value, of a reward that was asked for as a sum: name, weight (times the factor, if there is
    one) and value of each term."""

    summands: list[tuple[str, float, float]]

    @property
    def total(self) -> float:
        return sum(weight * value for _, weight, value in self.summands)


def reward_terms(row: Mapping[str, Any], params: Mapping[str, Any]) -> RewardTerms | Summands | None:
    """The terms of a scored Solver row; `params` are those of `score`. None for a row without a reward."""
    values = {name.removeprefix("r_"): value for name, value in row.items() if name.startswith("r_")}
    scale = _scale(params.get("factor"), values)
    if asked := params.get("solver_reward"):
        if row.get("reward") is None:
            return None
        weights = parse(asked, values)
        return Summands([(name, weight * scale, float(values[name] or 0.0)) for name, weight in weights.items()])
    needed = ("answer_prob", "r_answer", "density", "r_step", "step_weight", "reward")
    if any(row.get(name) is None for name in needed):
        return None
    prob, r_answer, density, r_step, weight = (float(row[name]) for name in needed[:-1])
    exponent = params.get("answer_exponent")
    confidence = prob ** float(exponent) if exponent is not None and prob > 0 else r_answer
    steps_alone = params.get("reward") == "step"
    return RewardTerms(
        from_answer=0.0 if steps_alone else scale * (1 - weight) * r_answer,
        from_steps=scale * (r_step if steps_alone else weight * r_step),
        confidence=confidence,
        brevity=r_answer / confidence if confidence > 0 else None,
        density=density,
        agreement=r_step / density if density > 0 and r_step > 0 else None,
    )


def _scale(factor: str | None, values: Mapping[str, Any]) -> float:
    """What a reward was multiplied by: LO + (HI − LO)·r of the term TERM:LO:HI, 1 where it says nothing."""
    name, *bounds = (factor or "").split(":")
    value = values.get(name)
    if value is None or len(bounds) != 2:
        return 1.0
    low, high = map(float, bounds)
    return low + (high - low) * float(value)
