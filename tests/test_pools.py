"""Pools of every form that people have: which pictures are in them, and which questions."""

import base64
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ireasoner_cli.app import app
from stages.errors import DataError, EngineError, UsageError
from stages.images import dataset, forms
from stages.images.columns import Columns
from stages.images.pool import Order, open_pool
from stages.parameters import Call
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.parameters.update import UpdateParams
from stages.propose import propose
from stages.rollout import rollout
from stages.score import score
from stages.update import update
from stages.verification.verify import verify
from tests import chain
from tests.chain import fake
from tests.conftest import draw as draw_picture

Rows = list[dict[str, Any]]
ENCODED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


# -------------------------------------------------------------------------------------------- every form

FORMS: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda file: file.read_bytes(),
    "a struct": lambda file: {"bytes": file.read_bytes(), "path": "x.png"},
    "a struct without a path": lambda file: {"bytes": file.read_bytes()},
    "a struct of a path alone": lambda file: {"bytes": None, "path": str(file)},
    "a path": str,
    "a path from the root": lambda file: str(file.absolute()),
    "an address of a file": lambda file: f"file://{file.absolute()}",
    "base64": lambda file: base64.b64encode(file.read_bytes()).decode(),
    "base64 in lines": lambda file: base64.encodebytes(file.read_bytes()).decode(),
    "a data URI of whatever kind": lambda file: (
        "data:application/octet-stream;x=y;base64," + base64.b64encode(file.read_bytes()).decode()
    ),
    "a data URI": lambda file: "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode(),
    "base64 in a struct": lambda file: {"bytes": base64.b64encode(file.read_bytes()).decode(), "path": None},
    "a list of numbers": lambda file: list(file.read_bytes()),
    "a list of structs": lambda file: [{"bytes": file.read_bytes(), "path": None}],
    "a list of paths": lambda file: [str(file)],
    "a list of data URIs": lambda file: ["data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()],
}


def to_parquet(rows: Rows, file: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows), file)


def to_arrow(rows: Rows, file: Path, **options: Any) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=3)


def to_stream(rows: Rows, file: Path) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def to_feather(rows: Rows, file: Path) -> None:
    to_arrow(rows, file, options=pa.ipc.IpcWriteOptions(compression="lz4"))


def to_lines(rows: Rows, file: Path) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


KINDS = {
    "p.parquet": to_parquet,
    "a.arrow": to_arrow,
    "s.arrow": to_stream,
    "f.feather": to_feather,
    "l.jsonl": to_lines,
}


def holds_bytes(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, bytes) or any(map(holds_bytes, inner))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_found_in_every_form_it_comes_in(workdir: Path, form: str, name: str) -> None:
    files = sorted(Path("pool").iterdir())
    values = [FORMS[form](file) for file in files]
    if name.endswith(".jsonl") and holds_bytes(values):
        pytest.skip("JSON has no bytes")
    for column in ("image", "images"):
        KINDS[name]([{"id": place, column: value} for place, value in enumerate(values)], Path(name))
        pool = open_pool(Path(name))
        found = [row.images for row in pool.read([*range(8), 3])]
        assert [image.data for [image] in found] == [file.read_bytes() for file in [*files, files[3]]]
        assert pool.most_images(range(8)) == 1


@pytest.mark.parametrize("name", KINDS)
def test_rows_of_several_pictures_are_asked_about_together(workdir: Path, name: str) -> None:
    paths = [[f"pool/{place}.png" for place in range(count)] for count in (1, 3, 2, 3)]
    KINDS[name]([{"images": row} for row in paths], Path(name))
    pool = open_pool(Path(name))
    assert [[image.path for image in row.images] for row in pool.read(range(4))] == paths
    assert (pool.most_images(range(4)), pool.most_images([0, 2]), pool.most_images([])) == (3, 2, 1)
    asked = propose(Path(name), ProposeParams(groups=4, sampling=fake(max_tokens=128)), Call(model="model"))
    assert sorted(len(row["images"]) for row in chain.rows(asked.path)) == [1, 2, 3, 3]
    assert not any(picture["bytes"] for row in chain.rows(asked.path) for picture in row["images"])


def test_paths_are_looked_for_beside_the_file_and_in_the_working_directory(workdir: Path) -> None:
    draw_picture(Path("data/pictures/a.png"), 1)
    to_lines([{"image": "pictures/a.png"}, {"image": "pool/0.png"}, {"image": "gone.png"}], Path("data/p.jsonl"))
    beside, here, gone = (row.images[0] for row in open_pool(Path("data/p.jsonl")).read(range(3)))
    assert (beside.path, here.path) == ("data/pictures/a.png", "pool/0.png")
    assert beside.data == Path("data/pictures/a.png").read_bytes()
    assert gone.problem is not None and gone.problem.startswith("unreadable image: gone.png: no such file")


BAD: dict[str, Any] = {
    "no picture, but int": 7,
    "on the web": "https://example.org/a.png",
    "no such file": "a/b.png",
    "Is a directory": "pool",
    "neither a path nor base64": "x" * 5000,
    "not base64": "data:image/png;base64,x",
    "the row holds no picture": [],
    "not valid UTF-8": "\ud800.png",
    "null": "pool/\0.png",
}


def test_what_is_no_picture_is_a_row_with_a_reason_and_the_others_are_asked_about(workdir: Path) -> None:
    rows = [{"image": value} for value in BAD.values()]
    to_lines([{"image": None}, {}, {"image": "pool/0.png"}, *rows], Path("p.jsonl"))
    with Path("p.jsonl").open("a") as lines:
        lines.write('{"image": "pool/1.png"\n[1]\n\n   \n{"image": "pool/2.png"}\n')
        lines.write(f'{{"image": {"[" * 900}{"]" * 900}}}\n{{"image": {"[" * 9000}')
    made = propose(Path("p.jsonl"), ProposeParams(groups=17, sampling=fake(max_tokens=128)), Call(model="model"))
    asked = chain.rows(made.path)
    assert {row["images"][0]["path"] for row in asked if row["token_ids"]} == {"pool/0.png", "pool/2.png"}
    reasons = [row["reject_reason"] for row in asked if not row["token_ids"]]
    assert len(reasons) == 15 and all(reason.startswith("unreadable image: ") for reason in reasons)
    for says in (*BAD, "is not JSON", "is not a JSON object", "more than 50 levels"):
        assert any(says in reason for reason in reasons), says


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), lambda inner: (
    st.lists(inner) | st.dictionaries(st.sampled_from(["bytes", "path", "content", "x"]), inner)
)))  # fmt: skip
def test_no_value_ends_a_run(value: Any) -> None:
    found = list(forms.pictures(value, Path("nowhere")))
    assert len(found) == max(1, forms.count(value))
    assert all((image.data is None) != (image.problem is None) for image in found)
    forms.could_be(value), forms.begins_as_picture(value), forms.names_picture(value)
    for text in (forms.text(value), forms.question(value)):
        assert text is None or (text.strip() == text != "" and text.encode())


def test_a_decimal_is_a_text() -> None:
    """DuckDB makes one of every literal such as 1.5."""
    assert [forms.text(Decimal(number)) for number in ("1.50", "-3", "1E+3", "NaN")] == ["1.50", "-3", "1000", None]


# --------------------------------------------------------------------------------------------- the column


def test_image_comes_before_any_other_column_that_could_be_meant(workdir: Path) -> None:
    """A mask, audio and a preview are structs of bytes and path as a picture is."""
    picture, mask = (Path(f"pool/{place}.png").read_bytes() for place in (0, 1))
    others = {"mask": {"bytes": mask, "path": None}, "audio": {"bytes": b"RIFF0000WAVE", "path": "a.wav"}}
    for name in ("image", "images"):
        for form in ({"bytes": picture, "path": None}, [picture], picture):
            to_parquet([{**others, "jpg": mask, name: form}] * 2, Path("p.parquet"))
            assert [row.images[0].data for row in open_pool(Path("p.parquet")).read([0, 1])] == [picture] * 2
    to_parquet([{"images": [mask], "image": picture}], Path("p.parquet"))
    assert next(open_pool(Path("p.parquet")).read([0])).images[0].data == picture


def test_another_column_is_taken_where_only_one_could_be_meant_and_several_are_an_error(workdir: Path) -> None:
    picture = Path("pool/0.png").read_bytes()
    sound = {"bytes": b"RIFF0000WAVE", "path": "a.wav"}
    row = {"id": "7", "audio": sound, "caption": "a.png?", "url": "http://x/a.png", "jpg": picture, "width": 3}
    to_parquet([row], Path("one.parquet"))
    assert next(open_pool(Path("one.parquet")).read([0])).images[0].data == picture
    to_parquet([{"filename": "img/0.png", "content": picture}], Path("duckdb.parquet"))  # the name is the picture's own
    assert next(open_pool(Path("duckdb.parquet")).read([0])).images[0].data == picture
    to_lines([{"file_name": "pool/0.png", "text": "a chart"}], Path("metadata.jsonl"))
    assert next(open_pool(Path("metadata.jsonl")).read([0])).images[0].data == picture
    to_parquet([{**row, "mask": {"bytes": picture, "path": None}}], Path("two.parquet"))
    with pytest.raises(DataError, match=r"two\.parquet: several columns hold pictures \(jpg, mask\).*--image-column"):
        open_pool(Path("two.parquet"))
    assert next(open_pool(Path("two.parquet"), Columns("jpg")).read([0])).images[0].data == picture
    with pytest.raises(UsageError, match=r"no column 'jpeg' \(--image-column\); it has id, audio, caption"):
        open_pool(Path("two.parquet"), Columns("jpeg"))
    to_parquet([{"id": 1, "text": "x", "audio": sound}], Path("none.parquet"))
    with pytest.raises(DataError, match=r"none\.parquet: no image column; it has id, text, audio\."):
        open_pool(Path("none.parquet"))


def test_a_column_that_is_there_twice(workdir: Path) -> None:
    picture = pa.array([Path("pool/0.png").read_bytes()])
    for names in (["x", "x", "image"], ["image", "image", "jpg"]):
        pq.write_table(pa.Table.from_arrays([picture] * 3, names=names), "p.parquet")
        assert next(open_pool(Path("p.parquet")).read([0])).images[0].data == picture[0].as_py()
    with pytest.raises(DataError, match="has the column image more than once"):
        open_pool(Path("p.parquet"), Columns("image"))


def test_an_empty_image_column_leaves_the_pictures_to_images(workdir: Path) -> None:
    picture = Path("pool/0.png").read_bytes()
    schema = pa.schema([("image", ENCODED), ("images", pa.list_(ENCODED))])
    rows = [{"image": None, "images": [{"bytes": picture, "path": None}]}]
    pq.write_table(pa.Table.from_pylist(rows, schema), "p.parquet")
    assert next(open_pool(Path("p.parquet")).read([0])).images[0].data == picture
    to_parquet([{"image": 17, "picture": picture}], Path("p.parquet"))
    assert next(open_pool(Path("p.parquet")).read([0])).images[0].data == picture


def test_a_run_can_name_the_column(workdir: Path) -> None:
    to_parquet([{"image": "pool/0.png", "detail": "pool/1.png"}], Path("p.parquet"))
    words = ["propose", "--images", "p.parquet", "--model", "model", "--groups", "1", "--sampler", "fake"]
    assert CliRunner().invoke(app, [*words, "--image-column", "detail"]).exit_code == 0
    assert chain.rows(Path("questions.parquet"))[0]["images"][0]["path"] == "pool/1.png"
    assert chain.metadata(Path("questions.parquet"))["params"]["image_column"] == "detail"


# ---------------------------------------------------------------------------------------------- the order


def test_several_files_are_one_pool_and_of_kinds_the_first_is_meant(workdir: Path) -> None:
    folder = Path("data")
    (folder / "b").mkdir(parents=True)
    to_parquet([{"image": "pool/0.png"}, {"image": "pool/1.png"}], folder / "a.parquet")
    to_parquet([{"id": 1, "image": Path("pool/2.png").read_bytes()}], folder / "b" / "c.parquet")
    to_lines([{"image": "pool/3.png"}], folder / "d.jsonl")
    pool = open_pool(folder)
    assert len(pool) == 3 and [ref.name for ref in pool.inputs] == ["a.parquet", "c.parquet"]
    expected = [Path(f"pool/{place}.png").read_bytes() for place in (2, 0, 1)]
    assert [row.images[0].data for row in pool.read([2, 0, 1])] == expected
    to_parquet([{"picture": b"x"}], folder / "e.parquet")
    with pytest.raises(UsageError, match=r"e\.parquet: has no column 'image'"):
        open_pool(folder)


@pytest.mark.parametrize("pool", ["data", "data/a.parquet"])
def test_questions_are_not_written_into_their_own_pool(workdir: Path, pool: str) -> None:
    """Where rows of files are the pool. Of a folder of images they are no part."""
    file = Path("data/a.parquet")
    file.parent.mkdir()
    to_parquet([{"image": "pool/0.png"}], file)
    before = file.read_bytes()
    params = ProposeParams(groups=1, sampling=fake(max_tokens=128))
    with pytest.raises(UsageError, match="lies in the pool, which would grow by it"):
        propose(Path(pool), params, Call(model="model", out=file if pool == str(file) else Path("data/q.parquet")))
    assert [*file.parent.iterdir()] == [file] and file.read_bytes() == before
    assert propose(Path("pool"), params, Call(model="model", out=Path("pool/q.parquet"))).path.exists()


@pytest.mark.parametrize("size", [1, 100, 10**9])
def test_large_rows_are_read_fewer_at_a_time_and_in_the_same_order(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(dataset, "WINDOW_BYTES", size)
    encoded = [Path(f"pool/{place}.png").read_bytes() for place in range(8)]
    pq.write_table(pa.table({"image": encoded}), "p.parquet", row_group_size=3)
    order = [5, 1, 1, 7, 0, 5]
    assert [row.images[0].data for row in open_pool(Path("p.parquet")).read(order)] == [encoded[i] for i in order]


def drawn(step: int, groups: int, each: int = 1) -> list[int]:
    order = Order(8, 1, step, each)
    return [order[index] for index in range(groups)]


@pytest.mark.parametrize("step", [0, 6, 7])
def test_each_image_is_proposed_on_so_many_times_in_a_row(workdir: Path, step: int) -> None:
    for each in (2, 3):
        of_each = drawn(step, 12, each)
        assert all(len(set(of_each[start : start + each])) == 1 for start in range(0, 12, each))
        assert of_each[::each] == drawn(-(-step // each), 12 // each)
    # An iteration goes on where the last one stopped.
    assert drawn(0, 24, 3) == drawn(0, 12, 3) + drawn(12, 12, 3)


def test_proposals_about_one_image_are_groups_of_their_own_however_they_are_made(workdir: Path) -> None:
    def ask(**more: Any) -> Path:
        params = ProposeParams(groups=10, per_image=3, sampling=fake(max_tokens=128))
        return propose(Path("pool"), params, Call(model="model", **more)).path

    whole = chain.rows(ask())
    paths = [row["images"][0]["path"] for row in whole]
    assert [paths.count(path) for path in dict.fromkeys(paths)] == [3, 3, 3, 1]
    assert len({row["group_id"] for row in whole}) == len({row["seed"] for row in whole}) == 10
    parts = [row for index in (1, 2, 3) for row in chain.rows(ask(shard=f"{index}/3", out=Path("parts")))]
    assert parts == whole


# ------------------------------------------------------------------------------------------------ folders


def test_links_to_folders_are_followed_once_and_hidden_folders_left_out(workdir: Path) -> None:
    for name in (
        "shared/charts/a.png",
        "shared/b.png",
        "p/own/c.png",
        "p/.cache/d.png",
        "p/own/.e.png",
        ".hidden/f.png",
    ):
        draw_picture(Path(name), len(name))
    for link, target in {
        "p/shared": "../shared",
        "p/again": "../shared/charts",
        "p/own/up": "..",
        "p/own/self": ".",
        "p/.linked": "../shared",
        "root": "p",
        "p/dangling": "nowhere",
    }.items():
        Path(link).symlink_to(target)
    for root in ("p", "root"):
        found = [row.images[0].path for row in open_pool(Path(root)).read(range(len(open_pool(Path(root)))))]
        assert found == [f"{root}/again/a.png", f"{root}/own/c.png", f"{root}/shared/b.png"]
    assert len(open_pool(Path(".hidden"))) == 1  # who names it means it
    Path("only").mkdir()
    Path("only/charts").symlink_to("../shared")
    assert len(open_pool(Path("only"))) == 2
    to_parquet([{"image": "pool/0.png"}], Path("shared/x.parquet"))
    for picture in Path("shared").rglob("*.png"):
        picture.unlink()
    assert len(open_pool(Path("only"))) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_that_cannot_be_looked_into_is_not_passed_over(workdir: Path) -> None:
    draw_picture(Path("pool/closed/a.png"), 1)
    Path("pool/closed").chmod(0)
    with pytest.raises(DataError, match="pool/closed: cannot be looked into"):
        open_pool(Path("pool"))


# ---------------------------------------------------------------------------------------------- questions

EXISTING: Rows = [
    {"images": ["pool/0.png"], "problem": "<image>How many bars?", "answer": "3"},
    {"images": ["pool/1.png", "pool/2.png"], "problem": "<image><image>\nWhich is taller? <image>", "answer": 2},
    {
        "images": ["pool/3.png"],
        "problem": [{"role": "user", "content": "<image>What is in <image> here?"}],
        "answer": 0.5,
    },
    {"images": ["pool/4.png"], "problem": "No answer?", "answer": None},
    {"images": ["pool/5.png"], "problem": "Several?", "answer": ["seven", "7"]},
    {"images": ["pool/6.png"], "problem": " <image> ", "answer": "x"},
    {"images": ["gone.png"], "problem": "Of nothing?", "answer": "x"},
]
ASKED = {
    "How many bars?": "3",
    "Which is taller?": "2",
    "What is in <image> here?": "0.5",
    "No answer?": None,
    "Several?": "seven",
}  # fmt: skip


def test_existing_questions_are_taken_without_a_model_and_go_through_every_stage(workdir: Path) -> None:
    to_lines(EXISTING, Path("train.jsonl"))
    params = ProposeParams(groups=7, questions="problem", target="answer")
    made = propose(Path("train.jsonl"), params, Call(model="model"), engines=None)  # type: ignore[arg-type]
    assert made.summary == {"groups": 7, "questions": 5, "unreadable_images": 1, "refused": 0, "targets": 6}
    rows = chain.rows(made.path)
    assert {row["question"]: row["target"] for row in rows if row["question"]} == ASKED
    sampled = ("prompt", "completion", "token_ids", "logprobs", "finish_reason")
    assert all(row[name] is None for row in rows for name in sampled)
    assert {row["reject_reason"] for row in rows} >= {None, "the row has no question"}
    rolled = chain.rows(rollout([made.path], RolloutParams(samples=3, sampling=fake())).path)
    assert {row["target"] for row in rolled if row["role"] == "solver"} == {None}
    assert all(str(row["target"]) not in row["prompt"] for row in rolled if row["prompt"] and row["target"])
    assert sum(row["role"] == "solver" for row in rolled) == 15
    score([Path("rollouts.parquet")], ScoreParams())
    summary = update([Path("scored.parquet")], UpdateParams(proposer_every=1)).summary
    assert summary["solver_updates"] and not summary["proposer_updates"] and summary["step"] == 7
    again = [output.replayed for output in verify([Path("questions.parquet"), Path("train.jsonl")], again=True)]
    assert "same bytes" in again


def test_the_same_questions_from_other_files_are_the_same_rows(workdir: Path) -> None:
    """Sharded, from Parquet, and with fields of structs, as verl has them."""
    rows = [{"image": f"pool/{i}.png", "q": f"Is it {i}?", "reward_model": {"ground_truth": str(i)}} for i in range(8)]
    found = []
    for name, write in KINDS.items():
        write(rows, Path(name))
        params = ProposeParams(groups=8, questions="q", target="reward_model.ground_truth")
        found.append(
            chain.rows(propose(Path(name), params, Call(model="model", out=Path("x.parquet"), force=True)).path)
        )
    for index in (1, 2):
        propose(Path("p.parquet"), params, Call(model="model", shard=f"{index}/2", out=Path("parts")))
    found.append([row for index in (1, 2) for row in chain.rows(Path(f"parts/part-{index}-of-2.parquet"))])
    assert all(rows == found[0] for rows in found)
    assert all(row["question"] == f"Is it {row['target']}?" for row in found[0])


def test_questions_are_found_in_the_conversations_of_other_tools(workdir: Path) -> None:
    """verl's prompts, LLaVA's conversations and OpenAI's parts of messages: what the user said last."""
    said: Rows = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Earlier?"},
        {"role": "user", "content": "<image>How many?"},
        {"role": "assistant", "content": "3"},
    ]
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
    llava = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "3"}]
    for conversation in (said, parts, llava, ["How many?"], {"content": "How many?"}):
        to_lines([{"image": "pool/0.png", "c": conversation}], Path("p.jsonl"))
        assert next(open_pool(Path("p.jsonl"), Columns(question="c")).read([0])).question == "How many?"
    to_parquet([{"image": "pool/0.png", "prompt": said[:3]}], Path("p.parquet"))
    assert next(open_pool(Path("p.parquet"), Columns(question="prompt")).read([0])).question == "How many?"


def test_questions_that_are_not_there(workdir: Path) -> None:
    to_lines([{"image": "pool/0.png", "question": None, "answer": "3"}], Path("p.jsonl"))

    def fails(kind: type[Exception], says: str, path: str = "p.jsonl", **params: Any) -> None:
        with pytest.raises(kind, match=says):
            propose(Path(path), ProposeParams(groups=1, **params), Call(model="model"))

    fails(UsageError, r"no column 'q' \(--questions\); it has image, question, answer", questions="q")
    fails(UsageError, r"no column 'a' \(--target\)", questions="question", target="a")
    fails(UsageError, "--target .* goes with", target="answer")
    fails(DataError, "none of its 1 rows .*no question", questions="question")
    fails(UsageError, "a folder of images has no columns", path="pool", questions="question")


def test_a_folder_of_images_with_a_file_of_rows_about_them(workdir: Path) -> None:
    to_lines([{"file_name": "0.png", "q": "How many?"}], Path("pool/metadata.jsonl"))
    assert len(open_pool(Path("pool"))) == 8
    row = next(open_pool(Path("pool"), Columns(question="q")).read([0]))
    assert (row.question, row.images[0].path) == ("How many?", "pool/0.png")


def test_the_marks_of_pictures_are_left_out_in_linear_time() -> None:
    assert forms.question("<image>" * 200_000 + "x" + " <image>" * 200_000) == "x"
    assert forms.question("x" + "<image> y" * 200_000) is not None


# ------------------------------------------------------------------------------------------------ the hub


@pytest.fixture
def hub(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset as it lies in the hub's cache, in place of the download."""
    import huggingface_hub

    folder = workdir / "cache" / ("c0ffee" * 7)[:40]

    def download(name: str, repo_type: str, allow_patterns: list[str]) -> str:
        if name != "owner/set":
            raise OSError(f"Repository Not Found for {name}\nmore")
        assert repo_type == "dataset"
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    picture = {"bytes": Path("pool/0.png").read_bytes(), "path": "0.png"}
    for split, name in (("train", "0"), ("train", "1"), ("test", "2")):
        file = folder / "data" / f"{split}-0000{name}-of-00002.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        to_parquet(
            [{"image": picture, "q": f"From {split} {name}?"}, {"image": {"path": "/etc/hostname"}, "q": "x"}], file
        )
    return folder


def test_a_dataset_on_the_hub_is_a_pool_and_its_commit_is_recorded(hub: Path) -> None:
    made = propose(Path("owner/set"), ProposeParams(groups=4, questions="q"), Call(model="model"))
    rows = chain.rows(made.path)
    assert {row["question"] for row in rows} == {"From train 0?", "From train 1?", None}
    assert {row["reject_reason"] for row in rows if not row["question"]} == {
        "unreadable image: /etc/hostname: a file that the dataset does not bring with it"
    }
    recorded = chain.metadata(made.path)
    assert recorded["params"]["pool"] == {"name": "owner/set", "revision": hub.name}
    assert [ref["name"] for ref in recorded["inputs"]] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert propose(Path("owner/set"), ProposeParams(groups=4, questions="q"), Call(model="model")).reused
    hub.rename(hub.with_name("0" * 40))
    list(verify([made.path]))


def test_a_dataset_without_a_split_to_train_on_is_taken_whole(hub: Path) -> None:
    for file in (hub / "data").glob("train*"):
        file.unlink()
    assert len(open_pool(Path("owner/set"))) == 2
    for file in (hub / "data").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="owner/set: this dataset has no Parquet files"):
        open_pool(Path("owner/set"))


def test_what_is_neither_here_nor_on_the_hub(hub: Path) -> None:
    with pytest.raises(EngineError, match=r"owner/other: neither .*Repository Not Found for owner/other\)"):
        open_pool(Path("owner/other"))
    for name in ("nowhere", "data/p.jsonl", "a/b/c", "../x"):
        with pytest.raises(UsageError, match="no such file or directory"):
            open_pool(Path(name))


def test_run_passes_it_on(hub: Path) -> None:
    Path("ireasoner.toml").write_text(
        'model = "model"\nsampler = "fake"\n[propose]\nquestions = "q"\ngroups = 4\n[update]\nproposer-every = 2\n'
    )
    done = CliRunner().invoke(app, ["run", "--images", "owner/set", "--iterations", "1", "--out", "out"])
    assert done.exit_code == 0, done.output
    assert chain.metadata(Path("out/it0001/questions.parquet"))["params"]["pool"]["name"] == "owner/set"


# ------------------------------------------------------------------------------------------- what is hostile


def test_lines_and_arrows_that_unfold_stay_within_a_gibibyte(workdir: Path) -> None:
    """Each in a process of its own, whose memory is asked for at its end."""
    row = {"image": "pool/0.png"}
    with Path("long.jsonl").open("w") as lines:
        lines.write(json.dumps(row) + '\n{"image": "' + "A" * (200 << 20) + '"}\n' + json.dumps(row))
    with Path("many.jsonl").open("w") as lines:
        lines.write(json.dumps(row) + '\n{"image": [' + "{}," * (20 << 20) + "0]}\n" + json.dumps(row))
    with Path("wide.jsonl").open("w", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + '\n{"image": "' + "A" * (95 << 20) + '\U0001f600"}\n' + json.dumps(row))
    view = struct.pack("<i4sii", 8 << 20, b"xxxx", 0, 0)
    same = pa.Array.from_buffers(
        pa.binary_view(), 5000, [None, pa.py_buffer(view * 5000), pa.py_buffer(b"x" * (8 << 20))]
    )
    table = pa.table({"image": pa.ListArray.from_arrays([0, 5000], same)})
    with pa.OSFile("views.arrow", "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    to_arrow([{"image": bytes(600 << 20)}], Path("zip.arrow"), options=pa.ipc.IpcWriteOptions(compression="zstd"))
    program = (
        "import re, sys; from pathlib import Path\n"
        "from stages.errors import DataError; from stages.images.pool import open_pool\n"
        "try:\n"
        "  pool = open_pool(Path(sys.argv[1]))\n"
        "  for row in pool.read(range(len(pool))): print((row.images[0].problem or 'read')[:200])\n"
        "except DataError as error: print(error)\n"
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    said = {}
    for name in ("long.jsonl", "many.jsonl", "wide.jsonl", "views.arrow", "zip.arrow"):
        done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True, check=True)
        *said[name], mebibytes = done.stdout.splitlines()
        assert int(mebibytes) < 1024, name
    for name, reason in (
        ("long", "longer than 96 MiB"),
        ("many", "more than 1,048,576 values"),
        ("wide", "neither a path"),
    ):
        first, problem, last = said[f"{name}.jsonl"]
        assert (first, last) == ("read", "read") and reason in problem
    assert "row 0 (counted from 0) is larger than 512 MiB" in said["views.arrow"][0]
    assert "would take 600 MiB to decompress" in said["zip.arrow"][0]


@pytest.mark.parametrize("name", ["a.arrow", "s.arrow", "f.feather"])
def test_a_damaged_arrow_file_is_an_error_that_names_it_or_other_rows(workdir: Path, name: str) -> None:
    KINDS[name]([{"image": f"pool/{place}.png", "n": [place]} for place in range(8)], Path(name))
    whole = Path(name).read_bytes()
    for place in range(0, len(whole), 7):
        for changed in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xC1]) + whole[place + 1 :]):
            Path(name).write_bytes(changed)
            try:
                pool = open_pool(Path(name))
                list(pool.read(range(len(pool))))
            except (DataError, UsageError) as error:
                assert name in str(error)


def test_a_json_array_says_what_to_do(workdir: Path) -> None:
    Path("p.json").write_text('[{"image": "pool/0.png"}]')
    with pytest.raises(DataError, match=re.escape("p.json: a JSON array; write its rows one a line (jq -c '.[]')")):
        open_pool(Path("p.json"))
    Path("p.json").write_bytes(b'\xef\xbb\xbf{"image": "pool/0.png"}\r\n{"image": "pool/1.png"}\r\n')
    assert [row.images[0].path for row in open_pool(Path("p.json")).read([1, 0])] == ["pool/1.png", "pool/0.png"]
