"""What a run came to is read off its files as the world knows it, and a table takes more seeds."""

import csv
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from ireasoner_cli.demo import world
from ireasoner_cli.demo.layout import MODEL
from tests import chain
from tests.evidence import experiment, records, results
from tests.evidence.settings import EXPERIMENTS
from tests.test_cli import succeeds

POOL = 6


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One iteration over two charts of a pool: a group of three that agree on the truth, beside one that does not, and
    a group that agrees on a falsehood."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(MODEL)
    paths = world.write_pool(Path("pool"), POOL, seed=5)
    groups = []
    for index, chart in enumerate(list(world.pool(POOL, seed=5))[:2]):
        ask = world.Ask("total")
        solution = world.solve(chart, ask)
        assert solution is not None
        false = chain.solution(999, "The first bar is 999.")
        said = [solution.completion] * 3 + [false] if index == 0 else [false, false]
        question = world.phrase(ask, world.WORDINGS["total"][0])
        groups.append(chain.group(index, str(paths[index]), said, question=question))
    groups.append(chain.group(2, str(paths[2]), [chain.solution(1)], question="Why?"))
    (tmp_path / "it0001").mkdir()
    chain.write_shard(Path("it0001/rollouts.parquet"), groups)
    succeeds("score", "it0001/rollouts.parquet", "--model", "model")
    succeeds("update", "it0001/scored.parquet", "--model", "model")
    return Path("it0001")


def test_an_iteration_is_measured_against_the_truth(scored: Path) -> None:
    found = records.iteration(scored, records.charts(POOL, seed=5))
    assert set(found) == {"step", *results.SERIES}
    assert found["step"] == 3
    assert found["answerable"] == pytest.approx(2 / 3)  # nobody can say why
    assert found["dominant_right"] == pytest.approx(1 / 2)
    assert found["density"] == pytest.approx((3 / 4 + 1 + 1) / 3)
    total = len(world.solve(next(world.pool(POOL, seed=5)), world.Ask("total")).steps)  # type: ignore[union-attr]
    positions = min(total, 8)
    assert found["valid_positions"] == pytest.approx((positions + 1 + 0) / 3)
    assert found["steps"] == pytest.approx((3 * positions + 1 + 1 + 1 + 2) / 7)
    assert found["step_truth"] == pytest.approx(3 * positions / (3 * positions + 3))  # "a" and "b" claim nothing
    assert found["step_similarity"] == pytest.approx(1)


def test_accuracies_by_world_part_and_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "BUILD", tmp_path)
    settings = EXPERIMENTS["cpu"]
    job = experiment.Job("tiny", settings, "base", 1)
    monkeypatch.setattr(experiment, "BENCHMARK_SEED", 3)
    experiment.lay_out(job.world, settings.__class__(1, 2, 24, settings.options, settings.rows), 1)
    fake = ("--model", str(MODEL), "--max-tokens", "64", "--limit", "24")
    for out, more in experiment.DECODINGS.items():
        path = str(tmp_path / f"{out}.parquet")
        succeeds(
            "eval", str(job.world / "benchmark.parquet"), *fake, *more, "--out", path, IREASONER_EVAL_SAMPLER="fake"
        )
    found = records.accuracies(tmp_path / "greedy.parquet", tmp_path / "sampled.parquet")
    counts = {(each["world"], each["part"]): each["questions"] for each in found if each["decoding"] == "greedy"}
    assert counts["home", "all"] == 18 and counts["abroad", "all"] == counts["abroad", "level 4"] == 6
    assert sum(count for (place, part), count in counts.items() if place == "home" and part.startswith("level")) == 18
    rows = chain.rows(tmp_path / "sampled.parquet")
    home = [row["score"] for row in rows if not row["id"].startswith("level4")]
    [sampled] = [e for e in found if (e["world"], e["part"], e["decoding"]) == ("home", "all", "sampled")]
    assert sampled["accuracy"] == pytest.approx(sum(home) / len(home))


def test_longer_runs_go_on_with_the_shorter_ones_or_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their pictures are where the shorter ones have theirs, whether those were run before or not."""
    small = {name: replace(EXPERIMENTS[name], pool=2, questions=4) for name in ("signal", "signal-60")}
    monkeypatch.setattr(experiment, "EXPERIMENTS", small)
    folders = []

    def run(job: experiment.Job, threads: int) -> float:
        assert job.images.exists() and (job.world / "benchmark.parquet").is_file()
        folders.append(job.folder)
        return 0.0

    monkeypatch.setattr(experiment, "run", run)
    monkeypatch.setattr(experiment, "record", lambda *_: None)
    for name in ("signal-60", "signal"):
        given = [name, "--rows", "supervised @ 0.0006", "--build", str(tmp_path), "--tables", str(tmp_path / "tables")]
        monkeypatch.setattr(sys, "argv", ["experiment", *given])
        experiment.main()
    assert folders == [tmp_path / "signal" / "seed-1" / "supervised @ 0.0006"] * 2


def test_rows_of_two_second_checkpoints_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lesson taught anew may come out another."""
    found = {"world": "home", "part": "all", "decoding": "greedy", "questions": 1, "accuracy": 1.0}
    monkeypatch.setattr(records, "accuracies", lambda **_: [found])
    (tmp_path / "model").mkdir()
    for name, weights in (("prose", b"one"), ("prose", b"other"), ("prose", b"one"), ("signal", b"one")):
        (tmp_path / "model" / "model.safetensors").write_bytes(weights)
        experiment.record(experiment.Job(name, EXPERIMENTS[name], "base", 1, tmp_path), {}, tmp_path)
    read = list(csv.DictReader((tmp_path / "accuracy.csv").read_text().splitlines()))
    assert [row["settings"] for row in read] == ["prose:20fe7313", "prose:aa9b3305", "signal"]


def test_a_table_takes_more_seeds_and_forgets_what_was_run_again(tmp_path: Path) -> None:
    table, columns = tmp_path / "table.csv", ("row", "seed", "value")
    for seed, value in ((1, 0.5), (2, 0.25), (1, 0.125)):
        records.replace_records(table, columns, {"row": "full", "seed": seed}, [{"value": value}, {"value": None}])
    read = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["seed"], row["value"]) for row in read] == [("2", "0.25"), ("2", ""), ("1", "0.125"), ("1", "")]


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_every_row_has_settings_that_the_commands_know(name: str) -> None:
    import typer

    from ireasoner_cli.app import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for row in EXPERIMENTS[name].rows:
        options = EXPERIMENTS[name].of(row)
        assert tomllib.loads(experiment.to_toml({"seed": 1}, options)) == {"seed": 1, **options}
        of_commands = {command: own for command, own in options.items() if command != "pass"}
        made = [("rollout", own.keys() - {"name"}) for own in options.get("pass", [])]
        for command, own in [*of_commands.items(), *made]:
            assert set(own) <= {param.name.replace("_", "-") for param in commands[command].params}
