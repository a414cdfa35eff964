"""Several processes, one learner: with whole bases or in shards, the policy is that of one process."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages.contract import PROPOSER, SOLVER
from stages.parameters import Call
from stages.parameters.score import ScoreParams
from stages.parameters.update import UpdateParams
from stages.score import score
from stages.update import update
from tests import chain
from tests.ranks import learn_together

# Steps of four groups and one of two; the Proposer's are of one, which the others wait for.
PARAMS = UpdateParams(lr=1e-4, groups_per_step=4, proposer_every=3, kl_start=0.1)


def unequal(path: Path) -> Path:
    """Six groups whose completions are of a token, of several passes' length, or not there."""
    long = chain.solution(11, *(f"The bar {index} is red and has a value of {index}." for index in range(12)))
    short = chain.solution(4)
    groups = [[short, short], [long] * 5, [long, "", short], [short], [long] * 3, [short, long]]
    shard = [chain.group(index, f"pool/{index}.png", completions) for index, completions in enumerate(groups)]
    return score([chain.write_shard(path, shard)], ScoreParams(no_warmup=True)).path


def adapters(policy: Path) -> dict[str, torch.Tensor]:
    return {
        f"{role}.{name}": tensor
        for role in (SOLVER, PROPOSER)
        for name, tensor in load_file(policy / role / "adapter_model.safetensors").items()
    }


def test_ranks(workdir: Path) -> None:
    import time
    scored = unequal(Path("rollouts.parquet"))
    t = time.time()
    update([scored], PARAMS, Call(out=Path("one")))
    print("one", time.time() - t); t = time.time()
    sharded = replace(PARAMS, shard_base=True)
    learn_together(2, scored, [(PARAMS, Path("two")), (sharded, Path("shards")), (sharded, Path("shards-again"))])
    print("two x 3", time.time() - t); t = time.time()
    learn_together(4, scored, [(PARAMS, Path("four")), (PARAMS, Path("four-again"))])
    print("four x 2", time.time() - t)
    one = adapters(Path("one"))
    start = None
    for name in ("two", "shards", "four"):
        other = adapters(Path(name))
        print(name, max(float((one[k] - other[k]).abs().max()) for k in one), max(float(one[k].abs().max()) for k in one))
    print(chain.file_bytes(Path("two")) == chain.file_bytes(Path("shards")), chain.file_bytes(Path("shards-again")) == chain.file_bytes(Path("shards")), chain.file_bytes(Path("four-again")) == chain.file_bytes(Path("four")))
