"""The same command, the same bytes; whole, in 2 or 5 parts, resumed or with a warm engine, the same rows."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages import images, shards
from stages.errors import UsageError
from stages.evaluate import evaluate
from stages.learning.learner import UpdateParams
from stages.models.finding import find_model
from stages.parameters import Call
from stages.parameters.evaluate import EvalParams
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.sampling import EngineOptions, Sampling
from stages.parameters.score import ScoreParams
from stages.propose import propose
from stages.rollout import rollout
from stages.sampling import Sampler, Wanted, open_sampler
from stages.sampling.rows import Asking
from stages.score import score
from stages.update import update
from tests import chain
from tests.conftest import needs_vllm

SAMPLED = ("questions", "rollouts", "eval")


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[Sampler]:
    with closing(open_sampler(Wanted("vllm", find_model(str(model_dir))))) as sampler:
        yield sampler


@pytest.fixture(params=["fake", pytest.param("vllm", marks=needs_vllm)])
def settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sampling:
    """With vLLM one engine serves every run: it is as warm as it gets, and what came before must not show."""
    if request.param == "vllm":
        warm = request.getfixturevalue("engine")
        monkeypatch.setattr(Asking, "open", lambda *_: nullcontext(warm))
    return chain.sampling(request.param, max_tokens=24)


Stage = Callable[[Path, str | None], Any]


@pytest.fixture
def sampled(workdir: Path, settings: Sampling) -> dict[str, Stage]:
    """The three stages that sample, as functions of output and part; their inputs are the same for all."""
    asked = [chain.group(index, f"pool/{index % 8}.png", []) for index in range(10)]
    chain.write_shard(Path("asked.parquet"), asked, "propose")
    questions = [
        {"id": str(i), "image": {"bytes": None, "path": f"pool/{i % 8}.png"}, "question": "How many?", "answers": ["3"]}
        for i in range(10)
    ]
    shards.write_table(Path("benchmark.parquet"), pa.Table.from_pylist(questions))
    return {
        "questions": lambda out, part: propose(
            Path("pool"), ProposeParams(groups=10, sampling=settings), Call(model="model", out=out, shard=part)
        ),
        "rollouts": lambda out, part: rollout(
            [Path("asked.parquet")], RolloutParams(samples=3, sampling=settings), Call(out=out, shard=part)
        ),
        "eval": lambda out, part: evaluate(
            [Path("benchmark.parquet")],
            EvalParams(samples=2, sampling=settings),
            Call(model="model", out=out, shard=part),
        ),
    }


def same(one: list[dict[str, Any]], other: list[dict[str, Any]], exactly: bool) -> bool:
    """Equal rows, in the contract's sense: with vLLM log-probabilities within 1e-4."""
    logprobs = [[value for row in rows for value in row.pop("logprobs", None) or ()] for rows in (one, other)]
    return one == other and logprobs[0] == pytest.approx(logprobs[1], abs=0 if exactly else 1e-4, rel=0)


def part_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for file in shards.input_files([folder]) for row in chain.rows(file)]


@contextlib.contextmanager
def interrupted_at(monkeypatch: pytest.MonkeyPatch, picture: int) -> Iterator[None]:
    decode, seen = images.decode, 0

    def dies(data: bytes) -> object:
        nonlocal seen
        seen += 1
        if seen == picture:
            raise KeyboardInterrupt
        return decode(data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(images, "decode", dies)
        yield


@pytest.mark.parametrize("name", SAMPLED)
def test_the_rows_do_not_depend_on_how_they_were_made(
    sampled: dict[str, Stage], settings: Sampling, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards.output, "GROUPS_PER_CHUNK", 2)
    make, exactly = sampled[name], settings.sampler == "fake"
    whole = Path(f"whole/{name}.parquet")
    make(whole, None)
    make(Path(f"again/{name}.parquet"), None)
    assert same(chain.rows(whole), chain.rows(Path(f"again/{name}.parquet")), exactly)
    if exactly:
        assert whole.read_bytes() == Path(f"again/{name}.parquet").read_bytes()
    for count in (2, 5):
        for index in range(count, 0, -1):
            make(Path(f"parts{count}"), f"{index}/{count}")
        assert same(chain.rows(whole), part_rows(Path(f"parts{count}")), exactly)
    with interrupted_at(monkeypatch, 7):
        make(Path(f"resumed/{name}.parquet"), None)
    make(Path(f"resumed/{name}.parquet"), None)
    assert same(chain.rows(whole), chain.rows(Path(f"resumed/{name}.parquet")), exactly)


def test_what_follows_parts_equals_what_follows_the_whole(workdir: Path) -> None:
    propose(Path("pool"), ProposeParams(groups=10, sampling=chain.fake(max_tokens=128)), Call(model="model"))
    rollout([Path("questions.parquet")], RolloutParams(sampling=chain.fake()))
    for index in (1, 2, 3):
        rollout([Path("questions.parquet")], RolloutParams(sampling=chain.fake()), Call(shard=f"{index}/3"))
    policies = []
    for folder, rollouts in (("one", "rollouts.parquet"), ("three", "rollouts")):
        scored = score([Path(rollouts)], ScoreParams(no_warmup=True), Call(out=Path(folder, "scored.parquet")))
        policies.append(update([scored.path], UpdateParams(lr=1e-3)).path)
    assert chain.rows(Path("one/scored.parquet")) == chain.rows(Path("three/scored.parquet"))
    one, other = map(chain.file_bytes, policies)
    assert {name for name in one if one[name] != other[name]} == {"state.json"}  # which records the other inputs


def test_batch_invariance_is_vllms_and_the_gpus(model_dir: Path) -> None:
    model = find_model(str(model_dir))
    with pytest.raises(UsageError, match="the sampler is fake"):
        open_sampler(Wanted("fake", model, options=EngineOptions(batch_invariant=True)))
    with pytest.raises(UsageError, match="--batch-invariant is for GPUs"):
        open_sampler(Wanted("vllm", model, options=EngineOptions(batch_invariant=True)))
