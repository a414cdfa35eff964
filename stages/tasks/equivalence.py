"""Whether two mathematical expressions are the same, asked of math-verify in a process of its own.

A completion can spell a power tower that no timeout inside Python interrupts, and math-verify's own timeouts work in
the main thread alone. A process can be bounded in memory, and ended.
"""

import atexit
import contextlib
import json
import re
import select
import subprocess
import sys

from stages.errors import EngineError
from stages.parsing import answer_key

SECONDS = 10.0  # for a comparison; honest ones take milliseconds
STARTING = 120.0  # for the imports, on a busy machine
MEMORY = 4 << 30  # bytes
LONGEST = 500  # characters of an expression worth comparing

PROGRAM = """
import contextlib, json, logging, resource, sys
logging.disable(logging.CRITICAL)
with contextlib.suppress(OSError, ValueError):  # not every system bounds memory
    resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
from math_verify import parse, verify
print("ready", flush=True)
def read(text):
    return parse(f"${{text}}$", parsing_timeout=None) or parse(text, parsing_timeout=None)
for line in sys.stdin:
    try:
        gold, given = map(read, json.loads(line))
        same = verify(gold, given, float_rounding=2, timeout_seconds=None)
    except (Exception, MemoryError):
        same = False
    print(json.dumps(bool(same)), flush=True)
"""

_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|°|\bdegrees?\b)")
_UNIT = re.compile(
    r"(?<=[\d}])\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*)?(?:mm|cm|dm|km|m|units?)(?:\^?\{?[23²³]\}?)?\s*\}?\s*$"
)
_worker: "subprocess.Popen[str] | None" = None


def equivalent(gold: str, prediction: str) -> bool:
    """Whether `prediction` means what `gold` means: the same answer_key, or the same expression to two decimals.

    Degree signs and units of length, area and volume at the end do not count. What takes longer than SECONDS or
    more than MEMORY to compare is not equivalent.
    """
    gold, prediction = (
        _UNIT.sub("", _DEGREES.sub("", text.strip().strip("$")).rstrip(" .")) for text in (gold, prediction)
    )
    if not gold or not prediction or max(len(gold), len(prediction)) > LONGEST:
        return False
    key = answer_key(prediction)
    return (key != "" and key == answer_key(gold)) or _ask(gold, prediction)


def _ask(gold: str, prediction: str) -> bool:
    """Raises EngineError when the process cannot be started."""
    global _worker
    if _worker is None or _worker.poll() is not None:
        close()
        _worker = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(memory=MEMORY)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        if _read_line(_worker, STARTING) != "ready":
            close()
            raise EngineError("math-verify could not be started; `python -c 'import math_verify'` shows why")
    assert _worker.stdin
    line = ""
    try:
        _worker.stdin.write(json.dumps([gold, prediction]) + "\n")
        _worker.stdin.flush()
        line = _read_line(_worker, SECONDS)
    except BrokenPipeError:
        pass
    finally:
        if not line:  # whatever it was about to say must not answer the next question
            close()
    return line == "true"


def _read_line(worker: "subprocess.Popen[str]", seconds: float) -> str:
    """The next line the process writes, empty when it writes none in time."""
    assert worker.stdout
    ready, _, _ = select.select([worker.stdout], [], [], seconds)
    return worker.stdout.readline().strip() if ready else ""


def close() -> None:
    """Ends the process, if there is one; the next comparison starts another."""
    global _worker
    if _worker is not None:
        _worker.kill()
        with contextlib.suppress(OSError):  # of a pipe that broke
            _worker.communicate()
        _worker = None


atexit.register(close)
