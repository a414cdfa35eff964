"""`rollout --pass`: other kinds of rows beside the answers, with the fake sampler."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner, Result

from ireasoner_cli.app import app
from stages.contract import trajectory_seed
from stages.parsing import parse_tags
from stages.prompts import filled, placeholders
from tests import chain

FAKE = ("--sampler", "fake")
DESCRIBE = "Look.\n{question}\n<description>…</description> <think>…</think> <answer>…</answer>"
READ = "Read.\n{description}\n{question}\n<think>…</think> <answer>…</answer>"


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def succeeds(*words: object) -> dict[str, Any]:
    done = call(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(code: int, *words: object) -> str:
    done = call(*words)
    assert done.exit_code == code, done.output
    return " ".join(done.stderr.replace("│", " ").split())


def solver(path: str | Path, name: str | None = None) -> list[dict[str, Any]]:
    return [row for row in chain.rows(Path(path)) if row["role"] == "solver" and name in (None, row["pass"])]


@pytest.fixture
def answers(workdir: Path) -> Path:
    """rollouts.parquet, whose answers describe the picture first."""
    succeeds("propose", "--images", "pool", "--model", "model", "--groups", 12, *FAKE)
    succeeds("rollout", "questions.parquet", "--samples", 3, "--prompt", DESCRIBE, *FAKE)
    return Path("rollouts.parquet")


def reading(*more: object) -> tuple[object, ...]:
    return ("--pass", "reader", "--of", "answer", "--samples", 2, "--no-image", "--prompt", READ, *FAKE, *more)


def test_a_pass_goes_beside_what_is_there(answers: Path) -> None:
    told = succeeds("rollout", answers, *reading())
    before, after = chain.rows(answers), chain.rows(Path(told["path"]))
    assert told["path"] == "reader.parquet"
    assert [row for row in after if row["pass"] != "reader"] == before
    place = {(row["group_id"], row["pass"], row["sample_index"]): i for i, row in enumerate(after)}
    parents = {(row["group_id"], row["sample_index"]): row for row in solver(answers)}
    made = solver("reader.parquet", "reader")
    assert made
    for row in made:
        parent = parents[row["group_id"], row["parent_index"]]
        described = parse_tags(parent["completion"])["description"]
        assert row["prompt"] == f"Read.\n{described}\n{row['question']}\n<think>…</think> <answer>…</answer>"
        assert row["images"] == row["images_sha256"] == [] and row["view"] is None
        assert row["seed"] == trajectory_seed(row["group_id"], "solver", row["sample_index"], "reader")
        assert place[row["group_id"], "reader", row["sample_index"]] > place[parent["group_id"], "answer", 2]
    without = [row for row in solver(answers) if "description" not in parse_tags(row["completion"])]
    assert without  # the fake cuts some short
    assert told["parents_left_out"] == len(without)
    assert told["rollouts"] == len(made) == 2 * (len(solver(answers)) - len(without))
    by_group: dict[str, list[int]] = {}
    for row in made:
        by_group.setdefault(row["group_id"], []).append(row["sample_index"])
    assert all(found == list(range(len(found))) for found in by_group.values())


def test_the_metadata_keep_every_pass_by_name(answers: Path) -> None:
    succeeds("rollout", answers, *reading("--temperature", "0.5"))
    params = chain.metadata(Path("reader.parquet"))["params"]
    assert params["pass"] == "reader" and params["temperature"] == 0.5 and params["no_image"]
    earlier = dict(chain.metadata(answers)["params"])
    proposed = earlier.pop("propose")
    assert params["passes"] == {"answer": earlier} and params["propose"] == proposed
    succeeds("rollout", "reader.parquet", "--pass", "base", "--adapter", "base", *FAKE)
    params = chain.metadata(Path("base.parquet"))["params"]
    assert set(params["passes"]) == {"answer", "reader"} and params["adapter"] == "base"
    assert [row["pass"] for row in solver("base.parquet")][-1] == "base"


def test_sharded_killed_and_resumed_is_the_same(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.sampling.fake import FakeSampler

    monkeypatch.setattr("stages.shards.output.GROUPS_PER_CHUNK", 2)
    told = succeeds("rollout", answers, *reading())
    whole = chain.rows(Path("reader.parquet"))
    for index in (2, 1, 3):
        succeeds("rollout", answers, *reading("--shard", f"{index}/3", "--out", "parts"))
    assert [row for i in (1, 2, 3) for row in chain.rows(Path(f"parts/part-{i}-of-3.parquet"))] == whole

    sample, asked = FakeSampler.sample, 0

    def dies(self: Any, requests: Any, decoding: Any) -> Any:
        def counted() -> Any:
            nonlocal asked
            for request in requests:
                asked += 1
                if asked == 30:
                    raise KeyboardInterrupt
                yield request

        return sample(self, counted(), decoding)

    monkeypatch.setattr(FakeSampler, "sample", dies)
    assert call("rollout", answers, *reading("--out", "again.parquet")).exit_code == 130
    planned = succeeds("rollout", answers, *reading("--out", "again.parquet"), "--dry-run")
    assert 0 < planned["groups_taken_up"] < 12
    assert planned["requests"] < told["rollouts"]
    monkeypatch.setattr(FakeSampler, "sample", sample)
    again = succeeds("rollout", answers, *reading("--out", "again.parquet"))
    assert Path("again.parquet").read_bytes() == Path("reader.parquet").read_bytes()
    assert {**again, "path": ""} == {**told, "path": ""}


def test_verified_and_made_again(answers: Path) -> None:
    succeeds("rollout", answers, *reading("--learn-prompt", "Other.\n{question}"))
    done = call("verify", "reader.parquet", "--replay")
    assert done.exit_code == 0, done.output
    assert "same bytes" in done.output
    assert {row["learn_prompt"] for row in solver("reader.parquet", "reader")} == {
        f"Other.\n{row['question']}" for row in solver("reader.parquet", "reader")
    }


def test_on_a_scored_shard(answers: Path) -> None:
    succeeds("score", answers)
    succeeds("rollout", "scored.parquet", *reading())
    succeeds("rollout", answers, *reading("--out", "plain.parquet"))
    assert chain.rows(Path("reader.parquet")) == chain.rows(Path("plain.parquet"))


def test_before_the_question_is_known(answers: Path) -> None:
    """An analysis of the picture, and answers made of it."""
    think = "What is there?\n<analysis>…</analysis>"
    answers.unlink()
    succeeds("rollout", "questions.parquet", "--pass", "think", "--samples", 2, "--prompt", think, *FAKE)
    assert {row["prompt"] for row in solver("think.parquet")} == {think}
    answer = "{question}\n{analysis}\n<think>…</think> <answer>…</answer>"
    told = succeeds("rollout", "think.parquet", "--of", "think", "--samples", 3, "--prompt", answer, *FAKE)
    assert told["path"] == "rollouts.parquet"
    made = solver("rollouts.parquet", "answer")
    assert len(made) == told["rollouts"] and {row["parent_index"] for row in made} <= {0, 1}
    assert call("verify", "rollouts.parquet", "pool").exit_code == 0


def test_a_view_is_seen_and_recorded(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.images import views

    shown: list[tuple[str, int]] = []
    seen = views.seen

    def noted(picture: Image.Image, view: str, seed: int) -> Image.Image:
        shown.append((view, seed))
        return seen(picture, view, seed)

    monkeypatch.setattr(views, "seen", noted)
    succeeds("rollout", answers, "--pass", "spoilt", "--view", "mask:0.6", "--samples", 2, *FAKE)
    made = solver("spoilt.parquet", "spoilt")
    assert shown == [("mask:0.6", row["seed"]) for row in made]
    assert {row["view"] for row in made} == {"mask:0.6"} and all(row["images"] for row in made)


def test_what_does_not_go_together(answers: Path) -> None:
    assert "there are rows of pass answer already" in refused(2, "rollout", answers, *FAKE, "--out", "x.parquet")
    assert "no rows of that pass; there are answer" in refused(2, "rollout", answers, "--pass", "b", "--of", "a", *FAKE)
    assert "no view 'blur'" in refused(2, "rollout", answers, "--pass", "b", "--view", "blur", *FAKE)
    both = refused(2, "rollout", answers, "--pass", "b", "--view", "pad", "--no-image", *FAKE)
    assert "give one of them" in both
    assert "--pass Known!" in refused(2, "rollout", answers, "--pass", "Known!", *FAKE)
    for taken in ("known", "scored", "questions"):
        assert "is none of known, questions," in refused(2, "rollout", answers, "--pass", taken, *FAKE)
    Path("judge.txt").write_text("{question}\n{think}\nIs it right?")
    of_nobody = refused(2, "rollout", answers, "--pass", "judge", "--prompt", "judge.txt", *FAKE)
    assert "the prompt of pass judge holds {think}, which an earlier row says; add --of PASS" in of_nobody
    asks = refused(2, "rollout", "questions.parquet", "--prompt", "no\nplace", "--out", "y.parquet", *FAKE)
    assert "must contain {question}" in asks


# ------------------------------------------------------------------------------------------------------ tags


@given(st.text())
def test_any_text_has_some_tags(text: str) -> None:
    assert all(content and content == content.strip() for content in parse_tags(text).values())


@given(st.dictionaries(st.sampled_from(["description", "question", "x-1"]), st.text(), min_size=1))
def test_what_is_filled_in_is_not_looked_at_again(values: dict[str, str]) -> None:
    prompt = "|".join(f"{{{name.upper()}}}" for name in values) + "{other} \\frac{1}{2} { question }"
    assert filled(prompt, values) == "|".join(values.values()) + "{other} \\frac{1}{2} { question }"
    assert placeholders(prompt) == {*values, "other"}


def test_a_block_that_the_prompt_opened_is_read_too() -> None:
    text = "Step 1: x\n</think><answer>5</answer>"
    assert parse_tags(text) == {"think": "Step 1: x", "answer": "5"}
    assert parse_tags(f"<think>{text}") == parse_tags(text)


def test_the_content_of_tags() -> None:
    text = "<Description> a {question} </description><think>b<answer>1</answer></think><answer> 2 </answer>"
    assert parse_tags(text) == {"description": "a {question}", "think": "b<answer>1</answer>", "answer": "2"}
    assert parse_tags("<a></a><a>x</a><a>y</a><b>open") == {"a": "x"}
    assert parse_tags("<think><answer>1</answer></think>") == {"think": "<answer>1</answer>"}


# ------------------------------------------------------------------------------------- as settings, and in the loop

SETTINGS = """
sampler = "fake"
model = "model"

[propose]
groups = 6

[rollout]
samples = 3
prompt = '''
Look.
{question}
<description>…</description> <think>…</think> <answer>…</answer>
'''

[[pass]]
name = "reader"
of = "answer"
samples = 1
no-image = true
prompt = '''
Read.
{description}
{question}
'''
"""


def test_run_makes_the_passes_that_one_can_type(workdir: Path) -> None:
    Path("ireasoner.toml").write_text(SETTINGS)
    succeeds("run", "--images", "pool", "--out", "run", "--iterations", 2)
    succeeds("propose", "--images", "pool")
    succeeds("rollout", "questions.parquet")
    succeeds("rollout", "rollouts.parquet", "--pass", "reader")
    succeeds("score", "reader.parquet")
    for name in ("rollouts", "reader", "scored"):
        assert chain.rows(Path(f"run/it0001/{name}.parquet")) == chain.rows(Path(f"{name}.parquet"))
    made = solver("scored.parquet", "reader")
    assert made and all(row["prompt"].startswith("Read.") and row["images"] == [] for row in made)
    assert all(row["reward"] is None and row["selected"] is False for row in made)
    assert call("verify", "run", "pool").exit_code == 0
    succeeds("run", "--images", "pool", "--out", "run", "--iterations", 2)


def test_a_passs_settings_stand_above_the_commands_and_below_a_flag(workdir: Path) -> None:
    Path("ireasoner.toml").write_text(SETTINGS)
    Path("own.toml").write_text(
        "[rollout]\ntemperature = 0.5\n"
        "[[pass]]\nname = 'reader'\nmax-tokens = 99\nsamples = 4\n"
        "[[pass]]\nname = 'last'\n"
    )
    succeeds("propose", "--images", "pool")
    for name, more in (("answer", ()), ("reader", ()), ("last", ("--samples", 2))):
        out = {"answer": "rollouts"}.get(name, name)
        before = {"answer": "questions", "reader": "rollouts"}.get(name, "reader")
        succeeds("rollout", f"{before}.parquet", "--pass", name, "--recipe", "own.toml", *more)
        params = chain.metadata(Path(f"{out}.parquet"))["params"]
        found = (params["samples"], params["temperature"], params["max_tokens"], params["of"])
        assert (
            found
            == {
                "answer": (3, 0.5, 256, None),
                "reader": (1, 0.5, 99, "answer"),
                "last": (2, 0.5, 256, None),
            }[name]
        )


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("[[pass]]\nof = 'answer'", "[[pass]] number 1 needs a `name` of its own"),
        ("[[pass]]\nname = 'a'\n[[pass]]\nname = 'a'", "[[pass]] number 2 needs a `name`"),
        ("[[pass]]\nname = 'a'\nsampels = 3", "pass a: unknown key 'sampels'; the nearest valid key is 'samples'"),
        ("[[pass]]\nname = 'a'\nsamples = 0", "pass a: samples: Input should be greater than or equal to 1"),
        ("[rollout]\npass = 'a'", "unknown key 'pass'"),
        ("pass = 'a'", "[[pass]] number 1 needs"),
    ],
)
def test_mistakes_in_settings(workdir: Path, table: str, says: str) -> None:
    Path("ireasoner.toml").write_text(table)
    message = refused(2, "propose", "--images", "pool", "--model", "model", *FAKE)
    assert says in message, message
