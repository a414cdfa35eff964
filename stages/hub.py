"""The Hugging Face hub: what lies there, fetched into its cache on this machine."""

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages.errors import EngineError, first_line

TOLD_FROM = 100 << 20  # bytes: less is there before it is read


def is_name(path: Path, endings: Sequence[str]) -> bool:
    """Whether `path` is nothing here, could be OWNER/NAME on the hub, and has none of the `endings` of files."""
    could_be = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(path)) and not path.name.lower().endswith(tuple(endings))
    return bool(could_be) and not path.exists()


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
        reason = first_line(error)
        raise EngineError(
            f"{name}: neither {here} here nor to be had from the Hugging Face hub ({reason}){advice}"
        ) from error
