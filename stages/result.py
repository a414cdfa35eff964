"""What a stage returns to its caller."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Result:
    """Where the output is, whether it was there already, and a few figures about what was just made."""

    path: Path
    reused: bool = False
    summary: dict[str, Any] = field(default_factory=dict)
