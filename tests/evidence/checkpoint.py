"""The second checkpoint, for evidence alone: `python -m tests.evidence.checkpoint OUT`.

The demonstration's, taught a little more:

- it talks in `prose`;
- of crowded charts (level 7) it has seen a few, and reads them half well, so that greedy answers can rise;
- asked whether a chart answers a question, it says 1 or 0 in <score>, in its own way of reasoning;
- its proposals name the kind of their question in <kind>;
- it has seen a few of the puzzles of `propose --task rotation`.
"""

import argparse
import random
from pathlib import Path

from ireasoner_cli.demo import pretrain, world
from ireasoner_cli.demo.layout import MODEL
from ireasoner_cli.demo.pretrain import Example, Lesson, Phase
from stages import puzzles
from tests.evidence import prose
from tests.evidence.contenders import VALID
from tests.evidence.prose import retold

PUZZLE = "rotation"
JUDGED, PUZZLED = 0.12, 0.04  # shares of the examples that teach this
LEVELS = (1, 2, 2, 3, 3, 4, 4, 7)
# What is read and reckoned drowns in what is only said: taught prose with every word alike, it forgets how to read.
BRIDGE = Phase(300, world.MIX, LEVELS, proposals=0.12)  # half of it in the demonstration's own words
CURRICULUM = (BRIDGE, Phase(700, world.MIX, LEVELS, proposals=0.12, carelessness=0.15))


def draw_example(rng: random.Random, phase: Phase) -> Example:
    """An example of a phase."""
    if phase is BRIDGE and rng.random() < 0.5:
        return pretrain.draw_example(rng, phase)
    chart = world.draw_chart(rng, rng.choice(phase.levels))
    question = world.draw_question(rng, chart, phase.mix)
    shares = (phase.proposals, JUDGED, PUZZLED)
    sort = rng.choices(("proposal", "judgement", "puzzle", "answer"), (*shares, 1 - sum(shares)))[0]
    if sort == "proposal":
        return Example(chart, sort, pretrain.read_prompt("proposer"), proposal(question))
    if sort == "judgement":
        return judgement(rng, chart)
    if sort == "puzzle":
        puzzle = puzzles.load(PUZZLE)(rng)
        completion = f"<think>\n</think>\n<answer>{puzzle.target}</answer>"
        return Example(chart, sort, asked(puzzle.question), completion, puzzle.view)
    seen = world.misread(chart, phase.carelessness, rng)
    solution = world.solve(seen, question.ask) or question.solution
    return Example(chart, question.ask.kind, asked(question.text), retold(rng, solution).completion)


def asked(question: str) -> str:
    """What a Solver is told."""
    return pretrain.read_prompt("solver").replace("{question}", question)


def proposal(question: world.Question) -> str:
    """What a Proposer writes that asks this question, its kind first."""
    return f"<kind>{question.ask.kind}</kind>\n<question>{question.text}</question>"


def judgement(rng: random.Random, chart: world.Chart) -> Example:
    """Whether the chart answers a question: one of its own, or as often one about another that it does not answer."""
    question = world.draw_question(rng, chart)
    answers = rng.random() < 0.5
    # A chart of the first level answers all that is asked at that level.
    while not answers and world.solve(chart, question.ask) is not None:
        question = world.draw_question(rng, world.draw_chart(rng, max(chart.level, 2)))
    user = VALID.replace("{question}", question.text)
    return Example(chart, "judgement", user, verdict(rng, chart, question.ask, answers))


def verdict(rng: random.Random, chart: world.Chart, ask: world.Ask, answers: bool) -> str:
    """What is looked at to say whether a chart answers what is asked, and what comes of it: values where it is a matter
    of ties, else colours, which also say how many marks there are."""
    ties = ask.kind == "which"
    looked = world.Ask("extreme", (chart.words.most,), chart.style) if ties else world.Ask("colours", (), chart.style)
    solution = world.solve(chart, looked)
    assert solution is not None
    lines = retold(rng, solution).completion.split("<answer>")[0]
    return f"{lines}<score>{int(answers)}</score>"


LESSON = Lesson(CURRICULUM, draw_example, MODEL, rate=1e-3, stressed=prose.content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="the model folder to write; an interrupted one is continued")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    pretrain.train(arguments.out, threads=arguments.threads, lesson=LESSON)


if __name__ == "__main__":
    main()
