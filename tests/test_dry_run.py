"""`--dry-run`: says what a stage would do, and touches nothing."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from ireasoner_cli.app import app
from stages import images, shards, update
from stages.images.reading import decode
from stages.learning.learner import UpdateParams
from tests import chain

FAKE = ("--sampler", "fake")
Words = tuple[object, ...]
CHAIN: dict[str, Words] = {
    "questions.parquet": ("propose", "--images", "pool", "--model", "model", "--groups", 8, *FAKE),
    "rollouts.parquet": ("rollout", "questions.parquet", "--samples", 3, *FAKE),
    "scored.parquet": ("score", "rollouts.parquet"),
    "policy": ("update", "scored.parquet"),
    "eval.parquet": ("eval", "benchmark.parquet", "--model", "model", "--samples", 2, *FAKE),
}


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def plan(words: Words) -> dict[str, Any]:
    before = chain.file_bytes(Path())
    done = call(*words, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    assert chain.file_bytes(Path()) == before
    return json.loads(done.stdout)


@pytest.fixture
def world(workdir: Path) -> Path:
    rows = [
        {"id": str(i), "image": {"bytes": None, "path": f"pool/{i}.png"}, "question": "How many?", "answers": ["2"]}
        for i in range(5)
    ]
    shards.write_table(Path("benchmark.parquet"), pa.Table.from_pylist(rows))
    return workdir


def test_every_stage_says_what_it_would_do_and_does_nothing(world: Path) -> None:
    for output, words in CHAIN.items():
        told = plan(words)
        assert (told["path"], told["would_write"], told["reused"]) == (output, output, False)
        if output != "eval.parquet":
            assert (told["groups"], told["groups_taken_up"]) == (8, 0)
        if output == "rollouts.parquet":
            asked = sum(row["question"] is not None for row in chain.rows(Path("questions.parquet")))
            assert told["requests"] == 3 * asked < 3 * 8
        assert told.get("requests") == {"questions.parquet": 8, "eval.parquet": 10}.get(output, told.get("requests"))
        assert call(*words).exit_code == 0
        assert plan(words)["reused"]
        assert plan((*words, "--force"))["would_replace"] == output
    other = call(*CHAIN["questions.parquet"], "--seed", 9, "--dry-run")
    assert other.exit_code == 2 and "seed: 0 → 9" in other.stderr


def test_what_would_be_read_is_looked_into(world: Path) -> None:
    def refused(words: Words) -> str:
        done = call(*words, "--dry-run")
        assert done.exit_code == 3, done.output
        return done.stderr

    for output in ("questions.parquet", "rollouts.parquet"):
        assert call(*CHAIN[output]).exit_code == 0
    asked = next(row for row in chain.rows(Path("questions.parquet")) if row["question"])
    picture = Path(asked["images"][0]["path"])
    kept = picture.read_bytes()
    Path("rollouts.parquet").rename("rolled.parquet")
    picture.unlink()
    told = plan(CHAIN["rollouts.parquet"])
    assert told["unreadable_images"] == sum(
        bool(row["question"]) and row["images"][0]["path"] == str(picture)
        for row in chain.rows(Path("questions.parquet"))
    )
    asked_of = [row for row in chain.rows(Path("questions.parquet")) if row["question"]]
    assert told["requests"] == 3 * (len(asked_of) - told["unreadable_images"]) > 0
    assert call("score", "rolled.parquet", "--dry-run").exit_code == 0  # compares words, and reads no picture
    assert f"{picture}: No such file" in refused(("score", "rolled.parquet", "--embedding", "hidden"))
    assert call("score", "rolled.parquet").exit_code == 0
    picture.write_bytes(kept + b"x")
    assert f"{picture}: the image has changed" in refused(CHAIN["policy"])

    rows = [{"id": "a", "image": {"bytes": kept, "path": None}, "query": "?", "answers": ["2"]}]
    shards.write_table(Path("benchmark.parquet"), pa.Table.from_pylist(rows))
    assert "benchmark.parquet: lacks the column question" in refused(CHAIN["eval.parquet"])


def test_pictures_that_nothing_can_be_asked_about_are_counted_before(world: Path) -> None:
    for name in ("1", "4", "6"):
        Path(f"pool/{name}.png").write_bytes(b"no picture")
    assert plan(CHAIN["questions.parquet"])["requests"] == 5
    for picture in Path("pool").iterdir():
        picture.write_bytes(b"no picture")
    refused = call(*CHAIN["questions.parquet"], "--dry-run")
    assert refused.exit_code == 3 and "none of its 8 images can be read" in refused.stderr


def test_what_an_interrupted_stage_left_is_counted_and_kept(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def dies(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise KeyboardInterrupt
        return decode(*given)

    monkeypatch.setattr("stages.shards.output.GROUPS_PER_CHUNK", 3)
    monkeypatch.setattr(images, "decode", dies)
    assert call(*CHAIN["questions.parquet"]).exit_code == 130
    monkeypatch.setattr(images, "decode", decode)
    left = [file for file in chain.file_bytes(Path(".questions.parquet.partial")) if "chunk" in file]
    told = plan(CHAIN["questions.parquet"])
    assert left and told["groups_taken_up"] >= 3
    assert told["requests"] == 8 - told["groups_taken_up"]

    for output in ("questions.parquet", "rollouts.parquet", "scored.parquet"):
        assert call(*CHAIN[output]).exit_code == 0
    whole, steps = update._learn, 0

    def interrupted(*given: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > 3:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(update, "_learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update.update([Path("scored.parquet")], UpdateParams(), checkpoint_seconds=0)
    assert plan(CHAIN["policy"])["groups_taken_up"] == 3
