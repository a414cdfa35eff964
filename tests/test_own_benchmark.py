"""Files in the plain benchmark schema: asked, a row with a reason, or refused before a model is loaded."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.contract import IMAGE
from stages.errors import DataError
from stages.evaluate import evaluate
from stages.parameters import Call
from stages.parameters.evaluate import EvalParams
from stages.result import Result
from tests import benchmark_files, chain
from tests.chain import fake

ENCODED = pa.list_(IMAGE)


def ask(*files: str, **options: Any) -> Result:
    paths = [Path(file) for file in files]
    return evaluate(
        paths, EvalParams(sampling=fake(), **options), Call(model="model", out=Path("out.parquet"), force=True)
    )


def refused(says: str, *files: str, **options: Any) -> None:
    """Before an engine is asked for, and nothing is left behind."""
    out = Path("refused.parquet")
    params = EvalParams(**options)
    with pytest.raises(DataError, match=says):
        evaluate([Path(file) for file in files], params, Call(model="model", out=out), engines=None)  # type: ignore[arg-type]
    assert not list(Path().glob("*refused*"))


def write(name: str, drop: tuple[str, ...] = (), **columns: Any) -> str:
    """Three questions, with other columns."""
    pictures = pa.array([{"bytes": Path(f"pool/{place}.png").read_bytes(), "path": None} for place in range(3)], IMAGE)
    own = {"id": ["a", "b", "c"], "image": pictures, "question": ["How many?"] * 3, "answers": [["7"], ["3"], ["4"]]}
    table = {key: value for key, value in (own | columns).items() if key not in drop}
    pq.write_table(pa.table(table), name)
    return name


def lists(*counts: int) -> pa.Array:
    encoded = [{"bytes": Path(f"pool/{place}.png").read_bytes(), "path": None} for place in range(8)]
    return pa.array([encoded[:count] for count in counts], ENCODED)


def test_a_file_with_images_need_not_have_image(workdir: Path) -> None:
    write("lists.parquet", drop=("image",), images=lists(1, 2, 1))
    assert ask("lists.parquet").summary["questions"] == 3
    write("single.parquet", id=["d", "e", "f"])
    assert ask("lists.parquet", "single.parquet").summary["questions"] == 6
    write("bytes.parquet", drop=("image",), images=[[Path("pool/0.png").read_bytes()]] * 3)
    assert ask("bytes.parquet").summary["questions"] == 3
    write("neither.parquet", drop=("image",))
    refused(r"neither\.parquet: lacks the column image", "neither.parquet")
    refused("it has neither image nor images", "lists.parquet", write("n.parquet", drop=("image",), id=["x", "y", "z"]))


def test_pictures_that_are_files_are_missing_row_by_row(workdir: Path) -> None:
    images = [{"bytes": None, "path": path} for path in ("pool/0.png", "gone.png", "pool/1.png")]
    summary = ask(write("b.parquet", image=pa.array(images, IMAGE)), samples=2).summary
    assert (summary["questions"], summary["unscored"]) == (2, 1) and summary["reject_reasons"] == {
        "unreadable image": 1
    }
    rows = chain.rows(Path("out.parquet"))
    assert [row["id"] for row in rows] == ["a", "a", "b", "b", "c", "c"]
    missing = rows[2]
    assert (missing["question"], missing["answers"], missing["score"]) == ("How many?", ["3"], None)
    assert missing["reject_reason"].startswith("unreadable image: gone.png: No such file or directory")
    gone = [{"bytes": None, "path": f"{place}.png"} for place in range(3)]
    Path("out.parquet").unlink()
    refused(
        r"b\.parquet: none of its 3 questions can be asked .*0\.png: No such",
        write("b.parquet", image=pa.array(gone, IMAGE)),
    )


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"id": ["a", "b", "a"]}, r"rows 0 and 2 \(counted from 0\) have the id 'a'"),
        ({"id": pa.array([None, "b", None])}, r"rows 0 and 2 \(counted from 0\) have the id None"),
        ({"answers": [["7"], [], ["4"]]}, "row b: it has no answers"),
        ({"answers": ["7", "3", "4"]}, "column answers is string, and must be list"),
        ({"question": ["How?", None, "How?"]}, "row b: its question is null"),
        ({"choices": ["['7', '8']"] * 3}, "column choices is string, and must be list"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name_before_anything_is_sampled(
    workdir: Path, columns: dict[str, Any], says: str
) -> None:
    refused(rf"^b\.parquet: .*{says}", write("b.parquet", **columns))


def test_two_files_with_the_same_questions_are_refused(workdir: Path) -> None:
    refused("have the id 'a'; give each question its own", write("b.parquet"), write("c.parquet"))
    path = benchmark_files.mathvision(Path("downloads"))
    refused("^MathVision: rows .* have the id", str(path), str(path), task=["mathvision"])


def test_only_what_is_asked_is_looked_at(workdir: Path) -> None:
    write("b.parquet", id=["a", "b", "a"])
    asked = EvalParams(sampling=fake())
    assert evaluate([Path("b.parquet")], asked, Call(model="model", limit=2)).summary["questions"] == 2
