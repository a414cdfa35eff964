"""Questions whose answers are known: what was done to the picture can be read off it again."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages import images, puzzles
from stages.errors import DataError, UsageError
from stages.images.views import seen
from stages.learning.model import PolicyModel
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.parameters.update import UpdateParams
from stages.parsing import answer_key
from stages.propose import propose
from stages.rollout import rollout
from stages.score import score
from stages.update import update
from tests import chain

POOL = Path("pool")
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))


def ask(**options: object) -> list[dict]:
    return chain.rows(propose(POOL, *chain.asked(ProposeParams, **{"groups": 10, "model": "model", **options})).path)


@given(st.integers(0, 2**63 - 1))
def test_the_turn_is_the_answer(seed: int) -> None:
    puzzle = puzzles.load("rotation")(random.Random(seed))
    back = seen(PICTURE, puzzle.view, 0).rotate(int(puzzle.target), expand=True)
    assert back.tobytes() == PICTURE.tobytes()


@given(st.integers(0, 2**63 - 1))
def test_the_order_of_the_quarters_is_the_answer(seed: int) -> None:
    puzzle = puzzles.load("jigsaw")(random.Random(seed))
    tiled = np.asarray(seen(PICTURE, puzzle.view, 0))
    whole = np.zeros_like(tiled)
    corners = [(0, 0), (0, 8), (6, 0), (6, 8)]
    for (y, x), quarter in zip(corners, puzzle.target, strict=True):
        top, left = corners[int(quarter) - 1]
        whole[top : top + 6, left : left + 8] = tiled[y : y + 6, x : x + 8]
    assert (whole == np.asarray(PICTURE)).all()


@pytest.mark.parametrize(("name", "answers"), [("rotation", 4), ("jigsaw", 24), ("odd-one-out", 3)])
def test_every_answer_is_as_likely(name: str, answers: int) -> None:
    drawn = [puzzles.load(name)(random.Random(seed)) for seed in range(100 * answers)]
    counts = Counter(puzzle.target for puzzle in drawn)
    assert len(counts) == answers and min(counts.values()) > 60 and max(counts.values()) < 150
    assert all(answer_key(puzzle.target) == puzzle.target for puzzle in drawn)
    assert all(puzzle.target not in puzzle.question or name != "jigsaw" or puzzle.target == "1234" for puzzle in drawn)


def test_an_unknown_task_is_told_the_nearest(workdir: Path) -> None:
    assert puzzles.names() == ["jigsaw", "odd-one-out", "rotation"]
    with pytest.raises(UsageError, match="unknown task 'rotations'; the nearest is 'rotation'"):
        ask(task="rotations")
    with pytest.raises(UsageError, match="--task draws the questions"):
        ask(task="rotation", questions="question")


@pytest.mark.parametrize("name", puzzles.names())
def test_questions_are_drawn_and_sharded_equals_whole(workdir: Path, name: str) -> None:
    whole = ask(task=name, per_image=2)
    assert [row["group_index"] for row in whole] == list(range(10))
    assert all(row["question"] and row["target"] and row["view"] and row["token_ids"] is None for row in whole)
    assert len({row["target"] for row in whole}) > 1
    pairs = zip(whole[::2], whole[1::2], strict=True)
    assert any(one["target"] != other["target"] for one, other in pairs)  # of the same picture
    for index in (2, 1):
        ask(task=name, per_image=2, shard=f"{index}/2", out=Path("parts"))
    assert [row for index in (1, 2) for row in chain.rows(Path(f"parts/part-{index}-of-2.parquet"))] == whole


def test_the_odd_one_is_another_picture(workdir: Path) -> None:
    for row in ask(task="odd-one-out"):
        digests = row["images_sha256"]
        odd = int(row["target"]) - 1
        assert len(digests) == 3 and digests.count(digests[odd]) == 1 and len(set(digests)) == 2


def test_the_odd_one_is_another_picture_where_a_pool_has_it_more_than_once(workdir: Path) -> None:
    rows = [{"image": path.read_bytes()} for path in sorted(POOL.iterdir())[:3] for _ in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), "pool.parquet")
    asking = chain.asked(ProposeParams, groups=24, task="odd-one-out", model="model")
    asked = chain.rows(propose(Path("pool.parquet"), *asking).path)
    assert len(asked) == 24 and all(len(set(row["images_sha256"])) == 2 for row in asked)


def test_the_odd_one_is_one_that_can_be_read(workdir: Path) -> None:
    pictures = [path.read_bytes() for path in sorted(POOL.iterdir())[:2]]
    rows = [{"image": data} for data in (pictures[0], None, pictures[1], None)]
    pq.write_table(pa.Table.from_pylist(rows), "pool.parquet")
    asking = chain.asked(ProposeParams, groups=4, task="odd-one-out", model="model")
    asked = chain.rows(propose(Path("pool.parquet"), *asking).path)
    assert sum(row["question"] is not None for row in asked) == 2


def test_an_odd_one_needs_another_picture(workdir: Path) -> None:
    for path in list(POOL.iterdir())[1:]:
        path.unlink()
    assert len(ask(task="rotation")) == 10
    with pytest.raises(DataError, match="one picture"):
        ask(task="odd-one-out", force=True)
    assert not list(Path().glob("*.unfinished"))


@pytest.mark.parametrize("name", puzzles.names())
def test_rollouts_see_what_the_question_is_about(workdir: Path, name: str) -> None:
    """And who is right is paid: no vote enters."""
    propose(POOL, *chain.asked(ProposeParams, task=name, groups=6, model="model"))
    rollout([Path("questions.parquet")], RolloutParams(sampling=chain.fake()))
    path = score([Path("rollouts.parquet")], ScoreParams(target="known", solver_reward="majority")).path
    view = ""
    for row in chain.rows(path):
        if row["role"] == "proposer":
            view, target = row["view"], row["target"]
        else:
            assert row["view"] == view and row["question"] in row["prompt"] and target is not None
            assert row["reward"] == (row["answer_key"] == target)
    assert view


def test_what_is_learned_is_what_was_seen(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned pictures reach the learner turned, and a group's prompt is run once."""
    propose(POOL, *chain.asked(ProposeParams, task="rotation", groups=2, model="model"))
    rollout([Path("questions.parquet")], RolloutParams(sampling=chain.fake()))
    score([Path("rollouts.parquet")], ScoreParams(target="known", solver_reward="majority"))
    processed: list[bytes] = []
    process = PolicyModel.process

    def spied(self: PolicyModel, pictures: tuple[Any, ...], *arguments: Any) -> object:
        processed.extend(picture.tobytes() for picture in pictures if picture.size in ((64, 48), (48, 64)))
        return process(self, pictures, *arguments)

    monkeypatch.setattr(PolicyModel, "process", spied)
    update([Path("scored.parquet")], UpdateParams(advantage="none"))
    asked = [row for row in chain.rows(Path("scored.parquet")) if row["role"] == "proposer"]
    wanted = [seen(images.load_all(row)[0], row["view"], 0).tobytes() for row in asked]
    assert processed == wanted
