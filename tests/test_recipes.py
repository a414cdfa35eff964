"""Recipes: settings files with names, whose rewards and advantages are the published ones."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from ireasoner_cli import recipes
from ireasoner_cli.app import app
from ireasoner_cli.demo import layout
from tests import chain
from tests.test_cli import fails

SIX_DECIMALS = 6e-7
SAMPLED = {"temperature": 0.7, "top_p": 0.99}


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def succeeds(*words: object) -> str:
    done = call(*words)
    assert done.exit_code == 0, done.output
    return done.stdout


def answered(answer: object, words: int = 0) -> str:
    """A completion with so many words before its answer; None for no answer."""
    return " ".join(["w"] * words + ([] if answer is None else [f"<answer>{answer}</answer>"])) or "nothing"


def group(index: int, answers: list[Any], words: list[int] | None = None, **proposal: Any) -> list[dict[str, Any]]:
    counts = words or [0] * len(answers)
    rows = chain.group(index, "pool/0.png", [answered(*pair) for pair in zip(answers, counts, strict=True)])
    rows[0] |= proposal
    return rows


def scored(recipe: str, *groups: list[dict[str, Any]], **params: Any) -> list[dict[str, Any]]:
    chain.write_shard(Path("rollouts.parquet"), list(groups), params={**SAMPLED, "propose": SAMPLED, **params})
    succeeds("score", "rollouts.parquet", "--recipe", recipe)
    return chain.rows(Path("scored.parquet"))


def advantages(recipe: str, *options: object) -> list[list[float]]:
    """Of each optimizer step of an update by the recipe."""
    succeeds("update", "scored.parquet", "--recipe", recipe, *options)
    return [row["advantages"] for row in chain.rows(Path("policy/metrics.parquet"))]


def rewards(rows: list[dict[str, Any]], role: str = "solver") -> list[float | None]:
    return [row["reward"] for row in rows if row["role"] == role]


def six(*values: float) -> Any:
    return pytest.approx(values, abs=SIX_DECIMALS)


# ------------------------------------------------------------------------------------- published constants

CLIP = {"loss": "clip", "clip-low": 0.2, "clip-high": 0.3, "clip-dual": 3.0}
VERL = CLIP | {"clip-high": 0.2}  # what verl has where a script says nothing
EASY_R1 = {"advantage": "grpo", **CLIP, "kl": "forward", "kl-fixed": 0.01}
BELL = {"answer-exponent": 0.7, "entropy-target": 0.9, "entropy-width": 0.35}
ADAPTIVE = {"lr": 1e-6, "advantage": "ema", "proposer-every": 5, "kl-start": 1e-3, "kl-target": 0.02}
# Of each paper or its code, as docs/recipes.md has them; what the worked numbers below do not look at.
PUBLISHED: dict[str, dict[str, Mapping[str, object]]] = {
    "co-rewarding": {"rollout": {"samples": 8}, "update": {"advantage": "grpo", **VERL, "kl-fixed": 0.005}},
    "doge": {"update": EASY_R1 | {"clip-high": 0.24}},
    "evolmm": {"rollout": {"samples": 5}, "score": BELL | {"length-penalty": 0.1, "length-limit": 6},
               "update": ADAPTIVE},
    "ireasoner": {
        "rollout": {"samples": 5},
        "score": BELL | {"length-penalty": 0.05, "decay": 0.15, "density-exponent": 0.7, "warmup": 0.3},
        "update": ADAPTIVE | {"lora-rank": 16, "lora-alpha": 32},
    },
    "laser": {"update": {"aux-coef": 0.1, "self-reward-scale": 0.1, **VERL, "kl-fixed": 0.0}},
    "m-star": {"rollout": {"samples": 16}, "score": {"top": 2}, "update": {"loss": "sft", "kl-fixed": 0.0}},
    "mm-upt": {"rollout": {"samples": 10, "temperature": 0.7, "top-p": 0.99}, "update": EASY_R1},
    "rise": {"score": {"keep": "0.3:0.8", "question-share": 1.0},
             "update": {"advantage": "grpo", **CLIP, "kl-fixed": 0.0, "proposer-every": 1}},
    "s3ft": {"score": {"keep": "0.6:1"}, "update": {"loss": "sft", "kl-fixed": 0.0}},
    "self-judge": {"rollout": {"samples": 8}, "score": {"factor": "verdict:0.8:1.2"},
                   "update": {**VERL, "kl-fixed": 0.01}},
    "stic": {"update": {"lr": 1e-7, "dpo-beta": 0.1, "reference": "base", "lora-rank": 128, "lora-alpha": 256}},
    "temporal": {"rollout": {"samples": 7}, "update": {"dpo-beta": 0.1, "reference": "start"}},
    "vision-sr1": {"rollout": {"samples": 8, "top-p": 0.99}, "update": EASY_R1},
    "visplay": {"propose": {"top-p": 0.99}, "update": EASY_R1},
}  # fmt: skip


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_the_constants_are_the_published_ones(name: str) -> None:
    tables = tomllib.loads(succeeds("recipes", name))
    for table, constants in PUBLISHED[name].items():
        assert {key: tables[table].get(key) for key in constants} == constants


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_the_bounds_are_on_a_ratio_that_is_one_on_policy(name: str) -> None:
    """μ is of the temperature that was sampled at, and so has π to be: else the clip cuts tokens at the first step."""
    settings = tomllib.loads(succeeds("recipes", name))
    rewarded = settings.get("score", {}).get("rewarded", "answer").split(",")
    passes = {each["name"]: each for each in settings.get("pass", ())}
    usual = settings.get("rollout", {}).get("temperature", 1.0)
    sampled = {passes.get(each, {}).get("temperature", usual) for each in rewarded}
    update = settings["update"]
    assert update.get("loss") != "clip" or sampled == {1.0} or update.get("sampling-temperature")


def test_no_recipe_is_without_its_constants() -> None:
    assert list(PUBLISHED) == recipes.names()


# ----------------------------------------------------------------------------------------- worked numbers


def test_evolmm(workdir: Path) -> None:
    rows = scored("evolmm", group(0, ["A", "A", "A", "B", "C"], [4, 6, 9, 12, 20]))
    assert tuple(rewards(rows)) == six(0.699368, 0.699368, 0.664400, 0.291718, 0.291718)
    assert rewards(rows, "proposer") == [pytest.approx(0.989738, abs=SIX_DECIMALS)]
    assert tuple(advantages("evolmm")[0]) == six(0.170054, 0.170054, 0.135085, -0.237596, -0.237596)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["12"] * 6 + ["15"] * 3 + [None], [0.774595] * 6 + [-1.161893] * 4),
        (["12"] * 3 + ["12.0"] * 2 + ["15"] * 4 + [None], [0.948681] * 5 + [-0.948681] * 5),
        ([None] * 5 + ["7"] * 3 + ["8"] * 2, [-0.621058] * 5 + [1.449135] * 3 + [-0.621058] * 2),
        (["0.5"] * 4 + ["1/2"] * 3 + ["2"] * 3, [1.161893] * 4 + [-0.774595] * 6),
        (["4"] * 10, [0.0] * 10),
    ],
)
def test_mm_upt(workdir: Path, answers: list[str | None], expected: list[float]) -> None:
    scored("mm-upt", group(0, answers))
    [found] = advantages("mm-upt")
    assert tuple(found) == six(*expected)


QUESTIONS = (
    *(f"How many bars are taller than the {colour} bar?" for colour in ("red", "blue", "green")),
    "What is the sum of the two smallest values?",
)


def test_visplay_rewards_questions_that_are_hard_and_new(workdir: Path) -> None:
    """Four questions about one image, answered alike by 5, 7, 10 and 4 of ten."""
    shares = (5, 7, 10, 4)
    groups = [
        group(index, ["a"] * share + [f"{i}" for i in range(10 - share)], question=QUESTIONS[index])
        for index, share in enumerate(shares)
    ]
    rows = scored("visplay:1", *groups)
    assert tuple(rewards(rows, "proposer")) == six(0.25, 0, 0, 0.55)
    assert [row["r_question_share"] for row in rows if row["role"] == "proposer"] == [0.75, 0.75, 0.75, 0.25]
    [found] = advantages("visplay:1")
    assert tuple(found) == six(0.191272, -0.765089, -0.765089, 1.338906)


def test_visplay_learns_answers_of_middling_agreement(workdir: Path) -> None:
    rows = scored("visplay:2", group(0, ["a"] * 5 + ["b"] * 3), group(1, ["a"] * 8), group(2, ["a"] * 6 + ["b"] * 2))
    by_group = [
        [row["selected"] for row in rows if row["role"] == "solver" and row["group_index"] == i] for i in range(3)
    ]
    assert by_group == [[True] * 8, [False] * 8, [True] * 8]
    [found] = advantages("visplay:2")
    assert tuple(found[:8]) == six(*[0.724567] * 5, *[-1.207612] * 3)


def test_s3ft_keeps_what_most_agree_on(workdir: Path) -> None:
    rows = scored("s3ft", group(0, [7, 7, 8, 7, None]), group(1, [7, 7, 8, 9, None]))
    selected = [row["selected"] for row in rows if row["role"] == "solver"]
    assert selected == [True, True, False, True, False, *[False] * 5]
    assert advantages("s3ft") == [[1.0, 1.0, 1.0]]  # which its loss does not look at


def test_m_star_learns_the_two_that_agree_best_in_their_weakest_step(workdir: Path) -> None:
    same, odd = chain.solution(4, "red is 4", "blue is 7"), chain.solution(4, "red is 4", "11 11 11")
    rows = chain.group(0, "pool/0.png", [odd, same, same, chain.solution(5, "red is 4", "blue is 7")])
    chain.write_shard(Path("rollouts.parquet"), [rows])
    succeeds("score", "rollouts.parquet", "--recipe", "m-star")
    solver = [row for row in chain.rows(Path("scored.parquet")) if row["role"] == "solver"]
    assert [row["selected"] for row in solver] == [False, True, True, False]
    assert solver[0]["r_process"] < solver[1]["r_process"] and solver[3]["r_process"] == 0


def passing(rows: list[dict[str, Any]], name: str, texts: list[str], parents: list[int] | None = None) -> Any:
    """Those of a group, and completions of another pass, made of these of another."""
    made = chain.group(rows[0]["group_index"], "pool/0.png", texts)[1:]
    of: Sequence[int | None] = parents or [None] * len(texts)
    return [*rows, *({**row, "pass": name, "parent_index": at} for row, at in zip(made, of, strict=True))]


def test_vision_sr1_pays_for_what_a_blind_reader_can_use(workdir: Path) -> None:
    described = [f"<description>bars</description><think>Step 1: a</think>{answered(key)}" for key in (12, 12, 12, 15)]
    rows = passing(group(0, []), "answer", [*described, "<description>bars</description>"])
    rows = passing(rows, "reader", [answered(key) for key in (12, 9, 12, 15, 12)], [0, 1, 2, 3, 4])
    assert tuple(rewards(scored("vision-sr1", rows))[:5]) == six(2.0, 1.0, 2.0, 0.1, 1.0)
    [found] = advantages("vision-sr1")
    assert tuple(found) == six(0.973479, -0.274571, 0.973479, -1.397816, -0.274571)


def test_co_rewarding_labels_each_wording_by_the_other(workdir: Path) -> None:
    rows = group(0, ["a", "a", "b", None])
    rows = passing(rows, "reword", ["<reworded>What?</reworded>"])
    rows = passing(rows, "reworded", [answered(key) for key in "bbbba"], [0] * 5)
    seen = scored("co-rewarding", rows)
    assert rewards(seen) == [0.0, 0.0, 1.0, 0.0, None, *[0.0] * 4, 1.0]
    [found] = advantages("co-rewarding")
    assert tuple(found) == six(-0.499999, -0.499999, 1.499997, -0.499999, *[-0.447213] * 4, 1.788850)


def test_self_judge_scales_agreement_by_a_verdict(workdir: Path) -> None:
    """p·(0.8 + 0.4·v), and p where nothing can be read."""
    rows = group(0, ["a", "a", "a", "b"])
    verdicts = ["<score>1</score>", "<score>0.5</score>", "<score>7</score>", "<score>0</score>"]
    seen = scored("self-judge", passing(rows, "judge", verdicts, [0, 1, 2, 3]))
    assert tuple(rewards(seen)[:4]) == six(0.9, 0.75, 0.75, 0.2)
    [found] = advantages("self-judge")
    assert tuple(found) == six(0.25, 0.1, 0.1, -0.45)


def test_doge_pays_an_analysis_by_the_answers_of_the_whole_group(workdir: Path) -> None:
    rows = passing(group(0, []), "think", [f"<analysis>{name}</analysis>" for name in "abc"])
    keys = [7, 7, 7, 8, 7, 7, 9, 9, 8, 8, 8, 8]
    rows = passing(rows, "answer", [answered(key) for key in keys], [place // 4 for place in range(12)])
    seen = scored("doge", rows, **{"pass": "answer", "passes": {"think": {"temperature": 0.9}}})
    assert tuple(rewards(seen)[:3]) == six(0.775, 0.55, 0.1) and rewards(seen)[3:] == [None] * 12
    [found] = advantages("doge")
    assert tuple(found) == six(0.872869, 0.218217, -1.091086)


def test_rise_rewards_questions_that_are_valid_and_of_a_rare_kind(workdir: Path) -> None:
    kinds = ["logical reasoning"] * 9 + ["Instance Reasoning", "logical reasoning", "rhymes"]
    groups = []
    for index, kind in enumerate(kinds):
        question = f"Question number {index} about {index * 7} and {index * 13}, in words of its own {index}?"
        made = f"<kind>{kind}</kind><question>{question}</question>"
        asked: dict[str, Any] = {"question": question, "completion": made}
        valid = f"<score>{int(index != 10)}</score>"
        groups.append(passing(group(index, ["a"] * 4 + ["b"] * 4, **asked), "valid", [valid]))
    seen = scored("rise", *groups)
    balance = [row["r_balance"] for row in seen if row["role"] == "proposer"]
    even = 11 / 6
    assert tuple(balance) == six(*[0.0] * 9, (even - 1) / even, 0.0, 0.0)
    assert [row["r_valid"] for row in seen if row["role"] == "proposer"] == [1.0] * 10 + [0.0, 1.0]
    share = [row["r_question_share"] for row in seen if row["role"] == "proposer"]
    expected = [
        max(0.0, 0.5 + 0.1 * (place != 10) + 0.2 * balance[place] - share[place]) for place in range(len(kinds))
    ]
    assert tuple(rewards(seen, "proposer")) == six(*expected)


def beside(rows: list[dict[str, Any]], name: str, answers: list[Any], **more: Any) -> list[dict[str, Any]]:
    """Those of a group, and answers of another pass."""
    others = group(rows[0]["group_index"], answers)[1:]
    return [*rows, *({**row, "pass": name, **more} for row in others)]


def test_temporal_prefers_the_majority_to_the_base_models_worst(workdir: Path) -> None:
    rows = scored("temporal", beside(group(0, [*"AABACAB"]), "base", [*"DABCDDA"]))
    paired = [(row["pass"], row["sample_index"], row["preferred"]) for row in rows if row["pair"] is not None]
    assert paired == [("answer", 0, True), ("base", 0, False)]
    assert advantages("temporal") == [[pytest.approx(0.05), pytest.approx(-0.05)]]  # at the reference, half of β
    [row] = chain.rows(Path("policy/metrics.parquet"))
    assert row["loss"] == pytest.approx(0.693147, abs=SIX_DECIMALS)


@pytest.mark.parametrize(("own", "base"), [([*"AAB"], [*"AAA"]), ([*"AABB"], [*"AABB"])])
def test_temporal_falls_back_on_its_own_worst(workdir: Path, own: list[str], base: list[str]) -> None:
    rows = scored("temporal", beside(group(0, own), "base", base))
    paired = [(row["pass"], row["sample_index"], row["preferred"]) for row in rows if row["pair"] is not None]
    assert paired == ([("answer", 0, True), ("answer", 2, False)] if len(own) == 3 else [])


def test_stic_prefers_what_was_described_well(workdir: Path) -> None:
    """At the reference: −log σ(0), and 1/1024 of the likelihood of the better description."""
    learned = {"learn_prompt": "Describe the picture."}
    rows = group(0, [4])
    for name, text in (("good", "a red bar"), ("bad", "a cat"), ("spoilt", "a blur")):
        rows = beside(rows, name, [text], prompt=name, view="resize:20" if name == "spoilt" else None, **learned)
    paired = [row for row in scored("stic", rows) if row["pair"] is not None]
    assert [(row["pass"], row["preferred"]) for row in paired] in (
        [("good", True), (other, False)] for other in ("bad", "spoilt")
    )
    assert advantages("stic") == [[pytest.approx(0.05 + 1 / 1024), pytest.approx(-0.05)]]
    [row] = chain.rows(Path("policy/metrics.parquet"))
    assert row["loss"] > 0.693147 and row["kl_coef"] == 0


def test_laser_learns_to_foretell_the_majority(workdir: Path) -> None:
    answers = ["12"] * 6 + ["15"] * 2
    scored("laser:1", group(0, answers), group(1, answers))
    first = advantages("laser:1", "--groups-per-step", 2)
    assert first == advantages("laser:1", "--groups-per-step", 2, "--aux-coef", 0, "--force")
    succeeds("update", "scored.parquet", "--recipe", "laser:1", "--out", "learned", "--groups-per-step", 1)
    own = json.loads(Path("learned/state.json").read_text())["self_reward"]
    assert own["token"] == "<|endoftext|>" and own["scale"] == 0.1
    fails(2, "score", "rollouts.parquet", "--recipe", "laser:2", "--out", "other.parquet")


# ----------------------------------------------------------------------------------------- as settings files


@pytest.mark.parametrize("name", recipes.names())
def test_each_says_what_it_is_and_has_only_options_that_there_are(name: str, workdir: Path) -> None:
    assert "arXiv" in recipes.title(name)
    assert succeeds("recipes", name).strip() == recipes.text(name).strip()
    made = {table["name"]: table for table in recipes.load(name)[0].get("pass", [])}
    made = made if "answer" in made else {"answer": {}, **made}
    passes = {each: {"prompt": "", **SAMPLED, **table, "of": table.get("of")} for each, table in made.items()}
    rows = group(0, [])
    for each, table in passes.items():
        parents = [0, 1] if table["of"] else None
        rows = passing(rows, each, [answered(1), answered(2)], parents)
    last = {**passes.popitem()[1], "pass": [*made][-1], "passes": passes}
    chain.write_shard(Path("rollouts.parquet"), [rows], params=last)
    for phase in [f"{name}:{i}" for i in range(1, len(recipes.phases(name)) + 1)] or [name]:
        of_policies = ("--question-share", "0", "--vote", "count")
        succeeds("score", "rollouts.parquet", "--recipe", phase, "--out", f"{phase}.parquet", *of_policies)


@pytest.mark.parametrize(
    ("text", "phase", "said"),
    [
        ("phase = 3", "", "phases are tables, [[phase]]"),
        ("update = 3\n[[phase]]\niterations = 1\nupdate = { lr = 1e-5 }", ":1", "update is a table in the phase"),
        ('[[pass]]\nname = "x"\n[[phase]]\niterations = 1\npass = { name = "y" }', "", "pass is a table in the phase"),
        ('[[pass]]\nname = "scored"', "", "--pass scored: a name"),
    ],
)
def test_a_recipe_that_is_none_is_said_to_be(workdir: Path, text: str, phase: str, said: str) -> None:
    Path("own.toml").write_text(text)
    words = ("score", "rollouts.parquet") if phase else ("run", "--images", "pool", "--model", "model", "--out", "run")
    refused = call(*words, "--recipe", f"own.toml{phase}")
    assert refused.exit_code == 2 and said in " ".join(refused.stderr.replace("│", " ").split()), refused.output
    assert not Path("run").exists()


def test_a_run_evaluates_by_the_recipe_too(workdir: Path) -> None:
    Path("own.toml").write_text("[eval]\nsamples = 3\ntemperature = 0.7\n")
    Path("ireasoner.toml").write_text('model = "model"\nsampler = "fake"\n[propose]\ngroups = 2\n')
    row = {"id": "0", "image": {"bytes": None, "path": "pool/0.png"}, "question": "How many?", "answers": ["2"]}
    pq.write_table(pa.Table.from_pylist([row]), "benchmark.parquet")
    words = ("--benchmark", "benchmark.parquet", "--eval-every", "1", "--out", "run", "--recipe", "own.toml")
    succeeds("run", "--images", "pool", "--iterations", "1", *words)
    for file in ("run/base.parquet", "run/it0001/eval.parquet"):
        made = chain.metadata(Path(file))["params"]
        assert (made["samples"], made["temperature"], made["recipe"]) == (3, 0.7, "own.toml")


@pytest.fixture
def charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demonstration world, its pool a small one."""
    monkeypatch.setattr(layout, "POOL_IMAGES", 12)
    layout.lay_out(tmp_path / "charts")
    monkeypatch.chdir(tmp_path / "charts")
    return tmp_path / "charts"


@pytest.mark.parametrize("name", recipes.names())
def test_two_iterations_of_each_in_the_demonstration_world(name: str, charts: Path) -> None:
    """`run` by the recipe, with the user's own settings above it: a small pool has no hundreds of groups to a step."""
    own = recipes.text(name).replace("iterations = 10", "iterations = 1")  # both phases of one that has two
    groups, a_step = (8, 8) if "per-image = 8" in own else (4, 2)
    Path("ireasoner.toml").write_text(
        f'model = "model"\nsampler = "fake"\n[propose]\ngroups = {groups}\n'
        f"[update]\nlr = 1e-3\ngroups-per-step = {a_step}\n"
    )
    Path("own.toml").write_text(own)
    succeeds("run", "--images", "pool", "--out", "run", "--iterations", "2", "--recipe", "own.toml")
    learned = [row for i in (1, 2) for row in chain.rows(Path(f"run/it000{i}/policy/metrics.parquet"))]
    assert learned
    lineage = json.loads(Path("run/it0002/policy/state.json").read_text())["lineage"]["params"]
    phased = bool(recipes.phases("own.toml"))
    assert lineage["recipe"] == lineage["score"]["recipe"] == ("own.toml:2" if phased else "own.toml")
    settings = recipes.load("own.toml:2" if phased else "own.toml")[0]["update"]
    for key, value in settings.items():
        if key not in ("lr", "groups-per-step"):
            assert lineage[key.replace("-", "_")] == value, key
    if phased:
        roles = [{row["role"] for row in chain.rows(Path(f"run/it000{i}/policy/metrics.parquet"))} for i in (1, 2)]
        assert roles == [{recipes.load(f"own.toml:{i}")[0]["update"]["roles"]} for i in (1, 2)]
    again = call("run", "--images", "pool", "--out", "run", "--iterations", "2", "--recipe", "own.toml")
    assert again.exit_code == 0, again.output
    succeeds("verify", "run", "pool")


def test_a_method_of_ones_own_from_the_page(charts: Path) -> None:
    """The file that docs/recipes.md gives, run and typed."""
    page = (Path(__file__).parent.parent / "docs/recipes.md").read_text()
    Path("robust.toml").write_text(page.split("```toml\n# robust.toml")[1].split("```")[0].partition("\n")[2])
    Path("ireasoner.toml").write_text('model = "model"\nsampler = "fake"\n[propose]\ngroups = 8\n[update]\nlr = 1e-3\n')
    succeeds("run", "--images", "pool", "--out", "run", "--iterations", "2", "--recipe", "robust.toml")
    seen = chain.rows(Path("run/it0001/scored.parquet"))
    assert {row["pass"] for row in seen} == {None, "answer", "masked", "check"}
    assert {row["view"] for row in seen if row["pass"] == "masked"} == {"mask:0.6"}
    assert any(row["reward"] for row in seen if row["pass"] == "answer")
    source = "run/it0001/questions.parquet"
    for name in ("answer", "masked", "check"):
        succeeds("rollout", source, "--pass", name, "--recipe", "robust.toml", "--out", f"{name}.parquet")
        source = f"{name}.parquet"
    succeeds("score", source, "--recipe", "robust.toml")
    assert chain.rows(Path("scored.parquet")) == seen
    succeeds("verify", "run", "pool")


def test_the_users_own_settings_stand_above_a_recipe(workdir: Path) -> None:
    chain.write_shard(Path("rollouts.parquet"), [group(0, [1, 2])])
    Path("ireasoner.toml").write_text("[score]\nlength-limit = 9\n")
    succeeds("score", "rollouts.parquet", "--recipe", "evolmm", "--max-steps", "3")
    params = chain.metadata(Path("scored.parquet"))["params"]
    assert (params["length_limit"], params["max_steps"], params["length_penalty"]) == (9, 3, 0.1)
    Path("ireasoner.toml").write_text('recipe = "evolmm"\n')
    succeeds("score", "rollouts.parquet", "--out", "other.parquet")
    assert chain.metadata(Path("other.parquet"))["params"]["length_limit"] == 6


@pytest.mark.parametrize(
    ("recipe", "content", "says"),
    [
        ("visplai", None, "no recipe 'visplai'; the nearest is 'visplay'"),
        ("5", None, "no recipe '5'"),
        ("visplay:²", None, "no recipe 'visplay:²'"),
        ("evolmm:1", None, "evolmm has no phases"),
        ("visplay:3", None, "visplay has 2 phases"),
        ("own.toml", "[score]\nno-dekay = true", "recipe own.toml [score]: unknown key 'no-dekay'"),
        ("own.toml", "[[phase]]\nscore = { top = 1 }", "phase 1 needs `iterations`"),
        ("own.toml", "[[phase]]\niterations = true", "phase 1 needs `iterations`"),
        ("own.toml", "[score", "recipe own.toml: "),
        ("gone.toml", None, "gone.toml: No such file"),
    ],
)
def test_mistakes(workdir: Path, recipe: str, content: str | None, says: str) -> None:
    chain.write_shard(Path("rollouts.parquet"), [group(0, [1, 2])])
    if content is not None:
        Path("own.toml").write_text(content)
    message = fails(2, "score", "rollouts.parquet", "--recipe", recipe)
    assert says in " ".join(message.replace("│", " ").split())


def test_a_recipe_is_a_settings_file() -> None:
    """Nothing in it that a user could not write in ireasoner.toml."""
    group_: Any = typer.main.get_command(app)
    for name in recipes.names():
        for phase in [f"{name}:{i}" for i in range(1, len(recipes.phases(name)) + 1)] or [name]:
            content = recipes.load(phase)[0]
            tables = [("rollout", {k: v for k, v in made.items() if k != "name"}) for made in content.pop("pass", [])]
            for command, settings in [*content.items(), *tables]:
                known = {parameter.name for parameter in group_.commands[command].params}
                assert {key.replace("-", "_") for key in settings} <= known, (phase, command)
