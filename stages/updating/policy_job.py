"""The making of a policy: a directory in place of a file, and checkpoints in place of rows."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from stages import shards
from stages.errors import DamagedOutput, DataError, UsageError
from stages.job import Job
from stages.learning import checkpoints
from stages.learning.ranks import Ranks
from stages.policy import STATE_FILE, check_whole, read_state
from stages.result import Result


class PolicyJob(Job):
    """A policy to be made: what is written is a directory, and what is left of an interrupted run are checkpoints."""

    def there(self, requests: Callable[[range], int] | None = None) -> Result | None:
        """Raises UsageError, too, where the policy would be written over what it must not."""
        self._check_place()
        found = super().there(requests)
        return replace(found, summary={"step": read_state(self.output).step}) if found and found.reused else found

    def is_done(self) -> bool:
        if not self.call.dry_run:
            shards.restore_directory(self.output, self.call.force)
        if not self._is_made():
            return False
        if not self.call.dry_run:
            shards.clear_leftovers(self.output)
            shards.discard_old_directory(self.output)
        return True

    def left_over(self) -> int:
        partial = shards.partial_directory(self.output)
        return checkpoints.left_over(partial, self.metadata, self.call.force, self.metadata.step)

    def checkpoints(self, ranks: Ranks) -> contextlib.AbstractContextManager[Path]:
        """The folder of the checkpoints, which the first process holds for all."""
        if ranks.first:
            return shards.writing(self.output, self.call.force)
        return contextlib.nullcontext(shards.partial_directory(self.output))

    def _check_place(self) -> None:
        """Nothing but a policy may be replaced, and not the one that is being updated."""
        output, base = self.output, self.start.policy.folder
        if output.name in ("", "..") or output.suffix == ".parquet":
            raise UsageError(f"{output}: name a folder of its own for the new policy with --out")
        if base and output.resolve() in (base.resolve(), *base.resolve().parents):
            raise UsageError(
                f"{output} is the policy that is being updated, or holds it; name another folder with --out"
            )
        if output.exists() and not (output / STATE_FILE).is_file():
            raise UsageError(f"{output} is in the way, and no policy; name another folder with --out")

    def _is_made(self) -> bool:
        """Whether the policy is there, whole, and was made so. Raises UsageError or DataError when something else
        is."""
        if not self.output.exists() or self.call.force:
            return False
        try:
            made = read_state(self.output)
            check_whole(self.output, made)
        except DataError as error:
            raise DamagedOutput(str(error)) from error
        shards.refuse_differences(f"{self.output} exists and", made.lineage, self.metadata)
        return True
