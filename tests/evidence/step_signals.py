"""What else of a step, beside agreement, tells whether it is true, and needs no label:

    python -m tests.evidence.step_signals FOLDER …     # step-signals.csv, of rollouts as `step_truth` asks for them

Of the rollouts of dominant groups, as in `step_truth`. A pair is a true and a false step at one position of one group;
what is measured is how often the true one has more of a signal, and the same where the dominant answer is wrong, and
where more of the steps there are false than true. All probabilities are the base model's.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from ireasoner_cli.demo import world
from stages.contract import PROPOSER
from stages.embedding import Step
from stages.embedding.static import StaticEmbedder
from stages.errors import StageError
from stages.learning.rereading import Reader
from stages.models.finding import Model, locate_model
from stages.models.spans import token_spans
from stages.parameters.score import ScoreParams
from stages.parsing import Completion, answer_key, parse_completion
from stages.policy import open_policy
from stages.scoring.beliefs import Beliefs
from stages.scoring.block import score_block
from stages.scoring.chosen import Chosen
from tests.evidence import prose, records
from tests.evidence.separation import pairs, resampled
from tests.evidence.step_truth import QUESTIONS, RESAMPLES, SEED, Agreed, Noted, agreed, read_rollouts

MASK = "mask:0.6"
ANSWERS = 3  # of a group, the most frequent: those whose probabilities are compared
FLOOR = 1e-6  # of a probability, before its logarithm is taken

Row = dict[str, Any]
# Of one step: the log-probabilities of its tokens, the text of each, and whether each is in a word of its claim.
Reading = Callable[[np.ndarray, Sequence[str], np.ndarray], float]


def weakest(logprobs: np.ndarray, some: np.ndarray) -> float:
    """The least of `some`; NaN where there is none."""
    return float(logprobs[some].min()) if some.any() else np.nan


READINGS: dict[str, Reading] = {
    "mean log-probability": lambda logprobs, texts, claim: float(logprobs.mean()),
    "weakest token": lambda logprobs, texts, claim: float(logprobs.min()),
    "weakest token with a letter or a digit": lambda logprobs, texts, claim: weakest(
        logprobs, np.array([any(map(str.isalnum, text)) for text in texts])
    ),
    "weakest token with a digit": lambda logprobs, texts, claim: weakest(
        logprobs, np.array([any(map(str.isdigit, text)) for text in texts])
    ),
    "weakest token of a word that the claim hangs on": lambda logprobs, texts, claim: weakest(logprobs, claim),
    "mean log-probability of the words that the claim hangs on": lambda logprobs, texts, claim: (
        float(logprobs[claim].mean()) if claim.any() else np.nan
    ),
}


class Seen:
    """The rollouts of dominant groups, parsed, and the steps of `Agreed` in them."""

    def __init__(self, table: pa.Table, own: Agreed, model: Model) -> None:
        self.own, self.tokenizer = own, model.tokenizer
        self.table = table.take(own.row.tolist())
        self.rows: list[Row] = self.table.to_pylist()
        self.parsed: list[Completion] = [parse_completion(row["completion"]) for row in self.rows]
        self.spans = [token_spans(model.tokenizer, row) for row in self.rows]

    def read(self, logprobs: Sequence[np.ndarray], reading: Reading) -> np.ndarray:
        """Of every step [S]; logprobs: of the tokens of every rollout."""
        found = np.full(len(self.own.text), np.nan)
        for step, (rollout, position) in enumerate(zip(self.own.rollout, self.own.position, strict=True)):
            start, said = self.parsed[rollout].starts[position], self.parsed[rollout].steps[position]
            begins, ends = self.spans[rollout]
            inside = np.flatnonzero((ends > start) & (begins < start + len(said)))
            if not len(inside):
                continue
            text = self.rows[rollout]["completion"]
            texts = [text[begins[token] : ends[token]] for token in inside]
            claim = np.zeros(len(inside), dtype=bool)
            for first, last in prose.content(said):
                claim |= (ends[inside] > start + first) & (begins[inside] < start + last)
            found[step] = reading(logprobs[rollout][inside], texts, claim)
        return found

    def gains(self, beliefs: Beliefs) -> np.ndarray:
        """log P after the step less log P of the best place before it, P the share of the dominant answer's probability
        in that of the group's most frequent ones, were it asked for there   [S]"""
        found = np.full(len(self.own.text), np.nan)
        steps_of: dict[int, list[int]] = defaultdict(list)
        for step, rollout in enumerate(self.own.rollout.tolist()):
            steps_of[rollout].append(step)
        by_group: dict[int, list[int]] = defaultdict(list)
        for rollout, group in enumerate(self.own.group.tolist()):
            by_group[group].append(rollout)
        for rollouts in by_group.values():
            answers = self._answers(rollouts[0])
            if len(answers) < 2:
                continue  # nothing else was answered: P is 1 everywhere
            share = self._shares(rollouts, answers, beliefs)
            for rollout in rollouts:
                best = share(rollout, 0)
                for number, step in enumerate(steps_of[rollout]):
                    now = share(rollout, number + 1)
                    found[step] = np.log(now + FLOOR) - np.log(best + FLOOR)
                    best = max(best, now)
        return found

    def _answers(self, rollout: int) -> list[str]:
        """The answers of its group that are compared, the dominant one first."""
        others = self.others[self.rows[rollout]["group_id"]]
        own = self.parsed[rollout].answer or ""
        rest = [text for text, _ in Counter(others).most_common() if answer_key(text) != answer_key(own)]
        return [own, *rest[: ANSWERS - 1]]

    def with_answers(self, table: pa.Table) -> "Seen":
        """With what all rollouts of the groups answer."""
        self.others: dict[str, list[str]] = defaultdict(list)
        for row in table.select(["group_id", "role", "completion"]).to_pylist():
            answer = parse_completion(row["completion"] or "").answer if row["role"] != PROPOSER else None
            if answer:
                self.others[row["group_id"]].append(answer_key(answer))
        return self

    def _shares(self, rollouts: Sequence[int], answers: Sequence[str], beliefs: Beliefs) -> Callable[[int, int], float]:
        """Of a rollout, behind so many of its steps: the share of the first of the answers."""
        tails: dict[tuple[tuple[int, ...], int], int] = {}  # tokens, and how many are the answer's
        place: dict[tuple[int, int], list[int]] = {}
        for rollout in rollouts:
            parsed, text = self.parsed[rollout], self.rows[rollout]["completion"]
            ends = [start + len(step) for start, step in zip(parsed.starts, parsed.steps, strict=True)]
            for number, end in enumerate([parsed.starts[0] if parsed.starts else 0, *ends]):
                before = self._encode(f"{text[:end].rstrip()}\n</think>\n<answer>")
                for answer in answers:
                    said = self._encode(f"{answer}</answer>")
                    tail = (before + said, len(said))
                    place.setdefault((rollout, number), []).append(tails.setdefault(tail, len(tails)))
        rows = [{**self.rows[rollouts[0]], "token_ids": list(tokens)} for tokens, _ in tails]
        read = beliefs.of(pa.Table.from_pylist(rows, self.table.schema), np.arange(len(rows)))
        logprob = np.array([own[-length:].sum() for own, (_, length) in zip(read, tails, strict=True)])

        def share(rollout: int, number: int) -> float:
            values = logprob[place[rollout, number]]
            odds = np.exp(values - values.max())
            return float(odds[0] / odds.sum())

        return share

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)


def masked(table: pa.Table) -> pa.Table:
    """The rows behind pictures of which little is left, the same of a group's rows."""
    seeds: dict[str, int] = {}
    seed = [seeds.setdefault(group, len(seeds)) for group in table["group_id"].to_pylist()]
    table = table.set_column(
        table.schema.get_field_index("seed"), "seed", pa.array(seed, table.schema.field("seed").type)
    )
    view = pa.array([MASK] * len(table), pa.string())
    return table.set_column(table.schema.get_field_index("view"), "view", view)


def signals(table: pa.Table, own: Agreed, model: Model, beliefs: Beliefs) -> Iterator[tuple[str, np.ndarray]]:
    """Each signal by its name, of every step   [S]"""
    seen = Seen(table, own, model).with_answers(table)
    yield "similarity to the prototype, static", own.similarity
    yield "share of the others that say the very same", own.same_text()
    places = np.arange(len(seen.rows))
    logprobs = beliefs.of(seen.table, places)
    for name, reading in READINGS.items():
        yield name, seen.read(logprobs, reading)
    unseen = beliefs.of(masked(seen.table), places)
    less = [one - other for one, other in zip(logprobs, unseen, strict=True)]
    yield (
        "mean log-probability, less that with 60 % of the picture masked",
        seen.read(less, READINGS["mean log-probability"]),
    )
    yield "gain in the probability of the voted answer", seen.gains(beliefs)


def wrong_consensus(table: pa.Table, own: Agreed, charts: Mapping[str, world.Chart]) -> np.ndarray:
    """Of every step, whether its group's dominant answer is wrong   [S] bool"""
    wrong = []
    for row in table.take(own.row.tolist()).to_pylist():
        wrong.append(parse_completion(row["completion"]).answer_key not in records.true_answers(row, charts))
    return np.array(wrong, dtype=bool)[own.rollout]


def outvoted(own: Agreed) -> np.ndarray:
    """Of every step, whether more of those at its place are false than true   [S] bool"""
    place = np.unique(own.place, return_inverse=True)[1]
    true, false = (np.bincount(place, own.step_true == value) for value in (1, 0))
    return (false > true)[place]


def figures(folder: Path, groups: int) -> Iterator[Row]:
    """The rows of the CSV for the rollouts in `folder`, of its first `groups` questions."""
    charts = records.charts(QUESTIONS, SEED)
    with chdir(folder):
        source, table = read_rollouts(groups)
        model = locate_model(None, source.metadata.model)
        own = agreed(table, _static(table, model), charts)
        wrong = wrong_consensus(table, own, charts)
        resamples = resampled(own.group, RESAMPLES, SEED)
        beliefs = Beliefs(Reader(model, open_policy(None), source.metadata))
        for name, signal in signals(table, own, model, beliefs):
            for among, some in (
                ("all", np.full(len(wrong), True)),
                ("wrong consensus", wrong),
                ("outvoted", outvoted(own)),
            ):
                seen, _ = pairs(signal[some], own.step_true[some], own.place[some], own.step_group[some], resamples)
                low, high = seen.interval
                shown = {"estimate": f"{seen.estimate:.4f}", "low": f"{low:.4f}", "high": f"{high:.4f}"}
                yield {"rollouts": folder.name, "signal": name, "among": among, **shown, "count": seen.count}


def _static(table: pa.Table, model: Model) -> dict[Step, np.ndarray]:
    """The static embeddings of all steps that are compared."""
    noted = Noted()
    score_block(table, Chosen.of(ScoreParams()), noted, 0)
    embedder = StaticEmbedder(model)
    return {
        step: vector
        for steps in noted.by_group.values()
        for step, vector in zip(steps, embedder.embed(steps, table), strict=True)
    }


def main(
    folders: list[Path],
    out: Annotated[Path, typer.Option()] = Path("docs/evidence"),
    groups: Annotated[int, typer.Option(help="Of how many questions.")] = QUESTIONS,
) -> None:
    """Measures every signal of the rollouts in each folder, and writes step-signals.csv."""
    records.check_there(folders, "rollouts.parquet")
    records.write_records(out / "step-signals.csv", [row for folder in folders for row in figures(folder, groups)])
    typer.echo(out / "step-signals.csv")


if __name__ == "__main__":
    try:
        typer.run(main)
    except StageError as error:
        sys.exit(str(error))
