"""`propose` and `rollout` with the fake sampler."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages import images
from stages.contract import group_id, trajectory_seed
from stages.errors import DataError, UsageError
from stages.images.pool import Order, open_pool
from stages.images.reading import UnreadableImage, decode
from stages.learning.learner import UpdateParams
from stages.parameters import Call
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.propose import propose
from stages.rollout import rollout
from stages.score import score
from stages.update import update
from tests import chain
from tests.chain import fake
from tests.conftest import draw as draw_picture

POOL = Path("pool")
Asker = Callable[..., Path]


@pytest.fixture
def ask(workdir: Path) -> Asker:
    def call(**options: object) -> Path:
        asked = {"groups": 10, "sampling": fake(max_tokens=128), "model": "model", **options}
        return propose(POOL, *chain.asked(ProposeParams, **asked)).path

    return call


# ------------------------------------------------------------------------------------------------ propose


def test_one_row_a_group_with_every_column(ask: Asker) -> None:
    rows = chain.rows(ask(seed=3))
    assert len(rows) == 10
    for index, row in enumerate(rows):
        assert row["group_index"] == index and row["role"] == "proposer" and row["sample_index"] == 0
        [picture] = row["images"]
        assert picture["bytes"] is None and picture["path"].startswith("pool/")
        assert row["images_sha256"] == [hashlib.sha256(Path(picture["path"]).read_bytes()).hexdigest()]
        assert row["group_id"] == group_id(3, index + 1, row["images_sha256"])
        assert row["seed"] == trajectory_seed(row["group_id"], "proposer", 0)
        assert len(row["token_ids"]) == len(row["logprobs"])
        assert (row["question"] is None) == (row["reject_reason"] == "the proposal has no question")
    assert {row["question"] is None for row in rows} == {True, False}  # the fake leaves some out


def test_the_pool_goes_round_from_the_policys_step(workdir: Path) -> None:
    order = Order(8, 0, 0)
    whole = [order[index] for index in range(8)]
    assert sorted(whole) == list(range(8)) and [order[index] for index in range(20)] == (whole * 3)[:20]
    assert [Order(8, 0, 5)[index] for index in range(8)] == (whole * 2)[5:13]
    assert [Order(8, 1, 0)[index] for index in range(8)] != whole


def test_sharded_equals_whole(ask: Asker, workdir: Path) -> None:
    whole = chain.rows(ask())
    for index in (2, 3, 1):
        ask(shard=f"{index}/3", out=Path("parts"))
    parts = [row for index in (1, 2, 3) for row in chain.rows(Path(f"parts/part-{index}-of-3.parquet"))]
    assert parts == whole
    rollouts = chain.rows(rollout([Path("questions.parquet")], RolloutParams(sampling=fake())).path)
    for index in (1, 2):
        rollout([Path("parts")], RolloutParams(sampling=fake()), Call(shard=f"{index}/2"))
    sharded = [row for index in (1, 2) for row in chain.rows(Path(f"rollouts/part-{index}-of-2.parquet"))]
    assert sharded == rollouts
    with pytest.raises(UsageError, match="parts of 3"):
        ask(shard="1/4", out=Path("parts"))
    assert len(list(Path("parts").iterdir())) == 3
    ask(shard="1/4", out=Path("parts"), force=True)
    assert [file.name for file in Path("parts").iterdir()] == ["part-1-of-4.parquet"]


@pytest.mark.parametrize("stop_after", [1, 5, 9])
def test_killed_and_run_again_equals_uninterrupted(
    ask: Asker, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    monkeypatch.setattr("stages.shards.output.GROUPS_PER_CHUNK", 3)
    whole = ask(out=Path("whole.parquet")).read_bytes()
    calls = 0

    def dies(*args: object) -> Image.Image:
        nonlocal calls
        calls += 1
        if calls > stop_after:
            raise KeyboardInterrupt
        return decode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "decode", dies)
    with pytest.raises(KeyboardInterrupt):
        ask(out=Path("again.parquet"))
    monkeypatch.setattr(images, "decode", decode)
    assert not Path("again.parquet").exists()
    assert ask(out=Path("again.parquet")).read_bytes() == whole


def test_embedded_images_make_the_shard_stand_alone(ask: Asker, workdir: Path) -> None:
    questions = ask(embed_images=True, groups=3)
    for file in POOL.iterdir():
        file.unlink()
    rows = chain.rows(rollout([questions], RolloutParams(sampling=fake())).path)
    assert all([hashlib.sha256(row["images"][0]["bytes"]).hexdigest()] == row["images_sha256"] for row in rows)


def test_shards_show_pictures_in_datasets(ask: Asker, workdir: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    ask(embed_images=True, groups=2)
    dataset = datasets.load_dataset("parquet", data_files="questions.parquet", cache_dir=str(workdir / "cache"))
    assert dataset["train"][0]["images"][0].size == (64, 48)


def test_a_dataset_of_images_is_a_pool(ask: Asker, workdir: Path) -> None:
    encoded = [(POOL / f"{index}.png").read_bytes() for index in range(8)]
    pq.write_table(pa.table({"image": [{"bytes": data, "path": "x.png"} for data in encoded]}), "images.parquet")
    from_dataset = chain.rows(
        propose(Path("images.parquet"), ProposeParams(groups=8, sampling=fake()), Call(model="model")).path
    )
    assert {row["images"][0]["bytes"] for row in from_dataset} == set(encoded)
    assert {row["images"][0]["path"] for row in from_dataset} == {None}
    pq.write_table(pa.table({"image": encoded}), "binary.parquet")
    assert len(open_pool(Path("binary.parquet"))) == 8
    pq.write_table(pa.table({"x": [1]}), "none.parquet")
    with pytest.raises(DataError, match="no image column"):
        open_pool(Path("none.parquet"))


def test_unreadable_images_become_rows_and_the_run_goes_on(ask: Asker, workdir: Path) -> None:
    (POOL / "2.png").write_bytes(b"not an image")
    (POOL / "5.png").write_bytes((POOL / "5.png").read_bytes()[:60])
    rows = chain.rows(ask(groups=8))
    bad = {row["images"][0]["path"]: row for row in rows if row["token_ids"] is None}
    assert set(bad) == {"pool/2.png", "pool/5.png"}
    assert all(row["reject_reason"].startswith("unreadable image") for row in bad.values())
    rolled = chain.rows(rollout([Path("questions.parquet")], RolloutParams(sampling=fake())).path)
    assert {row["group_id"] for row in rolled} == {row["group_id"] for row in rows}
    assert not any(row["role"] == "solver" and row["images"][0]["path"] in bad for row in rolled)
    scored = chain.rows(score([Path("rollouts.parquet")], ScoreParams()).path)
    assert all(row["reward"] is None for row in scored if row["images"][0]["path"] in bad)
    state = update([Path("scored.parquet")], UpdateParams())
    assert state.summary["step"] == 8


def test_a_question_with_an_unreadable_image_from_elsewhere_is_left_out(workdir: Path) -> None:
    rows = chain.group(0, "pool/0.png", [])
    rows[0] |= {"images": [{"bytes": b"no image", "path": None}], "images_sha256": None, "token_ids": None}
    path = chain.write_shard(Path("questions.parquet"), [rows, chain.group(1, "pool/1.png", [])], "propose")
    rolled = chain.rows(rollout([path], RolloutParams(sampling=fake())).path)
    assert [row["group_index"] for row in rolled] == [0] + [1] * 6
    assert rolled[0]["reject_reason"].startswith("unreadable image")
    scored = chain.rows(score([Path("rollouts.parquet")], ScoreParams()).path)
    assert scored[0]["reward"] is None and scored[1]["reward"] is not None


def test_a_pool_without_a_readable_image_is_refused(ask: Asker, workdir: Path) -> None:
    for file in POOL.iterdir():
        file.write_bytes(b"not an image")
    with pytest.raises(DataError, match="none of its 8 images can be read"):
        ask()
    assert not Path("questions.parquet").exists()
    for file in POOL.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="no image in this folder"):
        ask()
    with pytest.raises(UsageError, match="nowhere"):
        propose(Path("nowhere"), ProposeParams(sampling=fake()), Call(model="model"))


def test_an_existing_output_is_reused_or_protected(ask: Asker) -> None:
    path = ask()
    before = path.stat().st_mtime_ns
    assert propose(POOL, ProposeParams(groups=10, sampling=fake(max_tokens=128)), Call(model="model")).reused
    assert path.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"seed: 0 → 1"):
        ask(seed=1)
    with pytest.raises(UsageError, match=r"is of other images .*--force"):
        bitmap = POOL / "0.png"
        bitmap.write_bytes(bitmap.read_bytes()[:-1] + b"x")  # of the same size
        ask()
    ask(seed=1, force=True)
    assert chain.metadata(path)["seed"] == 1


# ------------------------------------------------------------------------------------------------ rollout


def test_solver_rows_follow_the_proposers(ask: Asker) -> None:
    questions = chain.rows(ask())
    rows = chain.rows(rollout([Path("questions.parquet")], RolloutParams(samples=3, sampling=fake())).path)
    place = 0
    for question in questions:
        assert rows[place] == question
        place += 1
        for index in range(3 if question["question"] else 0):
            row = rows[place]
            assert (row["role"], row["sample_index"]) == ("solver", index)
            for name in ("group_id", "group_index", "images", "images_sha256", "question"):
                assert row[name] == question[name]
            assert row["prompt"] == f"Answer the question: {question['question']}"
            assert row["seed"] == trajectory_seed(row["group_id"], "solver", index, "answer")
            place += 1
    assert place == len(rows)


@pytest.mark.parametrize("fault", ["missing", "changed"])
def test_an_image_that_is_missing_or_has_changed_costs_its_group_alone(ask: Asker, workdir: Path, fault: str) -> None:
    questions = ask()
    whole = chain.rows(rollout([questions], RolloutParams(sampling=fake()), Call(out=Path("whole.parquet"))).path)
    picture = POOL / "3.png"
    if fault == "missing":
        picture.unlink()
    else:
        draw_picture(picture, seed=99)
    made = rollout([questions], RolloutParams(sampling=fake()))
    rows = chain.rows(made.path)
    of_it = [row for row in rows if row["images"][0]["path"] == "pool/3.png" and row["question"]]
    assert of_it and all(row["role"] == "proposer" for row in of_it)
    says = "No such file" if fault == "missing" else "the image has changed"
    assert all(row["reject_reason"].startswith(f"unreadable image: pool/3.png: {says}") for row in of_it)
    assert made.summary["unreadable_images"] == len(of_it)
    others = [row for row in whole if row["group_id"] not in {row["group_id"] for row in of_it}]
    assert [row for row in rows if row not in of_it] == others
    scored = chain.rows(score([made.path], ScoreParams()).path)
    assert all(row["reward"] is None for row in scored if row["group_id"] in {row["group_id"] for row in of_it})


def test_a_pool_that_lies_elsewhere_now_is_refused_before_a_model_is_loaded(ask: Asker, workdir: Path) -> None:
    questions = ask()
    POOL.rename("elsewhere")
    with pytest.raises(DataError, match=r"none of its \d+ questions has images that can be read .*No such file"):
        rollout([questions], RolloutParams(sampling=fake()), engines=None)  # type: ignore[arg-type]
    assert not Path("rollouts.parquet").exists()


def test_the_seed_comes_from_the_questions(ask: Asker) -> None:
    assert chain.metadata(rollout([ask(seed=5)], RolloutParams(sampling=fake())).path)["seed"] == 5


def test_the_solvers_prompt_needs_a_place_for_the_question(ask: Asker, workdir: Path) -> None:
    questions = ask()
    Path("mine.txt").write_text("Look closely. {question} {braces} stay.")
    rows = chain.rows(rollout([questions], RolloutParams(sampling=fake(prompt=Path("mine.txt")))).path)
    asked = next(row for row in rows if row["role"] == "solver")
    assert asked["prompt"] == f"Look closely. {asked['question']} {{braces}} stay."
    Path("mine.txt").write_text("No place.")
    with pytest.raises(UsageError, match=r"must contain \{question\}"):
        rollout([questions], RolloutParams(sampling=fake(prompt=Path("mine.txt"))), Call(out=Path("other.parquet")))


# ------------------------------------------------------------------------------------------------- images


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_images_of_every_mode_are_read_right() -> None:
    grey = Image.new("I;16", (8, 8), 32896)  # half of 65535
    assert decode(encoded(grey, "PNG")).getpixel((0, 0)) == (128, 128, 128)
    assert decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).mode == "RGB"
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decode(encoded(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    assert decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((0, 0)) == (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    assert decode(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).size == (4, 8)
    assert decode(encoded(Image.new("1", (1, 1)), "PNG")).size == (1, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        encoded(Image.new("1", (30000, 30000)), "PNG"),
        encoded(Image.new("1", (4000, 1)), "PNG"),
    ],
    ids=["empty", "svg", "eps", "bomb", "strip"],
)
def test_what_cannot_be_used_says_why(data: bytes) -> None:
    with pytest.raises(UnreadableImage, match="unreadable image: "):
        decode(data)
