import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.rewards import proposer, terms, votes
from stages.rewards.consensus import NO_ANSWER, consensus
from stages.rewards.pooled import pooled
from stages.rewards.schedule import step_weight
from stages.rewards.selection.keep import keep
from stages.rewards.selection.top import top
from stages.rewards.step import density
from stages.score import ScoreParams
from tests import oracle
from tests.rollouts import agreeing, answers, cast, questions, rollouts

DEFAULTS = ScoreParams()
KEYS = st.lists(st.integers(NO_ANSWER, 3), min_size=1, max_size=8)


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


@settings(deadline=None)
@given(groups(), st.booleans(), st.booleans())
def test_all_rewards_equal_a_plain_reading_of_the_formulas(
    batch: list[list[oracle.Rollout]], no_decay: bool, no_density: bool
) -> None:
    seen = rollouts(*batch)
    constants = ScoreParams(no_decay=no_decay, no_density=no_density)
    r_answer, r_step = (terms.load(name)(seen, constants) for name in ("answer", "step"))
    rho = density(seen.size, seen.dominant_size, 0.0 if no_density else 0.7)
    keys = [ord(rollout.key) if rollout.key else NO_ANSWER for group in batch for rollout in group]
    agreement = consensus(seen.group, np.array(keys), len(batch))
    asked = questions(agreement.entropy, agreement.vote, agreement.dominant_size > 0)
    proposers = proposer.load("entropy")(asked, constants)

    flags = oracle.Flags(no_decay=no_decay, no_density=no_density)
    place = 0
    for index, members in enumerate(batch):
        expected, entropy, r_proposer = oracle.score_group(members, 1, flags)
        assert agreement.entropy[index] == pytest.approx(entropy)
        assert proposers[index] == pytest.approx(r_proposer)
        for scores in expected:
            assert agreement.dominant[place] == scores.dominant
            assert r_answer[place] == pytest.approx(scores.r_answer)
            assert r_step[place] == pytest.approx(scores.r_step, abs=1e-12)
            assert rho[index] == pytest.approx(scores.density)
            place += 1


# ------------------------------------------------------------------------------------------------- consensus


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
    seen = rollouts(answers([None] * 5))
    agreement = consensus(*of_one_group([NO_ANSWER] * 5), 1)
    assert not agreement.prob.any() and not agreement.dominant.any()
    assert (agreement.entropy.tolist(), agreement.vote.tolist()) == ([0.0], [0.0])
    assert not any(np.nan_to_num(terms.load(name)(seen, DEFAULTS)).any() for name in terms.names())
    asked = questions(agreement.entropy, agreement.vote, agreement.dominant_size > 0)
    assert not any(proposer.load(name)(asked, DEFAULTS).any() for name in proposer.names())


def test_a_group_without_rollouts_has_no_entropy() -> None:
    agreement = consensus(np.array([1]), np.array([0]), 3)
    assert np.isnan(agreement.entropy).tolist() == [True, False, True]
    assert agreement.vote.tolist() == [0, 1, 0]
    empty = consensus(np.array([], dtype=np.int64), np.array([], dtype=np.int64), 1)
    assert np.isnan(empty.entropy[0]) and empty.size.tolist() == [0]


# Keys with what they count, in quarters: their sums are exact, and so are ties.
VOTES = st.lists(st.tuples(st.integers(NO_ANSWER, 3), st.integers(0, 4)), max_size=8)


@given(st.lists(VOTES, min_size=1, max_size=4))
def test_weighted_votes_equal_counting_by_hand(batch: list[list[tuple[int, int]]]) -> None:
    group = np.repeat(np.arange(len(batch)), [len(cast) for cast in batch])
    cast = [vote for votes in batch for vote in votes]
    key, weight = (np.array([vote[part] for vote in cast], dtype=int) for part in (0, 1))
    agreement = consensus(group, key, len(batch), weight / 4)
    unweighted = consensus(group, key, len(batch))
    for index, members in enumerate(batch):
        totals: Counter[int] = Counter()
        for name, count in members:
            if name != NO_ANSWER:
                totals[name] += count
        heaviest = max(totals.values(), default=0)
        winner = next((name for name, _ in members if name != NO_ANSWER and totals[name] == heaviest), None)
        inside = [name == winner for name, _ in members]
        assert agreement.dominant[group == index].tolist() == inside
        assert agreement.dominant_size[index] == sum(inside)
        whole = sum(count for _, count in members)
        assert agreement.vote[index] == pytest.approx(heaviest / whole if whole else 0)
    assert np.array_equal(agreement.prob, unweighted.prob)
    assert np.array_equal(agreement.entropy, unweighted.entropy, equal_nan=True)


@given(KEYS, st.booleans())
def test_seen_in_one_way_the_pooled_answer_is_the_dominant_one(keys: list[int], harmonic: bool) -> None:
    group, key = of_one_group(keys)
    seen, weight = np.zeros(len(key), int), np.ones(len(key))
    dominant = key[consensus(group, key, 1).dominant]
    assert pooled(group, key, seen, 1, 1, weight, harmonic).tolist() == [*dominant[:1], NO_ANSWER][:1]


@given(st.lists(st.tuples(st.integers(NO_ANSWER, 2), st.integers(0, 2)), min_size=1, max_size=9))
def test_pooled_answers_by_hand(votes: list[tuple[int, int]]) -> None:
    key, seen = (np.array(part) for part in zip(*votes, strict=True))
    group, weight = np.zeros(len(key), int), np.ones(len(key))
    ways = 3  # whether anybody sees it so or not
    share = {
        answer: [np.mean(key[seen == way] == answer) if (seen == way).any() else 0.0 for way in range(ways)]
        for answer in dict.fromkeys(key[key != NO_ANSWER].tolist())
    }
    for harmonic in (False, True):
        mean = {
            a: (0.0 if 0 in s else ways / sum(1 / p for p in s)) if harmonic else np.mean(s) for a, s in share.items()
        }
        [best] = pooled(group, key, seen, ways, 1, weight, harmonic).tolist()
        most = max(mean.values(), default=0.0)
        assert (best == NO_ANSWER) == (most == 0)
        assert best == NO_ANSWER or mean[best] == pytest.approx(most)


@given(st.lists(VOTES, min_size=1, max_size=4))
def test_votes_that_count_one_each_are_the_counts(batch: list[list[tuple[int, int]]]) -> None:
    group = np.repeat(np.arange(len(batch)), [len(cast) for cast in batch])
    key = np.array([key for votes in batch for key, _ in votes], dtype=int)
    weights = votes.load("count")(cast(group))
    counted, default = (consensus(group, key, len(batch), given) for given in (weights, None))
    for name, values in vars(default).items():
        assert np.array_equal(getattr(counted, name), values, equal_nan=True), name
    assert np.array_equal(default.vote, default.dominant_size / np.maximum(default.size, 1))


def test_a_better_reasoned_minority_outvotes_the_majority() -> None:
    score = np.array([0.8, 0.6, 0.2, 0.9, 0.94, 0.8])
    agreement = consensus(*of_one_group([12, 12, 12, 15, 15, 9]), 1, score)
    assert agreement.dominant.tolist() == [False, False, False, True, True, False]
    assert agreement.vote == pytest.approx([1.84 / 4.24])
    best = top(score, np.zeros(6, dtype=int), agreement.dominant, 2)
    assert np.flatnonzero(best).tolist() == [3, 4]
    self_rewarded = consensus(*of_one_group([0, 0, 1]), 1, np.array([0.10, 0.15, 0.90]))
    assert self_rewarded.dominant.tolist() == [False, False, True]


LOGPROBS = st.lists(st.floats(-3000, 0) | st.just(np.nan), min_size=1, max_size=8)


@given(LOGPROBS, LOGPROBS, st.floats(-1e4, 0))
def test_votes_by_likelihood_are_ratios_within_the_group(one: list[float], other: list[float], offset: float) -> None:
    group = np.repeat([0, 1], [len(one), len(other)])
    weights = votes.load("likelihood")(cast(group, logprob=np.array(one + other)))
    moved = votes.load("likelihood")(cast(group, logprob=np.array(one + [value + offset for value in other])))
    for members, values in ((weights[group == 0], one), (weights[group == 1], other)):
        stored = [value for value in values if not math.isnan(value)]
        assert members.max() == 1
        expected = [0 if math.isnan(value) else math.exp(value - max(stored)) for value in values]
        assert members == pytest.approx(expected if stored else [1] * len(values))  # else they count the same
    assert weights == pytest.approx(moved, abs=1e-9)


def test_a_likely_answer_outvotes_two_unlikely_ones() -> None:
    group, key = of_one_group([NO_ANSWER, 1, 1, 2])
    logprob = np.log([0.2, 0.1, 0.2, 0.5]) - 2000
    agreement = consensus(group, key, 1, votes.load("likelihood")(cast(group, logprob=logprob)))
    assert agreement.dominant.tolist() == [False, False, False, True]
    assert agreement.vote == pytest.approx([0.5])


def test_a_short_refusal_does_not_outweigh_long_answers() -> None:
    group, key = of_one_group([1, 2, 2, NO_ANSWER])
    weight = votes.load("likelihood")(
        cast(group, answered=key != NO_ANSWER, logprob=np.array([-800.0, -790.0, -790.0, -2.0]))
    )
    assert weight == pytest.approx([math.exp(-10), 1.0, 1.0, 1.0])
    assert consensus(group, key, 1, weight).dominant.tolist() == [False, True, True, False]


@pytest.mark.parametrize("name", votes.names())
def test_where_no_answer_counts_anything_each_counts_the_same(name: str) -> None:
    """Else the one sampled first would be the dominant one, as after the first steps of a self-reward."""
    group, key = np.array([0] * 4 + [1] * 2), np.array([1, 2, 2, NO_ANSWER, 1, 1])
    unlikely = np.array([-np.inf] * 6)
    known = {"logprob": unlikely, "weakest": unlikely, "self_reward": np.array([-0.2, 0, -0.1, 0.9, -0.1, 0.3])}
    weight = votes.load(name)(cast(group, answered=key != NO_ANSWER, **known))
    assert weight[:4].tolist() == [1.0] * 4
    assert consensus(group, key, 2, weight).dominant[:4].tolist() == [False, True, True, False]
    assert weight[4:].tolist() == ([0.0, 0.3] if name == "self-reward" else [1.0, 1.0])


def test_an_answer_without_a_slip_outvotes_two_with_one() -> None:
    group, key = of_one_group([1, 1, 2, NO_ANSWER, 2])
    weakest = np.log([0.2, 0.3, 0.8, 0.9, 1.0])
    weakest[-1] = np.nan  # no tokens are stored
    weight = votes.load("weakest-token")(cast(group, weakest=weakest))
    assert weight == pytest.approx([0.2, 0.3, 0.8, 0.9, 0.0])
    agreement = consensus(group, key, 1, weight)
    assert agreement.dominant.tolist() == [False, False, True, False, True]
    assert agreement.vote == pytest.approx([0.8 / 2.2])


def test_an_answer_that_is_trusted_outvotes_two_that_are_not() -> None:
    group, key = of_one_group([1, 1, 2, 3, NO_ANSWER])
    trust = np.array([0.10, 0.15, 0.90, -0.5, np.nan])  # the last was cut off
    weight = votes.load("self-reward")(cast(group, self_reward=trust))
    assert weight.tolist() == [0.10, 0.15, 0.90, 0.0, 0.0]
    agreement = consensus(group, key, 1, weight)
    assert agreement.dominant.tolist() == [False, False, True, False, False]
    assert agreement.vote == pytest.approx([0.90 / 1.15])


# ------------------------------------------------------------------------------------------------- selection


def test_a_band_includes_its_limits() -> None:
    vote = np.array([0.0, 0.3 - 1e-12, 0.3, 0.5, 0.6, 0.6 + 1e-12, 0.7, 1.0])
    assert keep(vote, 0.3, 0.6).tolist() == [False, True, True, True, True, True, False, False]
    assert keep(vote, 0.0, 1.0).all()
    votes_of_nine = np.arange(10) / 9
    assert np.flatnonzero(keep(votes_of_nine, 0.25, 0.75)).tolist() == [3, 4, 5, 6]
    assert np.flatnonzero(keep(votes_of_nine, 0.3, 0.8)).tolist() == [3, 4, 5, 6, 7]


def test_dominant_answers_of_groups_that_agree_enough() -> None:
    seen = rollouts(answers(["7", "7", "8", "7", None]))
    share = seen.dominant_size / seen.size
    assert (seen.dominant & keep(share, 0.6, 1.0)[seen.group]).tolist() == [True, True, False, True, False]
    assert not keep(share, 0.7, 1.0).any()


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 3)), max_size=15), st.integers(0, 4))
def test_the_best_of_each_group_equal_sorting_by_hand(members: list[tuple[int, bool, int]], count: int) -> None:
    members = sorted(members, key=lambda member: member[0])
    group, dominant, reward = (np.array([member[part] for member in members], dtype=int) for part in range(3))
    expected = set()
    for index in range(3):
        places = [place for place, member in enumerate(members) if member[0] == index and member[1]]
        expected |= set(sorted(places, key=lambda place: (-members[place][2], place))[:count])
    assert set(np.flatnonzero(top(reward / 3, group, dominant == 1, count))) == expected


# ------------------------------------------------------------------------------- steps, schedule and answers


def test_rollouts_that_agree_in_full_earn_full_reward() -> None:
    seen = rollouts([oracle.Rollout("a", 0, [np.ones(4)] * 2)] * 5)
    for name in ("answer", "step", "majority", "process"):
        assert terms.load(name)(seen, DEFAULTS) == pytest.approx(np.ones(5)), name


def test_steps_that_cancel_out_are_worth_half_and_never_nan() -> None:
    seen = rollouts(agreeing([-1.0]))
    assert seen.similarity.tolist() == [0, 0]
    for name in ("step", "process"):
        assert terms.load(name)(seen, DEFAULTS).tolist() == [0.5, 0.5], name


def test_the_warm_up_is_over_at_its_last_step_where_it_is_all_there_is() -> None:
    assert step_weight(np.array([9, 10, 11]), 10, 1.0, 0.7).tolist() == [0.0, 0.7, 0.7]


def test_schedule() -> None:
    t = np.array([1, 750, 751, 1625, 2500, 9999])
    assert step_weight(t) == pytest.approx([0, 0, 0.7 / 1750, 0.35, 0.7, 0.7])
    assert step_weight(t, warmup=0.0)[0] == pytest.approx(0.7 / 2500)


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=20), st.floats(0, 1), st.integers(1, 5000))
def test_the_schedule_never_falls_and_stays_in_bounds(t: list[int], warmup: float, total: int) -> None:
    weights = step_weight(np.array(sorted(t)), total, warmup)
    assert (np.diff(weights) >= 0).all() and weights.min() >= 0 and weights.max() <= 0.7


def test_long_answers_lose_up_to_a_twentieth() -> None:
    seen = rollouts(answers(["a"] * 5, words=[0, 64, 96, 128, 1000]))
    assert terms.load("answer")(seen, DEFAULTS) == pytest.approx([1, 1, 0.975, 0.95, 0.95])
