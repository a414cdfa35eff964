"""Killed, interrupted, and two at a time: nothing is torn, nothing is lost, and somebody says so."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import interrupts, shards
from stages.contract import TRAJECTORY
from stages.errors import UsageError
from stages.job import Writing
from stages.learning import checkpoints
from stages.learning.learner import Learner, UpdateParams
from stages.parameters import Call
from stages.parameters.propose import ProposeParams
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.policy import PolicyState
from stages.propose import propose
from stages.rollout import rollout
from stages.score import score
from stages.update import update
from tests import chain
from tests.chain import fake
from tests.test_shards import META, a_group

PARAMS = UpdateParams(lr=1e-3)


def test_killed_at_random_moments_every_stage_ends_as_if_it_had_not_been() -> None:
    """The campaign that `make campaign-kill` runs at length."""
    command = [sys.executable, "-m", "tests.campaigns.kill", "--kills", "6", "--groups", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["output"].split(".")[0] for result in results] == [
        "questions", "rollouts", "scored", "policy", "eval"
    ]  # fmt: skip
    for result in results:
        assert result["kills"] == 6 and result["runs_to_the_end"] > 0
        assert result["torn"] == result["different"] == result["failed"] == 0


@pytest.fixture
def scored(workdir: Path) -> Path:
    propose(Path("pool"), ProposeParams(groups=8, sampling=fake(max_tokens=128)), Call(model="model"))
    rollout([Path("questions.parquet")], RolloutParams(sampling=fake()))
    return score([Path("rollouts.parquet")], ScoreParams(no_warmup=True)).path


class Listener:
    """A Progress that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __getattr__(self, name: str) -> Any:
        from stages.progress import SILENT

        return getattr(SILENT, name)

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def signals_interrupt() -> Any:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # SIGINT, too: what is started in the background is started with it ignored.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_update_keeps_the_step_it_is_in(
    scored: Path, monkeypatch: pytest.MonkeyPatch, signals_interrupt: None, number: int
) -> None:
    update([scored], PARAMS, Call(out=Path("whole")))
    step, taken = Learner.step, 0

    def interrupted(self: Learner, *arguments: Any) -> dict[str, Any]:
        nonlocal taken
        taken += 1
        if taken == 3:
            signal.raise_signal(number)
        return step(self, *arguments)

    monkeypatch.setattr(Learner, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update([scored], PARAMS, Call(out=Path("again")))
    assert taken == 3 and not Path("again").exists()
    listener = Listener()
    update([scored], PARAMS, Call(out=Path("again")), progress=listener)
    assert any("taken up at step" in said for said in listener.said)
    assert taken == len(chain.rows(Path("whole/metrics.parquet")))  # no step was taken twice
    assert chain.file_bytes(Path("again")) == chain.file_bytes(Path("whole"))


def test_an_interruption_after_the_last_step_is_one(
    scored: Path, monkeypatch: pytest.MonkeyPatch, signals_interrupt: None
) -> None:
    """The policy is there, and who comes after, such as the next iteration of a run, does not begin."""
    save = checkpoints.save

    def interrupted(learner: Learner, partial: Path, state: PolicyState, metrics: list[dict[str, Any]]) -> Path:
        if state.step == 8:
            monkeypatch.setattr(checkpoints, "save", save)
            signal.raise_signal(signal.SIGTERM)
        return save(learner, partial, state, metrics)

    monkeypatch.setattr(checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update([scored], PARAMS, checkpoint_seconds=0)
    assert update([scored], PARAMS).reused


def test_the_second_interruption_does_not_wait(signals_interrupt: None) -> None:
    notices: list[str] = []
    with pytest.raises(KeyboardInterrupt), interrupts.held_back(lambda: notices.append("stopping")) as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked() and notices == ["stopping"]
        os.kill(os.getpid(), signal.SIGINT)
    with interrupts.held_back(lambda: None) as asked:
        assert not asked()


def test_interruptions_are_the_main_threads_business() -> None:
    def elsewhere() -> None:
        with interrupts.held_back(lambda: None) as asked:
            answers.append(asked())

    answers: list[bool] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert answers == [False]


def test_an_update_left_by_others_is_not_given_up_without_force(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Learner.step

    def dies(self: Learner, *arguments: Any) -> dict[str, Any]:
        if self.roles["solver"].updates == 2:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(Learner, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        update([scored], PARAMS, checkpoint_seconds=0)
    monkeypatch.setattr(Learner, "step", step)
    other = UpdateParams(lr=2e-3)
    with pytest.raises(UsageError, match=r"interrupted update left .* \(params.lr: 0.001 → 0.002\); use --force"):
        update([scored], other)
    assert list(Path(".policy.partial").glob("step-*"))
    update([scored], other, Call(force=True))
    assert not Path(".policy.partial").exists()


def test_groups_put_aside_are_taken_up_and_said_so(tmp_path: Path) -> None:
    def write(stop: int | None = None) -> list[str]:
        listener = Listener()
        with shards.Output(tmp_path / "r.parquet", TRAJECTORY, META, progress=listener) as output:
            for index in range(output.done, 5):
                if index == stop:
                    raise KeyboardInterrupt
                output.write(a_group(index))
        return listener.said

    for stop in (1, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            write(stop)
    [said] = write()
    assert "taken up where it stopped" in said
    whole = [row for index in range(5) for row in a_group(index)]
    assert [row["group_index"] for row in chain.rows(tmp_path / "r.parquet")] == [row["group_index"] for row in whole]


def test_a_resumed_stage_sums_up_what_it_took_up(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.shards.output.GROUPS_PER_CHUNK", 3)
    monkeypatch.setattr("stages.score.GROUPS_PER_BLOCK", 3)
    Path("pool/torn.png").write_bytes(b"no picture")
    asked = ProposeParams(groups=9, sampling=fake(max_tokens=24))  # now and then cut short
    stages: dict[str, Callable[[Path], Any]] = {
        "questions": lambda out: propose(Path("pool"), asked, Call(model="model", out=out)),
        "rollouts": lambda out: rollout([Path("questions.parquet")], RolloutParams(sampling=fake()), Call(out=out)),
        "scored": lambda out: score([Path("rollouts.parquet")], ScoreParams(no_warmup=True), Call(out=out)),
    }
    whole = {name: stage(Path(f"{name}.parquet")).summary for name, stage in stages.items()}
    for name, stage in stages.items():
        out = Path(f"again/{name}.parquet")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Writing, "write", _dying_at(2 if name == "scored" else 5))
            stage(out)
        assert list(shards.partial_directory(out).glob("chunk-*"))
        assert stage(out).summary == pytest.approx(whole[name]), name


def _dying_at(number: int) -> Callable[..., None]:
    """`Writing.write`, interrupted when it is called for the `number`-th time."""
    write, written = Writing.write, 0

    def dies(self: Writing, *given: Any) -> None:
        nonlocal written
        written += 1
        if written == number:
            raise KeyboardInterrupt
        write(self, *given)

    return dies


def test_a_writer_that_comes_too_late_says_so(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    assert not shards.is_done(path, META, force=False)
    with shards.Output(path, TRAJECTORY, META) as output:  # another process, meanwhile
        output.write(a_group(0))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="another process has just written it"), shards.Output(path, TRAJECTORY, META):
        pass
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["r.parquet"]


def test_finding_an_output_done_takes_nothing_from_who_is_replacing_it(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    with shards.Output(path, TRAJECTORY, META) as output:
        output.write(a_group(0))
    with shards.Output(path, TRAJECTORY, META, force=True) as output:
        assert shards.is_done(path, META, force=False)
        output.write(a_group(1))
    assert chain.rows(path)[0]["group_index"] == 1


def test_two_processes_one_output(workdir: Path) -> None:
    command = ["-m", "ireasoner_cli", "propose", "--images", "pool", "--model", "model", "--sampler", "fake"]
    start: Callable[[], subprocess.Popen[str]] = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, *command, "--groups", "3000"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    both = [start(), start()]
    outputs = [process.communicate(timeout=120) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 2], [0, 0])  # 0 twice where one had ended before the other looked
    for (_, stderr), process in zip(outputs, both, strict=True):
        said = "another process" if process.returncode else ""
        assert said in stderr and "Traceback" not in stderr
    assert len(chain.rows(Path("questions.parquet"))) == 3000


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_library_that_swallows_interruptions_does_not_swallow_this_one(number: signal.Signals) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts.not_swallowed():
            try:
                os.kill(os.getpid(), number)
            except KeyboardInterrupt:
                pytest.fail("swallowed")
        assert signal.getsignal(number) is interrupt
        with pytest.raises(KeyboardInterrupt), interrupts.not_swallowed():
            try:
                os.kill(os.getpid(), number)
            except BaseException as error:
                raise RuntimeError("the engine did not start") from error
        assert signal.getsignal(number) is interrupt
        with pytest.raises(RuntimeError), interrupts.not_swallowed():
            raise RuntimeError
    finally:
        signal.signal(number, before)
