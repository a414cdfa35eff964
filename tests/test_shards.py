import errno
import fcntl
import json
import math
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import shards
from stages.contract import (
    IMAGE,
    SCORED,
    TRAJECTORY,
    InputRef,
    Metadata,
    ModelRef,
    PolicyRef,
    gone_on,
    group_id,
    trajectory_seed,
)
from stages.contract.metadata import FORMAT
from stages.errors import DataError, EngineError, UsageError
from stages.shards.durable import partial_directory
from tests import chain

META = Metadata("rollout", {"samples": 2}, 0, (InputRef("q.parquet", "00"),), ModelRef("model"), PolicyRef())


def a_group(index: int) -> list[dict[str, object]]:
    group = f"{index:016x}"
    solver = [{"group_id": group, "group_index": index, "role": "solver", "sample_index": i} for i in range(2)]
    return [{"group_id": group, "group_index": index, "role": "proposer", "sample_index": 0}, *solver]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.output, "GROUPS_PER_CHUNK", 2)


def write(path: Path, indices: range) -> Path:
    with shards.Output(path, TRAJECTORY, META) as output:
        for index in indices:
            output.write(a_group(index))
    return path


def indices(paths: list[Path]) -> list[int]:
    return [group[0]["group_index"] for group in shards.Shards(paths, "rollout", TRAJECTORY).groups()]


def test_what_is_written_is_read_back_and_nothing_else_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", range(5))
    assert indices([path]) == list(range(5))
    assert [file.name for file in tmp_path.iterdir()] == ["r.parquet"]
    assert shards.read_metadata(path) == META


def test_an_interrupted_output_is_invisible_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, whole = tmp_path / "r.parquet", write(tmp_path / "whole.parquet", range(5))
    with pytest.raises(KeyboardInterrupt), shards.Output(path, TRAJECTORY, META) as output:
        for index in range(3):
            output.write(a_group(index))
        raise KeyboardInterrupt
    assert not path.exists()
    with shards.Output(path, TRAJECTORY, META) as output:
        assert output.done == 3  # a chunk of two, and one put aside
        for index in range(output.done, 5):
            output.write(a_group(index))
    assert path.read_bytes() == whole.read_bytes()


def test_interrupted_while_the_last_groups_are_written_they_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "r.parquet", write(tmp_path / "whole.parquet", range(3))
    write_file = shards.output.write_file

    def dies(file: Path, *rest: Any) -> None:
        if file.name.startswith("chunk-00000001"):
            raise KeyboardInterrupt
        write_file(file, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards.output, "write_file", dies)
        write(path, range(3))
    with shards.Output(path, TRAJECTORY, META) as taken_up:
        assert taken_up.done == 3
    assert path.read_bytes() == whole.read_bytes()


def test_what_was_left_beside_a_finished_file_is_cleared_away(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", range(1))
    parts = shards.parts_directory(path)
    for left in (parts, partial_directory(parts), partial_directory(path)):
        left.mkdir()
        (left / "lock").touch()
    assert shards.is_done(path, META, force=False)
    assert [file.name for file in tmp_path.iterdir()] == ["r.parquet"]


def test_chunks_end_where_they_do_without_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their size, too, which what is read again does not have to the byte."""
    monkeypatch.setattr(shards.output, "GROUPS_PER_CHUNK", 99)
    sizes = [pa.Table.from_pylist(a_group(index), TRAJECTORY).nbytes for index in range(6)]
    for limit in range(sum(sizes[:4]) - 40, sum(sizes[:4]) + 40, 8):
        monkeypatch.setattr(shards.output, "CHUNK_BYTES", limit)
        path, whole = tmp_path / f"{limit}.parquet", write(tmp_path / f"whole-{limit}.parquet", range(6))
        with pytest.raises(KeyboardInterrupt), shards.Output(path, TRAJECTORY, META) as cut_off:
            for index in range(3):
                cut_off.write(a_group(index))
            raise KeyboardInterrupt
        with shards.Output(path, TRAJECTORY, META) as taken_up:
            for index in range(taken_up.done, 6):
                taken_up.write(a_group(index))
        assert path.read_bytes() == whole.read_bytes(), limit


def test_a_file_says_of_all_that_it_was_made_on(tmp_path: Path) -> None:
    def begun(path: Path, device: dict[str, Any], first: int, last: int, ends: bool = False) -> None:
        with suppress(KeyboardInterrupt), shards.Output(path, TRAJECTORY, META) as rows:
            rows.made_on(device)
            for index in range(first, last):
                rows.write(a_group(index))
            if not ends:
                raise KeyboardInterrupt

    one, other = {"name": "one"}, {"name": "other", "tensor_parallel": 2}
    for places in ((1, 3), (2, 4)):  # what was put aside, and a chunk
        path = tmp_path / f"{places[0]}.parquet"
        begun(path, one, 0, places[0])
        begun(path, other, *places)
        begun(path, one, places[1], places[1])
        begun(path, one, places[1], 5, ends=True)
        assert shards.read_metadata(path).device == {**one, "earlier": [other]}
    assert gone_on({}, one) == gone_on(one, one) == one
    assert gone_on({**other, "earlier": [one]}, {"name": "third"})["earlier"] == [one, other]


def test_what_another_run_left_is_neither_taken_up_nor_lost(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt), shards.Output(path, TRAJECTORY, META) as output:
            output.write(a_group(0))
            raise KeyboardInterrupt

    interrupted()
    other = Metadata("rollout", {"samples": 3}, 0, META.inputs, META.model, META.policy)
    said = r"what an interrupted run left in .* \(params.samples: 2 → 3\); use --force"
    with pytest.raises(UsageError, match=said), shards.Output(path, TRAJECTORY, other):
        pass
    with shards.Output(path, TRAJECTORY, META) as output:
        assert output.done == 1
    path.unlink()
    interrupted()
    with shards.Output(path, TRAJECTORY, other, force=True) as output:
        assert output.done == 0


def test_two_writers_of_one_output_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    with shards.Output(path, TRAJECTORY, META) as output:
        with pytest.raises(UsageError, match="another process is writing"), shards.Output(path, TRAJECTORY, META):
            pass
        output.write(a_group(0))
    assert indices([path]) == [0]


def test_a_disk_without_locks_is_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(EngineError, match="cannot be locked"), shards.Output(tmp_path / "r.parquet", TRAJECTORY, META):
        pass


def test_a_path_that_is_no_utf_8_is_no_parquet_file(tmp_path: Path) -> None:
    (path := tmp_path / "\udcff.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="not a Parquet file"):
        shards.schema_of(path)


def test_a_file_is_written_whole_or_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards.write_file(tmp_path / "deep/a.svg", b"first")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match=r"a\.svg: cannot be written \(No space left"):
        shards.write_file(tmp_path / "deep/a.svg", b"second")
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "deep").iterdir()] == [("a.svg", b"first")]


def test_what_is_gone_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.parquet: no such file"):
        shards.schema_of(tmp_path / "gone.parquet")


def test_parts_are_read_in_their_order_and_only_when_complete(tmp_path: Path) -> None:
    for part in range(1, 12):
        write(tmp_path / f"part-{part}-of-11.parquet", range(part - 1, part))
    assert indices([tmp_path]) == list(range(11))
    (tmp_path / "part-7-of-11.parquet").unlink()
    with pytest.raises(DataError, match="part 7 of 11 is missing"):
        indices([tmp_path])
    with pytest.raises(DataError, match="missing"):
        indices([tmp_path / "part-1-of-11.parquet"])


def test_groups_come_in_the_order_of_group_index_wherever_they_lie(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.parquet", range(4, 8)), write(tmp_path / "b.parquet", range(4))
    assert indices([one, two]) == list(range(8))
    shard = shards.Shards([one, two], "rollout", TRAJECTORY)
    assert [group[0]["group_index"] for group in shard.groups(range(2, 5))] == [2, 3, 4]


@pytest.mark.parametrize("total", [0, 1, 5, 10])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_blocks_cover_everything_once(total: int, count: int) -> None:
    blocks = [range(*shards.Part(index, count).bounds(total)) for index in range(1, count + 1)]
    assert [item for block in blocks for item in block] == list(range(total))


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ([a_group(0), a_group(1), a_group(0)], "comes twice"),
        ([a_group(0), [{**row, "group_id": "f" * 16} for row in a_group(0)]], "group_index 0 comes twice"),
        ([a_group(0)[1:]], "does not begin with its proposer row"),
        ([[a_group(0)[0], a_group(0)[2], a_group(0)[1]]], "not in order of pass and sample_index"),
        ([[{**a_group(0)[0], "role": "referee"}]], "lacks its group_index, role or sample_index"),
    ],
)
def test_shards_that_break_the_contract_are_refused(tmp_path: Path, broken: list, says: str) -> None:
    path = chain.write_shard(tmp_path / "r.parquet", broken)
    with pytest.raises(DataError, match=says):
        indices([path])


def test_a_folder_of_an_iteration_is_no_set_of_parts(tmp_path: Path) -> None:
    """The one that is meant is named; several of one stage are one table."""
    write(tmp_path / "rollouts.parquet", range(2))
    write(tmp_path / "more.parquet", range(2, 4))
    assert indices([tmp_path]) == list(range(4))
    with shards.Output(tmp_path / "scored.parquet", SCORED, replace(META, stage="score")) as scored:
        scored.write([dict.fromkeys(SCORED.names) | row for row in a_group(0)])
    with pytest.raises(DataError, match=r"files of several stages; name the one that is meant, such as .*/scored"):
        shards.Shards([tmp_path], "score", SCORED)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    one = chain.write_shard(tmp_path / "a.parquet", [a_group(0)])
    two = chain.write_shard(tmp_path / "b.parquet", [a_group(1)], step=64)
    with pytest.raises(DataError, match=r"policy.step: 0 → 64"):
        indices([one, two])


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", range(50))
    data = bytearray(path.read_bytes())
    place = data.index(b"proposer")  # inside a page
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"r\.parquet"):
        indices([path])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a parquet file", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_what_is_no_parquet_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"r\.parquet"):
        indices([path])


def test_another_stage_another_format_and_no_metadata_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="written by `propose`; this reads what `rollout` writes"):
        indices([chain.write_shard(tmp_path / "a.parquet", [a_group(0)], stage="propose")])
    with pytest.raises(DataError, match=r"is of format 1, written by 0.1.0, and .* reads format 2; make it again"):
        indices([chain.write_shard(tmp_path / "b.parquet", [a_group(0)], format=1, version="0.1.0")])
    with pytest.raises(DataError, match=r"is of format 3, written by another tool, .* install a newer ireasoner"):
        indices([chain.write_shard(tmp_path / "d.parquet", [a_group(0)], format=3)])
    with pytest.raises(DataError, match="model"):
        indices([chain.write_shard(tmp_path / "c.parquet", [a_group(0)], model=None)])
    pq.write_table(pa.table({"x": [1]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="no `ireasoner` metadata"):
        indices([tmp_path / "d.parquet"])
    table = pq.read_table(tmp_path / "a.parquet")
    metadata = {"ireasoner": table.schema.metadata[b"ireasoner"].replace(b"propose", b"rollout")}
    pq.write_table(table.drop_columns("logprobs").replace_schema_metadata(metadata), tmp_path / "e.parquet")
    with pytest.raises(DataError, match="lacks the column logprobs"):
        indices([tmp_path / "e.parquet"])


def test_wider_types_of_other_tools_are_welcome(tmp_path: Path) -> None:
    path = chain.write_shard(tmp_path / "r.parquet", [a_group(0)])
    table = pq.read_table(path)
    wide = {IMAGE: pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])}
    wide |= {pa.string(): pa.large_string(), pa.int32(): pa.int64(), pa.list_(pa.float32()): pa.list_(pa.float64())}
    schema = pa.schema([pa.field(f.name, wide.get(f.type, f.type)) for f in table.schema], table.schema.metadata)
    pq.write_table(table.cast(schema), path)
    assert indices([path]) == [0]


def test_an_output_is_reused_only_when_it_matches(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", range(1))
    assert shards.is_done(path, META, force=False)
    assert not shards.is_done(path, META, force=True)
    other = Metadata("rollout", {"samples": 5}, 0, META.inputs, META.model, META.policy)
    with pytest.raises(UsageError, match=r"params.samples: 2 → 5"):
        shards.is_done(path, other, force=False)
    changed = Metadata("rollout", META.params, 0, (InputRef("q.parquet", "11"),), META.model, META.policy)
    with pytest.raises(UsageError, match=r"inputs.q.parquet"):
        shards.is_done(path, changed, force=False)


def test_inputs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    old, new = (
        Metadata("score", {}, 0, (InputRef("r", one), InputRef("r", "bb")), META.model, META.policy)
        for one in ("aa", "cc")
    )
    assert shards.differences(old, new) == ['inputs.r: "aa" → "cc"']


def test_where_the_model_lies_makes_no_difference(tmp_path: Path) -> None:
    one, other, unknown = (
        Metadata("rollout", {}, 0, (), ModelRef(name, sha256=digest), META.policy)
        for name, digest in (("model", "aa"), ("/elsewhere/model", "aa"), ("other", None))
    )
    assert not shards.differences(one, other) and shards.differences(one, unknown)


def test_a_group_has_one_index(tmp_path: Path) -> None:
    rows = [*a_group(0)[:2], {**a_group(0)[2], "group_index": 5}]
    with pytest.raises(DataError, match="has a row with group_index 5"):
        indices([chain.write_shard(tmp_path / "r.parquet", [rows])])


def test_where_a_stage_writes(tmp_path: Path) -> None:
    file, folder = tmp_path / "in" / "questions.parquet", tmp_path / "in"
    folder.mkdir()
    assert shards.output_path(None, "rollouts", [file], None) == folder / "rollouts.parquet"
    assert shards.output_path(None, "rollouts", [folder], None) == tmp_path / "rollouts" / "part-1-of-1.parquet"
    assert shards.output_path(None, "rollouts", [file], "2/3") == folder / "rollouts/part-2-of-3.parquet"
    assert shards.output_path(Path("x"), "rollouts", [file], None) == Path("x/part-1-of-1.parquet")
    assert shards.output_path(None, "questions", [], None) == Path("questions.parquet")
    file.touch()
    (tmp_path / "settings.toml").touch()
    with pytest.raises(UsageError, match=r"settings\.toml: a file"):
        shards.output_path(tmp_path / "settings.toml", "rollouts", [file], None)
    for own in (file, folder):
        with pytest.raises(UsageError, match="is the input"):
            shards.output_path(own, "rollouts", [file, folder], None)
    with pytest.raises(UsageError, match="single file"):
        shards.output_path(Path("x.parquet"), "rollouts", [file], "1/2")


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    text = json.dumps({"format": FORMAT, "stage": "score", "model": {"name": "m"}, "policy": {"step": 0}, "seed": seed})
    with pytest.raises(DataError, match=f"its `ireasoner` metadata cannot be read .*seed is {seed}"):
        Metadata.from_json(text, "theirs.parquet")


def test_a_step_that_is_no_number_is_refused() -> None:
    given = {"format": FORMAT, "stage": "score", "model": {"name": "m"}, "policy": {"step": math.inf}}
    with pytest.raises(DataError, match="its `ireasoner` metadata cannot be read"):
        Metadata.from_json(json.dumps(given), "theirs.parquet")


def test_passes_that_are_no_parameters_are_not_read() -> None:
    params = {"rollout": {"pass": "b", "passes": {"x": 3, "a": {"temperature": 0.5}}}}
    made = Metadata("score", params, 0, (), ModelRef("m"), PolicyRef())
    assert [*made.passes] == ["a", "b"]


def test_ids_and_seeds_differ_wherever_they_should() -> None:
    pictures: tuple[list[str | None], ...] = (["a"], ["b"], [None], ["a", "b"])
    ids = {group_id(seed, step, some) for seed in (0, 1) for step in (1, 2) for some in pictures}
    assert len(ids) == 16 and all(len(group) == 16 and int(group, 16) >= 0 for group in ids)
    passes = (("proposer", None), ("solver", "answer"), ("solver", "reader"))
    seeds = {trajectory_seed(group, role, i, own) for group in ids for role, own in passes for i in range(9)}
    assert len(seeds) == 16 * 3 * 9 and all(0 <= seed < 2**63 for seed in seeds)


def test_one_long_text_in_a_list_does_not_make_a_shard_unreadable(tmp_path: Path) -> None:
    """Nobody knows from its pages how often a row repeats an entry of a dictionary: there must be none."""
    steps = [["long " * 100_000, *"abcdefg"], *[list("abcdefgh")] * 299]
    rows = [{"group_id": "a", "group_index": 0, "role": "proposer", "sample_index": 0, "steps": None}]
    rows += [{**rows[0], "role": "solver", "sample_index": place, "steps": own} for place, own in enumerate(steps)]
    path = tmp_path / "scored.parquet"
    with shards.Output(path, SCORED, Metadata("score", {}, 0, (), ModelRef("m"), PolicyRef())) as output:
        output.write(rows)
    [group] = shards.Shards([path], "score", SCORED).groups()
    assert [row["steps"] for row in group[1:]] == steps


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    """As pyarrow writes one, among rows or alone: a row group without pages, or none at all."""
    some, none = pa.table({"x": [1, 2]}), pa.table({"x": pa.array([], pa.int64())})
    for name, tables in {"none": [], "empty": [none], "between": [none, some, none]}.items():
        path = tmp_path / f"{name}.parquet"
        with pq.ParquetWriter(path, some.schema) as writer:
            for table in tables:
                writer.write_table(table)
        expected = [1, 2] if some in tables else []
        assert shards.read_table(path, some.schema)["x"].to_pylist() == expected
        assert [row["x"] for row in shards.Records([path], ["x"])] == expected
        assert list(shards.read_rows(path, ["x"], {1})) == [(1, {"x": 2})] * bool(expected)
