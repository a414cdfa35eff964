"""The hub, of which nothing is here: what is said of it before it is waited for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stages import hub
from stages.errors import EngineError


@pytest.mark.parametrize(("gigabytes", "told"), [(8, True), (0, False)])
def test_a_download_that_takes_a_while_is_announced(
    gigabytes: int, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is said of what is here already, nor of a few small files."""
    asked: list[dict[str, Any]] = []

    def download(name: str, dry_run: bool = False, **more: Any) -> Any:
        asked.append(more)
        if dry_run:
            sizes = [(gigabytes << 30, True), (gigabytes << 30, True), (99 << 30, False), (1 << 20, True)]
            return [SimpleNamespace(file_size=size, will_download=missing) for size, missing in sizes]
        return "cache/c0ffee"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hub.fetch("owner/model", ["*.json"], revision="main", without=["*.bin"]) == Path("cache/c0ffee")
    assert asked == [{"allow_patterns": ["*.json"], "ignore_patterns": ["*.bin"], "revision": "main"}] * 2
    line = "owner/model: fetching 3 files, 16.0 GiB, from the Hugging Face hub\n"
    assert capsys.readouterr().err == (line if told else "")


def test_what_cannot_be_had_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **more: Any) -> str:
        raise OSError("no route to host\nand where")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(
        EngineError, match=r"^o/m: neither a file here nor .* hub \(no route to host\); look elsewhere$"
    ):
        hub.fetch("o/m", [], dataset=True, here="a file", advice="; look elsewhere")
