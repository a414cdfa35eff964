"""Two whole iterations through the command line on the real engines, in the demo's folder, as a shell loop would run
them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import chain

LOOP = """
set -eu
ireasoner() { "$PYTHON" -m ireasoner_cli "$@"; }
policy=
for it in it0001 it0002; do
    mkdir -p $it
    ireasoner propose --images pool/ --groups 6 $policy --out $it/questions.parquet
    ireasoner rollout $it/questions.parquet --samples 4 $policy
    ireasoner score $it/rollouts.parquet --total-steps 10
    ireasoner update $it/scored.parquet --groups-per-step 1 $policy
    policy="--policy $it/policy"
done
ireasoner eval benchmark.parquet --limit 20 $policy
"""


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-m", "ireasoner_cli", "demo", "demo"], check=True)
    monkeypatch.chdir(tmp_path / "demo")
    return tmp_path / "demo"


def run() -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", "-c", LOOP], capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    return done


def test_two_iterations(demo: Path) -> None:
    done = run()
    names = ("questions.parquet", "rollouts.parquet", "scored.parquet", "policy")
    assert done.stdout.split("\n")[:8] == [f"{it}/{name}" for it in ("it0001", "it0002") for name in names]
    assert "Warning" not in done.stderr
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

    outputs = [
        file for file in demo.rglob("*") if file.is_file() and file.parent.name in ("it0001", "it0002", "policy")
    ]
    before = {file: file.stat().st_mtime_ns for file in outputs}
    again = run()
    assert again.stderr.count("up to date") == 9 and again.stdout == done.stdout
    assert {file: file.stat().st_mtime_ns for file in outputs} == before
