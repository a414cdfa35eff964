import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ireasoner_cli.app import app
from stages import tasks
from stages.contract import BENCHMARK, BENCHMARK_OPTIONAL
from stages.errors import DataError, UsageError
from stages.evaluate import evaluate
from stages.evaluation.scores import Answered, read_run, summarize, summary
from stages.parameters import Call
from stages.parameters.evaluate import EvalParams
from stages.parameters.sampling import Pixels
from stages.verification.verify import verify
from tests import benchmark_files, chain
from tests.chain import fake
from tests.conftest import needs_vllm


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
    asked = {"sampling": fake(temperature=0.0), "model": "model", **options}
    return evaluate([benchmark], *chain.asked(EvalParams, **asked)).path


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
    figures = summarize(path)
    assert figures["questions"] == 8 and figures["accuracy"] == pytest.approx(statistics.fmean(means))
    assert figures["stderr"] == pytest.approx(statistics.stdev(means) / 8**0.5)
    assert figures["types"]["read"]["accuracy"] == pytest.approx(statistics.fmean(means[:4]))


def test_sharded_equals_whole(benchmark: Path) -> None:
    whole = chain.rows(run(benchmark))
    for index in (1, 2, 3):
        run(benchmark, shard=f"{index}/3")
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
    figures = summarize(Path("eval.parquet"))
    assert figures["questions"] == 2 and figures["unscored"] == 1


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


# ------------------------------------------------------------------------------------------------- the tasks


def run_tasks(*names: str, **options: object) -> Path:
    settings = fake(temperature=1.0, max_tokens=200)
    asked = {"task": list(names), "sampling": settings, "model": "model", **options}
    return evaluate([], *chain.asked(EvalParams, **asked)).path


@pytest.fixture
def downloads(workdir: Path) -> Path:
    return benchmark_files.build_all(Path("downloads"))


def test_all_tasks_in_one_run(downloads: Path) -> None:
    path = run_tasks(*tasks.NAMES, data=downloads, samples=2)
    assert path == Path("eval.parquet")
    rows = chain.rows(path)
    assert list(dict.fromkeys(row["task"] for row in rows)) == list(tasks.NAMES)
    for row in rows:
        asked = row["reject_reason"] is None
        assert (row["score"] is not None) is asked and (row["completion"] is not None) is asked
        if asked:
            assert row["question"] in row["prompt"] and row["answers"] and row["cluster"] and row["tokens"] > 0
            assert row["prompt"].startswith("Answer the question: ")  # the model folder's own Solver prompt
    assert len({row["seed"] for row in rows}) == len(rows)
    figures = summarize(path)["tasks"]
    assert figures["scienceqa"]["questions"] == 3 and figures["scienceqa"]["left_out"] == 1
    assert figures["mathverse"]["left_out"] == 1 and figures["mathverse"]["clusters"] == 2
    assert figures["infovqa"]["questions"] == 4 and figures["infovqa"]["clusters"] == 2  # two share a picture
    assert chain.metadata(path)["params"]["tasks"] == list(tasks.NAMES)


def test_without_reasoning_the_answer_is_asked_for_alone(downloads: Path) -> None:
    [first, *_] = chain.rows(run_tasks("ai2d", data=downloads, reasoning=False))
    assert first["prompt"] == (
        "Which part is labelled 0?\nA. leaf\nB. stem\nC. root\nD. flower\n"
        "Answer with the letter of the correct option. Give the answer alone, without any explanation."
    )
    assert Path("eval-ai2d.parquet").exists()


def test_parts_of_a_run_over_several_tasks(downloads: Path) -> None:
    whole = chain.rows(run_tasks("ai2d", "mathverse", data=downloads, out=Path("whole.parquet")))
    for index in (1, 2, 3):
        run_tasks("ai2d", "mathverse", data=downloads, shard=f"{index}/3")
    parts = [row for index in (1, 2, 3) for row in chain.rows(Path(f"eval/part-{index}-of-3.parquet"))]
    assert parts == whole and len({row["id"] for row in parts if row["task"] == "ai2d"}) == 4
    assert read_run(Path("eval")).tasks.keys() == {"ai2d", "mathverse"}


def test_an_interrupted_run_goes_on(downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.shards.output.GROUPS_PER_CHUNK", 2)
    whole = run_tasks(*tasks.NAMES, data=downloads, out=Path("whole.parquet")).read_bytes()

    from stages.sampling.fake import FakeSampler

    sample, given = FakeSampler.sample, 0

    def dies(self: FakeSampler, requests: object, decoding: object) -> Iterator[object]:
        nonlocal given
        for drawn in sample(self, requests, decoding):  # type: ignore[arg-type]
            given += 1
            if given == 14:
                raise KeyboardInterrupt
            yield drawn

    monkeypatch.setattr(FakeSampler, "sample", dies)
    with pytest.raises(KeyboardInterrupt):
        run_tasks(*tasks.NAMES, data=downloads, out=Path("interrupted.parquet"))
    assert not Path("interrupted.parquet").exists()
    before, given = given, 1000
    assert run_tasks(*tasks.NAMES, data=downloads, out=Path("interrupted.parquet")).read_bytes() == whole
    total = sum(row["reject_reason"] is None for row in chain.rows(Path("whole.parquet")))
    assert given - 1000 < total and given - 1000 + before >= total


def test_bad_rows_stay_and_are_counted(workdir: Path) -> None:
    path = benchmark_files.ai2d(Path("downloads"))
    rows = chain.rows(path)
    rows[0]["answer"] = "7"
    rows[1]["image"] = {"bytes": b"no image", "path": None}
    rows[2]["question"] = None
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    out = chain.rows(run_tasks("ai2d", data=Path("downloads"), samples=2))
    assert [row["reject_reason"] for row in out[::2]] == [
        "answer '7' is none of the 4 options", "unreadable image: not an image", "no question", None
    ]  # fmt: skip
    figures = summarize(Path("eval-ai2d.parquet"))["tasks"]["ai2d"]
    assert figures["questions"] == 1 and figures["unscored"] == 3
    assert figures["reject_reasons"] == {"answer": 1, "unreadable image": 1, "no question": 1}


def test_a_row_of_another_schema_is_a_bad_row_and_a_file_of_them_is_refused(workdir: Path) -> None:
    path = benchmark_files.mathvista(Path("downloads"))
    table = pq.read_table(path)

    def put(column: str, values: pa.Array) -> None:
        pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), path)

    put("precision", pa.array([0.0, *[math.inf] * (len(table) - 1)]))
    first, *others = chain.rows(run_tasks("mathvista", data=Path("downloads")))
    assert first["reject_reason"] is None and len(others) == 3
    assert all(row["reject_reason"].startswith("not of the benchmark's schema: ") for row in others)
    put("metadata", pa.array(["{}"] * len(table)))
    with pytest.raises(DataError, match="MathVista: none of its 4 questions can be asked"):
        run_tasks("mathvista", data=Path("downloads"), out=Path("again.parquet"))
    assert not Path("again.parquet").exists()


def test_rows_that_the_task_leaves_out_do_not_count_to_the_limit(workdir: Path) -> None:
    path = benchmark_files.scienceqa(Path("downloads"))
    table = pq.read_table(path)
    without = table.slice(1, 1)  # has no image
    pq.write_table(pa.concat_tables([without, without, table]), path)
    for limit, rows in ((1, 3), (None, 2 + len(table))):
        out = Path(f"{limit}.parquet")
        *left_out, asked = chain.rows(run_tasks("scienceqa", data=Path("downloads"), limit=limit, out=out))[:3]
        assert [row["reject_reason"] for row in left_out] == ["left out: no image"] * 2
        assert asked["completion"] is not None and len(chain.rows(out)) == rows
    pq.write_table(pa.concat_tables([without, without]), path)
    with pytest.raises(DataError, match=r"ScienceQA: none of its 2 questions can be asked .*left out: no image"):
        run_tasks("scienceqa", data=Path("downloads"), out=Path("none.parquet"))
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(DataError, match="ScienceQA: has no questions"):
        run_tasks("scienceqa", data=Path("downloads"), out=Path("none.parquet"))


def test_limit_counts_the_questions_of_each_task(downloads: Path) -> None:
    rows = chain.rows(run_tasks("ai2d", "chartqa", data=downloads, limit=2))
    assert [row["task"] for row in rows] == ["ai2d", "ai2d", "chartqa", "chartqa"]


def test_samples_that_can_only_be_the_same_are_told_of(downloads: Path) -> None:
    words = ("eval", "--task", "chartqa", "--data", str(downloads), "--model", "model", "--sampler", "fake")
    for temperature, told in (("0", True), ("1", False)):
        out = f"{temperature}.parquet"
        done = CliRunner().invoke(app, [*words, "--samples", "2", "--temperature", temperature, "--out", out])
        assert done.exit_code == 0 and ("has the same answer 2 times" in " ".join(done.stderr.split())) == told


# -------------------------------------------------------------------------------------------------- figures


def answered(scores: list[float], predictions: list[str | None], cluster: str = "c") -> Answered:
    return Answered("1", "", cluster, None, None, ("3",), None, scores, predictions)


@pytest.mark.parametrize(
    ("scores", "predictions", "mean", "majority", "best"),
    [
        ([1, 0, 0], ["3", "4", "4"], 1 / 3, 0, 1),
        ([1, 1, 0], ["3", "3.0", "4"], 2 / 3, 1, 1),
        ([0, 1, 0, 1], ["4", "3", "4", "3"], 0.5, 0, 1),  # a tie goes to what was sampled first
        ([0, 0, 1], [None, None, "3"], 1 / 3, 1, 1),  # no answer is no vote
        ([0, 0], [None, None], 0, 0, 0),
    ],
)
def test_samples_of_a_question(
    scores: list[float], predictions: list[str | None], mean: float, majority: float, best: float
) -> None:
    question = answered(scores, predictions)
    assert (question.score, question.majority, question.best) == (pytest.approx(mean), majority, best)


def test_rates_and_figures_of_samples() -> None:
    questions = [answered([1.0, 0.0], ["3", None], "a"), answered([0.0, 0.0], ["4", "5"], "b")]
    figures = summary(questions)
    assert figures["accuracy"] == 0.25 and figures["no_answer"] == 0.25
    assert figures["pass@k"]["mean"] == 0.5 and figures["majority@k"]["mean"] == 0.5 and figures["k"] == 2
    assert "pass@k" not in summary([answered([1.0], ["3"])])
    assert summary([])["accuracy"] is None


# --------------------------------------------------------------------------------------------- other models


@needs_vllm
def test_a_model_of_another_make(workdir: Path) -> None:
    """vLLM and transformers, which know nothing of each other, say the same; the prompt is of the model's template."""
    from stages.models.finding import find_model
    from stages.models.prompting import PromptBuilder
    from tests.llava import build_tiny_llava

    build_tiny_llava(Path("llava"))
    downloads = benchmark_files.build_all(Path("downloads"))
    said = {}
    for sampler in ("vllm", "transformers"):
        settings = chain.sampling(sampler, max_tokens=8, temperature=0.0)
        path = evaluate(
            [],
            EvalParams(task=["ai2d", "infovqa"], data=downloads, sampling=settings),
            Call(model="llava", out=Path(f"{sampler}.parquet")),
        ).path
        said[sampler] = [(row["completion"], row["tokens"]) for row in chain.rows(path)]
    assert said["vllm"] == said["transformers"] and len(set(said["vllm"])) > 1
    prompts = PromptBuilder(find_model("llava"), Pixels())
    assert prompts.chat_text("Which <image>?") == "USER: <image>\nWhich < image>? ASSISTANT: "


def test_bounds_that_a_processor_does_not_have(workdir: Path) -> None:
    from tests.llava import build_tiny_llava

    build_tiny_llava(Path("llava"))
    settings = chain.sampling("transformers", max_tokens=8, pixels=Pixels(max_pixels=4096))
    with pytest.raises(UsageError, match="no bounds in pixels; leave out --min-pixels"):
        evaluate([benchmark_files.ai2d(Path("d"))], EvalParams(task=["ai2d"], sampling=settings), Call(model="llava"))


@pytest.mark.parametrize("reasoning", [True, False])
def test_an_evaluation_of_a_task_can_be_made_again(downloads: Path, reasoning: bool) -> None:
    path = run_tasks("chartqa", data=downloads, reasoning=reasoning)
    [folder] = {file.parent for file in downloads.rglob("*.parquet") if "chartqa" in str(file).lower()}
    again = verify([path, folder], again=True)
    assert [output.replayed for output in again if output.replayed] == ["same bytes"]
