"""Numbers are read whole, and the one that a completion ends on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.tasks.answers import concluded, phrase
from stages.tasks.expressions import unit_of
from stages.tasks.numbers import last_number, numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("-3", [-3]), ("−4.5", [-4.5]), ("–3", [-3]), ("- 3", [-3]), ("x = - 3", [-3]), ("a - 3", [3]),
        ("10 - 3 = 7", [7]),
        ("2007-2008", [2007, 2008]), ("7%–8%", [7, 8]), ("5 -3", [5, -3]), ("(−3)", [-3]),  # signs
        ("1,234.5 cm", [1234.5]), ("1{,}200", [1200]), ("1\\,200", [1200]), ("1\u202f200", [1200]), ("1 200", [1200]),
        ("1'200", [1200]), ("1.000,5", [1000.5]), ("1,2", [1, 2]), ("[100,200]", [100, 200]),
        ("１２", [12]),  # separators
        ("\\frac{1}{2}", [0.5]), ("\\dfrac{-3}{4}", [-0.75]), ("1/2", [0.5]), ("½", [0.5]), ("1½", [1.5]),
        ("1 1/2", [1.5]),
        ("-1/2", [-0.5]), ("10/4 cm", [2.5]), ("1/0", []), ("3/4/5", []), ("12/05/2010", []),  # fractions
        ("10^3", [1000]), ("2^{10}", [1024]), ("2 \\times 10^3", [2000]), ("2×10⁻³", [0.002]), ("1e3", [1000]),
        ("1e999", []),
        ("2^3^2", []), ("2^n", []), ("\\sqrt{3}", [3**0.5]), ("2√3", [2 * 3**0.5]), ("1/√2", [2**-0.5]),
        ("2\\pi", [2 * math.pi]),
        ("\\frac{2}{3}\\pi", [2 / 3 * math.pi]), ("2πr", []),  # powers and roots
        ("25 cm^2", [25]), ("25 m^{2}", [25]), ("25 cm²", [25]), ("10 m/s^2", [10]), ("5 m^{-2}", [5]),
        ("60 km/h", [60]),
        ("45^\\circ", [45]), ("50%", [50]), ("$5", [5]), ("H_2O", []), ("x_1 = 14", [14]),  # units and names
        ("12:30", []), ("2:1", []), ("3+4", []), ("3 + 4 = 7", [7]), ("5 × 6", []), ("1.2.3", []),
        ("x1 a2b", []),  # no numbers
        (".5 and 50%", [0.5, 50]), ("3.", [3]), ("-", []),
    ],
)  # fmt: skip
def test_numbers(text: str, found: list[float]) -> None:
    assert numbers(text) == pytest.approx(found)


@given(st.integers(0, 10**6), st.integers(1, 999), st.sampled_from(["", "-"]))
def test_a_fraction_is_one_number(top: int, bottom: int, sign: str) -> None:
    for text in (
        f"{sign}{top}/{bottom}",
        f"{sign}\\frac{{{top}}}{{{bottom}}} cm^2",
        f"x = {sign}\\tfrac{{{top}}}{{{bottom}}}",
    ):
        assert numbers(text) == pytest.approx([float(f"{sign}1") * top / bottom])


@pytest.mark.parametrize(
    ("completion", "number"),
    [
        ("Step 1: 3 and 4. The answer is 7, not 12 or 13.", "13"),
        ("The answer is 7.\nI used 12 steps.", "7"),
        ("nothing", None),
        ("7 (of 10)", "7"),
        ("7 of the 10", "7"),
        ("7 bars out of 10", "7"),
        ("a total of 72", "72"),
        ("25 (in 2010)", "25"),
        ("(7)", "7"),
        ("The answer is - 3", "-3"),
        ("<answer>$\\frac{3}{4}$</answer>", "0.75"),
        ("about 12 500 km", "12500"),
    ],
)
def test_the_number_that_a_completion_ends_on(completion: str, number: str | None) -> None:
    assert last_number(completion) == number


@pytest.mark.parametrize(
    "bait", ["1,111", "1 ", "- ", "√", "^", "1/", "2^", "( ", "of 1 ", "1 000 ", ".5", "½", "1x", "π", "1:"]
)
def test_reading_takes_linear_time(bait: str) -> None:
    last_number(bait * (10**5 // len(bait)) + "x")


def test_who_concludes_twice_means_the_second() -> None:
    assert concluded("The answer is 3.\nNo, the answer is 4") == "4"
    assert phrase("w " * 50) and phrase("w " * 51) is None


def test_units_to_a_power() -> None:
    assert unit_of("8 cubic meters")[1] == "m^3" and unit_of("8 square meters")[1] == "m^2"
