"""The eight benchmarks: their schemas, what is asked, how answers are read off, their metrics."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import shards, tasks
from stages.errors import DataError, EngineError, UsageError
from stages.tasks.answers import answer_text, last_boxed
from stages.tasks.data import files_of
from stages.tasks.infovqa import score as anls
from stages.tasks.numbers import last_number
from stages.tasks.options import option
from stages.tasks.task import BadRow, Question
from tests import agreement, benchmark_files

COLOURS = ("red", "blue", "green", "sky blue")


def questions(name: str, path: Path) -> list[Question | str]:
    """The questions of a file, or why a row is none."""
    task = tasks.load(name)
    found: list[Question | str] = []
    for place, record in enumerate(shards.Records([path], task.columns, task.optional)):
        try:
            found.append(task.question(record, place))
        except BadRow as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


# --------------------------------------------------------------------------------------- schemas and prompts


@pytest.mark.parametrize("name", tasks.NAMES)
def test_the_schema_of_the_hub_is_understood(name: str, tmp_path: Path) -> None:
    task = tasks.load(name)
    found = questions(name, benchmark_files.BUILDERS[name](tmp_path))
    asked = [question for question in found if isinstance(question, Question)]
    assert len(asked) >= 3 and all(str(left).startswith("OutsideTask") for left in found if left not in asked)
    assert len({question.id for question in asked}) == len(asked)
    for question in asked:
        assert question.text and question.instruction and question.answers and len(question.images) <= task.max_images
        if question.choices:
            assert all(choice in question.text for choice in question.choices) or question.type == "Vision Only"
            assert task.score(question.answers[0], question) == 1.0
        else:  # the target itself is right
            prediction = task.extract(question.answers[0], question)
            assert prediction is not None and task.score(prediction, question) == 1.0


def test_what_is_particular_to_each(tmp_path: Path) -> None:
    made = {name: questions(name, build(tmp_path)) for name, build in benchmark_files.BUILDERS.items()}
    assert made["scienceqa"][0].text == (  # type: ignore[union-attr]
        "Context: Two pairs of magnets.\nWhich is stronger?\nA. pair 1\nB. pair 2"
    )
    assert made["scienceqa"][1] == "OutsideTask: no image"
    accounting, _, opened = made["mmmu"]
    assert isinstance(accounting, Question) and isinstance(opened, Question)
    assert accounting.type == "Business" and len(accounting.images) == 2
    assert accounting.choices == ["$6", "$7.5", "none of '6' and '7'"]
    assert opened.answers == ["8.5", "17/2"] and len(opened.images) == 1
    assert [question.answers for question in made["mathvista"]] == [  # type: ignore[union-attr]
        ["B"], ["7"], ["1.50"], ["[2007, 2008]"]
    ]  # fmt: skip
    assert made["mathvista"][1].text.endswith("(Unit: cm)")  # type: ignore[union-attr]
    versions = made["mathverse"]
    assert versions[5] == "OutsideTask: the version Text Only"
    assert {question.cluster for question in versions[:5]} == {"1"}  # type: ignore[union-attr]
    assert versions[4].text == "The question is written in the picture."  # type: ignore[union-attr]
    assert versions[4].choices == ("145°", "35°", "70°", "110°")  # type: ignore[union-attr]


def test_the_original_chartqa(tmp_path: Path) -> None:
    human, augmented = questions("chartqa", benchmark_files.chartqa_original(tmp_path))
    assert isinstance(human, Question) and isinstance(augmented, Question)
    assert (human.type, augmented.type, human.answers) == ("human", "augmented", ["14"])


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("ai2d", {"answer": "4"}, "answer '4' is none of the 4 options"),
        ("ai2d", {"answer": None}, "answer None is none of the 4 options"),
        ("ai2d", {"question": " "}, "no question"),
        ("ai2d", {"image": {"bytes": None, "path": None}}, "no image"),
        ("infovqa", {"answers": []}, "no answers"),
        ("infovqa", {"answers": [1]}, "answers is not a list of texts"),
        ("mmmu", {"answer": "Q"}, "answer 'Q' is none of the 3 options"),
        ("mmmu", {"options": ""}, "no options or answer"),
        ("mmmu", {"image_2": None}, "no image_2"),
        ("chartqa", {"answer": None}, "no answer"),
        ("mathvista", {"answer": "nothing"}, "is none of the 2 options"),
        ("mathvision", {"answer": "F"}, "answer 'F' is none of the 5 options"),
        ("mathverse", {"answer": ""}, "no answer"),
    ],
)
def test_a_bad_row_says_what_is_wrong(name: str, change: dict[str, Any], says: str, tmp_path: Path) -> None:
    task = tasks.load(name)
    record = next(iter(shards.Records([benchmark_files.BUILDERS[name](tmp_path)], task.columns, task.optional)))
    with pytest.raises(BadRow, match=says):
        task.question({**record, **change}, 0)


def test_files_of_another_schema(tmp_path: Path) -> None:
    task = tasks.load("mathvista")
    with pytest.raises(DataError, match="lacks the columns pid, decoded_image, choices"):
        shards.Records([benchmark_files.chartqa(tmp_path)], task.columns)


# ------------------------------------------------------------------------------------------- finding the files


def test_downloads_are_found_by_their_folders(tmp_path: Path) -> None:
    made = {name: build(tmp_path) for name, build in benchmark_files.BUILDERS.items()}
    (tmp_path / "ChartQA/data/train-00000-of-00001.parquet").write_bytes(b"another split")
    assert {name: files_of(tasks.load(name), [], tmp_path) for name in tasks.NAMES} == {
        name: [path] for name, path in made.items()
    }


def test_the_hub_cache_is_a_folder_of_downloads(tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--lmms-lab--ScienceQA" / "snapshots" / "0123"
    for configuration in ("ScienceQA-FULL", "ScienceQA-IMG"):
        (snapshot / configuration).mkdir(parents=True)
        (snapshot / configuration / "test-00000-of-00001.parquet").touch()
    assert files_of(tasks.load("scienceqa"), [], tmp_path) == [snapshot / "ScienceQA-IMG/test-00000-of-00001.parquet"]


def test_of_a_data_set_with_several_configurations_the_tasks_own_is_taken(tmp_path: Path) -> None:
    own = benchmark_files.infovqa(tmp_path)
    other = tmp_path / "DocVQA/DocVQA/validation-00000-of-00001.parquet"
    other.parent.mkdir()
    other.write_bytes(own.read_bytes())
    assert files_of(tasks.load("infovqa"), [tmp_path / "DocVQA"], None) == [own]
    with pytest.raises(UsageError, match=r"DocVQA.*lies in a folder of DocVQA, and is not InfographicVQA's"):
        files_of(tasks.load("infovqa"), [other], None)


@pytest.mark.parametrize(
    ("name", "named", "taken", "said"),
    [
        (
            "mathvision",
            "MathVision/data/{test,testmini}-0-of-1",
            "MathVision/data/test-0-of-1",
            "testmini-0-of-1.*left",
        ),
        ("scienceqa", "ScienceQA/ScienceQA-{FULL,IMG}/test-0", "ScienceQA/ScienceQA-IMG/test-0", "FULL.*left out"),
        ("mmmu", "MMMU/Art/{dev,test,validation}-0", "MMMU/Art/validation-0", "dev.* and 1 more: left out"),
        ("infovqa", "DocVQA/{DocVQA,InfographicVQA}/validation-0", "DocVQA/InfographicVQA/validation-0", "left out"),
        (
            "chartqa",
            "ChartQA/data/{val-0,val-1}",
            "ChartQA/data/{val-0,val-1}",
            "of the split val, not of the official",
        ),
        ("chartqa", "mine/{charts,more}", "mine/{charts,more}", None),
    ],
)
def test_of_files_named_one_by_one_one_split_of_the_task_is_asked(
    name: str, named: str, taken: str, said: str | None
) -> None:
    told: list[str] = []
    assert files_of(tasks.load(name), expanded(named), None, told.append) == expanded(taken)
    assert len(told) == (said is not None) and (said is None or re.search(said, told[0]))


@pytest.mark.parametrize(
    ("name", "named", "says"),
    [
        ("chartqa", "ai2d/data/{test-0,test-1}", "lies in a folder of ai2d, and is not ChartQA's"),
        ("chartqa", "datasets--lmms-lab--ai2d/snapshots/{0,1}/test", "folder of ai2d"),
        ("chartqa", "ChartQA/{train,val}-0-of-1", r"several splits \(train, val\)"),
    ],
)
def test_what_no_evaluation_is_of_is_refused(name: str, named: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        files_of(tasks.load(name), expanded(named), None)


def expanded(pattern: str) -> list[Path]:
    """The paths that a shell makes of `a{b,c}d`, each a Parquet file."""
    start, _, rest = pattern.partition("{")
    middle, _, end = rest.partition("}")
    return [Path(f"{start}{each}{end}.parquet") for each in middle.split(",")]


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no testmini files of MathVista"):
        files_of(tasks.load("mathvista"), [], tmp_path)
    with pytest.raises(UsageError, match="holds no Parquet file"):
        files_of(tasks.load("mathvista"), [tmp_path], None)


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(name: str, repo_type: str, allow_patterns: list[str]) -> str:
        asked.append((name, repo_type, allow_patterns))
        if name == "gone/away":
            raise OSError("no route to host")
        return str(tmp_path / "DocVQA")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    path = benchmark_files.infovqa(tmp_path)
    assert files_of(tasks.load("infovqa"), [], None) == [path]
    assert files_of(tasks.load("infovqa"), [Path("someone/copy")], None) == [path]
    assert asked[0] == ("lmms-lab/DocVQA", "dataset", ["InfographicVQA/validation-*.parquet"])
    assert asked[1][0] == "someone/copy"
    with pytest.raises(EngineError, match=r"gone/away.*no route to host.*--data"):
        files_of(tasks.load("infovqa"), [Path("gone/away")], None)


# ------------------------------------------------------------------------------------------ reading answers off


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>Step 1: 3</think>\n<answer>4</answer>", "4"),
        ("<think>3</think> It is 4.", "It is 4."),
        ("so \\boxed{3} and then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("<answer>\\boxed{7}</answer>", "7"),
        ("plain", "plain"),
        ("<think>never closed", None),
        ("<answer>never closed", None),
        ("  ", None),
        ("\\boxed{open", "\\boxed{open"),
    ],
)
def test_the_answer_of_a_completion(completion: str, answer: str | None) -> None:
    assert answer_text(completion) == answer


@given(st.text(max_size=200))
def test_readers_take_any_text(text: str) -> None:
    for completion in (text, f"<answer>{text}</answer>", f"\\boxed{{{text}}}"):
        assert option(completion, COLOURS) in (None, "A", "B", "C", "D")
        assert last_boxed(completion) != ""
        last_number(completion)
        for name in tasks.NAMES:
            task = tasks.load(name)
            row = agreement.ROWS[name][-1]
            question = task.question(agreement._complete(name, row), 0)
            prediction = task.extract(completion, question)
            if prediction is not None and name not in ("mathvision", "mathverse"):
                assert 0 <= task.score(prediction, question) <= 1


# ----------------------------------------------------------------------------------------------------- metrics


def question(*answers: str, **more: Any) -> Question:
    return Question("1", "What?", "", [], answers, **more)


@pytest.mark.parametrize(
    ("prediction", "value"), [("Facebook", 1), ("facebook ", 1), ("facebok", 7 / 8), ("face", 0.5), ("fac", 0), ("", 0)]
)
def test_anls(prediction: str, value: float) -> None:
    assert anls(prediction, question("Facebook", "Twitter")) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "prediction", "value"),
    [
        ("57%", "0.57", 1), ("0.57", "57 %.", 1), ("57%", "57", 0), ("1,234", "1234", 1), ("1234", "1,234", 1),
        ("1,234", "1,180", 1), ("1,234", "1,100", 0), ("-5", "−5", 1), ("-5", "5", 0), ("5", "– 5", 0),
        ("1234", "1 234", 0),
        ("1234", "1\u2009234", 1), ("Yes", "**Yes**", 1), ("Yes", "“yes”。", 1), ("Yes", "Yes, it is", 0),
        ("0", "0.0", 1),
        ("14", "$14", 0), ("14", "14 million", 0), ("14", "１４", 1), ("14", "...", 0), ("2010", "2008", 1),
        ("inf", "1e400", 0),
    ],
)  # fmt: skip
def test_relaxed_accuracy_is_of_numbers_and_not_of_their_spelling(answer: str, prediction: str, value: float) -> None:
    assert tasks.load("chartqa").score(prediction, question(answer)) == value


def own(answers: list[str], choices: list[str] | None) -> Question:
    row = {"id": "q", "question": "?", "answers": answers, "choices": choices, "image": {"bytes": b"-", "path": None}}
    return tasks.load("plain").question({**row, "images": None, "type": None}, 0)


@pytest.mark.parametrize("answer", ["no", "No.", "B", "b", "(B)", "B. no"])
def test_letter_and_text_of_a_choice_are_both_right(answer: str) -> None:
    asked, task = own([answer], ["yes", "no"]), tasks.load("plain")
    for said, score in {"B": 1, "no": 1, "B. no": 1, "The answer is B.": 1, "A": 0, "yes": 0, "(a) yes": 0}.items():
        prediction = task.extract(f"<think>a</think><answer>{said}</answer>", asked)
        assert prediction is not None and task.score(prediction, asked) == score, said
    assert task.extract("<answer>neither</answer>", asked) is None
    assert task.extract("B", asked) is None  # without an answer tag there is no answer
    assert asked.answers == [answer]  # as the file has it


@pytest.mark.parametrize(
    ("answers", "choices", "says"),
    [
        (["maybe"], ["yes", "no"], "row q: its answer 'maybe' is neither letter nor text of any of its choices"),
        (["no", "C"], ["yes", "no"], "its answer 'C' is neither"),
        ([""], ["yes", "no"], "its answer '' is neither"),
        (["A"], ["B", "A"], "its answer 'A' is both A and B"),
        (["yes"], ["yes", "Yes", "no"], "its answer 'yes' is both A and B"),
    ],
)
def test_an_answer_that_names_no_one_choice_is_refused(answers: list[str], choices: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        own(answers, choices)


def test_without_choices_a_text_is_a_text() -> None:
    asked, task = own(["1,000", "B"], None), tasks.load("plain")
    assert task.score("1000", asked) == task.score("(b)", asked) == 1 and task.score("10", asked) == 0


# ------------------------------------------------------------------------------------- agreement with lmms-eval


@pytest.mark.parametrize("name", tasks.NAMES)
def test_agreement_with_lmms_eval(name: str) -> None:
    verdicts = json.loads(agreement.FILE.read_text())[name]
    assert [tuple(case[:3]) for case in verdicts] == list(agreement.cases(name))
    allowed = {template: entry for entry in agreement.ALLOWED[name] for template in entry.templates}
    differing = set()
    for place, template, response, theirs in verdicts:
        ours = agreement.ours(name, (place, template, response))
        if abs(ours - theirs) > 1e-3:
            assert template in allowed, f"{response!r} scores {ours} here and {theirs} in lmms-eval"
            direction = "+" if ours > theirs else "-"
            assert allowed[template].direction in (direction, "±"), (response, ours, theirs)
            differing.add(template)
    assert differing == set(allowed), "a listed difference is none any more"


def test_options_of_mmmu_may_be_a_list(workdir: Path) -> None:
    """As `datasets` and pandas store them, and not as Python's spelling of one; what cannot be read is said."""
    row = pq.read_table(benchmark_files.mmmu(workdir / "d")).to_pylist()[0]
    written = tasks.load("mmmu").question(row, 0)
    row["options"] = list(written.choices)
    assert tasks.load("mmmu").question(row, 0).choices == written.choices
    with pytest.raises(BadRow, match="its options cannot be read as a list"):
        tasks.load("mmmu").question({**row, "options": "['It's 3', 'it's 7']"}, 0)


def test_files_behind_a_linked_folder_are_found(tmp_path: Path) -> None:
    """As on clusters with a shared data disk."""
    benchmark_files.chartqa(tmp_path / "real")
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/ChartQA").symlink_to(tmp_path / "real/ChartQA")
    (tmp_path / "downloads/ChartQA/round").symlink_to(tmp_path / "downloads")
    [found] = files_of(tasks.load("chartqa"), [], tmp_path / "downloads")
    assert found.parent.name == "data" or found.is_file()
