"""The prompts: `--prompt`, then the model folder's `prompts/`, then ours, a file each."""

import re
from collections.abc import Mapping
from pathlib import Path

from stages.contract import SOLVER, Role
from stages.errors import UsageError, why

QUESTION = "question"
PLACEHOLDER = f"{{{QUESTION}}}"
_PLACE = re.compile(r"\{([a-z][a-z0-9_-]*)\}", re.IGNORECASE)


def load_prompt(role: Role, model_path: Path, override: str | Path | None = None, asks: bool = True) -> str:
    """The user text for `role`; the Solver's holds `{question}` where the question goes, if it `asks` it.

    Raises UsageError when the file cannot be read or the Solver's prompt has no place for the question.
    """
    if override is None:
        candidates = [model_path / "prompts" / f"{role}.txt", Path(__file__).parent / f"{role}.txt"]
        override = next(path for path in candidates if path.is_file())
    if not (text := read_prompt(override)):
        raise UsageError(f"{named(override)}: the prompt is empty")
    if role == SOLVER and asks and PLACEHOLDER not in text:
        raise UsageError(f"{named(override)}: the Solver's prompt must contain {PLACEHOLDER} where the question goes")
    return text


def read_prompt(given: str | Path) -> str:
    """The text of a file, or the text that is given itself, where it has several lines. Raises UsageError for a file
    that cannot be read."""
    if "\n" in str(given).strip():
        return str(given).strip()
    try:
        return Path(given).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"{given}: cannot be read as a prompt ({why(error)})") from error


def named(given: str | Path) -> str:
    """What messages call a prompt: its file, or how its text begins."""
    return str(given).strip().split("\n")[0]


def placeholders(prompt: str) -> set[str]:
    """The names that stand in braces in `prompt`, in lower case."""
    return {place[1].lower() for place in _PLACE.finditer(prompt)}


def filled(prompt: str, values: Mapping[str, str]) -> str:
    """`prompt` with each `{name}` of `values` replaced, whatever the case; what is filled in is not looked at again,
    and other braces stay."""
    return _PLACE.sub(lambda place: values.get(place[1].lower(), place[0]), prompt)
