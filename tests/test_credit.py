"""Credit by step: worked numbers, and what holds of any group of rollouts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.rewards import credit
from stages.rewards.paths import ANSWER_PLACE, Paths

Said = list[tuple[str, float]]  # of each rollout: a letter a part, the answer last, and its reward


def paths(*groups: Said, tokens: list[int] | None = None, p: list[float] | None = None) -> Paths:
    """`p` of each part: exp(belief)."""
    group = np.array([number for number, members in enumerate(groups) for _ in members], np.int64)
    flat = [member for members in groups for member in members]
    rollout = np.repeat(np.arange(len(flat)), [len(said) for said, _ in flat]).astype(np.int64)
    place = [ANSWER_PLACE if i == len(said) - 1 else i for said, _ in flat for i in range(len(said))]
    like = [ord(letter) - ord("a") for said, _ in flat for letter in said]
    size = len(place)
    return Paths(
        group,
        np.array([reward for _, reward in flat], float),
        rollout,
        np.array(place, np.int64),
        np.array(like, np.int64),
        np.ones(size, np.int64) if tokens is None else np.array(tokens),
        np.full(size, np.nan) if p is None else np.log(np.array(p)),
    )


@st.composite
def groups(draw: st.DrawFn) -> list[Said]:
    said = st.text("abc", min_size=1, max_size=4)
    return draw(
        st.lists(st.lists(st.tuples(said, st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=6), max_size=3)
    )


def test_there_are_these_estimators() -> None:
    assert credit.names() == ["branching", "trust", "vote"]


def test_credit_by_vote() -> None:
    # Three of four read the first bar alike, two the second, and three answer alike.
    seen = paths([("abx", 1), ("abx", 1), ("acx", 1), ("bcy", 0)])
    first, second, answer = np.array([3, 3, 3, 1]) / 4, np.array([2, 2, 2, 2]) / 4, np.array([3, 3, 3, 1]) / 4
    wanted = np.stack([first - first.mean(), second - second.mean(), answer - answer.mean()], axis=1).reshape(-1)
    assert credit.load("vote")(seen) == pytest.approx(wanted)


def test_a_step_at_another_place_and_a_step_like_the_answer_are_others() -> None:
    assert credit.load("vote")(paths([("aba", 1), ("baa", 1)])) == pytest.approx(np.zeros(6))
    moved = credit.load("vote")(paths([("aa", 1), ("ba", 1), ("ba", 0)]))
    assert moved == pytest.approx([1 / 3 - 5 / 9, 0, 2 / 3 - 5 / 9, 0, 2 / 3 - 5 / 9, 0])


def test_credit_by_branching() -> None:
    # a, then b (right, right) or c (right, wrong): V is 3/4 at the root and behind a, 1 behind b, 1/2 behind c.
    seen = paths([("abx", 1), ("abx", 1), ("acx", 1), ("acy", 0)])
    assert credit.load("branching")(seen) == pytest.approx(
        [0, 1 / 4, 0, 0, 1 / 4, 0, 0, -1 / 4, 1 / 2, 0, -1 / 4, -1 / 2]
    )


def test_credit_by_trust() -> None:
    seen = paths([("abx", 1), ("acy", 0)], tokens=[2, 1, 1, 2, 1, 1], p=[0.9, 0.6, 0.9, 0.9, 0.2, 0.5])
    right = np.array([0.9, 0.6, 0.9]) / ((0.9 * 2 + 0.6 + 0.9) / 4)
    wrong = np.array([0.1, 0.8, 0.5]) / ((0.1 * 2 + 0.8 + 0.5) / 4)
    assert credit.load("trust")(seen) == pytest.approx([*(0.5 * right), *(-0.5 * wrong)])


@pytest.mark.parametrize("p", [[1.0] * 4, [np.nan] * 4, [0.3] * 4])
def test_where_nothing_can_be_told_apart_all_steps_have_the_advantage(p: list[float]) -> None:
    assert credit.load("trust")(paths([("ax", 1), ("ay", 0)], p=p)) == pytest.approx([0.5, 0.5, -0.5, -0.5])


@given(groups())
def test_what_all_share_gets_nothing(said: list[Said]) -> None:
    for own in said:
        alike = [("a" + text, reward) for text, reward in own]
        of = paths(alike)
        first = np.flatnonzero(np.diff(of.rollout, prepend=-1))
        if all(len(text) > 1 for text, _ in alike):
            assert credit.load("branching")(of)[first] == pytest.approx(0)
            assert credit.load("vote")(of)[first] == pytest.approx(0)


@given(groups())
def test_the_sum_over_a_path_is_its_advantage(said: list[Said]) -> None:
    """That of all that say the same to the end, where several do."""
    seen = paths(*said)
    total = np.bincount(seen.rollout, credit.load("branching")(seen), minlength=len(seen.group))
    alike = [(number, text) for number, members in enumerate(said) for text, _ in members]
    rewards = {path: [r for own, r in zip(alike, seen.reward, strict=True) if own == path] for path in alike}
    mean = [np.mean(seen.reward[seen.group == number]) for number in seen.group]
    assert total == pytest.approx([np.mean(rewards[path]) for path in alike] - np.array(mean), abs=1e-12)


@given(groups(), st.data())
def test_the_sum_over_the_tokens_stays_the_advantage(said: list[Said], data: st.DataObject) -> None:
    size = sum(len(text) for members in said for text, _ in members)
    tokens = data.draw(st.lists(st.integers(1, 9), min_size=size, max_size=size))
    p = data.draw(st.lists(st.one_of(st.floats(0.01, 1.0), st.just(np.nan)), min_size=size, max_size=size))
    seen = paths(*said, tokens=tokens, p=p)
    given_out = np.bincount(seen.rollout, credit.load("trust")(seen) * seen.tokens, minlength=len(seen.group))
    length = np.bincount(seen.rollout, seen.tokens, minlength=len(seen.group))
    assert given_out == pytest.approx(seen.advantage() * length, abs=1e-9)


@given(groups())
def test_groups_do_not_see_one_another(said: list[Said]) -> None:
    for name in credit.names():
        estimator = credit.load(name)
        whole = estimator(paths(*said))
        apart = np.concatenate([np.zeros(0), *(estimator(paths(own)) for own in said)])
        assert whole == pytest.approx(apart, abs=1e-12)
