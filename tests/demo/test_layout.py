"""The demo's folder: what lies in it, and that its commands work as written."""

import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from ireasoner_cli.app import app
from ireasoner_cli.demo import summary
from ireasoner_cli.demo.layout import TEMPLATES, lay_out
from stages.errors import UsageError
from stages.evaluation.compare import compare
from stages.evaluation.scores import read_run
from tests import chain
from tests.test_docs import check_command
from tests.test_report import write_evaluation


def test_what_lies_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    assert lay_out(folder)
    assert {file.name for file in folder.iterdir()} == {
        "pool", "model", "benchmark.parquet", "ireasoner.toml", "Makefile",
    }  # fmt: skip
    rows = chain.rows(folder / "benchmark.parquet")
    assert len({row["id"] for row in rows}) == len(rows) >= 200
    assert all(row["answers"] and row["type"] and row["question"] for row in rows)
    assert Image.open(io.BytesIO(rows[0]["image"]["bytes"])).size == (112, 112)
    before = chain.file_bytes(folder)
    assert not lay_out(folder) and chain.file_bytes(folder) == before
    other = tmp_path / "other"
    other.mkdir()
    assert lay_out(other) and chain.file_bytes(other) == before  # the same bytes everywhere


def test_the_folder_may_be_the_one_the_user_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert lay_out(Path("."))
    assert "pool" in os.listdir() and not lay_out(Path("."))


def test_interrupted_it_is_laid_out_by_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lay_out(tmp_path / "whole")
    folder = tmp_path / "demo"
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if target == folder / "model":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", interrupted)
        lay_out(folder)
    assert lay_out(folder) and chain.file_bytes(folder) == chain.file_bytes(tmp_path / "whole")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial/thesis.tex").touch()
    with pytest.raises(UsageError, match="is in the way"):
        lay_out(tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.tex")] == [".partial/thesis.tex"]
    (tmp_path / "ireasoner.toml").touch()  # of a project of the user's own
    with pytest.raises(UsageError, match="is in the way"):
        lay_out(tmp_path)


def test_the_commands_work_as_written_and_the_summary_reads_what_they_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    lay_out(folder)
    monkeypatch.chdir(folder)
    small = {f"IREASONER_{command}_SAMPLER": "fake" for command in ("PROPOSE", "ROLLOUT", "EVAL")}
    small |= {"IREASONER_PROPOSE_GROUPS": "8", "IREASONER_EVAL_LIMIT": "40"}
    for name, value in small.items():
        monkeypatch.setenv(name, value)
    make = subprocess.run(
        ["make", "ITERATIONS=1", f"IREASONER={sys.executable} -m ireasoner_cli", f"PYTHON={sys.executable}"],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert make.returncode == 0, make.stderr
    for title in ("What each stage wrote", "One trajectory", "Mean rewards", "Held-out accuracy", "type next"):
        assert title in make.stdout
    assert "it0001/scored.parquet" in make.stdout
    again = subprocess.run(["make", "-q", "ITERATIONS=1", "it0001/eval-sampled.parquet"])
    assert again.returncode == 0  # nothing left to do
    for command in (
        ["propose", "--images", "pool/"],
        ["rollout", "questions.parquet"],
        ["score", "rollouts.parquet", "--no-decay"],
        ["update", "scored.parquet"],
        ["eval", "benchmark.parquet", "--policy", "policy/"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    assert chain.metadata(Path("scored.parquet"))["params"]["no_decay"] is True


OPEN_AN_ENGINE = {"propose", "rollout", "eval", "run"}


def test_three_engines_are_opened_and_for_more_iterations_two(tmp_path: Path) -> None:
    """An engine takes most of a minute to open on a GPU: one for the loop, and one for each sampled evaluation."""
    lay_out(tmp_path / "demo")

    def opened(*words: str) -> list[str]:
        told = subprocess.run(["make", "-n", *words], capture_output=True, text=True, cwd=tmp_path / "demo", check=True)
        commands = re.findall(r"^ireasoner (\w+)", told.stdout, re.MULTILINE)
        return sorted(command for command in commands if command in OPEN_AN_ENGINE)

    assert opened() == opened("ITERATIONS=40") == ["eval", "eval", "run"]
    for name in ("base-sampled.parquet", "it0006/eval.parquet", "it0006/eval-sampled.parquet"):
        (tmp_path / "demo" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "demo" / name).touch()
    assert opened() == [] and opened("ITERATIONS=12") == ["eval", "run"]


def test_the_step_reward_reaches_its_full_weight_within_the_demo() -> None:
    settings = tomllib.loads((TEMPLATES / "ireasoner.toml").read_text())
    match = re.search(r"^ITERATIONS \?= (\d+)", (TEMPLATES / "Makefile").read_text(), re.MULTILINE)
    assert match is not None
    assert settings["score"]["total-steps"] <= int(match[1]) * settings["propose"]["groups"]


def test_what_to_type_next_can_be_typed_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, environment = tmp_path / "demo", tmp_path / ".venv"
    monkeypatch.setattr(summary.sys, "prefix", str(environment))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    first, second, *rest = str(summary._next_steps(folder, folder / "it0006").renderable).splitlines()
    assert first == ". .venv/bin/activate" and second.startswith("cd demo ")
    typed = [line for line in rest if line.startswith("ireasoner ")]
    assert {line.split()[1] for line in typed} >= {"inspect", "report", "score", "eval"}
    for line in typed:
        check_command(line.split("#")[0].strip())
    monkeypatch.setenv("VIRTUAL_ENV", str(environment))
    assert "activate" not in str(summary._next_steps(folder, folder / "it0006").renderable)


@pytest.mark.parametrize(
    ("gained", "lost", "says"), [(20, 5, "Greedy accuracy rose"), (5, 20, "Greedy accuracy fell"), (10, 9, "no clear")]
)
def test_the_verdict_is_that_of_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gained: int, lost: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    same = 60
    before = [0.0] * gained + [1.0] * (lost + same)
    after = [1.0] * gained + [0.0] * lost + [1.0] * same
    Path("it0006").mkdir()
    for name, scores in (
        ("base", before),
        ("base-sampled", before),
        ("it0006/eval", after),
        ("it0006/eval-sampled", before),
    ):
        write_evaluation(Path(f"{name}.parquet"), scores, step=0)
    console = Console(width=80)
    with console.capture() as said:
        console.print(summary._accuracy(Path(), Path("it0006")))
    assert says in said.get() and "Sampled: no clear change" in said.get()
    [compared] = compare(read_run(Path("base.parquet")), [read_run(Path("it0006/eval.parquet"))])
    change = compared.tasks[0].difference
    assert f"{100 * change.mean:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]" in said.get()
