"""`inspect` says of any path what it is and what is in it, finished or not, and shows groups without harm."""

import io
import json
import math
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from ireasoner_cli.app import app
from ireasoner_cli.inspection.display import run_view, summary_view
from ireasoner_cli.inspection.distribution import BINS, BLOCKS, Distribution
from ireasoner_cli.inspection.summary import Summary, summarise
from ireasoner_cli.runs import Iteration
from stages import shards
from stages.contract import EVALUATED
from tests import chain

HOSTILE = "\x1b[31m[/nope][bold]\x1b]0;title\x07 <b>‮evil\x00"


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["inspect", *arguments], env={"COLUMNS": "150"})
    assert done.exit_code == code, done.output
    return done.output


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


@pytest.fixture
def scored(workdir: Path) -> Path:
    """Three scored groups: all agree, two of three agree, nobody agrees and one has no answer."""
    groups = [
        chain.group(0, "pool/0.png", [chain.solution(4, "one bar is 4")] * 3),
        chain.group(1, "pool/1.png", [chain.solution(4, "a", "b"), chain.solution(4, "a", "c"), chain.solution(5)]),
        chain.group(2, "pool/2.png", [chain.solution(1), chain.solution(2), "no tags at all"]),
    ]
    chain.write_shard(Path("rollouts.parquet"), groups)
    assert CliRunner().invoke(app, ["score", "rollouts.parquet", "--no-warmup"]).exit_code == 0
    return Path("scored.parquet")


def test_a_scored_shard_at_a_glance(scored: Path) -> None:
    content = run_json(str(scored))
    assert content["kind"] == "score" and content["state"] == "finished"
    assert content["counts"] == {"groups": 3, "questions": 3, "rollouts": 9, "cut_short": 0, "answered": 8}
    rows = [row for row in chain.rows(scored) if row["role"] == "solver"]
    reward = content["distributions"]["reward"]
    assert reward["count"] == 9 and math.isclose(reward["mean"], sum(row["reward"] for row in rows) / 9)
    assert sum(reward["histogram"]["counts"]) == 9
    assert content["metadata"]["inputs"][0]["name"] == "rollouts.parquet"
    text = run(str(scored))
    assert "scored trajectories" in text and "rollouts.parquet" in text and "answer_exponent 0.7" in text


def test_rows_of_passes_that_are_not_rewarded_are_counted_alone(scored: Path) -> None:
    alone = run_json(str(scored))
    groups = [list(rows) for _, rows in groupby(chain.rows(Path("rollouts.parquet")), lambda row: row["group_id"])]
    readers = [[{**row, "pass": "reader"} for row in group[1:]] for group in groups]
    beside = [[*group, *own] for group, own in zip(groups, readers, strict=True)]
    chain.write_shard(Path("rollouts.parquet"), beside)
    assert CliRunner().invoke(app, ["score", "rollouts.parquet", "--no-warmup", "--force"]).exit_code == 0
    found = run_json(str(scored))
    assert found["counts"] == {**alone["counts"], "rows_of_other_passes": 9}
    assert found["distributions"] == alone["distributions"]


def test_how_many_needs_an_order(scored: Path) -> None:
    for words in ((), ("--group", chain.rows(scored)[0]["group_id"])):
        assert "--top goes with --best, --worst" in " ".join(run(str(scored), *words, "--top", "3", code=2).split())


def test_best_worst_and_disagree(scored: Path) -> None:
    assert run_json(str(scored), "--best")[0]["group_id"] == f"{0:016x}"
    assert run_json(str(scored), "--worst")[0]["group_id"] == f"{2:016x}"
    assert [group["group_id"][-1] for group in run_json(str(scored), "--disagree", "--top", "3")] == ["2", "1", "0"]
    assert run_json("rollouts.parquet", "--disagree")[0]["group_id"] == f"{2:016x}"
    assert "ireasoner score" in run("rollouts.parquet", "--best", code=2)
    assert "one choice" in run(str(scored), "--best", "--worst", code=2)


def test_a_group_with_its_reward_taken_apart(scored: Path) -> None:
    (group,) = run_json(str(scored), "--group", f"{1:016x}")
    assert [answer["text"] for answer in group["answers"]] == ["4", "5"]
    assert group["answers"][0]["samples"] == [0, 1] and group["answers"][0]["dominant"]
    for row in group["rollouts"]:
        assert math.isclose(row["terms"]["from_answer"] + row["terms"]["from_steps"], row["reward"], abs_tol=1e-12)
    text = run(str(scored), "--group", f"{1:016x}")
    assert "4 ×2" in text and "dominant" in text and "outside the dominant group" in text
    assert "no group's id begins with" in run(str(scored), "--group", "ff", code=2)
    assert "more than one group" in run(str(scored), "--group", "0", code=2)


def test_a_reward_of_ones_own_is_shown_as_such(scored: Path) -> None:
    table = pq.read_table(scored)
    place, rewards = table.schema.get_field_index("reward"), table["reward"].to_pylist()
    rewards[1] = 0.25
    pq.write_table(table.set_column(place, "reward", pa.array(rewards, pa.float64())), "mine.parquet")
    (group,) = run_json("mine.parquet", "--group", f"{0:016x}")
    assert [row["reward_changed"] for row in group["rollouts"]] == [True, False, False]
    first, second, *_ = [
        line for line in run("mine.parquet", "--group", f"{0:016x}").splitlines() if "from the answer" in line
    ]
    was = table["reward"].to_pylist()[1]
    assert f"reward 0.250  changed by hand  scored as {was:.3f}  =" in first
    assert f"reward {was:.3f}  =" in second and "changed" not in second


def test_rollouts_are_parsed_for_looking_at(scored: Path) -> None:
    (group,) = run_json("rollouts.parquet", "--group", f"{1:016x}")
    assert [row["answer"] for row in group["rollouts"]] == ["4", "4", "5"]
    assert group["rollouts"][0]["steps"] == ["a", "b"] and group["rollouts"][0]["terms"] is None


def test_a_shard_that_is_being_written(scored: Path) -> None:
    """Parts that are missing and the chunks of one that is being written; the stages refuse both."""
    whole = Path("rollouts.parquet")
    Path("parts").mkdir()
    whole.rename("parts/part-1-of-3.parquet")
    partial = shards.partial_directory(Path("parts/part-2-of-3.parquet"))
    partial.mkdir()
    chain.write_shard(partial / "chunk-00000000.parquet", [chain.group(7, "pool/0.png", [chain.solution(9)] * 2)])
    content = run_json("parts")
    assert content["counts"]["groups"] == 4 and content["counts"]["rollouts"] == 11
    assert content["state"] == "2 of 3 parts missing, 1 unfinished chunk read too"
    assert run_json("parts", "--group", f"{7:016x}")[0]["rollouts"][0]["answer"] == "9"
    partial.rename(shards.partial_directory(Path("later.parquet")))
    assert run_json("later.parquet")["counts"]["groups"] == 1


def test_a_runs_folder_is_a_line_an_iteration(scored: Path) -> None:
    for name in ("it0002", "it0010", "it0001"):
        Path(name).mkdir()
        (Path(name) / "scored.parquet").write_bytes(scored.read_bytes())
    (Path("it0010") / "scored.parquet").rename("it0010/rollouts.parquet")
    scored.unlink()
    Path("rollouts.parquet").unlink()
    for begun in ("it0010/scored.parquet", "it0011/questions.parquet"):  # a stage that has only just started
        shards.partial_directory(Path(begun)).mkdir(parents=True)
    content = run_json(".")
    assert [Path(each["path"]).parent.name for each in content] == ["it0001", "it0002", "it0010"]
    assert content[2]["path"] == "it0010/rollouts.parquet"
    assert "it0010" in run(".")
    assert "of one shard, such as it0010/rollouts.parquet" in run(".", "--best", code=2)
    Path("scored.parquet").write_bytes(Path("it0001/scored.parquet").read_bytes())  # a loop by hand begins here
    assert [each["path"] for each in run_json(".")] == [
        "scored.parquet", "it0001/scored.parquet", "it0002/scored.parquet", "it0010/rollouts.parquet"
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [30, 60, 80])
def test_narrow_terminals(scored: Path, columns: int) -> None:
    """Rows keep their names and a run's figures their ends; histograms make room for them."""
    screen = io.StringIO()
    console = Console(width=columns, file=screen)
    summary = summarise(scored)
    assert isinstance(summary, Summary)
    console.print(summary_view(summary))
    with console.capture() as run:
        console.print(run_view([(Iteration(Path("it0001")), summary)]))
    assert max(map(len, run.get().splitlines())) <= columns
    if columns >= 60:
        assert "…" not in run.get()
        assert "\nproposer reward  " in screen.getvalue() and "\nstep similarity  " in screen.getvalue()


@pytest.fixture
def evaluated(workdir: Path) -> Path:
    """Two answers to each of six questions of three types; one has no score, one is hostile."""
    scores: dict[str, list[tuple[int | None, int | None]]] = {
        "sum": [(1, 1), (0, 1), (0, 0)],
        "name": [(1, 1), (1, 1)],
        HOSTILE: [(0, 0)],
        "unasked": [(None, None)],
    }
    rows = [
        {
            "id": f"{kind}-{place}", "sample_index": sample, "type": kind, "image_sha256": "ab" * 32,
            "completion": f"I think {HOSTILE}", "prediction": None if score is None else str(score),
            "answers": ["1", "one"], "score": score, "tokens": 3, "finish_reason": "stop", "question": f"{kind}?",
        }
        for kind, questions in scores.items()
        for place, both in enumerate(questions) for sample, score in enumerate(both)
    ]  # fmt: skip
    content = {"format": 2, "stage": "eval", "model": {"name": "model"}, "policy": {"step": 0}}
    table = pa.Table.from_pylist(rows, EVALUATED)
    pq.write_table(table.replace_schema_metadata({"ireasoner": json.dumps(content)}), "eval.parquet")
    return Path("eval.parquet")


def test_wrong_answers_by_type_the_worst_type_first(evaluated: Path) -> None:
    def ids(*arguments: str) -> list[str]:
        return [asked["id"] for asked in run_json(str(evaluated), *arguments)]

    assert ids("--wrong") == [f"{HOSTILE}-0", "sum-2"]
    assert ids("--wrong", "--top", "9") == [f"{HOSTILE}-0", "sum-2", "sum-1"]
    assert ids("--right", "--top", "9") == ["name-0", "name-1", "sum-0", "sum-1"]
    (partly,) = [asked for asked in run_json(str(evaluated), "--wrong", "--top", "9") if asked["id"] == "sum-1"]
    assert partly["score"] == 0.5 and [row["prediction"] for row in partly["samples"]] == ["0", "1"]
    text = run(str(evaluated), "--wrong", "--top", "9")
    assert "sum?" in text and "1 or one" in text and "score 0" in text and "I think" in text
    assert not {"\x1b", "\x07", "\x00", "\u202e"} & set(text) and "[/nope]" in text
    types = [name for name in run_json(str(evaluated))["distributions"] if name.startswith("score, ")]
    assert types == [f"score, {HOSTILE}", "score, sum", "score, name"]


def test_what_has_no_answers_to_show_says_what_has(scored: Path, evaluated: Path) -> None:
    assert "`score`; --wrong and --right show what `eval` writes" in run(str(scored), "--wrong", code=2)
    assert "--wrong and --right show its answers" in run(str(evaluated), "--worst", code=2)
    assert "one choice" in run(str(evaluated), "--wrong", "--right", code=2)


def test_benchmarks_metrics_and_strangers(workdir: Path) -> None:
    from stages.contract import METRICS

    rows = [{"id": "a", "image": None, "question": "?", "answers": ["1", "2"], "type": "sum"}]
    pq.write_table(pa.Table.from_pylist(rows), "benchmark.parquet")
    assert run_json("benchmark.parquet")["counts"] == {"questions": 1, "with_choices": 0, "type sum": 1}
    step = {"step": 1, "role": "solver", "loss": 0.5, "kl": 0.1, "kl_coef": 0.1, "advantages": [0.5, -0.5]}
    pq.write_table(
        pa.Table.from_pylist([step | {"grad_norm": 1.0, "importance_weight": 1.0, "tokens": 9}], METRICS), "m.parquet"
    )
    assert run_json("m.parquet")["distributions"]["solver advantages"]["count"] == 2
    pq.write_table(pa.table({"x": [1]}), "other.parquet")
    assert "not written by a stage" in run("other.parquet", code=3)
    assert "nowhere: no such file" in run("nowhere", code=2)
    Path("text.parquet").write_text("hello")
    assert "not a Parquet file" in run("text.parquet", code=3)


def test_hostile_text_reaches_no_terminal(workdir: Path) -> None:
    hostile = chain.group(
        0, "pool/0.png", [chain.solution(HOSTILE, HOSTILE), HOSTILE, chain.solution("x" * 100_000)],
        question=HOSTILE,
    )  # fmt: skip
    hostile[0]["reject_reason"] = HOSTILE
    chain.write_shard(
        Path("rollouts.parquet"), [hostile], params={"prompt": HOSTILE}, inputs=[{"name": HOSTILE, "sha256": HOSTILE}]
    )
    for arguments in (("rollouts.parquet",), ("rollouts.parquet", "--disagree")):
        text = run(*arguments)
        assert not {"\x1b", "\x07", "\x00", "\u202e"} & set(text)
        assert "[/nope]" in text


@given(st.lists(st.floats(-1e9, 1e9) | st.sampled_from([math.nan, math.inf, 0.0, 1.0, 1.0 + 1e-15])))
def test_a_histogram_has_every_finite_value_once(values: list[float]) -> None:
    distribution = Distribution.of([np.array(values)])
    finite = [value for value in values if math.isfinite(value)]
    content = distribution.to_json()
    assert content["count"] == len(finite)
    if finite:
        assert sum(content["histogram"]["counts"]) == len(finite)
        bars = distribution.bars()
        assert 1 <= len(bars) <= BINS and set(bars) <= set(BLOCKS) and BLOCKS[-1] in bars
