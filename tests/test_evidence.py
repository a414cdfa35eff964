"""The page of the evidence: means over seeds, tests against other rows, and tables that follow from the CSV files."""

import csv
import itertools
import random
import re
import xml.etree.ElementTree
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stages.errors import DataError
from stages.evaluation.statistics import holm
from tests.evidence import page, tables
from tests.evidence.results import (
    ACCURACY,
    DYNAMICS,
    ROWS,
    SERIES,
    Mean,
    at_distance,
    by_seed,
    differences,
    in_order,
    matched,
    over_seeds,
    read_accuracy,
    read_dynamics,
)

DOCS = Path(__file__).parent.parent / "docs"
Accuracy = Callable[[str, int, str, str], float]

shares = st.floats(0, 1).map(lambda share: round(share, 4))


def write_csv(path: Path, columns: tuple[str, ...], lines: Iterator[Mapping[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def write_accuracy(folder: Path, rows: Mapping[str, int], accuracy: Accuracy, settings: str = "cpu") -> None:
    """`accuracy` of row, seed, world and decoding, for so many seeds of each row, the same in all parts."""

    def lines() -> Iterator[Mapping[str, Any]]:
        for row, seeds in rows.items():
            for seed, world, decoding in itertools.product(range(1, seeds + 1), tables.WORLDS, tables.DECODINGS):
                for part, questions in (("value", 3), ("all", 12), ("level 1", 8)):
                    value = f"{accuracy(row, seed, world, decoding):.6g}"
                    yield dict(
                        zip(ACCURACY, (settings, row, seed, world, part, decoding, questions, value), strict=True)
                    )

    write_csv(folder / "accuracy.csv", ACCURACY, lines())


def write_dynamics(folder: Path, course: Callable[[int], float], settings: str = "cpu") -> None:
    """Ten iterations of two seeds of answer, step and full: all series follow `course` of the iteration, but for the
    reward of full, which leaves it after the third."""

    def lines() -> Iterator[Mapping[str, Any]]:
        for row, seed, iteration in itertools.product(("answer", "step", "full"), (1, 2), range(1, 11)):
            series = dict.fromkeys(SERIES, f"{course(iteration) + seed / 500:.6g}")
            if row == "full" and iteration > 3:
                series["reward"] = "0.9"
            start = {"settings": settings, "row": row, "seed": seed, "iteration": iteration, "step": 48 * iteration}
            yield {**start, **series}

    write_csv(folder / "dynamics.csv", DYNAMICS, lines())


def cells(table: str) -> dict[str, list[str]]:
    """The cells of a Markdown table's lines behind the first, by the first."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {first: rest for first, *rest in lines}


@given(st.lists(shares, min_size=2, max_size=8))
def test_the_interval_is_scipys_t_interval(values: list[float]) -> None:
    mean = over_seeds(values)
    assert mean.mean is not None and mean.half is not None
    assert mean.mean == pytest.approx(sum(values) / len(values))
    if max(values) > min(values):
        low, high = stats.t.interval(0.95, len(values) - 1, loc=mean.mean, scale=stats.sem(values))
        assert (mean.mean - mean.half, mean.mean + mean.half) == pytest.approx((low, high))
    else:
        assert mean.half == pytest.approx(0, abs=1e-9) and mean.p is None


def test_an_interval_by_hand() -> None:
    """The standard error of 1, 2, 3 is 1/√3, and t at 97.5 % with two degrees of freedom 4.302653."""
    mean = over_seeds([1.0, 2.0, 3.0])
    assert mean.n == 3 and mean.mean == 2.0
    assert mean.half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    assert over_seeds([0.5]) == Mean(1, 0.5)
    assert over_seeds([]) == over_seeds([float("nan")]) == Mean(0)


@given(st.lists(st.tuples(shares, shares, shares), min_size=3, max_size=6))
def test_differences_are_paired_t_tests_with_holms_correction(lines: list[tuple[float, float, float]]) -> None:
    seeds = pd.DataFrame(lines, columns=["answer", "step", "full"])
    found = differences(seeds, "answer")
    assert list(found) == ["step", "full"]
    spread = [row for row in found if (seeds[row] - seeds["answer"]).std() > 1e-6]
    expected = [float(stats.ttest_rel(seeds[row], seeds["answer"]).pvalue) for row in spread]
    assert [found[row].p for row in spread] == pytest.approx(holm(expected), rel=1e-6)
    for row, mean in found.items():
        assert mean.mean == pytest.approx((seeds[row] - seeds["answer"]).mean(), abs=1e-12)


def test_only_seeds_that_both_rows_have_are_compared() -> None:
    nan = float("nan")
    seeds = pd.DataFrame({"answer": [0.5, 0.6, nan, 0.7], "full": [0.6, 0.8, 0.9, nan]})
    assert differences(seeds, "answer")["full"].n == 2
    assert differences(seeds, "answer")["full"].mean == pytest.approx(0.15)
    assert differences(seeds, "base")["full"] == Mean(0)


def test_by_seed_has_a_column_for_every_row_of_the_file(tmp_path: Path) -> None:
    write_accuracy(tmp_path, {"full": 2, "base": 1}, lambda row, seed, *_: seed / 10)
    seeds = by_seed(read_accuracy(tmp_path, "cpu"), "home", "greedy")
    assert list(seeds) == ["base", "full"] and list(seeds.index) == [1, 2]
    assert seeds["full"].tolist() == [0.1, 0.2] and seeds["base"].isna().tolist() == [False, True]


def test_the_papers_rows_come_first_and_in_its_order() -> None:
    assert in_order(["hidden", "full", "base", "full", "a"]) == ["base", "full", "hidden", "a"]


def test_tables_from_a_small_file(tmp_path: Path) -> None:
    gains = {"base": 0.0, "answer": 0.04, "full": 0.06}

    def accuracy(row: str, seed: int, world: str, decoding: str) -> float:
        return 0.5 + gains[row] + (seed / 100 if row == "full" and world == "home" else 0)

    write_accuracy(tmp_path, {"full": 3, "base": 3, "answer": 2}, accuracy)
    assert cells(tables.accuracy(tmp_path, "cpu", "home")) == {
        "base": ["3", *["50.0 ± 0.0"] * 3],
        "answer reward only": ["2", *["54.0 ± 0.0"] * 3],
        "full": ["3", *["58.0 ± 2.5"] * 3],
    }
    p = stats.ttest_1samp([0.03, 0.04], 0).pvalue
    assert cells(tables.against_answer(tmp_path, "cpu", "home")) == {
        "base": ["2", *["−4.0 ± 0.0"] * 3],
        "full": ["2", *[f"+3.5 ± 6.4 (p = {p:.3f})"] * 3],
    }
    assert cells(tables.against_base(tmp_path, "cpu"))["full"] == [*["+8.0 ± 2.5"] * 3, *["+6.0 ± 0.0"] * 3]
    parts = cells(tables.parts(tmp_path, "cpu", "home", "sampled"))
    assert list(parts) == ["all", "level 1", "value"]
    assert parts["value"] == ["3", "50.0", "54.0", "58.0", "+8.0"]
    assert tables.accuracy(tmp_path, "gpu", "home") == ""


def test_one_seed_has_no_interval_and_a_row_that_was_not_run_no_line(tmp_path: Path) -> None:
    write_accuracy(tmp_path, {"base": 1, "full": 1}, lambda row, *_: 0.7 if row == "full" else 0.65)
    assert cells(tables.accuracy(tmp_path, "cpu", "abroad"))["full"] == ["1", *["70.0"] * 3]
    assert cells(tables.against_base(tmp_path, "cpu"))["full"] == ["+5.0"] * 6
    assert cells(tables.against_answer(tmp_path, "cpu", "home"))["full"] == ["0", *["–"] * 3]


def test_the_sweep_ends_where_training_ended(tmp_path: Path) -> None:
    write_accuracy(
        tmp_path, {"lr | 1": 1, "full": 1, "base": 1}, lambda row, *_: 0.6 if row == "base" else 0.7, "sweep"
    )
    write_dynamics(tmp_path, lambda iteration: iteration / 20, "sweep")
    found = cells(tables.sweep(tmp_path, "sweep"))
    assert found["full"] == ["1", *["70.0"] * 4, "+10.0", "47.8", "0.478"]
    assert found["lr ∣ 1"][-3:] == ["+10.0", "–", "–"]
    assert found["base"][-3:] == ["–", "–", "–"]


@given(
    st.dictionaries(st.integers(1, 1000).map(lambda far: far / 1e4), shares, min_size=1, max_size=4), st.floats(0, 0.1)
)
def test_what_lies_at_a_distance_is_between_what_is_there(points: dict[float, float], kl: float) -> None:
    found = at_distance({0.0: 0.5, **points}, kl)
    if kl > max(points):
        assert np.isnan(found)
    else:
        assert min(0.5, *points.values()) - 1e-9 <= found <= max(0.5, *points.values()) + 1e-9
    for far, accuracy in points.items():
        assert at_distance(points, far) == pytest.approx(accuracy)


def test_contenders_are_read_at_one_distance() -> None:
    """Half as far in the root of the KL is half as much gained."""
    seeds = pd.DataFrame(
        {"base": [0.5, 0.4], "answer @ 0.1": [0.6, 0.6], "answer @ 0.2": [0.7, 0.8], "vote @ 1": [0.9, 0.9]}
    )
    kls = pd.DataFrame({"answer @ 0.1": [0.04, 0.04], "answer @ 0.2": [0.16, 0.16], "vote @ 1": [0.01, float("nan")]})
    found = matched(seeds, kls, 0.01)
    assert found["answer"].tolist() == pytest.approx([0.55, 0.5])
    assert found["vote"].tolist() == pytest.approx([0.9, float("nan")], nan_ok=True)
    assert found["base"].tolist() == [0.5, 0.4]
    assert matched(seeds, kls, 0.09)["answer"].tolist() == pytest.approx([0.65, 0.7])
    assert list(matched(seeds, kls, 0.2)) == ["base"]


def test_a_table_at_one_distance(tmp_path: Path) -> None:
    gains = {"base": 0.0, "answer @ 1": 0.04, "credit by vote @ 1": 0.08}
    write_accuracy(tmp_path, dict.fromkeys(gains, 3), lambda row, seed, *_: 0.5 + seed / 100 + gains[row], "signal")
    key = {"settings": "signal", "iteration": 1, "step": 48}
    lines = (
        {**key, "row": row, "seed": seed, "kl": 0.01 if "vote" in row else 0.04} for row in gains for seed in (1, 2, 3)
    )
    write_csv(tmp_path / "dynamics.csv", DYNAMICS, lines)
    found = cells(tables.at_kl(tmp_path, "signal", "home", "0.01"))
    assert found["answer reward only"][:3] == ["3", "54.0 ± 2.5", "+2.0 ± 0.0"]
    assert found["credit by vote"][:3] == ["3", "60.0 ± 2.5", "+8.0 ± 0.0"]
    assert (
        cells(tables.at_kl_against(tmp_path, "signal", "home", "0.01", "answer"))["credit by vote"][1] == "+6.0 ± 0.0"
    )


def test_the_first_and_the_last_fifth_of_training(tmp_path: Path) -> None:
    write_dynamics(tmp_path, lambda iteration: iteration / 20)
    first, last = cells(tables.early_late(tmp_path, "cpu"))["full"][:2]
    assert first.startswith("7.8 ± ") and last.startswith("47.8 ± ")  # of 1 and 2, and of 9 and 10


def test_rows_that_ask_puzzles_alone_are_not_in_the_table_of_what_the_proposer_asks(tmp_path: Path) -> None:
    key = {"settings": "prose", "seed": 1, "iteration": 1, "step": 48, "answerable": 0.5}
    lines = [{**key, "row": "full", "dominant_right": 0.5}, {**key, "row": "rotation @ 1"}]
    write_csv(tmp_path / "dynamics.csv", DYNAMICS, iter(lines))
    assert list(cells(tables.early_late(tmp_path, "prose"))) == ["full"]


def test_step_truth_as_it_is(tmp_path: Path) -> None:
    assert tables.step_truth(tmp_path) == ""
    (tmp_path / "step-truth.csv").write_text("embedding,auc,n\nstatic,0.61234,12\n,-0.5,\n", encoding="utf-8")
    assert cells(tables.step_truth(tmp_path)) == {"static": ["0.612", "12"], "": ["−0.500", ""]}


def test_single_steps_by_position(tmp_path: Path) -> None:
    assert tables.step_positions(tmp_path, "static") == ""
    head = "rollouts,embedding,measure,position,among,estimate,low,high\n"
    lines = [
        f"base,{embedding},{measure},{position},{among},0.{position or 9}5,0.1,0.9\n"
        for embedding in ("static", '"hidden, last layer"')
        for measure in ("step", "r_step")
        for position in ("", 1, 2)
        for among in ("all", "pairs")
    ]
    (tmp_path / "step-truth-all.csv").write_text(head + "".join(lines), encoding="utf-8")
    found = {"1": ["0.150 (0.100 to 0.900)"] * 2, "2": ["0.250 (0.100 to 0.900)"] * 2}
    assert cells(tables.step_positions(tmp_path, "static")) == found
    assert cells(tables.step_positions(tmp_path, "hidden,_last_layer")) == found


HEADER = f"{','.join(ACCURACY)}\n"
LINE = "cpu,full,1,home,all,greedy,12,0.5\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "No columns"),
        ("settings,row\ncpu,full\n", "accuracy"),
        (HEADER + LINE.replace("0.5", "much"), "much"),
        (HEADER + LINE + LINE.replace("0.5", "0.6"), "line 3"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "accuracy.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"accuracy\.csv.*{says}"):
        read_accuracy(tmp_path, "cpu")


def write_page(tmp_path: Path, *marks: str) -> Path:
    """A page with marks, each in its place between lines of prose; returns the folder of its files."""
    text = "".join(f"Before.\n\n<!-- {mark} -->\nold\n<!-- end -->\n\nAfter.\n" for mark in marks)
    (tmp_path / "evidence.md").write_text(text, encoding="utf-8")
    (tmp_path / "evidence").mkdir()
    return tmp_path / "evidence"


MARKS = (
    "table: accuracy cpu home",
    "table: step-truth",
    "figure: ablation",
    "figure: dynamics cpu",
    "figure: dynamics gpu",
)


def test_a_page_is_filled_in_and_its_prose_stays(tmp_path: Path) -> None:
    folder = write_page(tmp_path, *MARKS)
    write_accuracy(folder, {"base": 2, "full": 2}, lambda row, seed, *_: 0.5 + seed / 100)
    text, shown = page.fill(folder, tmp_path / "evidence.md")
    assert text.count("Before.\n\n<!--") == text.count("<!-- end -->\n\nAfter.\n") == 5 and "old" not in text
    assert tables.accuracy(folder, "cpu", "home") in text
    assert text.count(page.NOTHING) == 3 and "](evidence/ablation.svg)" in text and shown == ["ablation"]
    (tmp_path / "evidence.md").write_text(text, encoding="utf-8")
    assert page.fill(folder, tmp_path / "evidence.md") == (text, shown)


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ("table: accuracies cpu", "no table accuracies, but accuracy, "),
        ("table: accuracy cpu", "write accuracy SETTINGS WORLD"),
        ("figure: ablations", "no figure ablations, but ablation, dynamics"),
        ("table: step-truth -->\n<!-- table: sweep sweep", "no <!-- end -->"),
    ],
)
def test_a_mark_that_is_wrong_is_named(tmp_path: Path, mark: str, says: str) -> None:
    with pytest.raises(DataError, match=rf"evidence\.md: .*{says}"):
        page.fill(write_page(tmp_path, mark), tmp_path / "evidence.md")


def marked() -> list[Path]:
    """The pages of `make evidence-page` that have anything to fill in."""
    pages = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
    return [path for path in pages if re.search(page.BEGIN, path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("committed", marked(), ids=lambda path: path.name)
def test_the_committed_pages_are_up_to_date(committed: Path) -> None:
    text, shown = page.fill(DOCS / "evidence", committed)
    assert committed.read_text(encoding="utf-8") == text, f"{committed.name}: run `make evidence-page`"
    for words in shown:
        assert (DOCS / "evidence" / page.file_name(words)).is_file(), "docs/evidence/: run `make evidence-page`"


def test_the_same_files_give_the_same_figures_of_modest_size(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="only the extra `evidence` has it")
    folder = write_page(tmp_path, *MARKS)
    rng = random.Random(1)
    write_accuracy(folder, dict.fromkeys(ROWS, 3), lambda *_: 0.5 + rng.random() / 10)
    write_dynamics(folder, lambda iteration: iteration / 20)
    page.write(folder, tmp_path / "evidence.md")
    made = {file.name: file.read_bytes() for file in folder.glob("*.svg")}
    assert sorted(made) == ["ablation.svg", "dynamics-cpu.svg"]
    for svg in made.values():
        said = " ".join(xml.etree.ElementTree.fromstring(svg).itertext())
        assert "full" in said and len(svg) < 150_000
    page.write(folder, tmp_path / "evidence.md")
    assert {name: (folder / name).read_bytes() for name in made} == made


def test_the_shaded_span_ends_where_the_reward_leaves_the_answers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="only the extra `evidence` has it")
    from tests.evidence.figures import warmup_end

    write_dynamics(tmp_path, lambda iteration: iteration / 20)
    table = read_dynamics(tmp_path, "cpu")
    assert warmup_end(table[table.row == "full"]) == 3 * 48
    assert warmup_end(table[(table.row == "full") & (table.iteration > 3)]) == 0
