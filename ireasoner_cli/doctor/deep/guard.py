"""A step that may fail in any way."""

import time
from collections.abc import Callable

from ireasoner_cli.doctor.finding import Finding, fail


def guarded(about: str, step: Callable[[], Finding]) -> Finding:
    """The step's finding, with its seconds; of one that raises, a failure with the reason."""
    started = time.perf_counter()
    try:
        found = step()
    except Exception as error:  # whatever it is, the next step says something else
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        return fail(about, f"{type(error).__name__}: {reason}", "please send this line, and what `doctor` says above")
    found.figures["seconds"] = round(time.perf_counter() - started, 2)
    return found
