"""Does step agreement see step truth? In the chart world, where it is known of every step whether it is true.

    python -m tests.evidence.step_truth ask FOLDER --model MODEL [--policy POLICY]
    cd FOLDER && ireasoner rollout questions.parquet --samples 10 --max-tokens 144 [--policy policy]
    python -m tests.evidence.step_truth measure FOLDER …     # docs/evidence/step-truth.csv, step-truth-all.csv

`score`'s own code says how similar steps are, and what the step reward is, from several embeddings of the same
rollouts; what is measured is how well that tells what is true from what is false. Everything is about the rollouts of
dominant groups, since only they have a step reward. A trajectory is true where all its steps are.
"""

import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from ireasoner_cli.demo import world
from ireasoner_cli.demo.checker import check_steps
from stages import images, shards
from stages.contract import METADATA_KEY, PROPOSER, TRAJECTORY, Metadata, group_id, trajectory_seed
from stages.embedding import Step
from stages.embedding.hidden import HiddenEmbedder, centred, tokens_of
from stages.embedding.static import StaticEmbedder
from stages.errors import StageError, UsageError
from stages.learning.rereading import COLUMNS, Reader
from stages.models.finding import Model, find_model, locate_model
from stages.models.spans import token_spans
from stages.parameters.score import ScoreParams
from stages.parsing import parse_completion
from stages.policy import Policy, open_policy, recorded_policy
from stages.rewards.leave_one_out import leave_one_out
from stages.rewards.step import step_reward
from stages.scoring.block import score_block
from stages.scoring.chosen import Chosen
from tests.evidence import records
from tests.evidence.prose import plain_steps
from tests.evidence.separation import Separation, area, pairs, resampled

QUESTIONS = 600
SEED = 100  # of the charts, and of no pool of the experiments
MOST_STEPS = 64  # of a completion whose truth is asked for; the reward looks at the first 8
RESAMPLES = 1000
SUM = re.compile(r"(\d+) \+ (\d+) = (\d+)")

app = typer.Typer(pretty_exceptions_enable=False)


# ------------------------------------------------------------------------------------------- asking


@app.command()
def ask(
    folder: Path,
    model: Annotated[Path, typer.Option()],
    policy: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """A folder with a pool of charts and questions of the world's own about them, one each, for `rollout`."""
    start = open_policy(policy)
    checkpoint = replace(find_model(str(model)).ref, name="model")  # as it is called from within the folder
    if folder.exists():
        raise UsageError(f"{folder} is in the way; name a folder that is new")
    folder.mkdir(parents=True)
    (folder / "model").symlink_to(model.resolve())
    if policy:
        (folder / "policy").symlink_to(policy.resolve())
    charts = records.charts(QUESTIONS, SEED)
    metadata = Metadata("propose", {}, SEED, (), checkpoint, start.ref)
    rng = random.Random(SEED)
    rows = []
    for index, file in enumerate(world.write_pool(folder / "pool", QUESTIONS, SEED)):
        digest = images.sha256(file.read_bytes())
        group = group_id(SEED, start.ref.step + index + 1, [digest])
        rows.append(
            {
                "group_id": group,
                "group_index": index,
                "role": PROPOSER,
                "sample_index": 0,
                "images": [{"bytes": None, "path": str(file.relative_to(folder))}],
                "images_sha256": [digest],
                "question": world.draw_question(rng, charts[digest]).text,
                "seed": trajectory_seed(group, PROPOSER, 0),
            }
        )
    schema = TRAJECTORY.with_metadata({METADATA_KEY: metadata.to_json()})
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "questions.parquet")


# ---------------------------------------------------------------------------------------- embedding


class Known:
    """Embeddings made beforehand."""

    def __init__(self, known: Mapping[Step, np.ndarray]) -> None:
        self._known = known

    def embed(self, steps: Sequence[Step], block: pa.Table) -> np.ndarray:
        """[S, width], float32."""
        return np.stack([self._known[step] for step in steps]).astype(np.float32)


class Noted:
    """Embeds nothing, and keeps the steps that are compared, by group."""

    def __init__(self) -> None:
        self.by_group: dict[str, list[Step]] = defaultdict(list)

    def embed(self, steps: Sequence[Step], block: pa.Table) -> np.ndarray:
        ids = block["group_id"].to_pylist()
        for step in steps:
            self.by_group[ids[step.row]].append(step)
        return np.zeros((len(steps), 1), np.float32)


def embeddings(
    table: pa.Table, model: Model, policy: Policy, recorded: Metadata
) -> Iterator[tuple[str, dict[Step, np.ndarray]]]:
    """Name and vectors of every compared step in `table`, rollouts of a shard with this metadata: as they are, and
    centred."""
    noted = Noted()
    score_block(table, Chosen.of(ScoreParams()), noted, 0)
    groups = list(noted.by_group.values())
    hidden = HiddenEmbedder(Reader(model, policy, recorded))
    kinds = {
        "static": [StaticEmbedder(model).embed(steps, table) for steps in groups],
        "hidden, middle layer": [of_layer(hidden.depth // 2, steps, table, hidden, model) for steps in groups],
        "hidden, last layer": [of_layer(hidden.depth, steps, table, hidden, model) for steps in groups],
    }
    for name, vectors in kinds.items():
        yield name, _by_step(groups, vectors)
        less_means = [centred(steps, own) for steps, own in zip(groups, vectors, strict=True)]
        yield f"{name}, centred", _by_step(groups, less_means)


def _by_step(groups: Sequence[Sequence[Step]], vectors: Sequence[np.ndarray]) -> dict[Step, np.ndarray]:
    both = zip(groups, vectors, strict=True)
    return {step: vector for own in both for step, vector in zip(*own, strict=True)}


def of_layer(depth: int, steps: Sequence[Step], table: pa.Table, hidden: HiddenEmbedder, model: Model) -> np.ndarray:
    """The mean of a layer's hidden states over each of a group's steps, as they are: [S, width]."""
    numbers = list(dict.fromkeys(step.row for step in steps))
    rows = table.select(COLUMNS).take(numbers).to_pylist()
    spans = {number: token_spans(model.tokenizer, row) for number, row in zip(numbers, rows, strict=True)}
    states = dict(zip(numbers, hidden.states(rows, depth), strict=True))
    return np.stack([states[step.row][tokens_of(step, *spans[step.row])].mean(0) for step in steps])


# ---------------------------------------------------------------------------------------- agreement


@dataclass(frozen=True)
class Agreed:
    """The rollouts of the dominant groups [R] and their steps, the first 8 of each [S].

    row, group [R]: number in the table, group_index; true [R]: 1 where every step is true, 0 where one is false, NaN
    where neither is known; density, words [R]. rollout, position, place, text, step_true, similarity [S]: steps in one
    place are compared with one another; similarity is NaN where a step is compared with nothing.
    """

    row: np.ndarray
    group: np.ndarray
    true: np.ndarray
    density: np.ndarray
    words: np.ndarray
    rollout: np.ndarray
    position: np.ndarray
    place: np.ndarray
    text: np.ndarray
    step_true: np.ndarray
    similarity: np.ndarray

    @property
    def step_group(self) -> np.ndarray:
        return self.group[self.rollout]

    def at_places(self) -> Iterator[np.ndarray]:
        """The steps that are compared with one another."""
        compared = np.flatnonzero(~np.isnan(self.similarity))
        order = compared[np.argsort(self.place[compared], kind="stable")]
        yield from np.split(order, np.flatnonzero(np.diff(self.place[order])) + 1)

    def with_others(self) -> np.ndarray:
        """Similarity to the mean of the others [S]."""
        similarity = self.similarity.copy()
        for own in self.at_places():
            similarity[own] = leave_one_out(similarity[own])
        return similarity

    def same_text(self) -> np.ndarray:
        """The share of the others that have the very same text [S]: no embedding at all."""
        similarity = np.full(len(self.text), np.nan)
        for own in self.at_places():
            _, number, count = np.unique(self.text[own], return_inverse=True, return_counts=True)
            similarity[own] = (count[number] - 1) / (len(own) - 1)
        return similarity

    def agreement(self, similarity: np.ndarray) -> np.ndarray:
        """r_step / ρ of each rollout [R], at the default decay."""
        alone = np.ones(1)
        group = np.zeros(len(self.group), dtype=np.int64)
        return step_reward(similarity, self.rollout, self.position, group, alone, alone).reward


def agreed(table: pa.Table, known: Mapping[Step, np.ndarray], charts: Mapping[str, world.Chart]) -> Agreed:
    """What `score` makes of embeddings of the steps in `table`, and the truth."""
    scored = score_block(table, Chosen.of(ScoreParams()), Known(known), 0)
    rollouts: dict[str, list[Any]] = {name: [] for name in ("row", "group", "true", "density", "words")}
    steps: dict[str, list[Any]] = {
        name: [] for name in ("rollout", "position", "place", "text", "step_true", "similarity")
    }
    rows = [table[name].to_pylist() for name in ("group_index", "images_sha256", "completion")]
    rows += [scored[name].to_pylist() for name in ("steps", "step_similarity", "density")]
    for row, (group, [digest], completion, texts, similarity, density) in enumerate(zip(*rows, strict=True)):
        if all(value is None for value in similarity or ()):
            continue
        parsed = parse_completion(completion, MOST_STEPS)
        truth = check_steps(plain_steps(parsed.steps), charts[digest])
        steps["rollout"] += [len(rollouts["group"])] * len(texts)
        steps["position"] += range(len(texts))
        steps["place"] += [group * MOST_STEPS + position for position in range(len(texts))]
        steps["text"] += texts
        steps["step_true"] += [np.nan if value is None else float(value) for value in truth[: len(texts)]]
        steps["similarity"] += [np.nan if value is None else value for value in similarity]
        rollouts["row"].append(row)
        rollouts["group"].append(group)
        rollouts["true"].append(0.0 if False in truth else np.nan if None in truth else 1.0)
        rollouts["density"].append(density)
        rollouts["words"].append(parsed.words)
    return Agreed(**{name: np.array(values) for name, values in {**rollouts, **steps}.items()})


# ---------------------------------------------------------------------------------------- measuring


# What is measured: of what, at which position, and among which.
Measure = tuple[str, int | None, str]
REWARD: Measure = ("r_step", None, "all")
WITHOUT_DENSITY: Measure = ("r_step / density", None, "all")
REWARD_PAIRS: Measure = ("r_step", None, "pairs")
GAP: Measure = ("r_step / density", None, "gap in pairs")
STEP_PAIRS: Measure = ("step", None, "pairs")
SWAPPED: Measure = ("step with two numbers swapped", None, "pairs")
ITSELF_SWAPPED: Measure = ("cosine of a step and itself with two numbers swapped", None, "all")
UNRELATED: Measure = ("cosine of steps of different questions", None, "all")

# Those of the table, and what they are called there.
SHOWN = {
    "r_step": REWARD,
    "without ρ": WITHOUT_DENSITY,
    "pairs": REWARD_PAIRS,
    "worth": GAP,
    "pairs of steps": STEP_PAIRS,
    "swapped": SWAPPED,
}


@app.command()
def measure(
    folders: list[Path],
    out: Annotated[Path, typer.Option()] = Path("docs/evidence"),
) -> None:
    """What each embedding sees of the rollouts in each folder: all figures in step-truth-all.csv, and a table of the
    main ones in step-truth.csv."""
    records.check_there(folders, "rollouts.parquet")
    drawn = records.charts(QUESTIONS, SEED)
    rows = [{"rollouts": folder.name, **row} for folder in folders for row in figures(folder, drawn)]
    for name, table in (("step-truth-all.csv", rows), ("step-truth.csv", list(main_figures(rows)))):
        records.write_records(out / name, table)
        typer.echo(out / name)


def main_figures(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """The rows of the table, with intervals: of each embedding with the prototype of the paper."""
    cells: dict[tuple[str, str], dict[Measure, str]] = defaultdict(dict)
    for row in rows:
        if not row["position"] and "others" not in row["embedding"]:
            shown = "{:.3f} ({:.3f} to {:.3f})".format(*(float(row[key]) for key in ("estimate", "low", "high")))
            cells[row["rollouts"], row["embedding"]][row["measure"], None, row["among"]] = shown
    for (rollouts, name), own in cells.items():
        yield {"rollouts": rollouts, "embedding": name, **{title: own.get(key, "") for title, key in SHOWN.items()}}


def read_rollouts(groups: int) -> tuple[shards.Shards, pa.Table]:
    """The shard in this folder, and its rows of the first `groups` questions but for rollouts that were left without
    tokens, which have no hidden states."""
    source = shards.Shards([Path("rollouts.parquet")], "rollout", TRAJECTORY)
    table = pa.concat_tables(source.tables(QUESTIONS)).combine_chunks()
    table = table.filter(pc.less(table["group_index"], groups))
    return source, table.filter(pc.or_(pc.is_valid(table["token_ids"]), pc.equal(table["role"], PROPOSER)))


def figures(folder: Path, charts: Mapping[str, world.Chart]) -> Iterator[dict[str, Any]]:
    """The rows of the CSV for the rollouts in `folder`."""
    with chdir(folder):
        source, table = read_rollouts(QUESTIONS)
        recorded = source.metadata
        model = locate_model(None, recorded.model)
        policy = recorded_policy(Path("policy") if recorded.policy.step else None, recorded.policy, source.files[0])
        swapped, altered = with_swapped_sums(table, charts, model)
        found: dict[str, dict[Measure, Separation]] = {}
        both = zip(*(embeddings(rows, model, policy, recorded) for rows in (table, swapped)), strict=True)
        for (name, known), (_, known_of_swapped) in both:
            own, other = agreed(table, known, charts), agreed(swapped, known_of_swapped, charts)
            resamples = resampled(own.group, RESAMPLES, SEED)
            if not found:
                found |= controls(own, resamples)
            for of, similarity, similarity_of_swapped in (
                ("", own.similarity, other.similarity),
                (", others", own.with_others(), other.with_others()),
            ):
                found[name + of] = {
                    **separations(own, similarity, resamples),
                    SWAPPED: seen_swaps(other, similarity_of_swapped, altered, resamples),
                }
            if "centred" not in name:
                found[name][UNRELATED] = unrelated(known, table, resamples)
                found[name][ITSELF_SWAPPED] = itself_swapped(known, known_of_swapped, table, altered, resamples)
        for name, measured in found.items():
            for (what, position, among), seen in measured.items():
                static = found["static"].get((what, position, among)) if name != "static" else None
                less = _shown(seen - static) if static else dict.fromkeys(_shown(seen), "")
                yield {
                    "embedding": name,
                    "measure": what,
                    "position": "" if position is None else position + 1,
                    "among": among,
                    **_shown(seen),
                    "count": seen.count,
                    **{f"{key} less static": value for key, value in less.items()},
                }


def _shown(seen: Separation) -> dict[str, str]:
    low, high = seen.interval
    return {"estimate": f"{seen.estimate:.4f}", "low": f"{low:.4f}", "high": f"{high:.4f}"}


def separations(own: Agreed, similarity: np.ndarray, resamples: np.ndarray) -> dict[Measure, Separation]:
    """How the reward, and the similarity it is made of, tell true from false."""
    agreement = own.agreement(similarity)
    ordered, gap = pairs(agreement, own.true, own.group, own.group, resamples)
    found = {
        REWARD: area(own.density * agreement, own.true, own.group, resamples),
        WITHOUT_DENSITY: area(agreement, own.true, own.group, resamples),
        REWARD_PAIRS: ordered,
        GAP: gap,
    }
    for position in (None, *range(int(own.position.max()) + 1)):
        here = np.full(len(own.position), True) if position is None else own.position == position
        steps = (similarity[here], own.step_true[here])
        found["step", position, "all"] = area(*steps, own.step_group[here], resamples)
        found["step", position, "pairs"], _ = pairs(*steps, own.place[here], own.step_group[here], resamples)
    return found


def controls(own: Agreed, resamples: np.ndarray) -> dict[str, dict[Measure, Separation]]:
    """What needs no embedding: the same words, fewer words, the density alone."""
    found = {"same text": separations(own, own.same_text(), resamples)}
    for name, score in (("fewer words", -own.words), ("density", own.density)):
        ordered, _ = pairs(score, own.true, own.group, own.group, resamples)
        found[name] = {REWARD: area(score, own.true, own.group, resamples), REWARD_PAIRS: ordered}
    return found


def with_swapped_sums(
    table: pa.Table, charts: Mapping[str, world.Chart], model: Model
) -> tuple[pa.Table, dict[int, int]]:
    """The table with one true rollout of each dominant group, where one adds, made false: "3 + 4 = 7" becomes
    "3 + 7 = 4", the same words in another order. Also the rows that were changed, and the place of the step in each."""
    scored = score_block(table, Chosen.of(ScoreParams()), Noted(), 0)
    rows, places, done = table.to_pylist(), {}, set()
    for number, (row, dominant) in enumerate(zip(rows, scored["dominant"].to_pylist(), strict=True)):
        if not dominant or row["group_id"] in done:
            continue
        parsed = parse_completion(row["completion"])
        sums = [place for place, step in enumerate(parsed.steps) if _changes(step)]
        if not sums or not all(check_steps(parsed.steps, charts[row["images_sha256"][0]])):
            continue
        text, start = row["completion"], parsed.starts[sums[0]]
        changed = text[:start] + SUM.sub(r"\1 + \3 = \2", text[start:], count=1)
        row |= {"completion": changed, "token_ids": model.tokenizer.encode(changed, add_special_tokens=False).ids}
        places[number] = row["group_index"] * MOST_STEPS + sums[0]
        done.add(row["group_id"])
    return pa.Table.from_pylist(rows, table.schema), places


def _changes(step: str) -> bool:
    """Whether swapping makes a difference."""
    found = SUM.search(step)
    return found is not None and found[2] != found[3]


def seen_swaps(own: Agreed, similarity: np.ndarray, altered: Mapping[int, int], resamples: np.ndarray) -> Separation:
    """How often a swapped step is less similar than the true ones in its place."""
    swapped = np.array([altered.get(row) for row in own.row.tolist()], dtype=float)[own.rollout] == own.place
    at = np.isin(own.place, list(altered.values())) & (swapped | (own.step_true == 1))
    ordered, _ = pairs(similarity[at], 1.0 - swapped[at], own.place[at], own.step_group[at], resamples)
    return ordered


def itself_swapped(
    known: Mapping[Step, np.ndarray],
    known_of_swapped: Mapping[Step, np.ndarray],
    table: pa.Table,
    altered: Mapping[int, int],
    resamples: np.ndarray,
) -> Separation:
    """The mean cosine of a step and what it became by swapping."""
    before = {(step.row, step.start): step for step in known if step.row in altered}
    group = table["group_index"].to_numpy()
    cosines, count = np.zeros((2, resamples.shape[1]))
    for step, vector in known_of_swapped.items():
        original = before.get((step.row, step.start))
        if original is not None and sorted(original.text) == sorted(step.text) and original.text != step.text:
            other = known[original]
            cosines[group[step.row]] = vector @ other / np.linalg.norm(vector) / np.linalg.norm(other)
            count[group[step.row]] = 1
    with np.errstate(invalid="ignore"):  # no such step was drawn
        draws = resamples @ cosines / (resamples @ count)
        return Separation(float(cosines.sum() / count.sum()), draws, int(count.sum()))


def unrelated(known: Mapping[Step, np.ndarray], table: pa.Table, resamples: np.ndarray) -> Separation:
    """The mean cosine of steps of two groups, all groups counting the same."""
    group = table["group_index"].to_numpy()[[step.row for step in known]]
    vectors = np.stack(list(known.values())).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.stack([np.bincount(group, column, resamples.shape[1]) for column in vectors.T], axis=1)
    count = np.bincount(group, minlength=resamples.shape[1])
    means = means / np.maximum(count, 1)[:, None]
    drawn = np.concatenate([(count > 0)[None].astype(float), resamples])
    # Of all pairs of groups as they were drawn, less those of a group with itself.
    alike = ((drawn @ means) ** 2).sum(1) - drawn**2 @ (means**2).sum(1)
    cosines = alike / (drawn.sum(1) ** 2 - (drawn**2).sum(1))
    return Separation(float(cosines[0]), cosines[1:], int((count > 0).sum()))


if __name__ == "__main__":
    try:
        app()
    except StageError as error:
        sys.exit(str(error))
