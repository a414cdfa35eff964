"""Which option a completion chooses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.tasks.options import option

COLOURS = ("red", "blue", "green", "sky blue")
NUMERALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SENTENCES = (
    "{}", "({})", "{}.", "**{}**", "'{}'", "“{}”", "（{}）", "{}。", "\\boxed{{{}}}", "$\\text{{{}}}$",
    "The answer is {}", "The answer should be {} as shown", "Final answer: {}", "答案：{}", "选{}", "It's {}.",
    "Option {} is correct.", "{} is correct.", "{} IS CORRECT", "So {} it is.", "I choose {} as the answer.",
    "The best choice would be option {} because it matches.", "<answer>{} is the correct option</answer>",
    "<think>Step 1: look.</think><answer>Option {} fits</answer>", "It has to be {} since nothing else fits.",
    "Therefore option {} matches the picture.", "{} seems right", "{} fits best.", "{} clearly shows it",
    "{} must be it",
    "{} would be my pick", "Go with {} here", "I'd say {}", "{}, obviously", "{} - this one", "{} and nothing else.",
    "{} is more likely than the others", "{} contains the shape", "The answer is {} because (D) is too small",
    "the letter {}", "{} most likely", "{} can be seen to fit",
    "Of these, {} is closest", "{}が正解", "{} (the first one)",
)  # fmt: skip


@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_letter_is_read_alike(sentence: str) -> None:
    assert [option(sentence.format(letter), COLOURS) for letter in "ABC"] == list("ABC")


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("B. red", "B"), ("b) red", "B"), ("Blue", "B"), ("sky blue", "D"), ("option b is right", "B"),
        ("choice a because", "A"), ("The answer is (C) because it is not (A).", "C"), ("Answer: green", "C"),
        ("The answer is red because blue is not there", "A"), ("It has the colour sky blue here", "D"), ("E", None),
        ("neither", None), ("<think>A</think><answer>B</answer>", "B"), ("I am sure: C", "C"), ("", None),
        ("The answer is B, not A", "B"), ("I take (b) here", "B"), ("A, B and C are wrong; D", "D"), ("是 red", "A"),
    ],
)  # fmt: skip
def test_what_is_chosen(completion: str, letter: str | None) -> None:
    assert option(completion, COLOURS) == letter


@pytest.mark.parametrize(
    "completion",
    [
        "A bird is there", "A family is shown.", "A friendly dog", "A glass stands there", "A German car",
        "A best friend",
        "A series of bars", "A can of soda", "A 5-sided shape",  # the article
        "N/A", "Q&A", "C++ code", "A-frame house", "A.M.", "D.C. is the capital", "The U.S. map",
        "B's turn",  # other words
        "The current is 7 A", "20 °C", "20 ℃", "10 C", "5A", "A = 5", "C > 7",  # units and variables
    ],
)  # fmt: skip
def test_a_letter_of_something_else_is_no_option(completion: str) -> None:
    assert option(completion, COLOURS) is None


@pytest.mark.parametrize(
    ("completion", "choices", "letter"),
    [
        ("It is vitamin C.", ("vitamin C", "vitamin A", "vitamin B"), "A"),
        ("The answer is vitamin C", ("vitamin C", "vitamin A", "vitamin B"), "A"),
        ("The answer is C", ("vitamin C", "vitamin A", "vitamin B"), "C"),
        ("E. coli is seen", ("E. coli", "B. subtilis", "x", "y", "z"), "A"),
        ("The current is 5 A, so it fits", ("2 A", "5 A"), "B"),
        ("20 °C is right", ("10 °C", "15 °C", "20 °C"), "C"),
        ("Washington, D.C.", ("Rome", "Oslo", "Bonn", "Paris", "Washington, D.C."), "E"),
        ("A carnivore is shown", ("a herbivore", "a carnivore"), "B"),
        ("It looks like A red one", ("blue", "red"), "B"),
        ("It is 2.5 cm", ("2", "5", "2.5"), "C"),
        ("It is -5 there", ("5", "-5"), "B"),
        ("It is 1,200", ("1", "200", "1200"), "C"),
        ("It is \\frac{1}{2}", ("1", "2", "1/2"), "C"),
        ("II and III", ("II", "III", "II and III"), "C"),
        ("red", ("A. red", "B. blue"), "A"),
        ("答案是红", ("蓝", "红"), "B"),
        ("The angle is 60 degrees", ("30°", "60°"), "B"),
        ("I think it is eight", NUMERALS, "H"),
        ("I believe option C is right", NUMERALS, "C"),
        ("I is right", NUMERALS, "I"),
        ("Option I", NUMERALS, "I"),
    ],
)
def test_the_whole_text_of_an_option_is_read_before_a_letter_in_it(
    completion: str, choices: tuple[str, ...], letter: str
) -> None:
    assert option(completion, choices) == letter


@given(st.permutations(["a carnivore", "5 A", "vitamin B", "the U.S.", "2.5 °C", "I", "红色"]), st.data())
def test_an_options_own_text_chooses_it_wherever_it_stands(choices: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(choices) - 1))
    sentence = data.draw(st.sampled_from(["{}", "The answer is {}.", "“{}”", "**{}**", "<answer>{}</answer>"]))
    assert option(sentence.format(choices[place]), choices) == "ABCDEFG"[place]


@pytest.mark.parametrize("bait", ["red ", "A ", "(A", "option ", "A best ", "I, ", "the answer is ", "1,", "\n"])
def test_reading_takes_linear_time(bait: str) -> None:
    assert option(bait * (10**5 // len(bait)) + "?", COLOURS) in (None, *"ABCD")
