"""Our scores beside those of lmms-eval's own scoring functions, on constructed responses, adversarial ones included.

`python -m tests.agreement` writes lmms-eval's verdicts into agreement.json, for the benchmarks whose functions can be
imported where it runs (lmms-eval 0.7.3; MathVision's wants latex2sympy2, MathVerse's math-verify, which exclude one
another: run it in an environment with either). The suite checks ours against that file, without lmms-eval.

Two things in lmms-eval are no rule and are replaced: MathVista's model judge hands the response on as it is, and
MMMU's random guess is wrong. Responses with an answer tag go through lmms-eval's extraction of it first.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from stages import tasks
from stages.tasks.task import Question

FILE = Path(__file__).parent / "agreement.json"
Case = tuple[int, str, str]  # which row, the name of the template, the response


# ------------------------------------------------------------------------------------------------ the rows


def _choice_rows(key: str, **more: Any) -> list[dict[str, Any]]:
    options = [
        ["red", "blue", "green", "yellow"],
        ["the sun", "the moon"],
        ["3", "4", "12"],
        ["a carnivore", "an omnivore", "a herbivore", "none of these", "all of these"],
        ["A", "B", "C", "D"],
    ]
    return [{"question": "Which?", key: listed, **more} for listed in options]


ROWS: dict[str, list[dict[str, Any]]] = {
    "infovqa": [
        {"questionId": "1", "question": "What?", "answers": answers}
        for answers in (["42%", "42 %"], ["Facebook"], ["the United States of America"], ["1,234"], ["a"], ["Ørsted"])
    ],
    "ai2d": [row | {"answer": str(place % 2)} for place, row in enumerate(_choice_rows("options"))],
    "scienceqa": [
        row | {"answer": place % 2, "hint": "", "subject": "s"} for place, row in enumerate(_choice_rows("choices"))
    ],
    "mmmu": [
        {"id": f"validation_Math_{place}", "question": "Which? <image 1>", "options": str(row["options"]),
         "answer": "AB"[place % 2], "question_type": "multiple-choice"}
        for place, row in enumerate(_choice_rows("options"))
    ] + [
        {"id": f"validation_Math_{place}", "question": "What? <image 1>", "options": "[]", "answer": answer,
         "question_type": "open"}
        for place, answer in enumerate(("8.5", "x", "Mozart", "1200", "the Gulf Stream", "-3", "0.667"), 10)
    ],
    "chartqa": [
        {"type": "human_test", "question": "What?", "answer": answer}
        for answer in ("14", "0.57", "57%", "Yes", "Germany", "-3.5", "2008", "0", "1,234")
    ],
    "mathvista": [
        {"pid": str(place), "question_type": "multi_choice", "answer_type": "text", "precision": None, "query": "",
         "question": "Which?", "choices": row["options"], "answer": row["options"][place % 2], "metadata": {}}
        for place, row in enumerate(_choice_rows("options"))
    ] + [
        {"pid": answer, "question_type": "free_form", "answer_type": kind, "precision": precision, "query": "",
         "question": "What?", "choices": None, "answer": answer, "metadata": {}}
        for answer, kind, precision in (
            ("7", "integer", None), ("-12", "integer", None), ("1.5", "float", 1), ("0.33", "float", 2),
            ("2.5", "float", 1.0),
            ("[2007, 2008]", "list", None),
        )
    ],
    "mathvision": [
        row | {"id": str(place), "answer": "AB"[place % 2], "subject": "s"}
        for place, row in enumerate(_choice_rows("options"))
    ] + [
        {"id": answer, "question": "What?", "options": [], "answer": answer, "subject": "s"}
        for answer in ("12", "0.75", "\\frac{3}{4}", "\\sqrt{2}", "3.14", "(1,2)", "2\\pi", "-5")
    ],
    "mathverse": [
        {"sample_index": answer, "problem_index": "1", "problem_version": "Text Lite", "question_type": "multi-choice",
         "question": "Which?\nChoices:\nA:145°\nB:35°\nC:70°\nD:110°", "answer": answer}
        for answer in "AB"
    ] + [
        {"sample_index": answer, "problem_index": "2", "problem_version": "Text Lite", "question_type": "free-form",
         "question": "What?", "answer": answer}
        for answer in ("40", "4\\sqrt{3}", "\\frac{1}{2}", "8 cm", "50°", "(2,-1)", "x^2+1", "2.5")
    ],
}  # fmt: skip

# -------------------------------------------------------------------------------------------- the responses

# {l}, {s} and {t} are the letter, also small, and the text of an option, {m} the letter of another one.
OPTION_TEMPLATES = {
    "letter": "{l}", "bracketed": "({l})", "dotted": "{l}.", "small": "{s}", "closed": "{l})",
    "letter, text": "{l}. {t}",
    "(letter) text": "({l}) {t}", "text": "{t}", "shouted text": "{T}", "is letter": "The answer is {l}.",
    "is (letter)": "The answer is ({l}).", "is text": "The answer is {t}.", "colon": "Answer: {l}",
    "bold": "**{l}**", "spaces": "  {l} \n", "line": "{l}\nbecause it is shown",
    "tag": "<think>a step</think><answer>{l}</answer>",
    "tag, text": "<think>Step 1: ({m})?</think>\n<answer>{l}. {t}</answer>", "option": "Option {l}",
    "rejecting": "It is not ({m}), it is ({l})", "two brackets": "Between ({m}) and ({l})",
    "article": "A picture shows what it is, and it is {l}", "correcting": "{m}. No: the answer is {l}",
    "named late": "Looking at the picture closely one finds {t} there", "beyond": "Z", "empty": "", "blank": "   ",
    "refusal": "I cannot tell from the picture.", "both": "{l} and {m}", "quoted": '"{l}"',
    "open tag": "<think>It is {l}",
    "boxed": "\\boxed{{{l}}}", "long": "{l} {l} {l} {l} {l} {l}", "escape": "\x1b[31m{l}", "wide": "（{l}）",
    "is right": "{l} is correct.", "fits": "Option {l} fits the picture", "chosen": "I choose {l} as the answer.",
    "because": "The answer is {l} because ({m}) is too small", "small option": "option {s} is right",
    "inverted": "So {l} it is.",
}  # fmt: skip
TEXT_TEMPLATES = {
    "exact": "{a}", "capitals": "{A}", "spaces": "  {a} ", "doubled": "{d}", "dotted": "{a}.", "quoted": '"{a}"',
    "one off": "{o}", "half": "{h}", "more": "{a} in the picture", "sentence": "The answer is {a}.", "empty": "",
    "other": "something else", "tag": "<think>a step</think><answer>{a}</answer>", "lines": "{a}\nas the chart shows",
    "long": "{a} and then it goes on" * 8, "open tag": "<answer>{a}", "escape": "\x1b[31m{a}", "twice": "{a}, {a}",
    "bold": "**{a}**", "corners": "「{a}」", "full stop": "{a}。", "because": "{a}, because it is shown",
}  # fmt: skip
# Beside these, numbers near the target and far from it.
_NUMBERS = (
    r"14 | 14.0 | 14.7 | 14.71 | 13.3 | 13.2 | -14 | 1.4e1 | 14% | 0.14 | 57 | 57% | 0.57 | 0.6 | 57.0% | "
    r"0.541 | 2008 | 2100 | 2108.4 | 2109 | -3.5 | 3.5 | 0 | 0.0 | 0% | -0 | inf | nan | 1e400 | 1,234 | 1234 "
    r"| 1_4 | 8.5 | 8.504 | 8.51 | 1200 | 1,200 | -3 | 0.667 | 0.67 | 2/3 | 7 | 7.0 | 7.9 | +7 | -12 | 1.5 | "
    r"1.50 | 1.54 | 1.45 | 0.33 | 0.333 | 1/3 | [2007, 2008] | [2008, 2007] | [2007,2008] | (2007, 2008) | x |"
    r" x=8.5 | so it is 8.5 | roughly 1200 in total | =7 | $7 | 7 cm | 12 | 0.75 | .75 | 3/4 | \frac{3}{4} | "
    r"\dfrac34 | \sqrt{2} | 1.41 | 1.414 | \sqrt2 | 3.14 | 3.14159 | \pi | (1,2) | (1, 2) | (2,1) | 2\pi | "
    r"6.28 | -5 | - 5 | \boxed{12} | The answer is 12. | the final answer is 12 | \boxed{3/4} so \boxed{12} | "
    r"$\boxed{-5}$ | x = 12 | 12\text{ cm} | 40 | 40° | 40^\circ | 4\sqrt{3} | \sqrt{48} | 6.93 | 0.5 | 1/2 | "
    r"8 | 8 cm | 8\mathrm{~cm} | 9 cm | 50 | 50^{\circ} | (2,-1) | (2, -1) | (-1,2) | x^2+1 | 1+x^2 | x^{2}+1 "
    r"| 2.5 | 5/2 | 9^9^9^9^9 | twelve | <answer>12</answer> | <think>12</think><answer>40</answer> "
    r"| 1\,234 | 1{,}200 | 1 200 | –3 | - 3 | −5 | –12 | 1200 m^2 | 7 cm^2 | 7 m/s^2 | 1.2 × 10^3 | 1.2 \times 10^3 "
    r"| ½ | 1½ | \tfrac12 | 7 (of 10) | 57%. | −3.5 | \sqrt{2} cm | 12 or 13 | 12 m | x+5=12 | [1,2] | \{1,2\} | 8 m "
    r"| 50 cm | ３．１４ | √2 | 2π | 4√3 | 40 degrees | 12 apples"
)
NUMBERS = _NUMBERS.split(" | ")


def cases(name: str) -> Iterator[Case]:
    """Every row with the responses that suit it, the right answer and others in them."""
    task = tasks.load(name)
    for place, row in enumerate(ROWS[name]):
        question = task.question(_complete(name, row), place)
        if question.choices:
            for right, (template, text) in itertools.product((True, False), OPTION_TEMPLATES.items()):
                yield place, template, text.format(**_option_words(question, right))
            continue
        for template, text in TEXT_TEMPLATES.items():
            yield place, template, text.format(**_answer_words(question.answers[0]))
        for index, number in enumerate(NUMBERS):
            if (index + place) % 3 == 0 or number == question.answers[0]:
                yield place, f"number {number}", number


def _option_words(question: Question, right: bool) -> dict[str, str]:
    place = ascii_uppercase.index(question.answers[0])
    count = len(question.choices)
    chosen, other = (place, (place + 1) % count) if right else ((place + 1) % count, place)
    text = question.choices[chosen]
    return {"l": ascii_uppercase[chosen], "s": ascii_uppercase[chosen].lower(), "t": text, "T": text.upper(),
            "m": ascii_uppercase[other]}  # fmt: skip


def _answer_words(answer: str) -> dict[str, str]:
    return {"a": answer, "A": answer.upper(), "d": answer.replace(" ", "   "), "o": answer[:-1] + "§",
            "h": answer[: len(answer) // 2]}  # fmt: skip


def _complete(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row with all the columns of the task, pictures in those that hold them."""
    task = tasks.load(name)
    blank = dict.fromkeys((*task.columns, *task.optional))
    image = {
        column: {"bytes": b"-", "path": None} for column in ("image", "decoded_image", "image_1") if column in blank
    }
    return blank | image | row


def ours(name: str, case: Case) -> float:
    """The score that `eval` gives the response."""
    place, _, response = case
    task = tasks.load(name)
    question = task.question(_complete(name, ROWS[name][place]), place)
    prediction = task.extract(response, question)
    return 0.0 if prediction is None else task.score(prediction, question)


# ------------------------------------------------------------------------------- where the two may differ


@dataclass(frozen=True)
class Allowed:
    """Cases in which ours may be above (+), below (-) or on either side (±) of lmms-eval's, and why."""

    reason: str
    direction: str
    templates: frozenset[str]


def _allow(reason: str, direction: str, templates: str) -> Allowed:
    return Allowed(reason, direction, frozenset(templates.split(" | ")))


OPEN = "A tag left open is no answer: what would have come is not known."
ALONE = (
    "lmms-eval takes the letter by itself or in front, and marks every other wording wrong; here a letter or an option "
    "is read out of the wording too, so that the figure is of what was answered and not of its form."
)
LAST = 'The answer is what follows the last "the answer is", and else the option that is named last.'
NOISE = "A letter run together with control characters is not read as a letter."
GUESS = (
    "lmms-eval takes the option nearest in spelling to a response it cannot read, so that anything scores by chance; "
    "here that is no answer."
)
JUDGE = "lmms-eval leaves reading a number out of a sentence to its model judge; here a rule does."
WHOLE = "A number is read whole, as people write it: fractions, powers, typographic signs, separators of other kinds."
MARKS = "Marks around an answer are not part of it, those of other scripts included."
FIRST = 'What "the answer is" goes on with is the answer; lmms-eval prefers a letter in brackets behind it.'
SYMBOLS = "math-verify reads it, lmms-eval's own reading fails."

ALLOWED: dict[str, list[Allowed]] = {
    "infovqa": [
        _allow(OPEN, "-", "open tag"),
    ],
    "ai2d": [
        _allow(
            ALONE,
            "+",
            "(letter) text | text | shouted text | is letter | is (letter) | is text | colon | spaces | line | "
            "option | rejecting | two brackets | article | named late | boxed | long | wide | both | is right | fits | "
            "chosen | because | small option | inverted",
        ),
        _allow(LAST, "±", "correcting"),
    ],
    "scienceqa": [
        _allow(
            ALONE,
            "+",
            "bracketed | closed | (letter) text | text | shouted text | is letter | is (letter) | is text | colon"
            " | bold | line | option | rejecting | two brackets | article | named late | quoted | boxed | long | "
            "wide | both | is right | fits | chosen | because | small option | inverted",
        ),
        _allow(LAST, "±", "correcting"),
    ],
    "mmmu": [
        _allow(
            ALONE,
            "+",
            "small | closed | text | shouted text | is text | bold | line | quoted | boxed | wide | small option",
        ),
        _allow(FIRST, "±", "because"),
        _allow(WHOLE, "+", "number 2/3 | number 1{,}200 | number 1.2 × 10^3"),
        _allow(OPEN, "-", "open tag"),
        _allow(NOISE, "-", "escape"),
        _allow("A letter is met by a word of one letter, also at the end of a line.", "+", "lines"),
    ],
    "chartqa": [
        _allow("Spaces around an answer are not part of it.", "+", "spaces"),
        _allow("A target of zero is met by every way of writing zero.", "+", "number 0.0"),
        _allow(MARKS, "+", "dotted | quoted | bold | corners | full stop | number 57%."),
        _allow(WHOLE, "+", "number 1{,}200"),
    ],
    "mathvista": [
        _allow(
            GUESS,
            "±",
            "is letter | line | option | rejecting | two brackets | correcting | named late | beyond | empty | "
            "blank | both | escape | small | closed | shouted text | colon | bold | article | quoted | boxed | "
            "wide | refusal | open tag | long | dotted | is right | fits | chosen | because | small option | inverted",
        ),
        _allow(JUDGE, "+", "more | sentence | lines | twice | number =7"),
        _allow(MARKS, "+", "corners | full stop"),
        _allow(WHOLE, "+", "number –12 | number 1/3"),
        _allow(
            "The data holds the precision as a float, with which lmms-eval cannot round: it marks every decimal "
            "answer wrong. Ours makes it a whole number first.",
            "+",
            "exact | capitals | spaces | tag | number 2.5",
        ),
        _allow("Lists are compared by their numbers, not by their spelling.", "+", "doubled | number (2007, 2008)"),
    ],
    "mathvision": [
        _allow(
            ALONE,
            "+",
            "closed | letter, text | (letter) text | colon | bold | tag, text | option | rejecting | two brackets"
            " | article | named late | quoted | long | wide | both | text | shouted text | is text | is right | fits | "
            "chosen | because | small option | inverted",
        ),
        _allow(SYMBOLS, "+", "lines | number \\dfrac34 | number 2π"),
        _allow(MARKS, "+", "corners | full stop"),
        _allow("A unit that the target does not name may stand behind.", "+", "number 12 apples"),
    ],
    "mathverse": [
        _allow(ALONE, "+", "small | text | shouted text | is text | named late | small option"),
        _allow(LAST, "±", "rejecting | two brackets | correcting | both | colon | article"),
        _allow(OPEN, "-", "open tag"),
        _allow(NOISE, "-", "escape"),
        _allow(SYMBOLS, "+", "quoted | sentence | lines | because | number 6.93 | number 1+x^2 | number \\tfrac12"),
        _allow(MARKS, "+", "corners | bold | full stop"),
        _allow(
            "lmms-eval lets any expression inside a passage, and pieces of it, stand for the answer.",
            "-",
            "more | long | one off | half",
        ),
        _allow("Case carries no meaning.", "±", "capitals"),
        _allow("An answer given twice is a list, which the target is not.", "-", "twice"),
    ],
}


# ------------------------------------------------------------------------- lmms-eval, where it is installed


def _tagged(response: str) -> str:
    if "<answer>" in response and "</answer>" in response:
        return response.partition("<answer>")[2].partition("</answer>")[0].strip()
    return response


def _infovqa() -> Callable[[dict[str, Any], str], float]:
    from lmms_eval.api.metrics import anls

    return lambda row, response: anls(row["answers"], [response])["anls"]


def _ai2d() -> Callable[[dict[str, Any], str], float]:
    from lmms_eval.api.metrics import exact_match_hf_evaluate
    from lmms_eval.tasks.ai2d.utils import MultiChoiceRegexFilter, ai2d_doc_to_target

    def score(row: dict[str, Any], response: str) -> float:
        found = MultiChoiceRegexFilter(regex_pattern=r"([A-Z])\.").apply([[response]], [row])
        target = ai2d_doc_to_target(row, "mcq")
        return exact_match_hf_evaluate(found, [target], ignore_case=True, ignore_punctuation=True)["exact_match"]

    return score


def _scienceqa() -> Callable[[dict[str, Any], str], float]:
    from lmms_eval.tasks.scienceqa.utils import sqa_process_results

    return lambda row, response: sqa_process_results(row, [response])["exact_match"]


def _chartqa() -> Callable[[dict[str, Any], str], float]:
    from lmms_eval.tasks.chartqa.utils import chartqa_process_results

    return lambda row, response: chartqa_process_results(row, [response])["relaxed_overall"]


def _mmmu() -> Callable[[dict[str, Any], str], float]:
    from lmms_eval.tasks._task_utils import mmmu_mcq_utils
    from lmms_eval.tasks.mmmu.utils import evaluate_mmmu, mmmu_process_results

    mmmu_mcq_utils.random.choice = lambda choices: "no guess"

    def score(row: dict[str, Any], response: str) -> float:
        return evaluate_mmmu([mmmu_process_results(row, [response])["mmmu_acc"]])[1]["acc"]

    return score


def _mathvista() -> Callable[[dict[str, Any], str], float]:
    from lmms_eval.tasks.mathvista.mathvista_evals import MathVistaEvaluator

    evaluator = MathVistaEvaluator()

    def score(row: dict[str, Any], response: str) -> float:
        evaluator.get_chat_response = lambda *args, **kwargs: response  # the judge reads nothing off
        extraction = evaluator.extract_answer(response, {**row, "choices": row["choices"] or []})
        given = evaluator.normalize_extracted_answer(
            extraction, row["choices"], row["question_type"], row["answer_type"], row["precision"]
        )
        return float(evaluator.safe_equal(given, row["answer"]))

    return score


def _mathvision() -> Callable[[dict[str, Any], str], float]:
    import latex2sympy2  # noqa: F401  (without it lmms-eval only warns)
    from lmms_eval.tasks.mathvision.utils import mathvision_process_results

    return lambda row, response: float(
        mathvision_process_results(row, [response])["mathvision_standard_eval"]["scores"][0]
    )


def _mathverse() -> Callable[[dict[str, Any], str], float]:
    from lmms_eval.tasks._task_utils.reasoning_utils import acc_reward

    return lambda row, response: float(acc_reward(response, row["answer"]))


SCORERS = {
    "infovqa": _infovqa, "ai2d": _ai2d, "scienceqa": _scienceqa, "mmmu": _mmmu, "chartqa": _chartqa,
    "mathvista": _mathvista, "mathvision": _mathvision, "mathverse": _mathverse,
}  # fmt: skip


def theirs(name: str) -> list[list[Any]]:
    """Each case with the verdict of lmms-eval. Raises ImportError where that is not installed."""
    score = SCORERS[name]()
    return [[*case, round(float(score(ROWS[name][case[0]], _tagged(case[2]))), 4)] for case in cases(name)]


def main() -> None:
    verdicts = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in tasks.NAMES:
        try:
            verdicts[name] = theirs(name)
        except ImportError as error:
            print(f"{name}: left as it is ({error})")
            continue
        print(f"{name}: {len(verdicts[name])} cases")
    lines = (
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(case) for case in verdicts[name]) + "\n]"
        for name in verdicts
    )
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
