"""Several processes, one learner: with the base whole on each or in shards, what they learn is what one learns."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from stages.contract import PROPOSER, SOLVER
from stages.errors import UsageError
from stages.learning.model import PolicyModel
from stages.learning.ranks import Ranks
from stages.models.estimate import Held
from stages.models.finding import find_model
from stages.parameters import Call
from stages.parameters.score import ScoreParams
from stages.parameters.update import UpdateParams
from stages.result import Result
from stages.score import score
from stages.update import update
from tests import chain
from tests.ranks import in_ranks

PARAMS = UpdateParams(lr=1e-4, groups_per_step=4, proposer_every=3, kl_start=0.1)
ALONE = replace(PARAMS, groups_per_step=1)  # in which there is work for one
SHARDED = replace(PARAMS, shard_base=True)


@pytest.fixture
def scored(workdir: Path) -> Path:
    """Six groups of unequal work: completions of a few tokens, of hundreds, and of none but the end."""
    long = chain.solution(11, *(f"The bar {index} is red and has a value of {index}." for index in range(12)))
    short = chain.solution(4)
    groups = [[short, short], [long] * 5, [long, "", short], [""], [long] * 3, [short, long]]
    rows = [chain.group(index, f"pool/{index}.png", completions) for index, completions in enumerate(groups)]
    return score([chain.write_shard(Path("rollouts.parquet"), rows)], ScoreParams(no_warmup=True)).path


def adapters(policy: Path) -> dict[str, Tensor]:
    return {
        f"{role}.{name}": tensor
        for role in (SOLVER, PROPOSER)
        for name, tensor in load_file(policy / role / "adapter_model.safetensors").items()
    }


def apart(one: str, other: str) -> float:
    """The largest difference between two policies' adapters, of which neither is where it began."""
    first, second = adapters(Path(one)), adapters(Path(other))
    assert all(float(tensor.abs().max()) > 1e-5 for tensor in (*first.values(), *second.values()))
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_one_two_and_four_processes_learn_the_same(scored: Path) -> None:
    """Within rounding of what one learns, the base in shards or not; and the same bytes each time."""

    def learns(params: UpdateParams, out: str) -> partial[Result]:
        return partial(update, [scored], params, Call(out=Path(out)))

    learns(PARAMS, "one")()
    learns(ALONE, "one-alone")()
    in_ranks(
        2,
        learns(PARAMS, "two"),
        learns(PARAMS, "two-again"),
        learns(SHARDED, "shards"),
        learns(replace(SHARDED, gradient_checkpointing=True), "shards-again"),
        learns(replace(ALONE, shard_base=True), "shards-alone"),
    )
    in_ranks(4, learns(PARAMS, "four"), learns(PARAMS, "four-again"))
    for several in ("two", "shards", "four"):
        assert apart("one", several) < 1e-6, several
        assert chain.file_bytes(Path(several)) == chain.file_bytes(Path(f"{several}-again"))
    assert apart("one-alone", "shards-alone") < 1e-6
    lineage = json.loads((Path("shards") / "state.json").read_text())["lineage"]
    assert (lineage["device"]["ranks"], lineage["device"]["shard_base"]) == (2, True)
    assert update([scored], SHARDED, Call(out=Path("shards"))).reused  # in this process, which could not make it


def test_each_process_holds_its_share_of_the_layers(model_dir: Path) -> None:
    def holds() -> None:
        with Ranks() as ranks:
            model = PolicyModel(find_model(str(model_dir)), 0, held=Held(ranks.size), ranks=ranks)
            layers = model._text.layers
            frozen = {name: parameter for name, parameter in layers.named_parameters() if "lora_" not in name}
            matrices = {name for name, parameter in frozen.items() if parameter.dim() > 1}
            assert {name for name, parameter in frozen.items() if hasattr(parameter, "to_local")} == matrices
            for name in matrices:
                assert frozen[name].to_local().numel() == frozen[name].numel() / 2
            assert not any(hasattr(parameter, "to_local") for parameter in model.parameters(SOLVER).values())

    in_ranks(2, holds)


def test_shards_need_processes_to_lie_in(scored: Path) -> None:
    with pytest.raises(UsageError, match="torchrun --nproc-per-node"):
        update([scored], SHARDED)
    assert not list(Path().glob("*policy*"))
