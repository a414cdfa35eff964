"""Two whole iterations through the command line on the real engines, in the demo's folder; the same once more as a
shell loop would type them; and the first by two engines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ireasoner_cli.app import app
from tests import chain

SETTINGS = {
    "IREASONER_PROPOSE_GROUPS": "6", "IREASONER_ROLLOUT_SAMPLES": "4", "IREASONER_SCORE_TOTAL_STEPS": "10",
    "IREASONER_UPDATE_GROUPS_PER_STEP": "1", "IREASONER_EVAL_LIMIT": "20",
}  # fmt: skip


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["demo", "demo"]).exit_code == 0
    monkeypatch.chdir(tmp_path / "demo")
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "demo"


def run(*more: str) -> subprocess.CompletedProcess[str]:
    words = ["run", "--images", "pool/", *more]
    done = subprocess.run(
        [sys.executable, "-m", "ireasoner_cli", *words], capture_output=True, text=True, env=os.environ, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done


def shell_loop() -> list[tuple[str, ...]]:
    """The commands of two iterations."""
    commands: list[tuple[str, ...]] = []
    policy: tuple[str, ...] = ()
    for it in ("run/it0001", "run/it0002"):
        commands += [
            ("propose", "--images", "pool/", *policy, "--out", f"{it}/questions.parquet"),
            ("rollout", f"{it}/questions.parquet", *policy),
            ("score", f"{it}/rollouts.parquet"),
            ("update", f"{it}/scored.parquet", *policy),
        ]
        policy = ("--policy", f"{it}/policy")
    return [*commands, ("eval", "benchmark.parquet", *policy, "--out", "run/it0002/eval.parquet")]


def test_two_iterations(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("--out", "run", "--iterations", "2", "--benchmark", "benchmark.parquet")
    assert done.stdout == "run\n" and "Warning" not in done.stderr
    monkeypatch.chdir("run")
    for it, first in (("it0001", 1), ("it0002", 7)):
        rows = chain.rows(Path(it, "scored.parquet"))
        solver = [row for row in rows if row["role"] == "solver"]
        assert [row["step"] for row in rows if row["role"] == "proposer"] == list(range(first, first + 6))
        assert len(solver) >= 5 * 4 and all(row["token_ids"] and row["reward"] is not None for row in solver)
        assert any(row["r_step"] > 0.1 for row in solver)
        metrics = chain.rows(Path(it, "policy", "metrics.parquet"))
        trained = [row for row in metrics if row["role"] == "solver"]
        # Sampled by vLLM with the adapter the learner holds: on-policy, so the importance weight is one.
        assert [row["importance_weight"] for row in trained[:1]] == pytest.approx([1.0], abs=1e-4)
        assert any(row["grad_norm"] > 0 for row in trained)
    state = json.loads(Path("it0002/policy/state.json").read_text())
    assert state["step"] == 12 and state["lineage"]["policy"]["step"] == 6
    assert state["solver"]["updates"] >= 10 and state["proposer"]["updates"] == 2  # at steps 5 and 10
    metadata = chain.metadata(Path("it0002/scored.parquet"))
    assert metadata["policy"]["step"] == 6 and metadata["params"]["rollout"]["propose"]["sampler"] == "vllm"
    made_on = {"name": "cpu", "dtype": "float32", "tensor_parallel": 1, "batch_invariant": False}
    assert chain.metadata(Path("it0002/rollouts.parquet"))["device"] == made_on

    monkeypatch.chdir(demo)
    before = {file: file.stat().st_mtime_ns for file in Path("run").rglob("*")}
    for command in shell_loop():
        again = CliRunner().invoke(app, command)
        assert again.exit_code == 0 and "up to date" in again.stderr, (command, again.stderr)
    assert {file: file.stat().st_mtime_ns for file in Path("run").rglob("*")} == before

    # In float32 a sample does not depend on its batch.
    run("--out", "by-two", "--iterations", "1", "--workers", "2")
    assert chain.file_bytes(Path("by-two/it0001")) == chain.file_bytes(Path("run/it0001"))
