"""A term of the user's own, "FILE.py:FUNCTION": from a pandas DataFrame of whole groups to a number a row."""

import hashlib
import importlib.util
import math
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.contract import PROPOSER
from stages.errors import UsageError, why

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CustomTerm:
    """name: the function's. sha256: of the file. values: from a frame of whole groups, the rows of Proposer and Solver,
    to a number a row [rows], float64, finite but for NaN on Proposer rows; raises UsageError where it fails."""

    name: str
    sha256: str
    values: Callable[["pd.DataFrame"], np.ndarray]


def load(place: str) -> CustomTerm:
    """The term at `place`, "FILE.py:FUNCTION"; the file runs once, by itself: what lies beside it cannot be imported.

    Raises UsageError for a file or a function that is not there, for a file that fails, and without pandas.
    """
    file, _, name = place.rpartition(":")
    if not file or not name:
        raise UsageError(f"{place!r}: a term of your own is FILE.py:FUNCTION")
    if importlib.util.find_spec("pandas") is None:
        raise UsageError(f"{place}: a term of your own is given a pandas DataFrame; install pandas")
    try:
        source = Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{place}: {why(error)}") from error
    sha256 = hashlib.sha256(source).hexdigest()
    with _reported(place, file):
        function = _run(file, source, f"custom_term_{sha256}").get(name)
    if not callable(function):
        raise UsageError(f"{place}: the file has no function {name!r}")

    def values(frame: "pd.DataFrame") -> np.ndarray:
        with _reported(place, file):
            returned = function(frame.copy())
        return _numbers(returned, frame, place)

    return CustomTerm(name, sha256, values)


def _run(file: str, source: bytes, name: str) -> dict[str, Any]:
    """What the file defines. Exactly `source` runs, and never what a __pycache__ holds of the file."""
    loader = SourceFileLoader(name, file)
    module = importlib.util.module_from_spec(ModuleSpec(name, loader, origin=file))
    sys.modules[name] = module  # where dataclasses look for it
    exec(loader.source_to_code(source, file), module.__dict__)
    return module.__dict__


@contextmanager
def _reported(place: str, file: str) -> Iterator[None]:
    """Turns whatever the user's code raises into a line that says where in the file."""
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f", line {lines[-1]}" if lines else ""
        said = " ".join(str(error).split())
        raise UsageError(f"{place}{where}: {type(error).__name__}: {said}") from error


def _numbers(returned: Any, frame: "pd.DataFrame", place: str) -> np.ndarray:
    """The values, in the order of the frame's rows. Raises UsageError for what is not a number a row."""
    import pandas as pd

    if not isinstance(returned, (pd.Series, np.ndarray)):
        raise UsageError(f"{place}: returned {type(returned).__name__}, not a Series or an array")
    if returned.shape != (len(frame),):
        raise UsageError(f"{place}: returned values of shape {returned.shape} for {len(frame)} rows")
    if isinstance(returned, pd.Series):
        if len(frame.index.difference(returned.index)):
            raise UsageError(f"{place}: returned a Series with another index than the frame's")
        returned = returned.reindex(frame.index)  # it may have been sorted
    values = pd.Series(returned).to_numpy(dtype=object, na_value=np.nan)
    for row, (value, role) in enumerate(zip(values, frame["role"], strict=True)):
        if not _fits(value, may_be_nan=role == PROPOSER):
            raise UsageError(f"{place}: returned {reprlib.repr(value)} for row {row}, not a finite number")
    return values.astype(np.float64)


def _fits(value: Any, may_be_nan: bool) -> bool:
    """Whether it is a number, and one that float64 holds."""
    if isinstance(value, (float, np.floating)):
        return math.isfinite(value) or (may_be_nan and math.isnan(value))
    return isinstance(value, (int, np.integer)) and abs(int(value)) <= sys.float_info.max
