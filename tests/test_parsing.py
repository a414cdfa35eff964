import string
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.parsing import answer_key, parse_completion, parse_question, step_spans
from stages.parsing.notation import plain

TAGS = ["<think>", "</think>", "<answer>", "</answer>", "<step>", "</step>", "Step 1:"]
ODD = ["\x00", "\x1b[31m", "é", "İ", "−", "½", *"<>/()[]{}*_`$\\.,;:-+ \n\t01aB%"]
ODD += [
    "\\frac",
    "\\sqrt",
    "\\text{",
    "\\,",
    "\\{",
    "^\\circ",
    "^{",
    "_{",
    "{1}",
    "√(",
    "1,000",
    "2 000",
    "\u2009",
    "10^",
    "~",
]
ODD += [
    "²",
    "①",
    "㎡",
    "，",
    "。",
    "、",
    "！",
    "「",
    "」",
    "（",
    "）",
    "１",
    "٣",
    "“",
    "deg",
    " percent",
    "!",
    "'",
    "\ue000",
    "ﬁ",
]
HOSTILE = st.lists(st.sampled_from([*TAGS, *ODD]), max_size=40).map("".join)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3.0", "3"),
        (".5", "0.5"),
        ("-.50", "-0.5"),
        ("1,234", "1234"),
        ("1,234,567.50", "1234567.5"),
        ("(B)", "b"),
        ("B.", "B"),
        ("(b)", "B)"),
        ("$5$", "5"),
        ("\\boxed{42}", "42"),
        ("$\\boxed{\\text{Red}}$", "red."),
        ("\\(7\\)", "7"),
        ("5\\%", "5 %"),
        ("5 cm", "5cm"),
        ("New  York", "new york"),
        ("**12**", "12"),
        ('"yes"', "Yes!"),
        ("−3", "-3"),
        ("- 3", "-3"),
        ("1 / 2", "1/2"),
        ("-0.0", "0"),
        ("100.0%", "100%"),
        ("5\\text{ cm}", "5 cm"),
        ("\\boxed{5} cm", "5cm"),
        ("\\boxed{\\mathbf{x}}", "x"),
        ("1{,}000", "1000"),
    ],
)
def test_answers_that_mean_the_same(one: str, other: str) -> None:
    assert answer_key(one) == answer_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-3", "3"),
        ("0.5", "5"),
        ("3.5", "35"),
        ("5%", "5"),
        ("5 cm", "5 m"),
        ("$5", "5"),
        ("1.2.3", "1.23"),
        ("12", "1 2"),
        ("new york", "york"),
        ("1/2", "12"),
        ("12:30", "1230"),
        ("A", "B"),
        ("3,5", "35"),
        ("x > 3", "x < 3"),
    ],
)
def test_answers_that_mean_different_things(one: str, other: str) -> None:
    assert answer_key(one) != answer_key(other)


@pytest.mark.parametrize(
    "notations",
    [
        ("42", "４２", "٤٢", "४२", "𝟒𝟐", "42。", "４２！", "「42」", "$42$"),
        ("50%", "５０％", "50 ％", "50\\%", "50 percent", "50 per cent"),
        ("-5", "−5", "–5", "－５", "- 5"),
        (
            "1234.5",
            "1,234.5",
            "1{,}234.5",
            "1\\,234.5",
            "1\u2009234.5",
            "1\u00a0234,5",
            "1'234.5",
            "1’234.5",
            "1.234,5",
        ),
        ("1234567", "1,234,567", "1.234.567", "1 234 567", "1\\ 234\\ 567", "１，２３４，５６７"),
        ("10000", "10 000", "10\\,000"),
        ("$1250", "$1,250", "＄1,250.00", "\\$1,250", "$\\$1{,}250$"),
        ("306956.63", "306,\\!956.63"),
        ("1/2", "½", "\\frac{1}{2}", "\\dfrac{1}{2}", "\\tfrac12", "\\frac1{2}", "\\\\frac{1}{2}", "1⁄2", "1 ÷ 2"),
        ("1 1/2", "1½", "1\\frac{1}{2}", "1\\,\\tfrac{1}{2}"),
        ("90°", "90^\\circ", "90^{\\circ}", "90º", "90 degrees", "90\\degree", "$90^{\\circ}$"),
        ("25°C", "25 ℃", "25^\\circ\\text{C}", "25 degrees Celsius"),
        ("25 cm^2", "25 cm²", "25\\text{ cm}^{2}", "25㎠"),
        ("2×10^3", "2 \\times 10^{3}", "2 · 10³", "2 * 10^3", "2x10^3"),
        ("5×3", "5 x 3", "5*3", "5\\times3"),
        ("√3", "\\sqrt{3}", "\\sqrt3", "sqrt(3)", "√(3)"),
        ("2π", "2\\pi", "$2 \\pi$"),
        ("x<=5", "x ≤ 5", "x \\leq 5", "x\\le5"),
        ("CO2", "CO₂", "CO_2", "\\text{CO}_2"),
        ("(3,4)", "\\left(3, 4\\right)", "（３，４）", "$(3, 4)$"),
        ("(100,200)", "( 100, 200 )"),
        ("{1,2}", "\\{1, 2\\}", "\\left\\{1,2\\right\\}"),
        ("B", "(B)", "Ｂ", "（Ｂ）", "【B】", "Ⓑ", "B、", "B．", "B：", "“B”"),
        ("B. 红色", "B、红色", "（B）红色", "Ｂ．红色"),
        ("红色", "红色。", "「红色」", "『红色』", "《红色》", "红色！", "红色，", "红色…"),
        ("rot", "„rot“", "»rot«", "‹rot›", "‚rot‘"),
        ("sí", "¡Sí!", "Sí."),
        ("don't know", "don’t know"),
        ("12:30", "１２：３０", "12 : 30"),
    ],
)
def test_notations_of_one_answer(notations: tuple[str, ...]) -> None:
    assert {answer_key(notation) for notation in notations} == {answer_key(notations[0])} != {""}


@pytest.mark.parametrize(
    "answers",
    [
        ("1.000,5", "1,5", "1.0005"),
        ("1,234", "1.234", "1, 234", "1 2 34"),
        ("(100, 200)", "100200", "[100, 200]", "{100, 200}", "(100, 200]", "100, 200"),
        ("1、234", "1234"),
        ("3. 5", "3.5", "3 5", "35"),
        ("12:30", "12:03", "1230"),
        ("1/2", "½x", "12", "2/1"),
        ("1½", "11/2", "\\frac{11}{2}x"),
        ("\\frac{1}{2x}", "\\frac{1}{2}x"),
        ("m²", "m2", "m³", "m"),
        ("2^3", "23", "2_3"),
        ("x^{2}3", "x^{23}"),
        ("\\sqrt{12}", "\\sqrt{1}2", "12"),
        ("①②", "12"),
        ("5!", "5"),
        ("~5", "5", "±5", "<5", "≤5", ">5"),
        ("3~5", "35", "3-5"),
        ("5°", "5", "5%", "5‰", "$5", "€5", "5'"),
        ("5 ft", "5 in"),
        ("Sept. 3", "Sept. 30", "Sept. 0.3", "Sept. 300"),
        ("No.1", "No.10", "No. 0.1"),
        ("approx. 5", "approx. 50", "approx 0.5"),
        ("Rs.50", "Rs.500", "Rs. 0.50"),
        ("(A) 5", "5"),
    ],
)
def test_answers_of_other_meaning_share_no_key(answers: tuple[str, ...]) -> None:
    assert len({answer_key(answer) for answer in answers}) == len(answers)


DIGITS = ("0123456789", "０１２３４５６７８９", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗")
GROUPINGS = [
    ("", "."),
    (",", "."),
    ("{,}", "."),
    ("\\,", "."),
    ("\u2009", ","),
    ("\u202f", "."),
    ("\u00a0", ","),
    ("'", "."),
    (".", ","),
]
WRAPPINGS = (
    "{}",
    "${}$",
    "\\({}\\)",
    "\\boxed{{{}}}",
    "\\text{{{}}}",
    "**{}**",
    "「{}」",
    "“{}”",
    "»{}«",
    "{}.",
    "{}。",
    " {}\n",
)


@st.composite
def written(draw: st.DrawFn) -> tuple[Decimal, str]:
    """A number, and one of the ways to write it."""
    whole, fraction = draw(st.integers(0, 10**9)), draw(st.text("0123456789", max_size=4))
    sign = draw(st.sampled_from(("", "-", "−", "–", "－", "- ")))
    separator, point = draw(st.sampled_from(GROUPINGS))
    if whole < 1000 or (separator == "." and whole < 10**6 and not fraction):
        separator, point = "", "."  # what is not grouped has a decimal point: "1,5" could be a list
    text = f"{whole:,}".replace(",", separator) + (point + fraction if fraction else "")
    digits = dict(zip(DIGITS[0], draw(st.sampled_from(DIGITS)), strict=True))
    text = sign + "".join(digits.get(character, character) for character in text)
    return Decimal(f"{'-' if sign else ''}{whole}.{fraction}0"), draw(st.sampled_from(WRAPPINGS)).format(text)


@given(written())
def test_a_number_has_one_key_however_it_is_written(case: tuple[Decimal, str]) -> None:
    number, text = case
    assert answer_key(text) == (f"{number.normalize():f}" if number else "0")


@given(st.lists(st.integers(0, 9999), min_size=2, max_size=5))
def test_a_list_is_no_number_and_its_brackets_count(numbers: list[int]) -> None:
    listed = ", ".join(map(str, numbers))
    keys = {answer_key(pair[0] + listed + pair[1]) for pair in ("()", "[]", "{}", "[)", ("", ""))}
    assert len(keys | {answer_key("".join(map(str, numbers)))}) == 6
    assert answer_key(f"({listed.replace(' ', '')})") == answer_key(f"({listed})")


@given(HOSTILE)
def test_what_is_plain_is_one_line_or_more_without_control_characters(text: str) -> None:
    assert all(character == "\n" or character.isprintable() for character in plain(text))


@pytest.mark.parametrize(
    "empty",
    [
        "",
        " ",
        ".",
        "...",
        "()",
        "**",
        "$$",
        "\\boxed{}",
        "\x00",
        "\u200b",
        "<>",
        "''",
        "「」",
        "。",
        "…",
        "！",
        "“”",
        "\\,",
    ],
)
def test_an_answer_without_substance_has_no_key(empty: str) -> None:
    assert answer_key(empty) == ""
    assert parse_completion(f"<think>a</think><answer>{empty}</answer>").answer is None


@pytest.mark.parametrize("text", ["\\" * 70 + "%\\text{0", "\\" * 70 + "5"])
def test_what_the_fuzzer_found(text: str) -> None:
    assert answer_key(answer_key(text)) == answer_key(text)


@given(HOSTILE)
def test_a_key_is_its_own_key(text: str) -> None:
    assert answer_key(answer_key(text)) == answer_key(text)


@given(st.text(max_size=40))
def test_a_key_does_not_depend_on_surrounding_space(text: str) -> None:
    assert answer_key(f"  {text}\n") == answer_key(text)


@given(st.text(string.ascii_letters + "0123456789 .-", max_size=40))
def test_a_key_does_not_depend_on_case(text: str) -> None:
    assert answer_key(text.upper()) == answer_key(text.lower())


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_numbers_are_compared_by_value(number: object) -> None:
    text = f"{number:f}"
    assert float(answer_key(text)) == float(text)
    assert answer_key(text + "0") == answer_key(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><answer>5</answer>", "5"),
        ("<THINK>a</THINK>\n<Answer> 5 </ANSWER>", "5"),
        ("<think>a <answer>4</answer></think><answer>5</answer>", "5"),
        ("<think>a <answer>4</answer></think>", None),
        ("<think>a <answer>4</answer>", None),
        ("<think><think>a</think><answer>4</answer></think>", None),
        ("<answer>4</answer></think><answer>5</answer>", "5"),
        ("Step 1: a\n<answer>5</answer>", "5"),
        ("<think>a</think><answer>5", None),
        ("<think>a</think>\n5", None),
        ("<think>a</think><answer>5</answer><answer>6</answer>", "5"),
        ("<think>a</think><answer><answer>5</answer>", "5"),
        ("<think>a</think></answer><answer>5</answer>", "5"),
        ("<think>a</think><answer>\n</answer>", None),
        ("<think>a</think><answer></answer><answer>4</answer>", "4"),
        ("<answer>5</answer><think>a</think><answer>6</answer>", "6"),
        ("<answer>5</answer><think>a</think>", None),
        ("", None),
        ("5", None),
    ],
)
def test_the_answer_is_the_tag_after_the_reasoning(text: str, answer: str | None) -> None:
    parsed = parse_completion(text)
    assert parsed.answer == answer
    assert (parsed.answer_key is None) == (answer is None)


@pytest.mark.parametrize(
    ("reasoning", "steps"),
    [
        ("Step 1: a\nStep 2: b", ["a", "b"]),
        ("Let me see.\nStep 1: a", ["a"]),
        ("step 1 : a\nSTEP 2: b\nc", ["a", "b\nc"]),
        ("1. a\n2. b", ["a", "b"]),
        ("1) a\n2) b", ["a", "b"]),
        ("- a\n* b\n• c", ["a", "b", "c"]),
        ("**Step 1:** a\n**Step 2**: b\n**Step 3: c**", ["a", "b", "c"]),
        ("**1.** a\n**2)** b", ["a", "b"]),
        ("- Step 1: a\n- Step 2: b", ["a", "b"]),
        ("<step>a</step>\n<step>b</step>", ["a", "b"]),
        ("<step 1>a <STEP_2>b", ["a", "b"]),
        ("Step 1: it is\n2.5 metres long\nStep 2: b", ["it is\n2.5 metres long", "b"]),
        ("2.5 metres is long. 3 is not.", ["2.5 metres is long.", "3 is not."]),
        ("Step 1:\nStep 2: b", ["b"]),
        ("A is 3. B is 4!\nSo 7", ["A is 3.", "B is 4!", "So 7"]),
        ("-3 is below zero", ["-3 is below zero"]),
        ("", []),
    ],
)
def test_steps(reasoning: str, steps: list[str]) -> None:
    assert [reasoning[start:end] for start, end in step_spans(reasoning)] == steps
    assert parse_completion(f"<think>{reasoning}</think><answer>5</answer>").steps == steps


def test_steps_are_cut_at_the_most_that_are_wanted() -> None:
    text = "<think>" + "\n".join(f"Step {k}: s{k}" for k in range(1, 20)) + "</think>"
    assert parse_completion(text).steps == [f"s{k}" for k in range(1, 9)]
    assert len(parse_completion(text, max_steps=3).steps) == 3


def test_words_are_those_before_the_answer_tag() -> None:
    assert parse_completion("<think> one two </think> three <answer>4 5 6</answer> 7").words == 5


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("<question> How tall? </question><rationale>r</rationale>", "How tall?"),
        ("<QUESTION>q</Question>", "q"),
        ("<question></question><question>q</question>", "q"),
        ("<question>q", None),
        ("How tall?", None),
        ("<question> \n</question>", None),
    ],
)
def test_question(text: str, question: str | None) -> None:
    assert parse_question(text) == question


@given(HOSTILE)
def test_parsing_is_total(text: str) -> None:
    parsed = parse_completion(text)
    assert all(step == step.strip() and step for step in parsed.steps)
    assert (parsed.answer is None) == (parsed.answer_key is None) == (not parsed.answer_key)
    question = parse_question(text)
    assert question is None or question.strip() == question != ""


def test_what_is_longer_than_any_answer_is_compared_as_it_stands() -> None:
    long = "(" * 1000 + "Word " * 200000 + ")" * 1000
    assert answer_key(long) == answer_key(long.upper()) == answer_key(answer_key(long)) != answer_key(long[1:-1])
    assert answer_key("... " * 1000) == ""
    assert answer_key(" " * 10**6 + "(5)") == "5"


@pytest.mark.parametrize(
    "bait",
    [
        *'(*$"<.',
        " ",
        "\n",
        "<answer>",
        "<think>",
        "1,",
        ",111",
        "step ",
        "<step ",
        "- ",
        "'\"",
        "1.",
        "\\",
        "½",
        "。",
        "√(",
        "^{",
        "\\frac{",
        "1 000 ",
        "1,000",
        "~ ",
        "\\{",
    ],
)
def test_a_megabyte_of_bait_takes_no_more_than_linear_time(bait: str) -> None:
    """A quadratic pattern would need hours, not the seconds that the whole suite has."""
    text = bait * (10**6 // len(bait)) + "x"
    answer_key(text)
    answer_key(text[:1000])
    plain(text)
    parse_completion(text)
    parse_completion(f"<think>{text}</think><answer>{text}</answer>")
    parse_question(text)


@given(st.lists(st.text(string.ascii_lowercase + " ", min_size=1).map(str.strip).filter(bool), max_size=8))
def test_written_steps_are_read_back(steps: list[str]) -> None:
    lines = "\n".join(f"Step {place}: {step}" for place, step in enumerate(steps, 1))
    assert parse_completion(f"<think>\n{lines}\n</think>\n<answer>1</answer>").steps == steps


def test_an_answer_that_holds_a_think_tag_is_none() -> None:
    assert parse_completion("<think>r</think><answer>5 <think>no</think> 6</answer>").answer is None
    assert parse_completion("<answer>5 <think>no</think> 6</answer><answer>7</answer>").answer == "7"


@pytest.mark.parametrize("gap", ["", " ", "\n"])
def test_sentences_end_without_white_space_where_their_script_has_none(gap: str) -> None:
    text = f"红色是4。{gap}「蓝色是7。」{gap}4 + 7 = 11。"
    assert [text[start:end] for start, end in step_spans(text)] == ["红色是4。", "「蓝色是7。」", "4 + 7 = 11。"]


def test_a_long_answer_is_compared_up_to_a_bound() -> None:
    assert answer_key("(" + "x" * 998 + ")") == "x" * 998
    assert answer_key("(" + "x" * 999 + ")") == "(" + "x" * 999 + ")"
