"""Two whole iterations through the command line on the real engines, as a shell loop would run them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests import chain

LOOP = """
set -eu
ireasoner() { "$PYTHON" -m ireasoner_cli "$@"; }
policy=
for it in it0001 it0002; do
    mkdir -p $it
    ireasoner propose --images pool/ --model model --groups 6 --max-tokens 24 $policy --out $it/questions.parquet
    ireasoner rollout $it/questions.parquet --samples 3 --max-tokens 24 $policy
    ireasoner score $it/rollouts.parquet --total-steps 10
    ireasoner update $it/scored.parquet --lr 1e-3 $policy
    policy="--policy $it/policy"
done
ireasoner eval benchmark.parquet $policy --max-tokens 8
"""


def test_two_iterations(workdir: Path) -> None:
    # The tiny model asks nothing by itself: it is given words to begin and end with.
    Path("ireasoner.toml").write_text("seed = 7\n")
    picture = {"bytes": Path("pool/0.png").read_bytes(), "path": None}
    benchmark = {"id": ["a"], "image": [picture], "question": ["How many?"], "answers": [["1"]]}
    pq.write_table(pa.table(benchmark), "benchmark.parquet")

    def run() -> str:
        environment = {**os.environ, "PYTHON": sys.executable}
        done = subprocess.run(["bash", "-c", LOOP], capture_output=True, text=True, env=environment, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run()
    assert first.split("\n")[:4] == [
        f"it0001/{name}" for name in ("questions.parquet", "rollouts.parquet", "scored.parquet", "policy")
    ]
    state = json.loads(Path("it0002/policy/state.json").read_text())
    assert state["step"] == 12 and state["lineage"]["policy"]["step"] == 6
    assert state["proposer"]["updates"] == 2  # at steps 5 and 10
    scored = chain.rows(Path("it0002/scored.parquet"))
    assert [row["step"] for row in scored if row["role"] == "proposer"] == list(range(7, 13))
    metadata = chain.metadata(Path("it0002/scored.parquet"))
    assert metadata["seed"] == 7 and metadata["policy"]["step"] == 6
    assert metadata["params"]["rollout"]["propose"]["sampler"] == "vllm"
    files = {name: data for name, data in chain.file_bytes(Path()).items() if name.startswith("it")}
    run()  # everything matches, nothing is done again
    assert files == {name: data for name, data in chain.file_bytes(Path()).items() if name.startswith("it")}
