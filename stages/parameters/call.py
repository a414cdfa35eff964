"""What every stage is asked beside its inputs and parameters of its own."""

from dataclasses import dataclass
from pathlib import Path

from stages.parameters.option import option

FIRST_MODEL = "the policy's, or Qwen/Qwen2.5-VL-7B-Instruct"


@dataclass(frozen=True)
class Call:
    """Which model and which policy, where to, and how much of it.

    `seed` is the run's, and taken from the input by stages that go on with a chain; `shard` I/N is one of N blocks of
    the work, of stages whose work can be split.
    """

    out: Path | None = option(None, "A .parquet file, or a directory of parts.", shown=False)
    model: str | None = option(None, "Hugging Face directory or hub id.", shown="what the input or the policy records")
    policy: Path | None = option(None, "Adapters and training state.", shown="the base model, at step 0")
    seed: int = 0
    limit: int | None = option(None, "Only the first so many groups.", minimum=1, shown=False)
    shard: str | None = None
    force: bool = option(False, "Replace an output that was made differently.")
    dry_run: bool = option(
        False, "Only say what would be read, taken up and written. The model is looked at, not loaded."
    )

    recipe: str | None = None  # under whose name the settings came

    def at_most(self, total: int) -> int:
        """How many of `total` groups the limit leaves."""
        return min(total, self.limit or total)


@dataclass(frozen=True)
class ShardedCall(Call):
    """Of a stage whose work can be split."""

    shard: str | None = option(
        None, "Do the I-th of N blocks, and write part-I-of-N.parquet.", metavar="I/N", shown=False
    )


@dataclass(frozen=True)
class FirstCall(ShardedCall):
    """Of a stage that begins a chain."""

    model: str | None = option(None, "Hugging Face directory or hub id.", shown=FIRST_MODEL)
    seed: int = option(0, "The run's seed.", minimum=0, maximum=2**63 - 1)
