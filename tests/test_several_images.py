"""Questions about several pictures, or about none, go through every stage."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ireasoner_cli.app import app
from stages.contract import IMAGE
from stages.parameters import Call
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.parameters.update import UpdateParams
from stages.propose import propose
from stages.rollout import rollout
from stages.score import score
from stages.update import update
from tests import chain

TWO_GROUPS = 2


@pytest.fixture
def pairs(workdir: Path) -> Path:
    """A pool of pairs of pictures, as verl and EasyR1 store them."""
    encoded = [{"bytes": Path(f"pool/{index}.png").read_bytes(), "path": None} for index in range(8)]
    column = pa.array([encoded[:2], encoded[2:4], encoded[4:6]], pa.list_(IMAGE))
    pq.write_table(pa.table({"images": column}), "pairs.parquet")
    return Path("pairs.parquet")


def invoke(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_stage_takes_pairs_of_pictures(pairs: Path) -> None:
    propose(pairs, ProposeParams(groups=6, sampling=chain.fake(max_tokens=128)), Call(model="model"))
    asked = chain.rows(Path("questions.parquet"))
    assert all(len(row["images"]) == len(row["images_sha256"]) == 2 for row in asked)
    assert len({row["group_id"] for row in asked}) == 6
    rolled = chain.rows(rollout([Path("questions.parquet")], RolloutParams(samples=2, sampling=chain.fake())).path)
    assert any(row["role"] == "solver" for row in rolled)
    assert all(row["images"] == asked[row["group_index"]]["images"] for row in rolled)
    score([Path("rollouts.parquet")], ScoreParams(no_warmup=True))
    assert update([Path("scored.parquet")], UpdateParams()).summary["solver_updates"]
    invoke("verify", "policy")
    assert "in the shard, in the shard" in invoke("inspect", "scored.parquet", "--disagree")
    invoke("report", ".")
    assert Path("report.html").read_text().count("data:image/webp") >= 2


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_the_learner_sees_the_pictures_that_were_sampled_with(pictures: int, workdir: Path) -> None:
    """On-policy: π is μ, whatever the number of pictures; and a change of the last one shows."""
    groups = [chain.group(index, f"pool/{index}.png", []) for index in range(TWO_GROUPS)]
    for index, [proposal] in enumerate(groups):
        files = [f"pool/{place}.png" for place in range(index, index + pictures)]
        proposal["images"] = [{"bytes": None, "path": file} for file in files]
        proposal["images_sha256"] = [None] * pictures
    chain.write_shard(Path("questions.parquet"), groups, "propose")
    params = RolloutParams(samples=2, sampling=chain.sampling("transformers", max_tokens=12))
    rollout([Path("questions.parquet")], params)
    score([Path("rollouts.parquet")], ScoreParams())
    rows = chain.rows(Path("scored.parquet"))
    for row in rows:
        row["reward"] = 1.0 if row["role"] == "solver" else None
    chain.write_shard(Path("scored.parquet"), [rows], "score")
    update([Path("scored.parquet")], UpdateParams(lr=0.0))
    weights = [row["importance_weight"] for row in chain.rows(Path("policy/metrics.parquet"))]
    assert weights == pytest.approx([1.0] * TWO_GROUPS, abs=1e-4)
    if pictures:
        for row in rows:
            row["images"][-1]["path"] = "pool/7.png"
        chain.write_shard(Path("scored.parquet"), [rows], "score")
        update([Path("scored.parquet")], UpdateParams(lr=0.0), Call(out=Path("blind")))
        assert weights != pytest.approx(
            [row["importance_weight"] for row in chain.rows(Path("blind/metrics.parquet"))], abs=1e-4
        )
