import statistics
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.contract import BENCHMARK, BENCHMARK_OPTIONAL
from stages.errors import DataError
from stages.evaluate import accuracy, evaluate
from stages.shards import Part
from tests import chain
from tests.chain import fake


@pytest.fixture
def benchmark(workdir: Path) -> Path:
    pictures = [{"bytes": (workdir / "pool" / f"{index}.png").read_bytes(), "path": None} for index in range(8)]
    pq.write_table(
        pa.table(
            {
                "id": [str(index) for index in range(8)],
                "image": pictures,
                "question": [f"Question {index}?" for index in range(8)],
                "answers": [["1.0", "one"], ["2"], ["3"], ["1"], ["2"], ["3"], ["1"], [""]],
                "type": ["read"] * 4 + ["sum"] * 4,
            }
        ),
        "benchmark.parquet",
    )
    return Path("benchmark.parquet")


def run(benchmark: Path, **options: object) -> Path:
    return evaluate([benchmark], fake(temperature=0.0), model="model", **options).path  # type: ignore[arg-type]


def test_scores_are_equality_of_canonical_answers(benchmark: Path) -> None:
    rows = chain.rows(run(benchmark, samples=6))
    assert len(rows) == 48
    answers = {row["id"]: row["answers"] for row in chain.rows(benchmark)}
    for row in rows:
        right = {"1.0": "1"}.get(answers[row["id"]][0], answers[row["id"]][0])
        assert row["score"] == float(row["prediction"] == right and right != "")
        assert row["prompt"] == f"Answer the question: Question {row['id']}?"
        assert row["tokens"] > 0 and row["finish_reason"] in ("stop", "length")
    assert 0 < statistics.fmean(row["score"] for row in rows) < 1


def test_accuracy_and_its_error_count_a_question_once(benchmark: Path) -> None:
    path = run(benchmark, samples=6)
    rows = chain.rows(path)
    means = [statistics.fmean(row["score"] for row in rows if row["id"] == str(index)) for index in range(8)]
    summary = accuracy(path)
    assert summary["questions"] == 8 and summary["accuracy"] == pytest.approx(statistics.fmean(means))
    assert summary["stderr"] == pytest.approx(statistics.stdev(means) / 8**0.5)
    assert summary["types"]["read"]["accuracy"] == pytest.approx(statistics.fmean(means[:4]))


def test_sharded_equals_whole(benchmark: Path) -> None:
    whole = chain.rows(run(benchmark))
    for index in (1, 2, 3):
        run(benchmark, part=Part(index, 3))
    assert [row for index in (1, 2, 3) for row in chain.rows(Path(f"eval/part-{index}-of-3.parquet"))] == whole


def test_choices_several_images_and_unreadable_ones(workdir: Path) -> None:
    picture = {"bytes": (workdir / "pool/0.png").read_bytes(), "path": None}
    pq.write_table(
        pa.table(
            {
                "id": ["choices", "two", "bad"],
                "image": [picture, None, {"bytes": b"no image", "path": None}],
                "question": ["Which?"] * 3,
                "answers": [["A"]] * 3,
                "choices": [["red", "blue"], None, None],
                "images": [None, [picture, picture], None],
            },
        ),
        "b.parquet",
    )
    rows = {row["id"]: row for row in chain.rows(run(Path("b.parquet")))}
    assert rows["choices"]["prompt"].endswith("Which?\nA. red\nB. blue")
    assert rows["two"]["score"] is not None and rows["two"]["image_sha256"] != rows["choices"]["image_sha256"]
    assert rows["bad"]["score"] is None and rows["bad"]["completion"] is None
    summary = accuracy(Path("eval.parquet"))
    assert summary["questions"] == 2 and summary["unscored"] == 1


def test_a_file_that_is_no_benchmark(workdir: Path) -> None:
    pq.write_table(pa.table({"id": ["1"], "question": ["q"]}), "b.parquet")
    with pytest.raises(DataError, match="lacks the columns image, answers"):
        run(Path("b.parquet"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"question": None}, "row a: its question is null"),
        ({"answers": None}, "row a: it has no answers"),
        ({"answers": [None]}, "row a: an answer is null"),
        ({"image": None}, "row a: it has neither image nor images"),
        ({"images": [None]}, "row a: an image is null"),
        ({"choices": ["x"] * 27}, "row a: it has more than 26 choices"),
        ({"image": {"bytes": None, "path": "gone.png"}}, "gone.png: No such file"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(workdir: Path, change: dict, says: str) -> None:
    picture = {"bytes": (workdir / "pool/0.png").read_bytes(), "path": None}
    row = {"id": "a", "image": picture, "question": "q", "answers": ["1"], "choices": None, "images": None, **change}
    pq.write_table(pa.Table.from_pylist([row], pa.schema([*BENCHMARK, *BENCHMARK_OPTIONAL])), "b.parquet")
    with pytest.raises(DataError, match=says):
        run(Path("b.parquet"))
