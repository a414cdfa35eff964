"""The second way of talking says what the first says, and the second checkpoint is taught the truth."""

import random
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ireasoner_cli.demo import world
from ireasoner_cli.demo.checker import check_steps
from stages.contract import ANSWER
from stages.parameters.score import ScoreParams
from stages.parsing import parse_completion, parse_tags
from stages.scoring.chosen import Chosen
from stages.scoring.parents import number_in
from tests.evidence import checkpoint, experiment
from tests.evidence.contenders import ITERATIONS
from tests.evidence.prose import FILLERS, content, plain, plain_steps, retold
from tests.evidence.settings import EXPERIMENTS

LEVELS = st.sampled_from(sorted(world.LEVELS))


@given(st.integers(0, 10**6), LEVELS)
def test_a_retold_solution_claims_the_same(seed: int, level: int) -> None:
    rng = random.Random(seed)
    chart = world.draw_chart(rng, level)
    solution = world.draw_question(rng, chart).solution
    told = retold(rng, solution)
    assert sorted(plain_steps(told.steps)) == sorted(solution.steps)
    assert told.answers == solution.answers
    assert all(check_steps(plain_steps(told.steps), chart))
    assert parse_completion(told.completion, 64).steps == list(told.steps)


def test_it_is_said_in_many_ways() -> None:
    rng = random.Random(0)
    solution = world.solve(world.Chart((3, 4, 5), ("red", "green", "blue")), world.Ask("total"))
    assert solution is not None
    told = [retold(rng, solution).steps for _ in range(60)]
    assert len({steps for steps in told}) == 60
    assert len({steps[-1].removeprefix("So ").lower() for steps in told}) > 3
    assert {plain(steps[0]) for steps in told} == set(solution.steps[:3])  # readings in any order, sums behind them
    assert all(plain(steps[3]) == solution.steps[3] for steps in told)
    assert any(steps[0].startswith(FILLERS) for steps in told)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("Well, I read 7 for the third bar.", "The third bar is 7."),
        ("That makes the second dot the highest dot.", "The highest dot is the second dot."),
        ("That makes the second dot the highest bar.", "That makes the second dot the highest bar."),
        ("taking 3 from 9 leaves 5.", "9 - 3 = 5."),
        ("The third bar is 7.", "The third bar is 7."),
        ("So it must be red.", "So it must be red."),
        ("", ""),
    ],
)
def test_a_step_is_judged_by_what_it_claims(step: str, says: str) -> None:
    assert plain(step) == says


def test_content_is_what_a_claim_hangs_on() -> None:
    text = "Well, I read 7 for the third bar."
    assert [text[start:end] for start, end in content(text)] == ["7", "third"]


@given(st.integers(0, 10**6), st.sampled_from(checkpoint.LEVELS))
def test_the_second_checkpoint_is_told_truly_whether_a_chart_answers(seed: int, level: int) -> None:
    rng = random.Random(seed)
    chart = world.draw_chart(rng, level)
    example = checkpoint.judgement(rng, chart)
    ask = world.understand(example.user.splitlines()[0])
    assert ask is not None
    assert number_in(example.completion, ("score", 0.0, 1.0)) == float(world.solve(chart, ask) is not None)
    assert all(check_steps(plain_steps(parse_completion(example.completion, 64).steps), chart))


def test_its_proposals_say_their_kind() -> None:
    rng = random.Random(0)
    question = world.draw_question(rng, world.draw_chart(rng, 2))
    assert parse_tags(checkpoint.proposal(question)) == {"kind": question.ask.kind, "question": question.text}


@pytest.mark.parametrize("name", ["signal", "signal-60", "prose", "prose-60"])
def test_every_contender_is_something_that_score_can_do(name: str) -> None:
    settings = EXPERIMENTS[name]
    for row in settings.rows:
        job = experiment.Job(name, settings, row, 1)
        read = tomllib.loads(job.config)
        passes = [ANSWER, *(each["name"] for each in read.get("pass", ()))]
        params = {option.replace("-", "_"): value for option, value in read["score"].items()}
        recorded = {each: {"of": None, "prompt": "{question}", "temperature": 1.0, "top_p": 1.0} for each in passes}
        Chosen.of(ScoreParams(**params), passes, recorded)
        if job.learns and not {"reward", "solver-reward"} & set(read["score"]):  # else no schedule is looked at
            assert read["score"]["total-steps"] == ITERATIONS * read["propose"]["groups"], "no step reward at the end"
        assert job.images.name == ("questions.parquet" if "target" in read["propose"] else "pool")


@pytest.mark.parametrize("name", ["signal", "prose"])
def test_the_longer_runs_are_the_shorter_ones_gone_on_with(name: str) -> None:
    for row in EXPERIMENTS[name].rows:
        short, long = (experiment.Job(each, EXPERIMENTS[each], row, 1) for each in (name, f"{name}-60"))
        assert (short.folder, short.config) == (long.folder, long.config)
        assert (short.answers == long.answers) == (row == "base")


def test_rows_are_named_in_full_or_by_their_contender() -> None:
    rows = EXPERIMENTS["signal"].rows
    assert experiment.chosen(rows, ["answer"]) == ["answer @ 0.00025", "answer @ 0.0006", "answer @ 0.001"]
    assert experiment.chosen(rows, ["answer @ 0.0006", "base"]) == ["base", "answer @ 0.0006"]
    assert experiment.chosen(rows, ["answers"]) == []


def test_given_questions_have_the_worlds_answers() -> None:
    charts = list(world.pool(6, 1))
    for chart, row in zip(charts, experiment.with_answers(6, 1, world.HOME), strict=True):
        ask = world.understand(row["question"])
        solution = ask and world.solve(chart, ask)
        assert solution and row["target"] == solution.answers[0]
        assert row["image"]["bytes"] == world.to_png(world.render(chart))
