"""Parts joined are the file that one process writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages import shards
from stages.errors import DataError, MadeDifferently
from stages.evaluate import evaluate
from stages.parameters import Call
from stages.parameters.evaluate import EvalParams
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.propose import propose
from stages.rollout import rollout
from stages.shards import output
from tests.chain import fake

GROUPS = 7
Stage = Callable[[Call], Any]


@pytest.fixture
def stages(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Stage]:
    """What can be sampled in parts, written whole as well; chunks that no part ends with."""
    monkeypatch.setattr(output, "GROUPS_PER_CHUNK", 3)
    Path("pool/torn.png").write_bytes(b"no picture")
    questions = [
        {"id": str(i), "image": {"bytes": None, "path": f"pool/{i}.png"}, "question": "How many?", "answers": ["2"]}
        for i in range(GROUPS)
    ]
    shards.write_table(Path("benchmark.parquet"), pa.Table.from_pylist(questions))
    made: dict[str, Stage] = {
        "questions": lambda call: propose(
            Path("pool"), ProposeParams(groups=GROUPS, sampling=fake(max_tokens=128), embed_images=True), call
        ),
        "rollouts": lambda call: rollout([Path("questions.parquet")], RolloutParams(samples=3, sampling=fake()), call),
        "eval": lambda call: evaluate([Path("benchmark.parquet")], EvalParams(samples=2, sampling=fake()), call),
    }
    for name, stage in made.items():
        stage(Call(out=Path(f"{name}.parquet"), model="model"))
    return made


def in_parts(stage: Stage, count: int) -> Path:
    folder = Path("parts")
    for index in range(1, count + 1):
        stage(Call(out=folder, shard=f"{index}/{count}", model="model"))
    return folder


@pytest.mark.parametrize("count", range(1, 10))
def test_whatever_their_number(stages: dict[str, Stage], count: int) -> None:
    """More parts than groups, too: then some have no rows."""
    for name, stage in stages.items():
        joined = Path("joined", f"{name}.parquet")
        folder = in_parts(stage, count).rename(f"parts of {name}")
        shards.join(folder, joined)
        assert joined.read_bytes() == Path(f"{name}.parquet").read_bytes(), name
    assert sorted(entry.name for entry in Path("joined").iterdir()) == sorted(f"{name}.parquet" for name in stages)


def test_taken_up_where_it_was_cut_off(stages: dict[str, Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    """By what was joined before, and by what a single process had done."""
    folder, joined = in_parts(stages["rollouts"], 2), Path("joined.parquet")
    write, written = output.Output.write, 0

    def dies(self: output.Output, group: Any) -> None:
        nonlocal written
        written += 1
        if written == 5:
            raise KeyboardInterrupt
        write(self, group)

    for begin in (lambda: shards.join(folder, joined), lambda: stages["rollouts"](Call(out=joined, model="model"))):
        written = 0
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(output.Output, "write", dies)
            begin()
        assert not joined.exists()
        shards.join(folder, joined)
        assert joined.read_bytes() == Path("rollouts.parquet").read_bytes()
        joined.unlink()


def test_parts_that_do_not_belong_together_are_refused(stages: dict[str, Stage]) -> None:
    folder = in_parts(stages["rollouts"], 3)
    second = folder / "part-2-of-3.parquet"
    whole = second.read_bytes()
    second.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(DataError, match=r"part-2-of-3\.parquet: damaged"):
        shards.join(folder, Path("joined.parquet"))
    second.unlink()
    with pytest.raises(DataError, match="part 2 of 3 is missing"):
        shards.join(folder, Path("joined.parquet"))
    rollout(
        [Path("questions.parquet")],
        RolloutParams(samples=2, sampling=fake()),
        Call(out=folder, shard="2/3", model="model"),
    )
    with pytest.raises(DataError, match=r"part-2-of-3\.parquet does not belong with .*params\.samples"):
        shards.join(folder, Path("joined.parquet"))
    assert not Path("joined.parquet").exists()


def test_what_an_interrupted_run_with_other_settings_left_is_not_given_up(stages: dict[str, Stage]) -> None:
    joined = Path("joined.parquet")
    with (
        pytest.raises(KeyboardInterrupt),
        shards.Output(
            joined, output.read_own(Path("rollouts.parquet")).schema, shards.read_metadata(Path("questions.parquet"))
        ) as other,
    ):
        other.write(output.read_own(Path("rollouts.parquet")))
        raise KeyboardInterrupt
    folder = in_parts(stages["rollouts"], 2)
    with pytest.raises(MadeDifferently):
        shards.join(folder, joined)
    shards.join(folder, joined, force=True)
    assert joined.read_bytes() == Path("rollouts.parquet").read_bytes()
