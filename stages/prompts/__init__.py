"""The prompts, each a file of its own: `--prompt FILE`, then the model folder's `prompts/`, then ours."""

from pathlib import Path

from stages.contract import SOLVER, Role
from stages.errors import UsageError, why

PLACEHOLDER = "{question}"


def load_prompt(role: Role, model_path: Path, override: Path | None = None) -> str:
    """The user text for `role`; the Solver's holds `{question}` where the question goes.

    Raises UsageError when the file cannot be read or the Solver's prompt has no place for the question.
    """
    candidates = [model_path / "prompts" / f"{role}.txt", Path(__file__).parent / f"{role}.txt"]
    file = override or next(path for path in candidates if path.is_file())
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as a prompt ({why(error)})") from error
    if role == SOLVER and PLACEHOLDER not in text:
        raise UsageError(f"{file}: the Solver's prompt must contain {PLACEHOLDER} where the question goes")
    return text


def with_question(prompt: str, question: str) -> str:
    return prompt.replace(PLACEHOLDER, question)
