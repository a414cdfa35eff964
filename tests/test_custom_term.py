"""A term of the user's own: what it is given, what it may return, and what is said of one that fails."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.errors import UsageError
from stages.rewards import custom

FRAME = pd.DataFrame(
    {"role": ["proposer", "solver", "solver", "proposer", "solver"], "completion": ["q", "a", "bb", None, "cccc"]}
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "own.py"


def load(own: Path, body: str) -> custom.CustomTerm:
    own.write_text(f"import numpy as np\nimport pandas as pd\ndef length(rows):\n    {body}\n")
    return custom.load("own.py:length")


def test_a_function_of_the_frame_is_a_term(own: Path) -> None:
    before = list(sys.path)
    term = load(own, "rows['n'] = rows['completion'].str.len(); return rows['n'].where(rows['role'] == 'solver')")
    assert (term.name, term.sha256) == ("length", hashlib.sha256(own.read_bytes()).hexdigest())
    values = term.values(FRAME)
    assert values.dtype == np.float64 and values == pytest.approx([np.nan, 1, 2, np.nan, 4], nan_ok=True)
    assert list(FRAME.columns) == ["role", "completion"]  # what the function does to its frame is its own
    assert sys.path == before and not (own.parent / "__pycache__").exists()


@pytest.mark.parametrize(
    "body",
    [
        "return np.array([0, 1, 2, 3, 4])",
        "return pd.Series([0, 1, 2, 3, 4], dtype='Int64')",
        "return pd.Series([4, 3, 2, 1, 0], index=[4, 3, 2, 1, 0])",  # the index says which is which
        "return np.array([0, True, 2.0, np.float32(3), np.int8(4)], dtype=object)",
    ],
)
def test_numbers_of_any_kind_will_do(own: Path, body: str) -> None:
    assert load(own, body).values(FRAME).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 1.0", "returned float, not a Series or an array"),
        ("return rows", "returned DataFrame, not a Series or an array"),
        ("pass", "returned NoneType, not a Series or an array"),
        ("return np.ones(4)", "returned values of shape (4,) for 5 rows"),
        ("return np.ones((5, 1))", "returned values of shape (5, 1) for 5 rows"),
        ("return pd.Series(np.ones(5), index=list('abcde'))", "returned a Series with another index than the frame's"),
        ("return rows['completion']", "returned 'q' for row 0, not a finite number"),
        ("return np.array([0, 1, np.nan, 0, 0])", "returned nan for row 2, not a finite number"),
        ("return np.array([np.inf, 1, 1, 0, 0])", "returned inf for row 0, not a finite number"),
        ("return np.array([0, 1, 1, 0, 1j])", "for row 0, not a finite number"),
        ("return np.array([0, 10**400, 1, 0, 1], dtype=object)", "for row 1, not a finite number"),
        ("return rows['lenght']", "line 4: KeyError: 'lenght'"),
        ("raise ValueError('two\\nlines')", "line 4: ValueError: two lines"),
        ("raise SystemExit(3)", "line 4: SystemExit: 3"),
    ],
)
def test_what_a_term_does_wrong_is_said_in_a_line(own: Path, body: str, said: str) -> None:
    with pytest.raises(UsageError) as failure:
        load(own, body).values(FRAME)
    message = str(failure.value)
    assert message.startswith("own.py:length") and said in message and "\n" not in message


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("", "own.py", "'own.py': a term of your own is FILE.py:FUNCTION"),
        ("", "own.py:", "a term of your own is FILE.py:FUNCTION"),
        ("", "other.py:f", "other.py:f: No such file or directory"),
        ("", "own.py:f", "own.py:f: the file has no function 'f'"),
        ("f = 1", "own.py:f", "own.py:f: the file has no function 'f'"),
        ("x = 1\nimport nothing_of_the_kind", "own.py:f", "own.py:f, line 2: ModuleNotFoundError"),
        ("def f(:", "own.py:f", "own.py:f: SyntaxError: invalid syntax"),
        ("\0", "own.py:f", "own.py:f: "),
    ],
)
def test_a_file_that_does_not_serve_is_said_in_a_line(own: Path, text: str, place: str, said: str) -> None:
    own.write_text(text)
    with pytest.raises(UsageError) as failure:
        custom.load(place)
    assert said in str(failure.value) and "\n" not in str(failure.value)


def test_the_file_runs_as_it_is_now(own: Path) -> None:
    """However soon it is changed again, and with what dataclasses need."""
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass C:\n    n: int\n"
    for number in (1, 2):
        own.write_text(f"{head}import numpy as np\ndef f(rows):\n    return np.full(len(rows), C({number}).n)\n")
        assert custom.load("own.py:f").values(FRAME).tolist() == [number] * 5
