"""The documentation follows the code: generated pages are up to date, commands exist, snippets run, tests are there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ireasoner_cli import reference
from ireasoner_cli.app import app
from stages import contract
from stages.contract import descriptions
from tests import chain

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GROUP: Any = typer.main.get_command(app)


def test_generated_pages_are_up_to_date() -> None:
    made = reference.pages()
    for name, text in made.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"docs/{name} is out of date: run `make docs`"
    there = {f"commands/{page.name}" for page in (DOCS / "commands").glob("*.md")}
    assert there == {name for name in made if name.startswith("commands/")}


def test_every_column_is_described_and_nothing_else_is() -> None:
    for name in ("TRAJECTORY", "SCORE_COLUMNS", "CREDIT", "PAIRS", "METRICS", "EVALUATED"):
        assert list(getattr(descriptions, name)) == getattr(contract, name).names, name
    assert list(descriptions.BENCHMARK) == contract.BENCHMARK.names + contract.BENCHMARK_OPTIONAL.names


@pytest.mark.parametrize("name", list(GROUP.commands))
def test_every_command_has_two_examples_that_can_be_copied(name: str) -> None:
    """Each on one line at 80 columns, and made of options that exist."""
    lines = reference.examples(GROUP.commands[name])
    assert len(lines) >= 2
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).stdout
    for line in lines:
        assert any(line == row.strip() for row in shown.splitlines()), line
        check_command(line)


@pytest.mark.parametrize("name", list(GROUP.commands))
def test_a_help_has_the_words_that_were_written(name: str) -> None:
    """What is in brackets is not taken for markup, and left out."""
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "500", "TERMINAL_WIDTH": "500"}).stdout
    texts = [GROUP.commands[name].help, *(getattr(each, "help", None) for each in GROUP.commands[name].params)]
    bracketed = [words for text in texts for words in re.findall(r"\[[^\]]*\]", text or "")]
    assert not [words for words in bracketed if words not in shown]


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def commands(text: str) -> Iterator[str]:
    """The ireasoner command lines in the code of a page."""
    blocks = [*re.findall(r"```(?:bash|make)?\n(.*?)```", text, re.DOTALL), *re.findall(r"(?:^    .*\n?)+", text, re.M)]
    for block in blocks:
        for line in re.split(r"\n|;|&&|\||\"", block.replace("\\\n", " ")):
            if found := re.search(r"(?:^|\s)(ireasoner [a-z].*)", line):
                yield found[1].split("#")[0].rstrip(" &")


def check_command(line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    assert name in GROUP.commands, f"{line}: no such command"
    parameters = GROUP.commands[name].params
    known = {option for own in parameters for option in (*own.opts, *own.secondary_opts)} | {"--help", "-h"}
    unknown = [word for word in arguments if word.startswith("--") and word.split("=")[0] not in known]
    assert not unknown, f"{line}: no such option"


def test_commands_in_the_documentation_exist() -> None:
    lines = [(document, line) for document in documents() for line in commands(document.read_text(encoding="utf-8"))]
    assert len(lines) > 40
    for _, line in lines:
        check_command(line)


def sections(page: Path) -> set[str]:
    """The names under which GitHub links to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere_and_named_tests_are_there() -> None:
    named = 0
    for document in documents():
        for label, target in re.findall(r"\[([^\]\n]+)\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            if target.startswith("http"):
                continue
            name, _, section = target.partition("#")
            file = document.parent / name if name else document
            assert file.exists(), f"{document.name}: {target}"
            if section:
                assert section in sections(file), f"{document.name}: {target}"
            if label.startswith("test_"):
                assert f"def {label}(" in file.read_text(encoding="utf-8"), f"{document.name}: {label}"
                named += 1
    assert named >= 25


def snippets() -> list[str]:
    text = "".join(page.read_text(encoding="utf-8") for page in documents())
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("snippet", snippets(), ids=lambda snippet: snippet.split("\n")[0])
def test_snippets_run_on_a_scored_shard(
    snippet: str, workdir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    module = re.findall(r"^(?:import|from) (\w+)", snippet, re.MULTILINE)[0]
    pytest.importorskip(module)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    groups = [chain.group(i, f"pool/{i}.png", [chain.solution(4), chain.solution(i)]) for i in range(3)]
    chain.write_shard(Path("questions.parquet"), [group[:1] for group in groups], "propose")
    chain.write_shard(Path("rollouts.parquet"), groups)
    assert CliRunner().invoke(app, ["score", "rollouts.parquet"]).exit_code == 0
    exec(compile(snippet, "snippet", "exec"), {})
    for asked in ("own-questions.parquet", "kept.parquet"):
        if asked in snippet:
            rollout = ["rollout", asked, "--out", "own-rollouts.parquet", "--sampler", "fake"]
            assert CliRunner().invoke(app, rollout).exit_code == 0
    if "mine.parquet" in snippet:
        assert CliRunner().invoke(app, ["update", "mine.parquet", "--limit", "1", "--dry-run"]).exit_code == 0


def test_the_shell_completes_commands_and_options() -> None:
    def complete(words: str) -> list[str]:
        environment = {"_IREASONER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-m", "ireasoner_cli"], capture_output=True, text=True, env={**os.environ, **environment}
        )
        return done.stdout.split()

    assert complete("ireasoner ins") == ["inspect"]
    assert complete("ireasoner score --no-d") == ["--no-decay", "--no-density"]
    assert complete("ireasoner eval --task mathv") == ["mathvista", "mathvision", "mathverse"]
