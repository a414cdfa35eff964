"""The Hugging Face hub: what lies there, fetched into its cache on this machine."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages.errors import EngineError

TOLD_FROM = 100 << 20  # bytes: less is there before it is read


def fetch(
    name: str,
    patterns: Sequence[str],
    *,
    dataset: bool = False,
    revision: str | None = None,
    without: Sequence[str] = (),
    here: str = "a folder",
    advice: str = "",
) -> Path:
    """The folder with those files of the model or `dataset` called `name` that match `patterns`, but for those
    `without`. Its name is the commit that they are of. A line on stderr says what is downloaded, where it is much.

    Raises EngineError where they cannot be had: it is nothing that is `here`, either, and `advice` says what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    asked: dict[str, Any] = {"allow_patterns": [*patterns]}
    asked |= {"repo_type": "dataset"} if dataset else {}
    asked |= {"revision": revision} if revision else {}
    asked |= {"ignore_patterns": [*without]} if without else {}
    with suppress(Exception):  # without the hub there is nothing to tell, and below is said why
        missing = [file.file_size for file in snapshot_download(name, dry_run=True, **asked) if file.will_download]
        if sum(missing) >= TOLD_FROM:
            size = f"{sum(missing) / 2**30:.1f} GiB"
            print(f"{name}: fetching {len(missing)} files, {size}, from the Hugging Face hub", file=sys.stderr)
    try:
        return Path(snapshot_download(name, **asked))
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EngineError(
            f"{name}: neither {here} here nor to be had from the Hugging Face hub ({reason}){advice}"
        ) from error
