"""Whether two mathematical answers are the same: lists item by item, quantities by value and unit, expressions by
math-verify in a process of its own.

math-verify looks for an expression in a text and compares what it found. Here both answers must be expressions from
beginning to end. A completion can spell a power tower that no timeout inside Python interrupts, and math-verify's own
timeouts work in the main thread alone. A process can be bounded in memory, and ended.
"""

import atexit
import contextlib
import json
import select
import subprocess
import sys

from stages.errors import EngineError
from stages.parsing import answer_key
from stages.parsing.notation import plain
from stages.tasks.expressions import as_latex, is_equation, items, unit_of, value_of, without_reason

SECONDS = 10.0  # for a comparison; honest ones take milliseconds
STARTING = 120.0  # for the imports, on a busy machine
MEMORY = 4 << 30  # bytes
LONGEST = 500  # characters of an expression worth comparing

PROGRAM = """
import contextlib, json, logging, resource, sys
logging.disable(logging.CRITICAL)
with contextlib.suppress(OSError, ValueError):  # not every system bounds memory
    resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
# Not its defaults, which leave out what looks like a unit.
reading = LatexExtractionConfig(normalization_config=NormalizationConfig(True, malformed_operators=True, nits=True))
print("ready", flush=True)
def read(text):
    return parse(f"${{text}}$", [reading], fallback_mode="no_fallback", parsing_timeout=None)
def rounded(value):  # a whole number, or a fraction, too, which verify takes as they are
    with contextlib.suppress(AttributeError, TypeError, ValueError, OverflowError):
        return round(float(value), 2) if value.is_number else None
for line in sys.stdin:
    try:
        gold, given = map(read, json.loads(line))
        same = verify(gold, given, float_rounding=2, timeout_seconds=None) or any(
            rounded(one) == rounded(other) is not None for one in gold for other in given
        )
    except (Exception, MemoryError):
        same = False
    print(json.dumps(bool(same)), flush=True)
"""

_worker: "subprocess.Popen[str] | None" = None


def equivalent(gold: str, prediction: str) -> bool:
    """Whether `prediction` means what `gold` means: the same answer_key, or the same expression to two decimals.

    The order and the brackets of a list count (in a set's braces the order does not), and so do units: 8 m is not 8 cm.
    A unit that only one of them has does not, since the question may name it; and a name may stand in front: x = 8.
    What takes longer than SECONDS or more than MEMORY to compare is not equivalent.
    """
    if max(len(gold), len(prediction)) > LONGEST:
        return False
    gold, prediction = (plain(text).strip(" \n$*_`\"'").rstrip(" .") for text in (gold, prediction))
    return _same(gold, without_reason(prediction))


def _same(gold: str, prediction: str) -> bool:
    (brackets, wanted), (others, given) = items(gold), items(prediction)
    if len(wanted) != len(given) or brackets != others:
        return False
    if len(wanted) == 1:
        return _same_value(wanted[0], given[0])
    if brackets != "{}":
        return all(map(_same, wanted, given))
    for item in wanted:
        place = next((place for place, other in enumerate(given) if _same(item, other)), None)
        if place is None:
            return False
        del given[place]
    return True


def _same_value(gold: str, prediction: str) -> bool:
    if not (is_equation(gold) and is_equation(prediction)):
        values = value_of(gold), value_of(prediction)
        if None in values:
            return False
        gold, prediction = values  # type: ignore[assignment]
    (gold, unit), (prediction, other) = unit_of(gold), unit_of(prediction)
    if unit and other and unit != other:
        return False
    key = answer_key(prediction)
    if key != "" and key == answer_key(gold):
        return True
    expressions = as_latex(gold), as_latex(prediction)
    return None not in expressions and _ask(*expressions)  # type: ignore[arg-type]


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
