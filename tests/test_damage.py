"""Files that are damaged, hostile or cannot be written: one clear error that names them, and nothing half-done."""

import contextlib
import json
import random
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import images, shards
from stages.contract import METRICS, SCHEMAS, TRAJECTORY
from stages.errors import DataError, EngineError, StageError
from stages.evaluate import evaluate
from stages.learning.learner import UpdateParams
from stages.parameters import Call
from stages.parameters.evaluate import EvalParams
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.policy import METRICS_FILE, open_policy
from stages.propose import propose
from stages.rollout import rollout
from stages.score import score
from stages.shards.sealing import checked_sha256
from stages.update import update
from stages.verification.verify import verify
from tests import chain
from tests.chain import fake

STAGES = {"questions.parquet": "propose", "rollouts.parquet": "rollout", "scored.parquet": "score"}
Make = Callable[..., object]


@pytest.fixture
def commands(workdir: Path) -> dict[str, Make]:
    """Each stage as a function of its output, on the files of one iteration."""
    questions = [
        {"id": str(i), "image": {"bytes": None, "path": f"pool/{i}.png"}, "question": "How many?", "answers": ["3"]}
        for i in range(4)
    ]
    shards.write_table(Path("benchmark.parquet"), pa.Table.from_pylist(questions))
    return {
        "questions.parquet": lambda out: propose(
            Path("pool"), ProposeParams(groups=8, sampling=fake(max_tokens=128)), Call(model="model", out=out)
        ),
        "rollouts.parquet": lambda out: rollout(
            [Path("questions.parquet")], RolloutParams(sampling=fake()), Call(out=out)
        ),
        "scored.parquet": lambda out: score([Path("rollouts.parquet")], ScoreParams(), Call(out=out)),
        "policy": lambda out: update([Path("scored.parquet")], UpdateParams(), Call(limit=2, out=out)),
        "eval.parquet": lambda out: evaluate(
            [Path("benchmark.parquet")], EvalParams(sampling=fake()), Call(model="model", out=out)
        ),
    }


@pytest.fixture
def iteration(commands: dict[str, Make]) -> dict[str, Make]:
    for name, make in commands.items():
        make(Path(name))
    return commands


def read(path: Path) -> None:
    """As the stages read the file, or the policy it belongs to."""
    if path.name in STAGES:
        list(shards.Shards([path], STAGES[path.name], SCHEMAS[STAGES[path.name]]).groups())
    elif path.name == METRICS_FILE:
        checked_sha256(path)
        shards.read_table(path, METRICS)
    else:
        open_policy(Path("policy"))


def a_thousand_times(damage: Callable[[random.Random, bytes], bytes]) -> None:
    files = [*map(Path, STAGES), *(file for file in Path("policy").rglob("*") if file.is_file())]
    whole = {file: file.read_bytes() for file in files}
    rng = random.Random(0)
    for _ in range(1000):
        file = rng.choice(files)
        file.write_bytes(damage(rng, whole[file]))
        with pytest.raises(DataError) as refused:
            read(file)
        assert refused.value.exit_code == 3 and file.name in str(refused.value)
        file.write_bytes(whole[file])
    for file in files:
        read(file)


def test_a_flipped_bit_is_always_found(iteration: dict[str, Make]) -> None:
    def flip(rng: random.Random, data: bytes) -> bytes:
        place = rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]

    a_thousand_times(flip)


def test_a_truncation_is_always_found(iteration: dict[str, Make]) -> None:
    a_thousand_times(lambda rng, data: data[: rng.randrange(len(data))])


def test_what_other_tools_write_needs_no_seal_and_what_we_write_they_read(iteration: dict[str, Make]) -> None:
    assert pq.read_table("rollouts.parquet").num_rows == len(chain.rows(Path("rollouts.parquet")))
    pq.write_table(pq.read_table("rollouts.parquet"), "rewritten.parquet")
    assert len(list(shards.Shards([Path("rewritten.parquet")], "rollout", TRAJECTORY).groups())) == 8


def test_a_damaged_chunk_is_made_again(commands: dict[str, Make], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.output, "GROUPS_PER_CHUNK", 2)
    commands["questions.parquet"](Path("whole.parquet"))
    with interrupted_after(monkeypatch, 5), pytest.raises(KeyboardInterrupt):
        commands["questions.parquet"](Path("again.parquet"))
    chunk = Path(".again.parquet.partial/chunk-00000001.parquet")
    data = chunk.read_bytes()
    chunk.write_bytes(data[:90] + bytes([data[90] ^ 4]) + data[91:])
    commands["questions.parquet"](Path("again.parquet"))
    assert Path("again.parquet").read_bytes() == Path("whole.parquet").read_bytes()


@contextlib.contextmanager
def interrupted_after(monkeypatch: pytest.MonkeyPatch, pictures: int) -> Iterator[None]:
    decode, seen = images.decode, 0

    def dies(data: bytes) -> object:
        nonlocal seen
        seen += 1
        if seen > pictures + 1:  # propose looks at one beforehand
            raise KeyboardInterrupt
        return decode(data)

    with monkeypatch.context() as patch:
        patch.setattr(images, "decode", dies)
        yield


# ------------------------------------------------------------------------------------------ the disk


@contextlib.contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file may grow beyond `free` bytes: what a full disk does to a write, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["questions.parquet", "rollouts.parquet", "scored.parquet", "policy", "eval.parquet"])
def test_a_full_disk_leaves_nothing_visible_and_the_next_run_recovers(iteration: dict[str, Make], name: str) -> None:
    out = Path("again") / name
    out.parent.mkdir()
    with full_disk(2000), pytest.raises(EngineError, match=rf"again/{name}: cannot be written"):
        iteration[name](out)
    assert not [entry for entry in out.parent.iterdir() if not entry.name.startswith(".")]
    iteration[name](out)
    assert [entry.name for entry in out.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["questions.parquet", "policy"])
def test_a_folder_that_cannot_be_written_to(iteration: dict[str, Make], name: str) -> None:
    with pytest.raises(EngineError, match="cannot be written"):
        iteration[name](Path("/proc/nowhere") / name)


def test_an_image_that_goes_away_mid_run_costs_its_group_alone(
    iteration: dict[str, Make], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = chain.rows(Path("rollouts.parquet"))
    read_image, calls, gone = images.read, 0, ""

    def disappears(image: dict, sha256: str | None) -> bytes:
        nonlocal calls, gone
        calls += 1
        if calls == 4:
            gone = image["path"]
            Path(gone).unlink()
        return read_image(image, sha256)

    monkeypatch.setattr("stages.images.reading.read", disappears)
    iteration["rollouts.parquet"](Path("again.parquet"))
    rows = chain.rows(Path("again.parquet"))
    lost = [row for row in rows if row["images"][0]["path"] == gone]
    assert [row["role"] for row in lost] == ["proposer"] and "No such file" in lost[0]["reject_reason"]
    assert [row for row in rows if row not in lost] == [row for row in whole if row["images"][0]["path"] != gone]


def test_a_shard_that_goes_away_mid_run(iteration: dict[str, Make]) -> None:
    table = shards.Shards([Path("rollouts.parquet")], "rollout", TRAJECTORY)
    Path("rollouts.parquet").unlink()
    with pytest.raises(DataError, match=r"rollouts\.parquet"):
        list(table.groups())


# --------------------------------------------------------------------------------- files that unfold


def bomb(kind: str) -> pa.Table:
    if kind == "one long value, repeated by a dictionary":
        long = pa.DictionaryArray.from_arrays(pa.array([0] * 150, pa.int32()), pa.array(["x" * 8_000_000]))
        return pa.table({"completion": long})
    if kind == "a long list from run lengths":
        return pa.table({"token_ids": pa.array([[0] * 60_000_000], pa.list_(pa.int32()))})
    return pa.table({"completion": ["x" * 200_000_000]})


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("one long value, repeated by a dictionary", False),  # it can be read, a row at a time
        ("a long list from run lengths", True),
        ("one value of 200 MB", True),
    ],
)
def test_a_parquet_bomb_stays_within_a_gibibyte(tmp_path: Path, kind: str, refused: bool) -> None:
    pq.write_table(bomb(kind), tmp_path / "bomb.parquet", compression="zstd", write_statistics=False)
    assert (tmp_path / "bomb.parquet").stat().st_size < 1_000_000
    program = (
        "import re, sys; from pathlib import Path; from stages import shards; from stages.errors import DataError\n"
        "path = Path(sys.argv[1])\n"
        "try:\n  for batch in shards.read_batches(path, shards.schema_of(path).remove_metadata()): batch.to_pylist()\n"
        "except DataError as error: print(error)\n"
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bomb.parquet")], capture_output=True, text=True, check=True
    )
    *said, mebibytes = done.stdout.splitlines()
    assert int(mebibytes) < 1024
    assert bool(said) == refused
    if refused:
        assert "bomb.parquet: its row group 0 could take" in said[0] and "smaller row groups" in said[0]


def test_large_pictures_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    picture = bytes(20_000_000)
    table = pa.table({"images": [[{"bytes": picture, "path": None}]] * 30})
    pq.write_table(table, tmp_path / "images.parquet", compression="zstd")
    wanted = pa.schema([TRAJECTORY.field("images")])
    sizes = [batch.num_rows for batch in shards.read_batches(tmp_path / "images.parquet", wanted)]
    assert sum(sizes) == 30 and max(sizes) < 30


def test_a_page_header_that_lies_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": ["abc"] * 9}), path, compression=None, use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[4:12] = struct.pack("<Q", 2**64 - 1)  # where the first page header begins
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.parquet: not a Parquet file, or damaged"):
        list(shards.read_batches(path, pa.schema([("x", pa.string())])))


# --------------------------------------------------------------------------------------------- verify


def test_a_chain_that_is_whole(iteration: dict[str, Make]) -> None:
    found = {str(output.path): output.stage for output in verify([Path("policy"), Path("eval.parquet")])}
    assert list(found) == [*STAGES, "policy", "benchmark.parquet", "eval.parquet"]
    again = [output for output in verify([Path()], again=True) if output.replayed]
    assert {str(output.path) for output in again} == {*STAGES, "policy", "eval.parquet"}
    assert {output.replayed for output in again} == {"same bytes"}


def test_what_lies_beside_a_chain_may_be_torn(iteration: dict[str, Make], monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that nothing was made from is looked at, for it might be the one that something was made from."""
    shutil.copytree(".", "beside", symlinks=True, ignore=shutil.ignore_patterns("beside", "run"))
    monkeypatch.chdir("beside")
    shutil.copytree("policy", "another")
    Path("another/solver/adapter_model.safetensors").unlink()
    assert [output.stage for output in verify([Path("eval.parquet")])][-1] == "eval"


def test_the_first_broken_link_is_named(iteration: dict[str, Make], monkeypatch: pytest.MonkeyPatch) -> None:
    # Not beside what other tests made: an input that lies in a neighbouring folder is found there.
    shutil.copytree(".", "run/alone", symlinks=True)
    monkeypatch.chdir("run/alone")

    def broken() -> str:
        with pytest.raises(StageError) as refused:
            list(verify([Path("policy")]))
        return str(refused.value)

    rollouts = Path("rollouts.parquet")
    kept = rollouts.read_bytes()
    rollout([Path("questions.parquet")], RolloutParams(samples=2, sampling=fake()), Call(force=True))
    assert "scored.parquet: was made from rollouts.parquet with SHA-256" in broken()
    rollouts.unlink()
    assert "scored.parquet: its input rollouts.parquet (SHA-256" in broken()
    rollouts.write_bytes(kept[:-1])
    assert "rollouts.parquet" in broken()
    rollouts.write_bytes(kept)
    picture = Path("pool/0.png")
    picture.write_bytes(picture.read_bytes() + b"x")
    assert "questions.parquet: group" in broken() and "pool/0.png: the image has changed" in broken()


def test_what_was_checked_already_and_what_is_in_the_working_directory_is_found(iteration: dict[str, Make]) -> None:
    """The README's layout: the benchmark beside the runs' folder, not in it."""
    Path("deep/er/it0001").mkdir(parents=True)
    evaluated, benchmark = Path("deep/er/it0001/eval.parquet"), Path("benchmark.parquet")
    evaluated.write_bytes(Path("eval.parquet").read_bytes())
    assert [str(output.path) for output in verify([evaluated])][-2:] == ["benchmark.parquet", str(evaluated)]
    elsewhere = Path("elsewhere/benchmark.parquet")
    elsewhere.parent.mkdir()
    benchmark.rename(elsewhere)
    list(verify([elsewhere, evaluated]))
    shutil.copyfile("questions.parquet", benchmark)
    with pytest.raises(DataError, match=r"eval\.parquet: was made from benchmark\.parquet with SHA-256"):
        list(verify([evaluated]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"group_id": "f" * 16}, "its group_id does not follow"),
        ({"seed": 1}, "its seed does not follow"),
        ({"logprobs": []}, "not one log-probability for each token"),
        ({"finish_reason": "bored"}, "its finish_reason is 'bored'"),
        ({"question": "Another?"}, "not the one in its completion"),
    ],
)
def test_rows_that_break_a_promise_are_named(iteration: dict[str, Make], change: dict, says: str) -> None:
    table = pq.read_table("questions.parquet")
    rows = [row | change if row["group_index"] == 1 else row for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), "changed.parquet")
    with pytest.raises(DataError, match=rf"changed\.parquet: group .*{says}"):
        list(verify([Path("changed.parquet")]))


def test_a_shard_of_another_tool_may_lack_hashes_but_not_have_others_or_a_stage_that_there_is_not(
    iteration: dict[str, Make],
) -> None:
    table = pq.read_table("questions.parquet")

    def checked(stage: str, hashes: list[str] | None) -> list[int]:
        theirs = {"format": 2, "stage": stage, "model": {"name": "m"}, "policy": {"step": 0}}
        rows = [row | {"images_sha256": hashes} for row in table.to_pylist()]
        named = table.schema.with_metadata({"ireasoner": json.dumps(theirs)})
        pq.write_table(pa.Table.from_pylist(rows, named), "theirs.parquet")
        return [output.rows for output in verify([Path("theirs.parquet")])]

    assert checked("propose", None) == [len(table)]
    with pytest.raises(DataError, match=r"theirs\.parquet: group .*it has 1 images, and 2 hashes of them"):
        checked("propose", ["a", "b"])
    with pytest.raises(DataError, match=r"theirs\.parquet: says that `train` wrote it"):
        checked("train", None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"step": 99}, "its step is 99, and should be"),
        ({"selected": False}, "it has a reward, and is not selected"),
        ({"answer_key": None}, "an answer without a key"),
        ({"density": 2.0}, "its density is 2"),
        ({"token_ids": []}, "not one log-probability for each token"),
    ],
)
def test_scored_rows_that_break_a_promise_are_named(iteration: dict[str, Make], change: dict, says: str) -> None:
    table = pq.read_table("scored.parquet")
    rows = table.to_pylist()
    place = next(i for i, row in enumerate(rows) if row["role"] == "solver" and row["answer"] and row["selected"])
    rows[place] |= change
    pq.write_table(pa.Table.from_pylist(rows, table.schema), "changed.parquet")
    with pytest.raises(DataError, match=rf"changed\.parquet: group .*{says}"):
        list(verify([Path("changed.parquet")]))


def test_a_question_that_somebody_left_out_and_says_why_is_whole(iteration: dict[str, Make]) -> None:
    table = pq.read_table("questions.parquet")
    rows = [row | {"question": None} if row["group_index"] == 1 else row for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), "changed.parquet")
    with pytest.raises(DataError, match="not the one in its completion"):
        list(verify([Path("changed.parquet")]))
    rows[1]["reject_reason"] = "too easy"
    pq.write_table(pa.Table.from_pylist(rows, table.schema), "changed.parquet")
    rolled = rollout([Path("changed.parquet")], RolloutParams(sampling=fake()), Call(out=Path("filtered.parquet")))
    assert 1 not in {row["group_index"] for row in chain.rows(rolled.path) if row["role"] == "solver"}
    assert "filtered.parquet" in {str(output.path) for output in verify([rolled.path])}


@pytest.mark.parametrize(("reward", "right"), [(-2.5, True), (float("nan"), False), (float("inf"), False)])
def test_rewards_of_ones_own_are_any_finite_number(iteration: dict[str, Make], reward: float, right: bool) -> None:
    table = pq.read_table("scored.parquet")
    rows = table.to_pylist()
    rows[1]["reward"] = reward
    pq.write_table(pa.Table.from_pylist(rows, table.schema), "changed.parquet")
    with contextlib.nullcontext() if right else pytest.raises(DataError, match="its reward is"):
        list(verify([Path("changed.parquet")]))


def test_a_shard_that_comes_out_otherwise(iteration: dict[str, Make]) -> None:
    table = pq.read_table("scored.parquet")
    rows = table.to_pylist()
    rows[1]["reward"] += 0.01
    pq.write_table(pa.Table.from_pylist(rows, table.schema), "changed.parquet")
    with pytest.raises(DataError, match=r"changed\.parquet: made again, row 1 has another reward"):
        list(verify([Path("changed.parquet")], again=True))
