"""Rewards as they are written: a sum of weighted terms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.errors import UsageError
from stages.rewards.expression import parse

KNOWN = ("answer", "step", "majority", "format", "x", "my_own-2")
WEIGHTS = st.dictionaries(st.sampled_from(KNOWN), st.floats(allow_nan=False, allow_infinity=False), min_size=1)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("majority", {"majority": 1.0}),
        ("0.9*majority + 0.1*format", {"majority": 0.9, "format": 0.1}),
        ("0.5 * answer", {"answer": 0.5}),
        (".5*x", {"x": 0.5}),
        ("1e-3*x", {"x": 0.001}),
        ("2.*x+1E+2*step", {"x": 2.0, "step": 100.0}),
        ("majority - format", {"majority": 1.0, "format": -1.0}),
        ("-x+ step", {"x": -1.0, "step": 1.0}),
        ("  + my_own-2 -0.5*x ", {"my_own-2": 1.0, "x": -0.5}),
        ("0*x\n+ step", {"x": 0.0, "step": 1.0}),
    ],
)
def test_what_is_written_is_what_is_weighed(text: str, weights: dict[str, float]) -> None:
    found = parse(text, KNOWN)
    assert found == weights and list(found) == list(weights)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'', character 1: expected a term, as in 0.9*majority + 0.1*format"),
        ("0.9*majority +", "character 15: expected a term"),
        ("0.9*majority 0.1*format", "character 14: expected + or -"),
        ("0.9 majority", "character 1: expected a term"),
        ("x*0.5", "character 2: expected + or -"),
        ("x + + step", "character 4: expected a term"),
        ("x + (step)", "character 4: expected a term"),
        ("2**x", "character 1: expected a term"),
        ("x; import os", "character 2: expected + or -"),
        ("0.9*majorty", "character 5: unknown term 'majorty'; the nearest is 'majority'"),
        ("majority-format", "character 1: unknown term 'majority-format'; the nearest is 'majority'"),
        ("x + step - 2*x", "character 14: x is there twice; give it one weight"),
        ("1e999*x", "character 1: 1e999 is too large"),
        ("nan*x", "character 1: unknown term 'nan'"),
        ("٣*x", "character 1: expected a term"),
    ],
)
def test_what_is_no_sum_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(text, KNOWN)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


@given(WEIGHTS, st.data())
def test_weights_come_back_as_they_were_written(weights: dict[str, float], data: st.DataObject) -> None:
    space = st.sampled_from(["", " ", "  "])
    text = ""
    for name, weight in weights.items():
        sign = "-" if math.copysign(1, weight) < 0 else "+"
        text += f" {sign}{data.draw(space)}{abs(weight)!r}{data.draw(space)}*{data.draw(space)}{name}"
    found = parse(text, KNOWN)
    assert found == weights and list(found) == list(weights)


@given(st.text("x stepanswr0123456789.e+-*_() ", max_size=30) | st.text(max_size=20))
def test_anything_else_is_refused_and_never_fails_otherwise(text: str) -> None:
    try:
        weights = parse(text, KNOWN)
    except UsageError:
        return
    assert weights and set(weights) <= set(KNOWN)
