"""What an engine's processes print reaches nobody who did not ask, and yet says why one failed."""

import os
import subprocess
import sys
import time

import pytest

from stages.sampling.engine_log import KEPT, EngineLog, message

POINTING = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
# As vLLM prints a failure in a worker: first the reason, then what only points to it.
PRINTED = """
(Worker pid=7) ERROR 01-01 00:00:00 [multiproc_executor.py:1] Traceback (most recent call last):
(Worker pid=7) ERROR 01-01 00:00:00 [multiproc_executor.py:1] ValueError: Free memory on device is less than desired.\r
Process EngineCore:
Traceback (most recent call last):
Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
"""


def print_as_a_child(log: EngineLog, text: str) -> None:
    with log.of_children():
        print("from this process")
        code = f"import sys; print('a result?'); print({text!r}, file=sys.stderr)"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_printed_is_kept_and_gives_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    log = EngineLog(shown=False)
    print_as_a_child(log, PRINTED)
    print("a result")
    os.write(2, b"a message\n")
    assert capfd.readouterr() == ("a result\n", "from this process\na message\n")
    assert log.reason(POINTING) == "Free memory on device is less than desired."
    assert log.reason(ValueError("The prompt is too long.\nAnd more.")) == "The prompt is too long."


def test_what_is_shown_is_never_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    log = EngineLog(shown=True)
    print_as_a_child(log, "a line")
    assert capfd.readouterr() == ("", "from this process\na result?\na line\n")
    assert log.reason(POINTING) == "what it printed is above"


def test_an_engine_that_is_killed_says_nothing() -> None:
    assert "the system kills" in EngineLog(shown=False).reason(POINTING)


def test_a_process_that_outlives_the_start_still_prints_into_the_log() -> None:
    log = EngineLog(shown=False)
    with log.of_children():
        code = "input(); raise MemoryError('later')"
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    process.communicate(b"\n")
    assert log.reason(POINTING) == "later"


def test_the_log_does_not_grow_without_bound() -> None:
    """An engine that prints for days, and then fails."""
    log = EngineLog(shown=False)
    with log.of_children():
        code = "for line in iter(input, ''): print(line, flush=True)\nraise MemoryError('in the end')"
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdin is not None and log._kept is not None
    sizes = []
    for _ in range(40):
        process.stdin.write(b"a complaint of this request\n" * 1000)
        process.stdin.flush()
        time.sleep(0.01)
        log.trim()
        sizes.append(os.fstat(log._kept.fileno()).st_size)
    process.communicate(b"\n")
    assert max(sizes) <= 3 * KEPT < 40 * 1000 * len(b"a complaint of this request\n")
    assert log.reason(POINTING) == "in the end"


def test_a_validation_error_says_the_problem_rather_than_how_many_there_are() -> None:
    pytest.importorskip("pydantic")
    from pydantic import BaseModel, ValidationError

    class Settings(BaseModel):
        length: int

    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({"length": "long"})
    assert message(raised.value).startswith("Input should be a valid integer")
    assert message(ValueError()) == "ValueError"
