"""Several workers: the files of one, whatever becomes of them."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ireasoner_cli.work import Work
from ireasoner_cli.workers import crew as crews
from ireasoner_cli.workers import staff
from ireasoner_cli.workers.answer import JOINED, SLEEP, Answer, Words
from ireasoner_cli.workers.crew import DEATHS, Crew
from ireasoner_cli.workers.processes import Processes
from ireasoner_cli.workers.worker import Worker
from stages import errors, shards
from stages.errors import DataError, EngineError, MadeDifferently, StageError, UsageError
from stages.progress import SILENT
from stages.result import Result
from tests import chain, test_run
from tests.benchmarks import workers as cost
from tests.test_run import call, run

world = test_run.world
ROOT = Path(__file__).parent.parent
ASKED = ("--benchmark", "benchmark.parquet", "--eval-every", 1)


@pytest.fixture(autouse=True)
def own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are processes: they run the code that is tested."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def left_behind(folder: Path) -> list[int]:
    """The processes of workers that are still at work in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (
                b"ireasoner_cli.workers.worker" in (entry / "cmdline").read_bytes()
                and (entry / "cwd").resolve() == folder
            ):
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


def wait_until(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------ the same files


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several ranks the last digits of a policy are others than of one."""
    monkeypatch.setenv("IREASONER_UPDATE_GROUPS_PER_STEP", "1")


@pytest.mark.usefixtures("one_rank")
def test_the_files_are_those_of_one_worker(world: Path) -> None:
    assert run(*ASKED, out="one").exit_code == 0
    done = run(*ASKED, "--workers", 2, "--json", out="two")
    assert done.exit_code == 0, done.output
    assert chain.file_bytes(Path("two")) == chain.file_bytes(Path("one"))
    assert json.loads(done.stdout)["best"].startswith("two/it000")
    assert done.stderr.count("update uses 1 of 2 workers; [update] groups-per-step = 2 uses all") == 1
    assert not left_behind(world)

    words = ("eval", "benchmark.parquet", "--policy", "one/it0001/policy", "--samples", 2)
    assert call(*words, "--out", "alone.parquet").exit_code == 0
    several = call(*words, "--out", "several.parquet", "--workers", 3)
    assert several.exit_code == 0, several.output
    assert Path("several.parquet").read_bytes() == Path("alone.parquet").read_bytes()
    assert "up to date" not in several.stderr
    again = call(*words, "--out", "several.parquet", "--workers", 2)
    assert again.exit_code == 0 and "up to date" in again.stderr and again.stdout == several.stdout
    other = call(*words, "--temperature", 0.5, "--out", "several.parquet", "--workers", 2)
    assert other.exit_code == 2 and other.stderr.count("use --force") == 1, other.stderr
    assert call(*words, "--temperature", 0.5, "--out", "several.parquet", "--workers", 2, "--force").exit_code == 0
    assert chain.metadata(Path("several.parquet"))["params"]["temperature"] == 0.5
    assert not [entry for entry in world.iterdir() if entry.name.startswith(".")]


@pytest.mark.usefixtures("one_rank")
def test_a_run_goes_on_with_another_number(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two parts one is there, and half of what a single process would have written."""
    assert run(out="one", iterations=1).exit_code == 0
    shape = Path("one/it0001")
    for count in (1, 3):
        it = Path(f"on-{count}/it0001")
        it.mkdir(parents=True)
        (it / "questions.parquet").write_bytes((shape / "questions.parquet").read_bytes())
        parts = shards.parts_directory(it / "rollouts.parquet")
        assert call("rollout", it / "questions.parquet", "--shard", "1/2", "--out", parts).exit_code == 0
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("stages.rollout._count", interrupted_after(2))
            from stages.parameters import Call
            from stages.parameters.rollout import RolloutParams
            from stages.rollout import rollout

            rollout([it / "questions.parquet"], RolloutParams(samples=3, sampling=chain.fake(max_tokens=256)), Call())
        assert list(shards.partial_directory(it / "rollouts.parquet").glob("*.parquet"))
        done = run("--workers", count, out=f"on-{count}", iterations=1)
        assert done.exit_code == 0, done.output
        assert chain.file_bytes(Path(f"on-{count}")) == chain.file_bytes(Path("one"))


@pytest.mark.usefixtures("one_rank")
def test_other_settings_are_refused_before_anything_is_sampled(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leave nothing that would be in the way of the old ones."""
    with monkeypatch.context() as patch:
        patch.setattr("stages.rollout._count", interrupted_after(2))
        assert run(out="one", iterations=1).exit_code == 130
    it = Path("one/it0001")
    with monkeypatch.context() as patch:
        patch.setenv("IREASONER_ROLLOUT_TEMPERATURE", "0.5")
        refused = run("--workers", 2, out="one", iterations=1)
    assert refused.exit_code == 2 and "was made differently" in " ".join(refused.stderr.split()), refused.output
    assert not shards.parts_directory(it / "rollouts.parquet").exists()
    assert run("--workers", 2, out="one", iterations=1).exit_code == 0
    assert chain.metadata(it / "rollouts.parquet")["params"]["temperature"] == 1.0


def interrupted_after(groups: int) -> Callable[..., None]:
    """What `rollout` counts with, till so many groups are done."""
    from stages.rollout import _count

    left = iter(range(groups))

    def count(*given: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        _count(*given)

    return count


def test_what_is_wrong_is_said_as_one_process_says_it(world: Path) -> None:
    for words in (("eval", "nowhere.parquet"), ("eval", "benchmark.parquet", "--policy", "pool")):
        alone, several = call(*words), call(*words, "--workers", 2)
        assert (several.exit_code, several.stderr) == (alone.exit_code, alone.stderr) and alone.exit_code in (2, 3)
    assert call("eval", "benchmark.parquet", "--workers", 0).exit_code == 2
    assert not left_behind(world)


def test_words_can_be_typed_to_a_worker(world: Path) -> None:
    assert call("propose", "--images", "pool", "--out", "questions.parquet").exit_code == 0
    words = ["rollout", "--shard", "1/2", "--out", "parts", "--", "questions.parquet"]
    told = subprocess.run(
        [sys.executable, "-P", "-m", "ireasoner_cli.workers.worker"],
        input=json.dumps(words) + "\n" + json.dumps([*words[:-1], "gone.parquet"]) + "\n",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = [Answer(**json.loads(line)) for line in told.stdout.splitlines()]
    assert answers[0] == Answer() and Path("parts/part-1-of-2.parquet").is_file()
    assert answers[1].error == "UsageError" and "gone.parquet" in answers[1].message


@pytest.mark.parametrize(
    "error",
    [UsageError("a"), DataError("b"), EngineError("c"), errors.BeingWritten("d"), MadeDifferently("e was made")],
)
def test_an_error_is_the_same_where_it_comes_from_another_process(error: StageError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    told = Answer(type(error).__name__, str(error.args[0])).exception()
    for other in (copy, told):
        assert (type(other), str(other), other.exit_code) == (type(error), str(error), error.exit_code)


# ------------------------------------------------------------------------------------------------ who gets which GPU


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staff, "_gpus", lambda: [])
    assert staff._devices(None, 2) == [None] and staff._devices(3, 1) == [None] * 3
    monkeypatch.setattr(staff, "_gpus", lambda: ["0", "1", "GPU-7f", "3", "4"])
    assert staff._devices(None, 1) == ["0", "1", "GPU-7f", "3", "4"]
    assert staff._devices(None, 2) == ["0,1", "GPU-7f,3"] and staff._devices(2, 1) == ["0", "1"]
    assert len(staff._devices(None, 8)) == 1  # too few for one: the engine says so
    with pytest.raises(UsageError, match="3 workers of 2 GPUs each, and 5 are there"):
        staff._devices(3, 2)


def test_a_worker_sees_its_own_gpus_alone(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = world / "seen"
    patched(monkeypatch, world, f"open({str(seen)!r}, 'a').write(os.environ['CUDA_VISIBLE_DEVICES'] + ';')")
    assert call("propose", "--images", "pool", "--out", "questions.parquet").exit_code == 0
    carrier = Processes(["0,1", "2,3"])
    with closing(carrier) as crew:
        crew.run([["rollout", "--shard", f"{i}/2", "--out", "parts", "--", "questions.parquet"] for i in (1, 2)])
    assert set(seen.read_text().split(";")) == {"", "0,1", "2,3"}


# ------------------------------------------------------------------------------------------------ who gets which words


@dataclass
class Script:
    """A carrier that answers as it is told to; `told` is who was given what, `ended` whose processes were ended."""

    answers: dict[str, list[Answer]]
    size: int = 2
    told: list[tuple[int, Words]] = field(default_factory=list)
    busy: deque[tuple[int, Words]] = field(default_factory=deque)
    ended: list[int] = field(default_factory=list)

    def begin(self, worker: int, words: Words) -> None:
        assert worker not in [each for each, _ in self.busy]
        self.told.append((worker, words))
        self.busy.append((worker, words))

    def next(self) -> tuple[int, Answer]:
        worker, words = self.busy.popleft()
        left = self.answers.get(next(word for word in words if "=" not in word), [])
        return worker, left.pop(0) if left else Answer()

    def address(self, worker: int) -> tuple[str, int]:
        return "here", 1

    def end(self, worker: int) -> None:
        self.ended.append(worker)
        self.busy = deque(each for each in self.busy if each[0] != worker)

    def close(self) -> None:
        pass


class closing:
    """The crew of a carrier, which is closed."""

    def __init__(self, carrier: crews.Carrier) -> None:
        self._carrier = carrier

    def __enter__(self) -> Crew:
        return Crew(self._carrier)

    def __exit__(self, *error: object) -> None:
        self._carrier.close()


LOST = Answer("EngineError", "it was lost", died=True)
LATER = Answer("BeingWritten", "another process is writing it", later=True)


def test_words_go_to_another_worker_where_one_is_lost() -> None:
    carrier, done = Script({"b": [LOST, LOST]}), list[int]()
    Crew(carrier).run([["a"], ["b"], ["c"]], done.append)
    assert sum(done) == 3
    assert [words for _, words in carrier.told].count(("b",)) == 3
    assert len({worker for worker, words in carrier.told if words == ("b",)}) == 2


def test_three_deaths_over_the_same_words_stop_it_with_what_the_stage_said() -> None:
    carrier = Script({"b": [LOST] * DEATHS, "c": [LOST] * (DEATHS - 1)})
    with pytest.raises(EngineError, match="it was lost; 3 times, at `ireasoner b`"):
        Crew(carrier).run([["a"], ["b"], ["c"]])


def test_what_another_process_writes_still_is_asked_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(crews.time, "sleep", waited.append)
    Crew(Script({"a": [LATER] * 100})).run([["a"], ["b"]])
    assert len(waited) == 100
    with pytest.raises(errors.BeingWritten):
        Crew(Script({"a": [LATER] * 1000})).run([["a"], ["b"]])


def test_what_is_wrong_with_the_words_is_not_asked_again() -> None:
    carrier = Script({"a": [Answer("DataError", "torn")]})
    with pytest.raises(DataError, match="torn"):
        Crew(carrier).run([["a"], ["b"], ["c"]])
    assert [words for _, words in carrier.told] == [("a",), ("b",)]


def test_who_has_had_words_is_put_to_sleep_once() -> None:
    carrier = Script({"sleep": [LOST]}, size=3)
    crew = Crew(carrier)
    crew.run([["a"], ["b"]])
    for _ in range(2):
        crew.sleep()
    assert [words for _, words in carrier.told].count(SLEEP) == 2
    crew.run([["c"]])
    assert not carrier.busy


# ------------------------------------------------------------------------------------------------ who learn together


def ranks(carrier: Script, words: str = "learn") -> list[str]:
    """The variables of whoever was given `words`."""
    return [" ".join(given[:-1]) for _, given in carrier.told if given[-1] == words]


def test_ranks_are_the_first_workers_and_are_told_where_they_meet() -> None:
    carrier = Script({"learn": [Answer(said=["of the first"]), Answer(said=["of the second"])]}, size=3)
    assert Crew(carrier).start(["learn"], 2)() == ["of the first"] and not carrier.ended
    assert ranks(carrier) == [f"RANK={rank} WORLD_SIZE=2 MASTER_ADDR=here MASTER_PORT=1" for rank in range(2)]
    Crew(carrier).start(["alone"], 1)()
    assert ranks(carrier, "alone") == [""]


def test_where_a_rank_is_lost_all_are_ended_and_begin_again() -> None:
    carrier = Script({"learn": [Answer(), LOST]}, size=3)
    Crew(carrier).start(["learn"], 3)()
    assert carrier.ended == [0, 1, 2] and len(ranks(carrier)) == 6 and not carrier.busy
    with pytest.raises(EngineError, match="it was lost; 3 times, at `ireasoner learn`"):
        Crew(Script({"learn": [Answer(), LOST] * DEATHS})).start(["learn"], 2)()
    wrong = Script({"learn": [Answer(), Answer("DataError", "torn")]}, size=3)
    with pytest.raises(DataError, match="torn"):
        Crew(wrong).start(["learn"], 3)()
    assert not wrong.busy  # nobody waits for who has failed


def test_a_group_is_made_anew_where_one_of_it_was_lost_or_another_number_learns() -> None:
    carrier = Script({}, size=3)
    crew = Crew(carrier)
    crew.start(["learn"], 2)()
    crew.start(["learn"], 2)()
    crew.start(["alone"], 1)()
    assert [JOINED in given for given in ranks(carrier)] == [False, False, True, True] and not carrier.ended
    carrier.answers["learn"] = [Answer(), LOST]  # as one does that was not there when they met
    crew.start(["learn"], 2)()
    assert carrier.ended == [0, 1]
    assert [JOINED in given for given in ranks(carrier)[4:]] == [True, True, False, False]
    crew.start(["learn"], 3)()
    crew.start(["learn"], 3)()
    assert carrier.ended == [0, 1, 0, 1]


@pytest.mark.parametrize("gpu", [True, False])
def test_a_rank_stays_among_the_others_but_for_a_cpu(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """There an engine of vLLM's in the same process has torch's one group when there is nothing to learn."""
    done: list[str | None] = []

    class Ranks:
        def __enter__(self) -> "Ranks":
            done.append("joins")
            return self

        def __exit__(self, *error: object) -> None:
            done.append("leaves")

    def stage(**given: Any) -> Result:
        given["progress"].say("a line")
        done.append(os.environ.get("RANK"))
        return Result(Path("policy"))

    monkeypatch.setattr("stages.learning.ranks.Ranks", Ranks)
    monkeypatch.setattr("stages.models.device.gpu_is_used", lambda: gpu)
    monkeypatch.setattr("ireasoner_cli.workers.worker.read_words", lambda *asked: Work(stage, print))
    worker = Worker()
    for _ in range(2):
        assert worker.run(["RANK=1", "WORLD_SIZE=2", "update"]) == Answer(said=["a line"])
    assert worker.run(["update"]) == Answer(said=["a line"])
    assert done == (["joins", "1", "1", None] if gpu else [*["joins", "1", "leaves"] * 2, None])


def test_who_stands_in_the_place_of_a_lost_rank_does_not_wait_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have met and would not come again; wherever the one before it was lost, at words or between them."""
    answer = Worker().run(["RANK=1", "WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=1", JOINED, "update", "x"])
    assert answer.died and "a rank was lost since the others met" in answer.message


def test_a_rank_that_fails_unexpectedly_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another may be gone; by itself it has only failed."""

    def stage(**given: Any) -> Result:
        raise RuntimeError("Connection closed by peer\nand where")

    monkeypatch.setattr("ireasoner_cli.workers.worker.read_words", lambda *asked: Work(stage, print))
    monkeypatch.setattr(Worker, "_as_rank", lambda self, variables: nullcontext())
    answers = [Worker().run([*variables, "update"]) for variables in (["RANK=1"], [])]
    assert [answer.died for answer in answers] == [True, False]
    assert all(answer.message.startswith("RuntimeError: Connection closed by peer;") for answer in answers)


# ------------------------------------------------------------------------------------------------ who is lost


def patched(
    monkeypatch: pytest.MonkeyPatch, folder: Path, before_a_sample: str, program: str = "ireasoner_cli.workers.worker"
) -> None:
    """Has workers, processes with `program` in their command, do something before each sample."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        f"if {program!r} in ' '.join(sys.orig_argv):\n"
        "    import random\n"
        "    def Random(seed, Real=random.Random):\n"
        f"        {before_a_sample}\n"
        "        return Real(seed)\n"
        "    import stages.sampling.fake as fake\n"
        "    from types import SimpleNamespace\n"
        "    fake.random = SimpleNamespace(Random=Random)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")


DIES = (
    "mine = sorted(Path('broken').glob('*'))\n"
    "        if mine and int(mine[0].name) < 5:\n"
    "            mine[0].unlink()\n"
    "            from stages.errors import EngineError\n"
    "            raise EngineError('vLLM failed while sampling (CUDA error)')"
)


def test_an_engine_that_fails_is_replaced_with_its_worker(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert call("eval", "benchmark.parquet", "--out", "alone.parquet").exit_code == 0
    patched(monkeypatch, world, DIES)
    Path("broken").mkdir()
    Path("broken/0").touch()
    several = call("eval", "benchmark.parquet", "--out", "several.parquet", "--workers", 2)
    assert several.exit_code == 0, several.output
    assert not list(Path("broken").iterdir())
    assert Path("several.parquet").read_bytes() == Path("alone.parquet").read_bytes()
    for number in range(5):  # of two parts one meets three of them
        Path(f"broken/{number}").touch()
    stopped = call("eval", "benchmark.parquet", "--out", "other.parquet", "--workers", 2)
    assert stopped.exit_code == 4 and "CUDA error" in stopped.stderr and "3 times" in stopped.stderr
    assert not Path("other.parquet").exists() and not left_behind(world)


def test_two_crews_do_not_make_parts_of_the_same_output(tmp_path: Path) -> None:
    """Those of another number would be in each other's way."""
    output, carrier = tmp_path / "eval.parquet", Script({})
    part = shards.parts_directory(output) / "part-1-of-3.parquet"
    part.parent.mkdir()
    part.touch()
    together = staff.Together(Crew(carrier))
    with shards.writing(part.parent, force=True), pytest.raises(errors.BeingWritten):
        together.make(Work(lambda **_: Result(output), print), lambda **_: ["eval"], output, SILENT)
    assert part.exists() and not carrier.told


def test_an_engine_that_does_not_start_is_not_tried_again(world: Path) -> None:
    """It is no death: whoever asks for what cannot be had is told so at once."""
    worker = Worker()
    answer = worker.run(["eval", "--batch-invariant", "--shard", "1/2", "--out", "parts", "--", "benchmark.parquet"])
    assert answer.error == "UsageError" and not answer.died


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "ireasoner_cli", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


SLOW = "time.sleep(0.01)"
HELD = "mine = f'seen-{os.getpid()}'; open(mine, 'a').write('.'); time.sleep(60 * (os.path.getsize(mine) == 50))"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nobody_is_left_and_nothing_is_lost(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    words = ("eval", "benchmark.parquet", "--samples", 20)
    assert call(*words, "--out", "alone.parquet").exit_code == 0
    patched(monkeypatch, world, HELD)
    driver = start(*words, "--out", "several.parquet", "--workers", 2)
    # Of its four questions each has answered two, and is at the third.
    wait_until(lambda: sum(file.stat().st_size == 50 for file in world.glob("seen-*")) == 2)
    os.kill(driver.pid, number)
    said = driver.communicate(timeout=60)[1]
    wait_until(lambda: not left_behind(world), 10)
    if number == signal.SIGTERM:
        assert driver.returncode == 130 and "run the same command again" in said and "Traceback" not in said
        parts = shards.parts_directory(Path("several.parquet"))
        assert len(list(parts.glob(".*.partial/aside.parquet"))) == 2
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = call(*words, "--out", "several.parquet", "--workers", 2)
    assert done.exit_code == 0, done.output
    assert Path("several.parquet").read_bytes() == Path("alone.parquet").read_bytes()


def test_a_worker_that_is_killed_is_replaced(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("eval", "benchmark.parquet", "--samples", 20, "--out", "alone.parquet").exit_code == 0
    patched(monkeypatch, world, SLOW)
    driver = start("eval", "benchmark.parquet", "--samples", 20, "--out", "several.parquet", "--workers", 2)
    for _ in range(2):
        wait_until(lambda: len(left_behind(world)) == 2)
        os.kill(left_behind(world)[0], signal.SIGKILL)
        time.sleep(0.2)
    assert driver.wait(timeout=60) == 0, driver.communicate()
    assert Path("several.parquet").read_bytes() == Path("alone.parquet").read_bytes()
    assert not left_behind(world)


def test_killed_at_random_moments_it_ends_as_if_nobody_had_been() -> None:
    """Whoever samples or learns, an engine or the driver: the campaign that `make campaign-workers` runs at length."""
    command = [sys.executable, "-m", "tests.campaigns.workers", "--kills", "6", "--groups", "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)
    assert sum(count for name, count in counts.items() if name.endswith("_killed")) >= 6
    assert counts["left"] == counts["different"] == counts["failed"] == 0 < counts["runs"]


def test_what_workers_cost_over_a_shell_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m tests.benchmarks.workers`, with next to nothing to do."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cost.main(groups=2, calls=2)
    assert re.search(r"once: -?[\d.]+ s of CPU; a call: [\d.]+ ms$", capsys.readouterr().out.strip())
