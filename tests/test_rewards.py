import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.rewards.answer import answer_reward
from stages.rewards.consensus import NO_ANSWER, Consensus, consensus
from stages.rewards.proposer import proposer_reward
from stages.rewards.schedule import step_weight
from stages.rewards.step import StepReward, compared_steps, step_reward, step_similarity
from tests import oracle

KEYS = st.lists(st.integers(NO_ANSWER, 3), min_size=1, max_size=8)


def rewarded(
    embedding: np.ndarray,
    rollout: np.ndarray,
    position: np.ndarray,
    group: np.ndarray,
    agreement: Consensus,
    decay: float = 0.15,
    density_exponent: float = 0.7,
) -> tuple[np.ndarray, StepReward]:
    """Similarities and step rewards of rollouts whose steps [S] have these embeddings [S, d]."""
    similarity = np.full(len(embedding), np.nan)
    compared, prototype = compared_steps(rollout, position, group, agreement.dominant)
    similarity[compared] = step_similarity(embedding[compared], prototype)
    sizes = agreement.size, agreement.dominant_size
    return similarity, step_reward(similarity, rollout, position, group, *sizes, decay, density_exponent)


def of_one_group(keys: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(len(keys), dtype=np.int64), np.array(keys)


@st.composite
def groups(draw: st.DrawFn) -> list[list[oracle.Rollout]]:
    """Up to 4 groups of up to 6 rollouts of up to 4 steps, embeddings small and now and then equal."""
    vector = st.tuples(st.just(1.0), *[st.sampled_from([-2.0, -0.5, 0.25, 3.0])] * 2).map(np.array)
    rollout = st.builds(
        oracle.Rollout,
        key=st.sampled_from([None, "a", "b", "c"]),
        words=st.integers(0, 200),
        steps=st.lists(vector, max_size=4),
    )
    return draw(st.lists(st.lists(rollout, min_size=1, max_size=6), min_size=1, max_size=4))


@given(groups(), st.booleans(), st.booleans())
def test_all_rewards_equal_a_plain_reading_of_the_formulas(
    batch: list[list[oracle.Rollout]], no_decay: bool, no_density: bool
) -> None:
    rollouts = [rollout for group in batch for rollout in group]
    group = np.repeat(np.arange(len(batch)), [len(members) for members in batch])
    key = np.array([NO_ANSWER if rollout.key is None else ord(rollout.key) for rollout in rollouts])
    agreement = consensus(group, key, len(batch))
    steps = [(place, j, e) for place, rollout in enumerate(rollouts) for j, e in enumerate(rollout.steps)]
    _, result = rewarded(
        np.array([e for _, _, e in steps]).reshape(-1, 3),
        np.array([place for place, _, _ in steps], dtype=np.int64),
        np.array([j for _, j, _ in steps], dtype=np.int64),
        group,
        agreement,
        decay=0.0 if no_decay else 0.15,
        density_exponent=0.0 if no_density else 0.7,
    )
    answers = answer_reward(agreement.prob, np.array([rollout.words for rollout in rollouts]))
    proposers = proposer_reward(agreement.entropy, agreement.dominant_size > 0)

    flags = oracle.Flags(no_decay=no_decay, no_density=no_density)
    place = 0
    for index, members in enumerate(batch):
        expected, entropy, proposer = oracle.score_group(members, 1, flags)
        assert agreement.entropy[index] == pytest.approx(entropy)
        assert proposers[index] == pytest.approx(proposer)
        for scores in expected:
            assert agreement.dominant[place] == scores.dominant
            assert answers[place] == pytest.approx(scores.r_answer)
            assert result.reward[place] == pytest.approx(scores.r_step, abs=1e-12)
            place += 1


@given(KEYS)
def test_shares_of_distinct_answers_sum_to_what_was_parsed(keys: list[int]) -> None:
    agreement = consensus(*of_one_group(keys), 1)
    parsed = [key for key in keys if key != NO_ANSWER]
    first = [keys.index(key) for key in set(parsed)]
    assert math.isclose(sum(agreement.prob[first]), len(parsed) / len(keys), abs_tol=1e-12)
    assert 0 <= agreement.entropy[0] <= math.log(len(keys)) + 1e-12


def test_a_tie_goes_to_the_answer_sampled_first() -> None:
    assert consensus(*of_one_group([NO_ANSWER, 2, 1, 1, 2]), 1).dominant.tolist() == [False, True, False, False, True]


def test_five_unparsed_answers_earn_nothing() -> None:
    agreement = consensus(*of_one_group([NO_ANSWER] * 5), 1)
    assert not agreement.prob.any() and not agreement.dominant.any()
    assert agreement.entropy.tolist() == [0.0]
    assert not answer_reward(agreement.prob, np.zeros(5)).any()
    assert proposer_reward(agreement.entropy, agreement.dominant_size > 0).tolist() == [0.0]


def test_a_group_without_rollouts_has_no_entropy() -> None:
    agreement = consensus(np.array([1]), np.array([0]), 3)
    assert np.isnan(agreement.entropy).tolist() == [True, False, True]
    empty = consensus(np.array([], dtype=np.int64), np.array([], dtype=np.int64), 1)
    assert np.isnan(empty.entropy[0]) and empty.size.tolist() == [0]


def test_rollouts_that_agree_in_full_earn_full_reward() -> None:
    agreement = consensus(*of_one_group([0] * 5), 1)
    rollout, position = np.repeat(np.arange(5), 2), np.tile([0, 1], 5)
    _, result = rewarded(np.ones((10, 4)), rollout, position, np.zeros(5, dtype=int), agreement)
    assert result.reward == pytest.approx(np.ones(5))
    assert answer_reward(agreement.prob, np.zeros(5)) == pytest.approx(np.ones(5))


def test_steps_that_cancel_out_are_worth_half_and_never_nan() -> None:
    agreement = consensus(*of_one_group([0, 0]), 1)
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]])
    similarity, result = rewarded(opposite, np.array([0, 1]), np.array([0, 0]), np.zeros(2, dtype=int), agreement)
    assert similarity.tolist() == [0, 0] and result.reward.tolist() == [0.5, 0.5]


def test_schedule() -> None:
    t = np.array([1, 750, 751, 1625, 2500, 9999])
    assert step_weight(t) == pytest.approx([0, 0, 0.7 / 1750, 0.35, 0.7, 0.7])
    assert step_weight(t, warmup=0.0)[0] == pytest.approx(0.7 / 2500)


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=20), st.floats(0, 1), st.integers(1, 5000))
def test_the_schedule_never_falls_and_stays_in_bounds(t: list[int], warmup: float, total: int) -> None:
    weights = step_weight(np.array(sorted(t)), total, warmup)
    assert (np.diff(weights) >= 0).all() and weights.min() >= 0 and weights.max() <= 0.7


def test_long_answers_lose_up_to_a_twentieth() -> None:
    words = np.array([0, 64, 96, 128, 1000])
    assert answer_reward(np.ones(5), words) == pytest.approx([1, 1, 0.975, 0.95, 0.95])
