"""`ireasoner run`: the files of a shell loop, gone on with, pruned, and stopped when it has collapsed."""

import io
import json
import math
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pyarrow as pa
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from ireasoner_cli import console
from ireasoner_cli.app import app
from ireasoner_cli.console import duration
from ireasoner_cli.running.display import CURVES, Display, sparkline
from ireasoner_cli.running.figures import Figures, collapse
from ireasoner_cli.running.tracking import configuration
from stages import shards, update
from stages.contract import Row
from stages.evaluation.scores import summarize
from stages.learning.learner import UpdateParams
from stages.models.finding import find_model
from stages.parameters import Call
from stages.parameters.rollout import RolloutParams
from stages.policy import is_pruned, prune, read_state
from stages.sampling import Wanted, fake, open_sampler
from stages.sampling.warm import WarmEngine
from tests import benchmark_files, chain
from tests.conftest import needs_vllm
from tests.test_cli import fails

SETTINGS = """
model = "model"
sampler = "fake"
seed = 3

[propose]
groups = 4

[rollout]
samples = 3

[score]
no-warmup = true

[update]
lr = 1e-3
groups-per-step = 2

[eval]
temperature = 1.0
"""


@pytest.fixture
def world(workdir: Path) -> Path:
    """A folder with a pool, a model, settings and a benchmark, on which the fake sampler is now and then right."""
    Path("ireasoner.toml").write_text(SETTINGS)
    rows = [
        {"id": str(i), "image": {"bytes": None, "path": f"pool/{i}.png"}, "question": "How many?", "answers": ["2"]}
        for i in range(8)
    ]
    shards.write_table(Path("benchmark.parquet"), pa.Table.from_pylist(rows))
    return workdir


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def run(*words: object, out: str = "run", iterations: int = 2) -> Result:
    return call("run", "--images", "pool", "--out", out, "--iterations", iterations, *words)


def shell_loop(out: str, iterations: int, start: tuple[object, ...] = ()) -> None:
    policy: list[object] = [*start]
    for number in range(1, iterations + 1):
        it = Path(out, f"it{number:04d}")
        it.mkdir(parents=True)
        for words in (
            ("propose", "--images", "pool", *policy, "--out", it / "questions.parquet"),
            ("rollout", it / "questions.parquet", *policy),
            ("score", it / "rollouts.parquet", *policy),
            ("update", it / "scored.parquet", *policy),
            ("eval", "benchmark.parquet", "--policy", it / "policy", "--out", it / "eval.parquet"),
        ):
            done = call(*words)
            assert done.exit_code == 0, done.output
        policy = ["--policy", it / "policy"]
    assert call("eval", "benchmark.parquet", *start, "--out", Path(out, "base.parquet")).exit_code == 0


def test_the_files_are_those_of_a_shell_loop(world: Path) -> None:
    shell_loop("shell", 2)
    done = run("--benchmark", "benchmark.parquet", "--eval-every", 1, "--json")
    assert done.exit_code == 0, done.output
    assert chain.file_bytes(Path("run")) == chain.file_bytes(Path("shell"))
    told = json.loads(done.stdout)
    assert (told["path"], told["iterations"], told["step"]) == ("run", 2, 8)
    assert told["policy"] == "run/it0002/policy" and told["best"].startswith("run/it000")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["it0001 of 2", "it0002 of 2"]


def test_the_base_is_asked_of_the_model_that_asks_the_questions(world: Path) -> None:
    """`[propose] model` is what --model defaults to."""
    Path("ireasoner.toml").write_text(
        SETTINGS.replace('model = "model"\n', "").replace("[propose]", '[propose]\nmodel = "model"')
    )
    done = run("--benchmark", "benchmark.parquet", "--eval-every", 1, "--json", iterations=1)
    assert done.exit_code == 0, done.output
    assert shards.read_metadata(Path("run/base.parquet")).model.name == "model"
    without = run("--json", iterations=2)
    assert "base_accuracy" not in json.loads(without.stdout) and "best_accuracy" in json.loads(without.stdout)


def test_a_run_goes_on_from_a_policy_that_another_has_pruned_since(world: Path) -> None:
    assert run(iterations=1).exit_code == 0
    asked = ("--policy", "run/it0001/policy", "--benchmark", "benchmark.parquet", "--eval-every", 1)
    assert run(*asked, out="on").exit_code == 0
    prune(Path("run/it0001/policy"))
    done = run(*asked, "--json", out="on", iterations=3)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["base_accuracy"] == _accuracy(Path("on/base.parquet"))
    shutil.copy("run/it0001/scored.parquet", "benchmark.parquet")
    refused = run(*asked, out="on", iterations=4)
    assert refused.exit_code == 2 and "inputs.benchmark.parquet" in refused.stderr


def test_a_policy_is_no_place_for_a_run(world: Path) -> None:
    assert run(iterations=1).exit_code == 0
    refused = run(out="run/it0001/policy", iterations=1)
    assert refused.exit_code == 2 and "run/it0001/policy is a policy" in refused.stderr
    assert not Path("run/it0001/policy/it0001").exists()


def test_a_pass_more_is_refused_before_it_is_sampled(world: Path) -> None:
    assert run(iterations=1).exit_code == 0
    Path("ireasoner.toml").write_text(SETTINGS + '[[pass]]\nname = "second"\n')
    refused = run(iterations=2)
    assert refused.exit_code == 2 and "(passes: answer → answer, second)" in refused.stderr
    assert not Path("run/it0001/second.parquet").exists() and not Path("run/it0002").exists()


def test_one_sample_is_no_agreement(world: Path) -> None:
    """A group of one has no entropy, whatever is learned from it: no sign of a collapse."""
    Path("ireasoner.toml").write_text(SETTINGS.replace("samples = 3", "samples = 1"))
    done = run("--json", iterations=4)
    assert done.exit_code == 0, done.output
    assert "entropy" not in json.loads(done.stdout) and "reward" in json.loads(done.stdout)


def test_a_flag_stands_above_the_file(world: Path) -> None:
    """As --seed above [run] seeds, and --lag 0 above what the stage is set to."""
    Path("ireasoner.toml").write_text(SETTINGS.replace("[update]", "[update]\nlag = 1") + '[run]\nseeds = "1,2"\n')
    assert run("--seed", 5, "--lag", 0, iterations=1).exit_code == 0
    lineage = read_state(Path("run/it0001/policy")).lineage
    assert (lineage.seed, lineage.params["lag"]) == (5, 0)
    both = run("--seed", 5, "--seeds", "1,2", out="other", iterations=1)
    assert both.exit_code == 2 and "--seed is for one run" in both.stderr


def test_a_run_can_start_from_a_policy(world: Path) -> None:
    assert run(iterations=1).exit_code == 0
    start = ("--policy", "run/it0001/policy")
    shell_loop("shell", 2, start)
    asked = ("--benchmark", "benchmark.parquet", "--eval-every", 1)
    done = run(*start, *asked, "--json", out="on")
    assert done.exit_code == 0, done.output
    assert chain.file_bytes(Path("on")) == chain.file_bytes(Path("shell"))
    assert json.loads(done.stdout)["step"] == 12
    for words in (("verify", "on", "run/it0001/policy"), ("report", "on")):
        assert call(*words).exit_code == 0, words
    Path("on/report.html").unlink()
    for other in ((), ("--policy", "on/it0001/policy")):
        refused = run(*other, out="on", iterations=3)
        assert refused.exit_code == 2 and "policy.sha256" in refused.stderr and "--force" not in refused.stderr
    assert run(*start, *asked, out="on").exit_code == 0


def test_seeds_are_runs_of_their_own_one_after_another(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("--benchmark", "benchmark.parquet")
    for seed in (1, 2):
        assert run(*asked, "--seed", seed, out=f"alone-{seed}", iterations=1).exit_code == 0
    learn = update._learn
    monkeypatch.setattr(update, "_learn", interrupted_at(2, learn))
    assert run(*asked, "--seeds", "1,2", iterations=1).exit_code == 130
    monkeypatch.setattr(update, "_learn", learn)
    done = run(*asked, "--seeds", "1,2", "--json", iterations=1)
    assert done.exit_code == 0, done.output
    assert [each["path"] for each in json.loads(done.stdout)] == ["run/seed-1", "run/seed-2"]
    assert sorted(path.name for path in Path("run").iterdir()) == ["seed-1", "seed-2"]
    for seed in (1, 2):
        assert chain.file_bytes(Path(f"run/seed-{seed}")) == chain.file_bytes(Path(f"alone-{seed}"))
    for words in (("compare", "alone-1", "run"), ("report", "run/seed-1", "run/seed-2"), ("verify", "run")):
        looked = call(*words)
        assert looked.exit_code == 0, looked.output


@pytest.mark.parametrize("seeds", ["", "1,1", "1,,2", "one", "-1,2", f"1,{2**63}", "1.5"])
def test_what_is_no_list_of_seeds_is_refused(seeds: str, world: Path) -> None:
    refused = run(f"--seeds={seeds}")
    assert refused.exit_code == 2 and "different seeds" in " ".join(refused.stderr.replace("│", " ").split())
    assert run("--seeds", "1,2", "--seed", 3).exit_code == 2
    assert not Path("run").exists()


def test_a_folder_is_of_one_run_or_of_runs_with_several_seeds(world: Path) -> None:
    for begun, other in (("it0001", ("--seeds", "1,2")), ("seed-1/it0001", ())):
        Path(begun, "mine").mkdir(parents=True)
        refused = run(*other, out=".")
        assert refused.exit_code == 2 and f"{begun} is of" in refused.stderr
        shutil.rmtree(Path(begun).parts[0])


@pytest.mark.parametrize("what", ["rollouts.parquet", "policy/state.json", "pool"])
def test_what_is_damaged_or_gone_is_said_without_an_option_that_run_has_not(world: Path, what: str) -> None:
    assert run(iterations=1).exit_code == 0
    if what == "pool":
        Path("pool").rename("elsewhere")
        shutil.copytree("elsewhere", "pool")
        for picture in Path("pool").iterdir():
            picture.write_bytes(picture.read_bytes()[:-1] + b"x")
    else:
        file = Path("run/it0001", what)
        file.write_bytes(file.read_bytes()[:-50])
    done = run(iterations=2)
    assert done.exit_code in (2, 3) and "--force" not in done.stderr and "Traceback" not in done.stderr
    assert ("is of other images" if what == "pool" else "remove it") in " ".join(done.stderr.split())


def test_hidden_states_are_those_of_the_policy_of_each_turn(world: Path) -> None:
    Path("ireasoner.toml").write_text(SETTINGS.replace("[score]", '[score]\nembedding = "hidden"'))
    shell_loop("shell", 2)
    done = run("--benchmark", "benchmark.parquet", "--eval-every", 1)
    assert done.exit_code == 0, done.output
    assert chain.file_bytes(Path("run")) == chain.file_bytes(Path("shell"))
    assert chain.metadata(Path("run/it0002/scored.parquet"))["params"]["embedding"] == "hidden"


def test_what_is_set_for_run_beats_the_stages_tables_and_these_the_top_of_the_file(world: Path) -> None:
    assert run("--groups", 2, "--seed", 5, iterations=1).exit_code == 0
    metadata = chain.metadata(Path("run/it0001/questions.parquet"))
    assert (metadata["params"]["groups"], metadata["seed"]) == (2, 5)
    assert not Path("run/base.parquet").exists()
    top = "groups = 5\n" + SETTINGS.replace("groups = 4", "groups = 4\nseed = 8")
    for more, out, expected in (("", "by-stage", (4, 8)), ("[run]\ngroups = 6\nseed = 9\n", "by-run", (6, 9))):
        Path("ireasoner.toml").write_text(top + more)
        assert run(out=out, iterations=1).exit_code == 0
        metadata = chain.metadata(Path(out, "it0001/questions.parquet"))
        assert (metadata["params"]["groups"], metadata["seed"]) == expected


def test_torchrun_is_for_update_alone(world: Path) -> None:
    refused = fails(2, "run", "--images", "pool/", "--out", "run", TORCHELASTIC_RUN_ID="none")
    assert "shell loop" in refused and not Path("run").exists()


def test_settings_that_are_wrong_are_refused_before_anything_is_written(world: Path) -> None:
    assert run("--keep", 1).exit_code == 2
    Path("ireasoner.toml").write_text(SETTINGS + "\n[run]\nout = 'elsewhere'\nlr = 2\n")
    done = run()
    assert done.exit_code == 2 and "unknown key 'lr'" in done.stderr
    for right, wrong in (("1e-3", "nan"), ("1e-3", "-1.0"), ("groups-per-step = 2", "groups-per-step = 0")):
        Path("ireasoner.toml").write_text(SETTINGS.replace(right, wrong))
        assert run().exit_code == 2, wrong
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("scored", "learned", "said"),
    [
        ('credit = "vote"', 'loss = "sft"\nroles = "solver"', "which --loss sft cannot take"),
        ('credit = "vote"', 'advantage = "grpo"', "--advantage grpo would be another"),
        ("", 'loss = "dpo"\nroles = "solver"', "`score --pairs` makes them"),
    ],
)
def test_what_would_be_scored_in_vain_is_refused_before_anything_is_sampled(
    world: Path, scored: str, learned: str, said: str
) -> None:
    Path("ireasoner.toml").write_text(
        SETTINGS.replace("no-warmup = true", f"no-warmup = true\n{scored}").replace(
            "lr = 1e-3", f"lr = 1e-3\n{learned}"
        )
    )
    refused = run()
    assert refused.exit_code == 2 and said in refused.stderr
    assert not list(Path("run").rglob("*.parquet"))


def test_two_runs_in_one_folder_are_refused_at_once(world: Path) -> None:
    with shards.writing(Path("run"), force=True):  # another process
        refused = run("--track", "wandb")
        assert refused.exit_code == 2 and "run: another process is writing it" in refused.stderr
        assert not Path("run").exists()
        assert run(out="other", iterations=1).exit_code == 0
    assert run(iterations=1).exit_code == 0
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def interrupted_at(last: int, learn: Callable[..., list[Row]]) -> Callable[..., list[Row]]:
    """`learn`, whose call number `last` is interrupted."""
    calls = 0

    def interrupted(*args: object) -> list[Row]:
        nonlocal calls
        calls += 1
        if calls == last:
            raise KeyboardInterrupt
        return learn(*args)

    return interrupted


@pytest.mark.parametrize("stopped", [1, 2])
def test_interrupted_and_run_again_equals_uninterrupted(
    world: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    assert run(out="whole").exit_code == 0
    whole = update._learn
    monkeypatch.setattr(update, "_learn", interrupted_at(2 * stopped, whole))
    done = run()
    assert done.exit_code == 130 and "run the same command again" in done.stderr
    monkeypatch.setattr(update, "_learn", whole)
    done = run()
    assert done.exit_code == 0, done.output
    assert ("1 of 2 iterations are done" in done.stderr) == (stopped == 2)
    assert chain.file_bytes(Path("run")) == chain.file_bytes(Path("whole"))


def test_an_iteration_that_learns_nothing_is_an_iteration(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked, and the Proposer has no turn: an update without a step, whose metrics are empty."""
    monkeypatch.setattr(fake, "_proposal", lambda rng: "A picture.")
    Path("ireasoner.toml").write_text(SETTINGS.replace("lr = 1e-3", "proposer-every = 100"))
    done = run("--benchmark", "benchmark.parquet")
    assert done.exit_code == 0, done.output
    assert chain.rows(Path("run/it0001/policy/metrics.parquet")) == []
    for words in (("verify", "run"), ("report", "run"), ("inspect", "run/it0001/policy")):
        looked = call(*words)
        assert looked.exit_code == 0, looked.output
    assert json.loads(call("inspect", "run/it0001/policy/metrics.parquet", "--json").stdout)["counts"] == {
        "optimizer_steps": 0
    }
    collapsed = run(iterations=9)
    assert collapsed.exit_code == 4 and "the Proposer asks nothing" in collapsed.stderr


def test_a_finished_run_is_left_as_it_is_and_can_be_made_longer(world: Path) -> None:
    assert run().exit_code == 0
    before = {file: file.stat().st_mtime_ns for file in Path("run").rglob("*")}
    assert run().exit_code == 0
    assert run(iterations=1).exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in Path("run").rglob("*")} == before
    done = run("--seed", 4)
    assert done.exit_code == 2 and "seed: 3 → 4" in done.stderr
    assert "--force" not in done.stderr  # run has none
    assert run(iterations=3).exit_code == 0
    assert chain.rows(Path("run/it0003/scored.parquet"))[0]["step"] == 9


def test_the_last_policies_and_the_best_are_kept_and_the_rest_can_still_be_looked_at(world: Path) -> None:
    done = run("--benchmark", "benchmark.parquet", "--eval-every", 1, "--keep", 2, "--json", iterations=5)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    policies = {f"run/it000{number}/policy" for number in range(1, 6)}
    whole = {policy for policy in policies if not is_pruned(Path(policy))}
    assert whole == {"run/it0004/policy", "run/it0005/policy", told["best"]}
    scores = {policy: _accuracy(Path(policy).parent / "eval.parquet") for policy in policies}
    assert scores[told["best"]] == max(scores.values()) == told["best_accuracy"]
    pruned = Path(min(policies - whole))
    assert {file.name for file in pruned.iterdir()} == {"state.json", "metrics.parquet"}

    for words in (("inspect", "run"), ("inspect", pruned), ("report", "run"), ("verify", "run", "benchmark.parquet")):
        looked = call(*words)
        assert looked.exit_code == 0, looked.output
    replayed = call("verify", pruned, "--replay")
    assert replayed.exit_code == 0 and "same bytes" in replayed.output
    refused = call("eval", "benchmark.parquet", "--policy", pruned, "--out", "other.parquet")
    assert refused.exit_code == 3 and "only its state and metrics are left" in refused.stderr
    state = (pruned / "state.json").read_bytes()
    (pruned / "state.json").write_bytes(state.replace(b'"updates": ', b'"updates": 1'))
    assert call("verify", "run", "benchmark.parquet").exit_code == 3
    (pruned / "state.json").write_bytes(state)

    longer = run("--benchmark", "benchmark.parquet", "--eval-every", 1, "--keep", 2, "--json", iterations=6)
    assert longer.exit_code == 0, longer.output
    assert is_pruned(Path("run/it0004/policy")) or json.loads(longer.stdout)["best"] == "run/it0004/policy"


def test_a_benchmark_may_be_one_of_the_tasks(world: Path) -> None:
    benchmark_files.chartqa(Path("downloads"))
    Path("ireasoner.toml").write_text(SETTINGS.replace("[eval]", '[eval]\ntask = "chartqa"'))
    refused = run("--benchmark", "downloads")
    assert refused.exit_code == 2 and 'write a list, task = ["chartqa"]' in " ".join(
        refused.stderr.replace("│", "").split()
    )
    Path("ireasoner.toml").write_text(SETTINGS.replace("[eval]", '[eval]\ntask = ["chartqa"]'))
    files = sorted(Path("downloads").rglob("*.parquet"))
    done = run("--benchmark", files[0], "--eval-every", 1, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["best_accuracy"] == max(summarize(Path(f"run/it000{i}/eval.parquet"))["tasks"]["chartqa"]["accuracy"]
                                        for i in (1, 2))  # fmt: skip


def _accuracy(evaluated: Path) -> float:
    scores = [row["score"] for row in chain.rows(evaluated)]
    return sum(scores) / len(scores)


GOOD = Figures(
    step=4, reward=0.5, density=0.8, entropy=0.7, kl=0.01, kl_coef=1e-3, unparsed=0.1, unasked=0.0, accuracy=None,
    kl_target=0.02,
)  # fmt: skip


@pytest.mark.parametrize(
    "bad,named",
    [
        ({"entropy": 0.0}, "no entropy left"),
        ({"kl": 1.5}, "KL"),
        ({"kl": math.nan}, "KL"),
        ({"unparsed": 0.95}, "no answer tag"),
        ({"unasked": 1.0, "unparsed": None, "entropy": None}, "no question tag"),
    ],
)
def test_a_collapse_has_a_name(bad: dict[str, Any], named: str) -> None:
    ill = replace(GOOD, **bad)
    assert named in (collapse([GOOD, ill, ill, ill]) or "")
    assert collapse([ill, ill]) is None and collapse([ill, ill, GOOD, ill, ill]) is None
    assert collapse([GOOD] * 5) is None
    assert collapse([replace(GOOD, reward=None, density=None, entropy=None, kl=None, unparsed=None)] * 3) is None


def test_a_collapsed_run_stops_and_goes_on_when_asked_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "_solution", lambda rng: "Step 1: I cannot say.")
    done = run(iterations=9)
    assert done.exit_code == 4
    assert "run/it0003: the Solver's answers cannot be parsed" in done.stderr and "[rollout] prompt" in done.stderr
    assert not Path("run/it0004").exists()
    monkeypatch.undo()
    monkeypatch.chdir(world)
    assert run(iterations=4).exit_code == 0


@needs_vllm
def test_a_warm_engine_samples_what_a_cold_one_does(workdir: Path) -> None:
    """From the base model and from two policies in turn, the first of them again at the end."""
    from stages.parameters.score import ScoreParams
    from stages.rollout import rollout
    from stages.score import score
    from stages.update import update as learn

    groups = [chain.group(i, f"pool/{i}.png", [chain.solution(answer) for answer in (4, 4, 5)]) for i in range(3)]
    chain.write_shard(Path("rolled.parquet"), groups)
    score([Path("rolled.parquet")], ScoreParams(), Call(out=Path("scored.parquet")))
    policies: list[Path | None] = [None]
    for name, lr in (("one", 0.05), ("two", 0.1)):
        policies.append(learn([Path("scored.parquet")], UpdateParams(lr=lr), Call(out=Path(name))).path)
    settings = chain.sampling("vllm", max_tokens=12)
    model, warm = find_model("model"), WarmEngine()

    def sampled(place: int, engines: Callable[..., object], out: str) -> list[Row]:
        step = 3 if place else 0
        chain.write_shard(Path("asked.parquet"), [group[:1] for group in groups], "propose", step)
        params, call = RolloutParams(samples=3, sampling=settings), Call(policy=policies[place], out=Path(out))
        rollout([Path("asked.parquet")], params, call, engines=engines)  # type: ignore[arg-type]
        return chain.rows(Path(out))

    warm(Wanted("vllm", model, None, settings.pixels, settings.engine))
    opened = warm._engine
    by_policy = []
    for turn, place in enumerate((0, 1, 2, 1)):
        by_policy.append(sampled(place, warm, f"warm-{turn}.parquet"))
        warm.sleep()
    assert warm._engine is opened
    warm.close()
    assert by_policy[1] == by_policy[3]
    cold = sampled(2, open_sampler, "cold.parquet")
    for row, other in zip(by_policy[2], cold, strict=True):
        assert row["token_ids"] == other["token_ids"]
        assert row["logprobs"] == pytest.approx(other["logprobs"], abs=1e-4)
    solver = [[row["logprobs"] for row in rows if row["role"] == "solver"] for rows in by_policy]
    assert solver[0] != solver[1] != solver[2]


def test_curves_and_durations_are_short() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert len(sparkline([float(i) for i in range(500)])) == 40
    assert len(set(sparkline([2.0, 2.0]))) == 1
    assert [duration(seconds) for seconds in (7.6, 200, 7500)] == ["8 s", "3 min", "2 h 5 min"]


def test_the_display_shows_where_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(force_terminal=True, width=110, color_system=None, record=True)
    monkeypatch.setattr(console, "stderr", terminal)
    with Display(40) as view:
        view.finished(6, GOOD, 60.0)
        with view.iteration(7), view.track("rollout", 64, "groups") as advance:
            advance(45)
            view.say("something [/bold] to say")
    shown = terminal.export_text()
    assert "it0007 of 40" in shown and "rollout" in shown and "45/64 groups" in shown and "34 min left" in shown
    assert "entropy" in shown and "0.7" in shown and "accuracy" not in shown
    assert "something [/bold] to say" in shown


def test_a_kl_that_is_no_number_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps of an iteration were skipped, the run goes on, and so does its display."""
    terminal = Console(force_terminal=True, width=110, color_system=None, record=True)
    monkeypatch.setattr(console, "stderr", terminal)
    with Display(40) as view:
        for number, kl in enumerate((0.125, math.nan, 0.25), 1):
            view.finished(number, replace(GOOD, kl=kl), 60.0)
    shown = terminal.export_text()
    assert "kl" in shown and sparkline([0.125, 0.25]) in shown and "nan" not in shown


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("ireasoner_cli.console.time.monotonic", lambda: now)
    log = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=log, soft_wrap=True))
    with Display(40) as view:
        for task in ("eval", "rollout"):
            with view.iteration(7) if task == "rollout" else nullcontext(), view.track(task, 640, "groups") as advance:
                advance(40)  # of an interrupted run
                for _ in range(60):
                    now += 1
                    advance(10)
        with view.iteration(8):
            now += 100.0
            nothing: dict[str, Any] = dict.fromkeys(CURVES)
            view.finished(8, replace(GOOD, **nothing), 100.0)
    with console.TerminalProgress().track("score", 100, "groups") as advance:
        now += 10
        advance(10)
    assert log.getvalue().splitlines() == [
        "eval: 340 of 640 groups, 53 %, about 30 s left",
        "it0007 of 40, rollout: 340 of 640 groups, 53 %, about 30 s left",
        "it0008 of 40: nothing was scored; 100 s, about 53 min left".replace("100 s", duration(100.0)),
    ]


def test_how_long_it_takes_is_not_read_off_what_waited_for_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("ireasoner_cli.console.time.monotonic", lambda: now)
    log = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=log, soft_wrap=True))
    with console.TerminalProgress().track("eval", 300, "questions") as advance:
        now += 40
        advance(1)
        for _ in range(31):
            now += 1
            advance(3)
    assert log.getvalue().splitlines() == [
        "eval: 1 of 300 questions, 0 %",
        "eval: 91 of 300 questions, 30 %, about 70 s left",
    ]


def test_a_tracker_is_told_the_figures_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb itself, offline; the second call goes on with the same run."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged: list[dict[str, float]] = []
    log = wandb.Run.log

    def noted(self: Any, data: dict[str, float]) -> None:
        logged.append(data)
        log(self, data)

    monkeypatch.setattr(wandb.Run, "log", noted)
    for iterations in (2, 3):
        done = run("--track", "wandb", "--json", iterations=iterations)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["iterations"] == iterations and "wandb" not in done.stderr
    assert [data["step"] for data in logged] == [4, 8, 12]
    assert {"reward", "density", "entropy", "kl", "kl_coef"} <= logged[0].keys()
    names = {folder.name.rsplit("-", 1)[1] for folder in Path("run/wandb").glob("offline-run-*")}
    assert names == {Path("run/wandb/run-id").read_text()}
    assert call("verify", "run").exit_code == call("report", "run").exit_code == 0


def test_a_tracker_is_told_later_what_it_has_not_been_told(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not logged in, interrupted between the policy and the telling, or made without --track."""
    logged: list[int] = []

    class Tracked(MagicMock):
        def log(self, data: dict[str, int]) -> None:
            if data["step"] == 8 and not Path("told").exists():
                Path("told").touch()
                raise KeyboardInterrupt
            logged.append(data["step"])

    def init(**_: Any) -> MagicMock:
        if not Path("key").exists():
            raise ValueError("no API key")
        return Tracked()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))
    assert run("--track", "wandb", iterations=1).exit_code == 2
    assert run(iterations=1).exit_code == 0
    Path("key").touch()
    assert run("--track", "wandb", iterations=3).exit_code == 130
    assert run(iterations=3).exit_code == 0
    assert run("--track", "wandb", iterations=4).exit_code == 0
    assert logged == [4, 8, 12, 16]


def test_runs_that_differ_in_their_seeds_are_one_group_to_a_tracker(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def init(**settings: Any) -> MagicMock:
        begun.append((settings["group"], settings["name"]))
        return MagicMock()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))
    assert run("--track", "wandb", "--seeds", "1,2", iterations=1).exit_code == 0
    assert run("--track", "wandb", out="alone", iterations=1).exit_code == 0
    assert begun == [("run", "seed-1"), ("run", "seed-2"), (None, "alone")]


def test_every_hyperparameter_is_in_the_report_in_inspect_and_in_what_a_tracker_gets(world: Path) -> None:
    assert run(iterations=1).exit_code == 0
    set_here = {"lr": 1e-3, "groups_per_step": 2, "proposer_every": 5, "advantage": "ema"}
    kl = {"kl_start": 1e-3, "kl_target": 0.02, "kl_min": 1e-8}
    fixed = {"optimizer": "AdamW", "weight_decay": 0.01, "max_grad_norm": 1.0, "lora_rank": 16, "lora_alpha": 32}
    expected = set_here | kl | fixed
    told = configuration(Path("run"))
    assert (told["model"], told["seed"]) == ("model", 3)
    assert told["update"].items() >= expected.items()
    assert told["propose"]["groups"] == 4 and told["rollout"]["samples"] == 3 and told["score"]["no_warmup"]
    shown = " ".join(call("inspect", "run/it0001/policy").output.split())
    assert call("report", "run").exit_code == 0
    page = Path("run/report.html").read_text()
    for name, value in expected.items():
        assert f"{name} = {value}" in page, name
        assert f"{name} {json.dumps(value)}" in shown, name


def test_without_the_tracker_installed_the_extra_is_named(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    done = run("--track", "wandb")
    assert done.exit_code == 2 and "pip install 'ireasoner[track]'" in done.stderr
    assert not Path("run").exists()
