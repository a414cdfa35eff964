"""Comparing eval files: pairing, the table, the verdict, the plot and the paper's table."""

import json
import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ireasoner_cli.comparison.forest import forest_plot
from stages.contract import EVALUATED
from stages.errors import DataError
from stages.evaluation.compare import Comparison, compare, paper_table
from stages.evaluation.scores import Run, read_run
from stages.evaluation.statistics import Z
from tests.test_cli import fails, ireasoner, succeeds

Scores = dict[str, list[float]]  # of each task


def write_run(path: Path, scores: Scores, change: dict[str, Any] | None = None, shuffle: bool = False) -> Path:
    """An eval file with those scores; questions two by two about one picture, except in `ai2d`."""
    rows = []
    for task, values in scores.items():
        for place, score in enumerate(values):
            picture = f"{task} {place if task == 'ai2d' else place // 2}"
            rows.append(
                {
                    "id": str(place), "sample_index": 0, "image_sha256": picture, "cluster": picture, "task": task,
                    "question": f"{task} question {place}", "answers": ["A"], "prediction": "A", "score": score,
                    "finish_reason": "stop", **(change or {} if place == 3 else {}),
                }
            )  # fmt: skip
    if shuffle:
        random.Random(0).shuffle(rows)
    content = {"format": 2, "stage": "eval", "model": {"name": "m"}, "policy": {"step": 0}, "params": {"tasks": []}}
    table = pa.Table.from_pylist(rows, EVALUATED).replace_schema_metadata({"ireasoner": json.dumps(content)})
    pq.write_table(table, path)
    return path


def coins(seed: int, share: float, count: int = 400) -> list[float]:
    rng = random.Random(seed)
    return [float(rng.random() < share) for _ in range(count)]


def better(scores: list[float], share: float, seed: int = 9) -> list[float]:
    """The same, with a share of the wrong answers put right."""
    return [max(score, fixed) for score, fixed in zip(scores, coins(seed, share, len(scores)), strict=True)]


BASE: Scores = {"ai2d": coins(1, 0.6), "chartqa": coins(2, 0.5), "infovqa": [0.5 * x for x in coins(3, 0.7)]}


def run(tmp_path: Path, name: str, scores: Scores, **options: Any) -> Run:
    return read_run(write_run(tmp_path / f"{name}.parquet", scores, **options))


def compared(tmp_path: Path, **tuned: list[float]) -> Comparison:
    [found] = compare(run(tmp_path, "base", BASE), [run(tmp_path, "tuned", {**BASE, **tuned}, shuffle=True)])
    return found


def test_a_gain_on_one_task_is_found_and_no_other(tmp_path: Path) -> None:
    found = compared(tmp_path, ai2d=better(BASE["ai2d"], 0.2))
    assert [task.verdict for task in found.tasks] == ["better", "", ""]
    gained, same, _ = found.tasks
    assert gained.difference.test == "exact McNemar" and gained.difference.p < gained.adjusted_p < 0.001
    assert same.difference.test == "paired permutation" and same.difference.mean == 0 and same.adjusted_p == 1
    assert found.average is not None and found.average[1] > 0
    assert found.average[0] == pytest.approx(gained.difference.mean / 3)
    verdict = found.verdict()
    assert verdict.startswith("against base, tuned is better on 1 (ai2d) of 3 tasks, Holm-corrected at 5 %; over all")


def test_a_loss_and_a_gain(tmp_path: Path) -> None:
    worse = [min(x, y) for x, y in zip(BASE["chartqa"], coins(5, 0.8), strict=True)]
    found = compared(tmp_path, ai2d=better(BASE["ai2d"], 0.2), chartqa=worse)
    assert [task.verdict for task in found.tasks] == ["better", "worse", ""]
    assert "better on 1 (ai2d) and worse on 1 (chartqa) of 3 tasks" in found.verdict()


def test_chance_is_no_improvement(tmp_path: Path) -> None:
    found = compared(tmp_path, ai2d=better(BASE["ai2d"], 0.01))
    assert found.verdict().startswith("no difference shown between base and tuned on any of 3 tasks")


def test_one_task_has_a_verdict_of_its_own(tmp_path: Path) -> None:
    base, tuned = BASE["ai2d"], better(BASE["ai2d"], 0.3)
    [found] = compare(run(tmp_path, "base", {"ai2d": base}), [run(tmp_path, "tuned", {"ai2d": tuned})])
    assert found.average is None
    assert found.verdict().startswith("tuned is better than base on ai2d: +") and "p = " in found.verdict()


def test_more_comparisons_need_more_evidence(tmp_path: Path) -> None:
    base = run(tmp_path, "base", {"ai2d": BASE["ai2d"]})
    tuned = run(tmp_path, "tuned", {"ai2d": better(BASE["ai2d"], 0.04)})
    others = [run(tmp_path, f"other{place}", {"ai2d": BASE["ai2d"]}) for place in range(3)]
    alone, among = compare(base, [tuned])[0].tasks[0], compare(base, [tuned, *others])[0].tasks[0]
    assert alone.difference.p == among.difference.p
    assert among.adjusted_p == pytest.approx(4 * alone.adjusted_p)


@pytest.mark.parametrize(
    ("scores", "change", "says"),
    [
        ({**BASE, "ai2d": BASE["ai2d"][:-1]}, {}, "1 questions are in one of them only, such as 399"),
        ({"ai2d": BASE["ai2d"], "chartqa": BASE["chartqa"]}, {}, "different tasks: only one has infovqa"),
        (BASE, {"image_sha256": "other"}, "question 3 has another image_sha256"),
        (BASE, {"answers": ["B"]}, "question 3 has another answers"),
        (BASE, {"question": "other"}, "question 3 has another question"),
        (BASE, {"score": None}, "question 3 has a score in one of them only"),
        (BASE, {"id": "4"}, "question 4 of ai2d comes twice"),
    ],
)
def test_other_questions_are_not_paired(tmp_path: Path, scores: Scores, change: dict, says: str) -> None:
    with pytest.raises(DataError, match=says):
        compare(run(tmp_path, "base", BASE), [run(tmp_path, "tuned", scores, change=change)])


def test_questions_without_a_score_in_either_are_left_out(tmp_path: Path) -> None:
    runs = [run(tmp_path, name, BASE, change={"score": None}) for name in ("base", "tuned")]
    assert compare(runs[0], runs[1:])[0].tasks[0].difference.questions == 399


def test_the_plot_is_an_image_of_the_intervals(tmp_path: Path) -> None:
    found = compared(tmp_path, ai2d=better(BASE["ai2d"], 0.2))
    found = Comparison("a<b>&", "\x1b[31mtuned", found.tasks, found.average, found.settings)
    svg = ElementTree.fromstring(forest_plot([found]))
    texts = [element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "�[31mtuned − a<b>&" in texts and {"ai2d", "chartqa", "infovqa", "mean of tasks"} <= set(texts)
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}circle"))) == 4
    assert forest_plot([Comparison("a", "b", [], None, [])])


def test_the_paper_table_has_a_column_for_each_run(tmp_path: Path) -> None:
    lines = paper_table([run(tmp_path, "mine", BASE)]).splitlines()
    assert lines[0] == "| benchmark | Qwen2.5-VL-7B | EvoLMM | iReasoner | mine |" and len(lines) == 10
    share = sum(BASE["ai2d"]) / 400
    assert (
        lines[3] == "| AI2D | 82.61 | 83.41 | 83.89 | "
        f"{100 * share:.2f} ± {100 * (share * (1 - share) / 399) ** 0.5:.2f} (400 of 3,088) |"
    )
    assert lines[5] == "| MMMU | 51.11 | 52.01 | 52.37 | |"


def test_the_mean_of_tasks_has_an_interval_where_nothing_differs(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert found.average is not None
    mean, low, high = found.average
    assert mean == 0 and low < -0.001 and high > 0.001
    assert high < max(task.difference.high for task in found.tasks)  # three tasks say more than one


def test_the_benchmarks_page_has_that_table() -> None:
    assert paper_table([]) in Path(__file__).parents[1].joinpath("docs", "benchmarks.md").read_text()


# -------------------------------------------------------------------------------------------- the command line


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("base.parquet"), BASE)
    write_run(Path("tuned.parquet"), {**BASE, "ai2d": better(BASE["ai2d"], 0.2)})
    done = ireasoner("compare", "base.parquet", "tuned.parquet", "--plot", "d.svg")
    assert done.returncode == 0, done.stderr
    assert "p (Holm)" in done.stdout and "mean of tasks" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("against base, tuned is better on 1 (ai2d) of 3 tasks")
    assert "not for the randomness of training" in done.stderr
    assert Path("d.svg").read_text().startswith("<svg")
    [found] = json.loads(succeeds("compare", "base.parquet", "tuned.parquet", "--json"))
    assert found["tasks"][0]["difference"]["test"] == "exact McNemar" and "tuned is better on 1" in found["verdict"]
    base = found["tasks"][0]["base"]
    assert base["high"] - base["low"] == pytest.approx(2 * Z * base["stderr"], rel=0.02)
    done = ireasoner("compare", "base.parquet", "tuned.parquet", "--power")
    assert "for one point" in done.stdout and "about four times in five" in done.stdout
    change = found["tasks"][0]["difference"]
    assert f"±{100 * change['detectable']:.1f} points" in done.stdout
    assert f"{change['needed']:,} questions" in done.stdout
    done = ireasoner("compare", "base.parquet", "--markdown")
    assert done.stdout.startswith("| benchmark |") and done.stderr == ""
    for words in (("--plot", "e.svg"), ("--json",), ("--power",)):
        assert "is a table by itself" in fails(2, "compare", "base.parquet", "tuned.parquet", "--markdown", *words)
    write_run(Path("own.parquet"), {"own": BASE["ai2d"]})
    assert "`eval --task` does" in ireasoner("compare", "own.parquet", "--markdown").stderr
    assert "at least two eval files" in " ".join(fails(2, "compare", "base.parquet").replace("│", " ").split())
    assert "it so" in fails(2, "compare", "base.parquet", "tuned.parquet", "--plot", "d.png")
    assert "no such file" in fails(2, "compare", "base.parquet", "gone.parquet")
    pq.write_table(pa.table({"a": [1]}), "other.parquet")
    assert "no `ireasoner` metadata" in fails(3, "compare", "base.parquet", "other.parquet")
