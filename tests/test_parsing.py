import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.parsing import answer_key, parse_completion, parse_question, step_spans

TAGS = ["<think>", "</think>", "<answer>", "</answer>", "<step>", "</step>", "Step 1:"]
ODD = ["\x00", "\x1b[31m", "é", "İ", "−", "½", *"<>/()[]{}*_`$\\.,;:-+ \n\t01aB%"]
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


@pytest.mark.parametrize("empty", ["", " ", ".", "...", "()", "**", "$$", "\\boxed{}", "\x00", "\u200b", "<>", "''"])
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
    "bait", [*'(*$"<.', " ", "\n", "<answer>", "<think>", "1,", ",111", "step ", "<step ", "- ", "'\"", "1."]
)
def test_a_megabyte_of_bait_takes_no_more_than_linear_time(bait: str) -> None:
    """A quadratic pattern would need hours, not the seconds that the whole suite has."""
    text = bait * (10**6 // len(bait)) + "x"
    answer_key(text)
    parse_completion(text)
    parse_completion(f"<think>{text}</think><answer>{text}</answer>")
    parse_question(text)


@given(st.lists(st.text(string.ascii_lowercase + " ", min_size=1).map(str.strip).filter(bool), max_size=8))
def test_written_steps_are_read_back(steps: list[str]) -> None:
    lines = "\n".join(f"Step {place}: {step}" for place, step in enumerate(steps, 1))
    assert parse_completion(f"<think>\n{lines}\n</think>\n<answer>1</answer>").steps == steps
