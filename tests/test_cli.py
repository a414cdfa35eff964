"""The command line as a user meets it: results on stdout, messages on stderr, exit codes, settings, speed."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from ireasoner_cli import console
from ireasoner_cli.app import app, guarded
from tests import benchmark_files, chain

FAKE = ("--model", "model", "--sampler", "fake")


def ireasoner(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ireasoner_cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


def fails(code: int, *arguments: str, **environment: str) -> str:
    """Runs a command that must fail with `code` and a short message; returns the message."""
    done = called(arguments, environment)
    assert done.exit_code == code and isinstance(done.exception, SystemExit), done.output
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def succeeds(*arguments: str, **environment: str) -> str:
    done = called(arguments, environment)
    assert done.exit_code == 0, done.output
    return done.stdout


def called(arguments: Sequence[str], environment: Mapping[str, str]) -> Result:
    """The command in this process: one of its own, which imports all anew, takes seconds."""
    return CliRunner().invoke(app, arguments, prog_name="ireasoner", env=environment)


def test_stdout_carries_the_result_alone(workdir: Path) -> None:
    assert succeeds("propose", "--images", "pool/", "--groups", "4", *FAKE) == "questions.parquet\n"
    result = json.loads(succeeds("rollout", "questions.parquet", "--sampler", "fake", "--json"))
    assert result["path"] == "rollouts.parquet" and result["groups"] == 4 and result["reused"] is False
    done = ireasoner("rollout", "questions.parquet", "--sampler", "fake")
    assert done.stdout == "rollouts.parquet\n" and "up to date" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["score", "--help"], ["eval", "--help"], ["report", "--help"], ["inspect", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom ireasoner_cli.app import app\n"
        f"try: app({arguments!r})\nexcept SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'vllm', 'datasets', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules)\n"
        "print('heavy:', heavy)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "heavy: set()" in done.stdout, done.stdout + done.stderr


def test_score_needs_neither_torch_nor_transformers(workdir: Path) -> None:
    chain.write_shard(Path("rollouts.parquet"), [chain.group(0, "pool/0.png", [chain.solution(1)] * 3)])
    program = (
        "import sys\nfrom ireasoner_cli.app import app\n"
        "try: app(['score', 'rollouts.parquet'])\nexcept SystemExit as end: assert not end.code\n"
        "print('heavy:', {'torch', 'transformers', 'peft', 'vllm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "heavy: set()" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (2, ["propose", *FAKE], "--images"),
        (2, ["propose", "--images", "nowhere", *FAKE], "nowhere: no such file or directory"),
        (2, ["propose", "--images", "pool", "--model", "./nothing"], "./nothing: no such model folder"),
        (4, ["propose", "--images", "pool", "--model", "pool"], "pool: not a model folder, it has no config.json"),
        (2, ["propose", "--images", "pool", *FAKE, "--policy", "nowhere"], "nowhere: no such policy directory"),
        (3, ["propose", "--images", "pool", *FAKE, "--policy", "pool"], "pool: not a policy directory"),
        (2, ["propose", "--images", "pool", *FAKE, "--shard", "0/2"], "not I/N with I from 1 to N"),
        (2, ["propose", "--images", "pool", *FAKE, "--shard", "1/2", "--out", "q.parquet"], "single file"),
        (2, ["propose", "--images", "pool", *FAKE, "--groups", "0"], "groups"),
        (2, ["propose", "--images", "pool", *FAKE, "--prompt", "nowhere"], "nowhere: cannot be read as a prompt"),
        (3, ["propose", "--images", "empty", *FAKE], "empty: no image in this folder"),
        (3, ["propose", "--images", "corrupt", *FAKE], "corrupt: none of its 1 images can be read"),
        (2, ["propose", "--images", "pool/0.png", *FAKE], "pool/0.png: a single image; name the folder"),
        (2, ["rollout", "nowhere.parquet"], "nowhere.parquet: no such file or directory"),
        (3, ["rollout", "empty"], "empty: the directory holds no Parquet file"),
        (3, ["rollout", "text.parquet"], "text.parquet: not a Parquet file"),
        (2, ["rollout", "rollouts.parquet"], "there are rows of pass answer already; name another --pass"),
        (2, ["score", "rollouts.parquet", "--out", "scored.csv"], "--out scored.csv: what is written is Parquet"),
        (3, ["update", "rollouts.parquet"], "written by `rollout`; this reads what `score` writes"),
        (3, ["score", "future.parquet"], "is of format 3, written by another tool"),
        (2, ["score", "rollouts.parquet", "--rewrad", "step"], "--rewrad"),
        (2, ["score", "rollouts.parquet", "--reward", "bribe"], "bribe"),
        (4, ["score", "moved.parquet"], "gone/model: neither a folder here"),
        (3, ["eval", "rollouts.parquet", *FAKE], "lacks the columns id, answers"),
        (2, ["eval"], "name a benchmark's file, or a --task"),
        (2, ["eval", "--task", "chart", *FAKE], "no task 'chart'; there are infovqa, ai2d"),
        (2, ["eval", "rollouts.parquet", "--no-reasoning", *FAKE], "--no-reasoning goes with --task"),
        (2, ["eval", "rollouts.parquet", "--task", "all", *FAKE], "files can be named for one task at a time"),
        (2, ["eval", "--task", "mmmu", "--data", "empty", *FAKE], "empty: no validation files of MMMU"),
        (3, ["eval", "--task", "mmmu", "rollouts.parquet", *FAKE], "lacks the columns id, options, answer"),
        (3, ["verify", "empty"], "empty: no Parquet file and no policy here; nothing to verify"),
        (2, ["scroe"], "scroe"),
    ],
)
def test_mistakes_end_in_one_clear_message(workdir: Path, code: int, arguments: list[str], says: str) -> None:
    group = chain.group(0, "pool/0.png", [chain.solution(1)])
    chain.write_shard(Path("rollouts.parquet"), [group])
    chain.write_shard(Path("future.parquet"), [group], format=3)
    chain.write_shard(Path("moved.parquet"), [group], model={"name": "gone/model"})
    Path("text.parquet").write_text("hello")
    Path("empty").mkdir()
    Path("corrupt").mkdir()
    Path("corrupt/a.png").write_bytes(b"no image")
    before = sorted(map(str, Path().rglob("*")))
    message = " ".join(fails(code, *arguments).replace("│", " ").split())
    assert says in message
    assert sorted(map(str, Path().rglob("*"))) == before  # nothing half-written


def test_an_update_that_would_write_over_its_policy(workdir: Path) -> None:
    rows = [{**row, "step": 1, "reward": 0.5} for row in chain.group(0, "pool/0.png", [chain.solution(1)])]
    chain.write_shard(Path("scored.parquet"), [rows], "score", step=3)
    assert "--policy" in fails(2, "update", "scored.parquet")


# ---------------------------------------------------------------------------------------------- settings


def recorded(workdir: Path, *arguments: str, **environment: str) -> dict:
    path = succeeds("propose", "--images", "pool", *FAKE, "--force", *arguments, **environment).strip()
    return chain.metadata(Path(path))["params"]


def test_flags_beat_variables_beat_the_file_beats_defaults(workdir: Path) -> None:
    assert recorded(workdir)["groups"] == 64
    Path("ireasoner.toml").write_text("groups = 3\nmax-tokens = 50\n[propose]\ngroups = 4\n[score]\nno-decay = true\n")
    assert recorded(workdir)["groups"] == 4
    assert recorded(workdir)["max_tokens"] == 50
    assert recorded(workdir, IREASONER_PROPOSE_GROUPS="5")["groups"] == 5
    assert recorded(workdir, "--groups", "6", IREASONER_PROPOSE_GROUPS="5")["groups"] == 6
    Path("other.toml").write_text("groups = 7\n")
    assert recorded(workdir, "--config", "other.toml")["groups"] == 7


def test_another_model_than_the_inputs_says_where_its_name_came_from(workdir: Path, other_model_dir: Path) -> None:
    succeeds("propose", "--images", "pool", *FAKE)
    rollout, other = ("rollout", "questions.parquet", "--sampler", "fake"), str(other_model_dir)
    assert fails(3, *rollout, "--model", other).rstrip().endswith("(its files have other contents)")
    in_variable = fails(3, *rollout, IREASONER_ROLLOUT_MODEL=other)
    assert "; IREASONER_ROLLOUT_MODEL names it, and --model would go before that" in in_variable
    Path("ireasoner.toml").write_text(f'model = "{other}"\n')
    assert "; ireasoner.toml names it, and --model would go before that" in fails(3, *rollout)
    Path("ireasoner.toml").rename("other.toml")
    assert "; other.toml names it" in fails(3, *rollout, "--config", "other.toml")


def test_the_file_can_give_what_a_command_requires_and_a_flag(workdir: Path) -> None:
    Path("ireasoner.toml").write_text(
        'model = "model"\n[propose]\nimages = "pool"\nsampler = "fake"\nembed_images = true\n'
    )
    succeeds("propose")
    assert chain.metadata(Path("questions.parquet"))["params"]["embed_images"] is True


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no-dekay = true", "unknown key 'no-dekay'; the nearest valid key is 'no_decay'"),
        ("[score]\ngroups = 3", "[score]: unknown key 'groups'"),
        ("[scroe]\nreward = 'step'", "unknown key 'scroe'; the nearest valid key is 'score'"),
        ("learning-rate = 1e-6", "ireasoner.toml: unknown key 'learning-rate'; the nearest valid key is 'lr'"),
        ("colour = 3", "ireasoner.toml: unknown key 'colour'"),
        ("groups = ", "ireasoner.toml"),
        ("groups = 'many'", "ireasoner.toml: groups: "),
        ("[update]\nlr = 'fast'", "ireasoner.toml [update]: lr: "),  # though propose has none
        ("[update]\nlr = nan", "ireasoner.toml [update]: lr: "),
        ("[propose]\ngroups = 0", "ireasoner.toml [propose]: groups: "),
        ("seed = true", "ireasoner.toml: seed: true is no value of it"),
        ("model = ['model']", "ireasoner.toml: model: one value, and no list or table"),
        ("[update]\nlora-targets = ['q']", "ireasoner.toml [update]: lora-targets: one value"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_key(workdir: Path, content: str, says: str) -> None:
    Path("ireasoner.toml").write_text(content)
    assert says in " ".join(fails(2, "propose", "--images", "pool", *FAKE).replace("│", " ").split())


def test_a_file_may_begin_with_a_byte_order_mark(workdir: Path) -> None:
    Path("ireasoner.toml").write_text("model = 'model'\n", encoding="utf-8-sig")
    succeeds("propose", "--images", "pool", *FAKE, "--groups", "1")


@pytest.mark.parametrize("words", [["--help"], ["recipes"]])
def test_what_stdout_cannot_say_is_no_traceback(words: list[str]) -> None:
    done = ireasoner(*words, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout and not done.stderr


def test_numbers_that_json_does_not_know_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"kl": math.nan, "rows": [(math.inf, 1.5)], "name": "Infinity"})
    assert json.loads(capsys.readouterr().out) == {"kl": None, "rows": [[None, 1.5]], "name": "Infinity"}


def test_an_empty_prompt_is_refused(workdir: Path) -> None:
    Path("empty.txt").write_text(" \n")
    assert "empty.txt: the prompt is empty" in fails(2, "propose", "--images", "pool", *FAKE, "--prompt", "empty.txt")


def test_a_folder_in_the_files_place_is_not_passed_over(workdir: Path) -> None:
    Path("ireasoner.toml").mkdir()
    assert "ireasoner.toml: Is a directory" in fails(2, "propose", "--images", "pool", *FAKE)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("IREASONER_PROPOSE_GROUPZ", "3", "Z is no setting; the nearest valid name is IREASONER_PROPOSE_GROUPS"),
        ("IREASONER_UPDATE_LEARNING_RATE", "3", "no setting; the nearest valid name is IREASONER_UPDATE_LR"),
        ("IREASONER_MODEL", "nowhere", "IREASONER_MODEL is no setting; the nearest valid name is IREASONER_"),
        ("IREASONER_SHOW_COMPLETION", "1", "IREASONER_SHOW_COMPLETION is no setting"),
        ("IREASONER_PROPOSE_HELP", "1", "IREASONER_PROPOSE_HELP is no setting"),
        ("IREASONER_PROPOSE_GROUPS", "many", "(from IREASONER_PROPOSE_GROUPS)"),
        ("IREASONER_PROPOSE_TEMPERATURE", "nan", "(from IREASONER_PROPOSE_TEMPERATURE)"),
    ],
)
def test_a_wrong_variable_is_an_error_that_names_it(workdir: Path, variable: str, value: str, says: str) -> None:
    message = fails(2, "propose", "--images", "pool", *FAKE, **{variable: value})
    assert says in " ".join(message.replace("│", " ").split())


def test_the_version_is_no_setting_and_an_empty_variable_sets_nothing(workdir: Path) -> None:
    """As a container's image may have it."""
    done = recorded(workdir, IREASONER_VERSION="0.1.0", IREASONER_PROPOSE_GROUPS="")
    assert done["groups"] == 64
    help_text = succeeds("--help", IREASONER_INSTALL_COMPLETION="1", IREASONER_HELP="1")
    assert "propose" in help_text and "env var" not in help_text


def test_interruption_says_how_to_go_on(workdir: Path) -> None:
    import signal
    import time

    process = subprocess.Popen(
        [sys.executable, "-m", "ireasoner_cli", "propose", "--images", "pool", *FAKE, "--groups", "2000000"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not Path(".questions.parquet.partial/chunk-00000000.parquet").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in stderr and "Traceback" not in stderr
    assert not Path("questions.parquet").exists()


@pytest.mark.parametrize("module", ["typer", "stages.errors", "ireasoner_cli.report.page", "numpy"])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interruption_while_modules_are_imported_shows_no_traceback(module: str, number: str) -> None:
    program = (
        "import signal, sys\nfrom ireasoner_cli.__main__ import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupter:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == {module!r}: signal.raise_signal(signal.{number})\n"
        "sys.meta_path.insert(0, Interrupter())\n"
        "sys.argv = ['ireasoner', 'report', 'nowhere']\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize("within", ["nullcontext", "not_swallowed"])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interruption_that_python_ignores_comes_again(within: str, number: str) -> None:
    program = (
        "import signal, sys, time\nfrom contextlib import nullcontext\n"
        "from ireasoner_cli import app\nfrom ireasoner_cli.__main__ import main\n"
        "from stages.interrupts import not_swallowed\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"class Unlucky:\n    def __del__(self): signal.raise_signal(signal.{number})\n"
        f"def command(**options):\n    with {within}():\n        Unlucky()\n        time.sleep(30)\n"
        "app.app = lambda prog_name: app.guarded(command)(debug=False)\n"
        "try: main()\nexcept BaseException as end: sys.exit(end.exit_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert done.returncode == 130 and done.stderr.startswith("error: interrupted")


def test_a_broken_pipe_of_something_else_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def command(**options: object) -> None:
        raise BrokenPipeError("the tracker is gone")

    with pytest.raises(typer.Exit) as end:
        guarded(command)(debug=False)
    assert end.value.exit_code == 4 and "the tracker is gone" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_not_shown_a_traceback(workdir: Path) -> None:
    chain.write_shard(Path("rollouts.parquet"), [chain.group(0, "pool/0.png", [chain.solution(1)])])
    for command in (["verify", "rollouts.parquet"], ["inspect", "rollouts.parquet"], ["eval", "--task", "list"]):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as closed:
            done = subprocess.run(
                [sys.executable, "-m", "ireasoner_cli", *command], stdout=closed, stderr=subprocess.PIPE, text=True
            )
        assert (done.returncode, done.stderr) == (1, ""), command


@pytest.mark.parametrize(
    "said",
    ["--version", "--help", "recipes", "recipes mm-upt", "inspect shard", "inspect shard --json", "verify shard"],
)
def test_what_is_said_needs_room_too(said: str, workdir: Path) -> None:
    chain.write_shard(Path("shard"), [chain.group(0, "pool/0.png", [chain.solution(1)])])
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ireasoner_cli", *said.split()], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 4
    assert done.stderr == "error: stdout: cannot be written (No space left on device)\n"


# ------------------------------------------------------------------------------------------------ the tasks


def test_the_tasks_are_listed(workdir: Path) -> None:
    table = succeeds("eval", "--task", "list")
    assert all(word in table for word in ("mathverse", "3,940", "testmini", "ANLS", "lmms-lab/ChartQA"))
    assert json.loads(succeeds("eval", "--task", "list", "--json"))[0]["size"] == 2801


def test_at_80_columns_names_are_whole_and_figures_on_one_line(workdir: Path) -> None:
    narrow = {"FORCE_COLOR": "1", "COLUMNS": "80"}
    table = ireasoner("eval", "--task", "list", **narrow).stdout
    for task in json.loads(succeeds("eval", "--task", "list", "--json")):
        assert task["name"] in table and task["hub"] in table
    figures: dict[str, Any] = {name: 0.5 for name in ("accuracy", "stderr", "no_answer")}
    figures |= {"questions": 2500, "low": 0.4, "high": 1.0}
    figures |= {"majority@k": {"mean": 0.5}, "pass@k": {"mean": 1.0}}
    summary = {**figures, "k": 5, "types": {"natural science": figures}, "unscored": 0, "left_out": 0, "truncated": 0}
    program = f"from ireasoner_cli.commands.evaluate import _print_table as show\nshow({{'': {summary}}})"
    environment = {**os.environ, **narrow, "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert "2500   50.0 % 50.0 % 40.0 to 100.0 %    50.0 % 50.0 % 100.0 %\n" in done.stdout, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines()[1:])) <= 80 and "…" not in done.stdout


def test_a_task_from_its_files(workdir: Path) -> None:
    path = benchmark_files.scienceqa(Path("downloads"))
    options = ("eval", "--task", "scienceqa", *FAKE, "--samples", "2", "--temperature", "1")
    done = ireasoner(*options, str(path))
    assert done.returncode == 0, done.stderr
    assert "natural science" in done.stdout and "pass@2" in done.stdout and "95 % interval" in done.stdout
    assert "left out, not part of the benchmark: 1 row\n" in done.stderr
    assert "the files hold 3 questions, and the official split 2,017" in done.stderr
    again = json.loads(succeeds(*options, "--json", "--data", "downloads"))
    assert again["reused"] and again["tasks"]["scienceqa"]["questions"] == 3
