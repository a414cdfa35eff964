"""`ireasoner init`: a project's folder whose settings are all known, and whose commands are all there."""

import errno
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ireasoner_cli import project
from ireasoner_cli.app import app
from tests.conftest import draw
from tests.test_docs import check_command

FILES = {"Makefile", "README.md", "ireasoner.toml"}


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def mine(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new project beside pool/ and model."""
    assert call("init", ".").exit_code == 0
    return workdir


def test_a_folder_new_or_not_is_begun_once(tmp_path: Path) -> None:
    new = tmp_path / "deep/mine"
    done = call("init", str(new))
    assert done.exit_code == 0 and done.stdout == f"{new}\n"
    assert {file.name for file in new.iterdir()} == FILES
    (tmp_path / "Makefile").write_text("all:\n")
    refused = call("init", str(tmp_path))
    assert refused.exit_code == 2 and "Makefile is there already" in refused.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"Makefile", "deep"}
    assert (tmp_path / "Makefile").read_text() == "all:\n"


def test_what_could_not_be_written_leaves_nothing_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.name != "Makefile":
            write(self, b"")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    done = call("init", str(tmp_path / "mine"))
    assert done.exit_code == 4 and "No space left" in done.stderr and not [*(tmp_path / "mine").iterdir()]
    monkeypatch.undo()
    assert call("init", str(tmp_path / "mine")).exit_code == 0


def test_every_setting_is_known_those_commented_out_too(mine: Path) -> None:
    """Of a file with an unknown key or a wrong value each command says so."""
    settings = Path("ireasoner.toml")
    settings.write_text(re.sub(r"(?m)^# (?=[\w-]+ = )", "", settings.read_text()))
    assert {"benchmark", "track"} <= tomllib.loads(settings.read_text())["run"].keys()
    told = call("propose", "--images", "pool", "--model", "model", "--prompt", "README.md", "--dry-run")
    assert told.exit_code == 0, told.output


def test_a_run_has_the_steps_that_its_schedule_counts(mine: Path) -> None:
    settings = tomllib.loads(Path("ireasoner.toml").read_text())
    assert settings["score"]["total-steps"] == settings["run"]["iterations"] * settings["propose"]["groups"]


def test_the_page_is_short_and_its_commands_are_there(mine: Path) -> None:
    page, makefile = Path("README.md").read_text(), Path("Makefile").read_text()
    assert len(page.splitlines()) <= 25
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    assert set(re.findall(r"^    make (\w+)", page, re.MULTILINE)) <= targets
    for line in re.findall(r"\$\(IREASONER\) (.*)", makefile):
        check_command(f"ireasoner {line.replace('$(RUN)', 'runs/first')}")


def test_make_checks_and_tries(mine: Path) -> None:
    for index in range(3):
        draw(Path("pool/deeper") / f"{index}.png", index)
    Path("ireasoner.toml").write_text(
        Path("ireasoner.toml").read_text().replace("Qwen/Qwen2.5-VL-7B-Instruct", "model")
    )
    make = ["make", f"IREASONER={sys.executable} -m ireasoner_cli"]
    for target, wrote in (("check", set()), ("try", {"try"})):
        before = {file.name for file in Path().iterdir()}
        done = subprocess.run([*make, target], capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stderr
        assert {file.name for file in Path().iterdir()} - before == wrote


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = call("init", str(tmp_path / "file/mine"))
    assert refused.exit_code == 4 and "cannot be written" in refused.stderr


def test_the_templates_are_in_the_package() -> None:
    configuration = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    assert "project/templates/*" in configuration["tool"]["setuptools"]["package-data"]["ireasoner_cli"]
    assert {file.name for file in (Path(project.__file__).parent / "templates").iterdir()} == FILES
