"""What the doctor says of one thing."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """`about` what; what it is; what to do, where something is to be done; and the figures behind it."""

    about: str
    verdict: Verdict
    text: str
    advice: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def ok(about: str, text: str, /, **figures: Any) -> Finding:
    return Finding(about, "ok", text, figures=figures)


def warn(about: str, text: str, advice: str, /, **figures: Any) -> Finding:
    return Finding(about, "warn", text, advice, figures)


def fail(about: str, text: str, advice: str, /, **figures: Any) -> Finding:
    return Finding(about, "FAIL", text, advice, figures)
