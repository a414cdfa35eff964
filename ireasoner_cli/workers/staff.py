"""Stages that need a model: here, or by the workers of a crew, who sample a part each and learn together."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from ireasoner_cli.work import Work
from ireasoner_cli.workers.answer import Answer, Words
from ireasoner_cli.workers.crew import Carrier, Crew
from ireasoner_cli.workers.resident import Residents
from ireasoner_cli.workers.share import Share
from stages import shards
from stages.errors import UsageError
from stages.progress import Progress
from stages.result import Result

VISIBLE = "CUDA_VISIBLE_DEVICES"
Learning = Callable[[], Result]  # an update in the making: waits for its end
DRIVER = Path("/proc/driver/nvidia/version")  # there where NVIDIA's driver is loaded


class Staff(Protocol):
    """Who samples and learns."""

    @property
    def learners(self) -> int:
        """How many workers can learn."""
        ...

    @property
    def engines_here(self) -> int:
        """How many engines share this machine's memory with learners."""
        ...

    def make(self, work: Work, words: Callable[..., Words], output: Path, progress: Progress) -> Result:
        """Carries out `work`, which samples, and writes `output`. `words` gives its command, with options in place of
        its own."""
        ...

    def learn(self, work: Work, words: Words, output: Path, ranks: int, progress: Progress) -> Learning:
        """Carries out `work`, an update whose command `words` are and which writes `output`, in so many ranks at most:
        as many as there are groups in a step. It is over, at the latest, when what is returned has been called; before
        that there may be sampled."""
        ...

    def sleep(self) -> None:
        """Leaves the device's memory to others until there is something to sample again."""
        ...


class Here:
    """This process, with an engine and a model that stay warm."""

    learners = engines_here = 1

    def __init__(self, debug: bool = False) -> None:
        self._residents = Residents(debug)

    def make(self, work: Work, words: Callable[..., Words], output: Path, progress: Progress) -> Result:
        return work.stage(progress=progress, engines=self._residents.engines)

    def learn(self, work: Work, words: Words, output: Path, ranks: int, progress: Progress) -> Learning:
        result = work.stage(progress=progress, models=self._residents.models)
        return lambda: result

    def sleep(self) -> None:
        self._residents.sleep()

    def close(self) -> None:
        self._residents.close()


class Together:
    """A crew. Each of its workers samples a part, and what becomes of these is the file that `Here` makes; they learn
    as ranks, and what becomes of that is the policy of so many processes of torchrun. What an interrupted run has left
    is taken up, whichever of the two it was."""

    def __init__(self, crew: Crew, force: bool = False, engines_here: int = 0) -> None:
        """`force`: what is there is made anew; the work that is carried out does not say so."""
        self._crew = crew
        self._force = force
        self.engines_here = engines_here

    @property
    def learners(self) -> int:
        return self._crew.size

    def make(self, work: Work, words: Callable[..., Words], output: Path, progress: Progress) -> Result:
        if output.exists() and not self._force:
            return work.stage(progress=progress)  # which compares, and refuses what was made differently
        folder = shards.parts_directory(output)
        with shards.writing(folder, force=True):  # the parts are of one crew's number
            self._make_parts(folder, words, output, progress)
        shards.join(folder, output, self._force)
        return replace(work.stage(progress=progress), reused=False)

    def _make_parts(self, folder: Path, words: Callable[..., Words], output: Path, progress: Progress) -> None:
        count = self._crew.size
        if self._force or (folder.is_dir() and not all(f"-of-{count}." in part.name for part in folder.iterdir())):
            shutil.rmtree(folder, ignore_errors=True)
        elif shards.partial_directory(output).is_dir():  # refused now, rather than when all is sampled
            command, *options = words(out=output)
            self._crew.run([[command, "--dry-run", *options]], lambda done: None)
        commands = [words(out=folder, shard=f"{index}/{count}") for index in range(1, count + 1)]
        with progress.track(commands[0][0], count, "parts") as advance:
            self._crew.run(commands, advance)

    def learn(self, work: Work, words: Words, output: Path, ranks: int, progress: Progress) -> Learning:
        result = self.begin(work, words, output, ranks, progress)()
        return lambda: result

    def begin(self, work: Work, words: Words, output: Path, ranks: int, progress: Progress) -> Learning:
        """`learn`, and what is returned waits for it: till then none of these workers samples."""
        if output.exists():
            result = work.stage(progress=progress)
            return lambda: result
        finish = self._crew.start(words, min(ranks, self._crew.size))

        def learned() -> Result:
            with progress.busy(words[0]):
                said = finish()
            for line in said:
                progress.say(line)
            return Result(output)

        return learned

    def sleep(self) -> None:
        self._crew.sleep()


class Apart:
    """Two crews, of which one samples while the other learns."""

    engines_here = 0

    def __init__(self, samplers: Crew, learners: Crew) -> None:
        self._samplers = Together(samplers)
        self._learners = Together(learners)

    @property
    def learners(self) -> int:
        return self._learners.learners

    def make(self, work: Work, words: Callable[..., Words], output: Path, progress: Progress) -> Result:
        return self._samplers.make(work, words, output, progress)

    def learn(self, work: Work, words: Words, output: Path, ranks: int, progress: Progress) -> Learning:
        return self._learners.begin(work, words, output, ranks, progress)

    def sleep(self) -> None:
        self._samplers.sleep()
        self._learners.sleep()


@contextmanager
def open_crew(workers: int | None, ray: str | None, gpus_each: int, debug: bool) -> Iterator[Crew | None]:
    """The crew of `open_carrier`'s workers."""
    with open_carrier(workers, ray, gpus_each, debug) as carrier:
        yield Crew(carrier) if carrier else None


@contextmanager
def open_carrier(workers: int | None, ray: str | None, gpus_each: int, debug: bool) -> Iterator[Carrier | None]:
    """So many workers, on this machine or on the cluster that `ray` names, with so many GPUs each; by default as many
    as the GPUs allow. None where that is one on this machine, and so this process.

    Raises UsageError where there are not so many GPUs.
    """
    carrier: Carrier
    if ray is not None:
        if find_spec("ray") is None:
            raise UsageError("Ray is not installed: pip install 'ireasoner[ray]', here and on the cluster's machines")
        from ireasoner_cli.workers.cluster import Actors

        carrier = Actors(ray, workers, gpus_each, debug)
    else:
        devices = _devices(workers, gpus_each)
        if len(devices) == 1:
            yield None
            return
        from ireasoner_cli.workers.processes import Processes

        carrier = Processes(devices, debug)
    try:
        yield carrier
    finally:
        carrier.close()


@contextmanager
def open_staff(
    workers: int | None, ray: str | None, gpus_each: int, debug: bool, apart: bool = False, learners: int | None = None
) -> Iterator[Staff]:
    """A crew, or this process where there is none; with `apart` two, where there are two workers or more, of which so
    many `learners` learn, half of them unless given.

    Raises as `open_carrier` does, and UsageError where the learners would be all.
    """
    with open_carrier(workers, ray, gpus_each, debug) as carrier:
        size = carrier.size if carrier else 1
        if learners is not None and learners >= size:
            raise UsageError(f"--learners {learners} of {size} workers leaves none to sample; give more --workers")
        if carrier is None:
            with closing(Here(debug)) as here:
                yield here
        elif apart and size > 1:
            first, answers = learners or size // 2, dict[int, Answer]()
            shares = Share(carrier, range(first, size), answers), Share(carrier, range(first), answers)
            yield Apart(*map(Crew, shares))
        else:
            yield Together(Crew(carrier), engines_here=0 if ray else size)


def _devices(workers: int | None, gpus_each: int) -> list[str | None]:
    """What each worker sees of the GPUs that this process sees. Raises UsageError where they are too few."""
    gpus = _gpus()
    if not gpus:
        return [None] * (workers or 1)
    count = workers or max(1, len(gpus) // gpus_each)
    if count > 1 and count * gpus_each > len(gpus):
        raise UsageError(
            f"{count} workers of {gpus_each} GPU{'s' * (gpus_each > 1)} each, and {len(gpus)} are there; "
            "give fewer --workers, or none for as many as fit"
        )
    return [",".join(gpus[place * gpus_each : (place + 1) * gpus_each]) for place in range(count)]


def _gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them."""
    if not DRIVER.exists():
        return []
    import torch

    named = os.environ.get(VISIBLE)
    names = [str(number) for number in range(torch.cuda.device_count())] if named is None else named.split(",")
    return names[: torch.cuda.device_count()]
