"""How often each vote is right: whom rollouts elect, and what is right."""

import random
from typing import Any

import pytest

from ireasoner_cli.demo import world
from tests.evidence import records
from tests.evidence.records import true_answers
from tests.evidence.votes import elected


def rollout(answer: str | None, *logprobs: float) -> dict[str, Any]:
    return {"completion": "" if answer is None else f"<answer>{answer}</answer>", "logprobs": list(logprobs)}


@pytest.mark.parametrize(
    ("vote", "answer"),
    # Three say 1, each with a slip; one says 2, sure of each of many tokens; one says 3, in one token.
    [("count", "1"), ("likelihood", "3"), ("weakest-token", "2")],
)
def test_each_vote_elects_its_own(vote: str, answer: str) -> None:
    rows = [
        rollout(None, -0.001),
        *[rollout("1", -0.1, -2.5)] * 3,
        rollout("2", *[-0.25] * 8),
        rollout("3", -0.7),
    ]
    assert elected(rows, vote) == answer


def test_nobody_is_elected_without_an_answer() -> None:
    assert elected([rollout(None, -0.1)], "weakest-token") is None


def test_what_is_right_is_the_worlds_answer() -> None:
    [(digest, chart)] = records.charts(1, 3).items()
    question = world.draw_question(random.Random(0), chart)
    row = {"question": question.text, "images_sha256": [digest]}
    assert true_answers(row, {digest: chart}) == {*question.solution.answers}
    assert true_answers({**row, "question": "Why?"}, {digest: chart}) == set()
