"""Whether two mathematical answers are the same."""

import pytest

from stages.errors import EngineError
from stages.tasks import equivalence
from stages.tasks.equivalence import equivalent
from stages.tasks.expressions import as_latex


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        ("\\frac{3}{4}", "0.75"), ("\\frac{1}{2}", "½"), ("1.5", "1\\frac{1}{2}"), ("1.5", "1 1/2"), ("0.33", "1/3"),
        ("\\frac{1}{2}x", "\\frac{x}{2}"), ("\\frac{1}{2} x", "x/2"), ("4\\sqrt{3}", "\\sqrt{48}"),
        ("2√3", "\\sqrt{12}"),
        ("\\frac{\\sqrt{3}}{2}", "√3/2"), ("2\\pi", "6.28"), ("2\\pi", "2 pi"), ("2000", "2 \\times 10^3"),
        ("2000", "2e3"),
        ("1200", "1\\,200"), ("x^2+1", "1+x^2"), ("2(x+1)", "2x+2"), ("3!", "6"), ("36", "6*6"), ("\\log_2 8", "3"),
        ("\\sin 30", "\\sin(30)"),
        ("3:4", "\\frac{3}{4}"), ("x>3", "3<x"), ("7", "$7$"), ("12", "**12**"), ("yes", "Yes."),
        ("12", "12.004"), ("12", "11.998"), ("6", "6.0000001"), ("4", "\\sqrt{16.001}"), ("1/3", "0.333"),
    ],
)  # fmt: skip
def test_the_same_expression(gold: str, given: str) -> None:
    assert equivalent(gold, given)


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        ("12", "13"), ("-5", "5"), ("3", ""), ("3", "3" * 600), ("12", "import os"), ("12", "12x"), ("2", "2ab"),
        ("3", "3!"),
        ("3", "3²"), ("2", "2√3"), ("5", "√5"), ("\\frac{1}{2x}", "\\frac{1}{2}x"), ("12", "5 12"),
        ("12", "12 5"), ("10", "10_2"),
        ("3", "(3"), ("3", "3)"), ("7", "7 +"), ("12", "12 or 13"), ("12", "13 and 12"), ("12", "It is not 12"),
        ("14", "14 million"),
        ("12", "the 12 red ones are 3"), ("x^2+1", "x^2+1 and more"), ("no", "on"), ("AB", "BA"), ("5", "2(3)"),
        ("x>3", "x<3"), ("12", "12.006"), ("12", "11.99"), ("x", "0.00"),
    ],
)  # fmt: skip
def test_what_is_read_in_part_is_not_the_same(gold: str, given: str) -> None:
    assert not equivalent(gold, given)


@pytest.mark.parametrize(
    ("gold", "given", "same"),
    [
        ("8 cm", "8", True), ("8", "8 cm", True), ("8 cm", "8\\mathrm{~cm}", True), ("8 cm", "8 centimetres", True),
        ("8 cm^2", "8 square centimeters", True), ("25 m²", "25 m^{2}", True), ("50^\\circ", "50°", True),
        ("50", "50 degrees", True),
        ("12", "12 apples", True), ("12 cm", "12 units", True), ("10 m/s", "10 \\text{ m/s}", True),
        ("8 cm", "8 m", False), ("8 cm", "8 cm^2", False), ("5 m", "5 kg", False), ("50°", "50 cm", False),
        ("12 apples", "12 pears", False), ("10 m/s", "10 km/h", False), ("2h", "2", False),
    ],
)  # fmt: skip
def test_a_unit_may_be_left_out_but_not_be_another(gold: str, given: str, same: bool) -> None:
    assert equivalent(gold, given) is same


@pytest.mark.parametrize(
    ("gold", "given", "same"),
    [
        ("(1,2)", "(1, 2)", True), ("(\\frac{1}{2}, 3)", "（0.5，3）", True), ("1, 2", "1 and 2", True),
        ("\\{1,2\\}", "\\{2,1\\}", True),
        ("[1,2)", "[1, 2)", True), ("(-\\infty,1)\\cup(2,\\infty)", "(-∞,1)∪(2,∞)", True), ("3", "\\{3\\}", True),
        ("x=1, x=2", "1, 2", True),
        ("(1,2)", "(2,1)", False), ("1,2", "2,1", False), ("1,2,3", "3,2,1", False), ("(1,2)", "[1,2]", False),
        ("(1,2]", "(1,2)", False),
        ("(1,2)", "\\{1,2\\}", False), ("(1,2)", "1,2", False), ("100200", "(100,200)", False),
        ("2", "x=2 or x=3", False),
        ("\\{1,1,2\\}", "\\{1,2,2\\}", False),
    ],
)  # fmt: skip
def test_order_and_brackets_of_a_list_count(gold: str, given: str, same: bool) -> None:
    assert equivalent(gold, given) is same


@pytest.mark.parametrize(
    ("gold", "given", "same"),
    [
        ("12", "x = 12", True), ("x=12", "12", True), ("50", "\\angle ABC = 50^\\circ", True),
        ("7", "3+4=7", True), ("√3", "√3 ≈ 1.73", True),
        ("10", "The area is 10 cm^2", True), ("12", "12 cm, because it is shown", True),
        ("12", "12. I used 3 steps.", True),
        ("y=2x+1", "2x+1", True), ("y=2x+1", "y=1+2x", True),
        ("12", "3x=36", False), ("12", "x+5=12", False), ("x=2", "y=2", False),
    ],
)  # fmt: skip
def test_a_name_may_stand_in_front_and_a_reason_behind(gold: str, given: str, same: bool) -> None:
    assert equivalent(gold, given) is same


@pytest.mark.parametrize(
    "text", ["twelve", "12 and 13 are", "12 13", "(3", "3)", "7 +", "10_2", "½∮", "x;y", "", "yes", "2 cats and"]
)
def test_what_is_no_expression_is_not_handed_on(text: str) -> None:
    assert as_latex(text) is None


def test_a_comparison_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert equivalent("2", "\\frac{4}{2}")
    before = equivalence._worker
    monkeypatch.setattr(equivalence, "SECONDS", 2.0)
    assert not equivalent("3", "9^{9^{9^{9^9}}}")  # which does not end by itself
    monkeypatch.undo()
    assert equivalent("17", "\\frac{34}{2}")
    assert equivalence._worker is not before


def test_a_worker_that_cannot_start_is_an_error_and_not_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    equivalence.close()
    monkeypatch.setattr(equivalence, "PROGRAM", "import nothing_of_that_name")
    with pytest.raises(EngineError, match="math-verify could not be started"):
        equivalent("2", "\\frac{4}{2}")
