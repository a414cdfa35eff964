"""The learner in the workers, warm: the policies of torchrun, whatever becomes of a rank."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ireasoner_cli.workers.crew import Crew
from ireasoner_cli.workers.processes import Processes
from stages.parameters import Call
from stages.update import update
from tests import chain, test_workers
from tests.test_update import PARAMS, iteration, torchrun

ROOT = Path(__file__).parent.parent
own_code = test_workers.own_code
OPTIONS = ["--groups-per-step", "3", "--proposer-every", "2", "--lr", "1e-3"]

# Of workers: which models they load, checkpoints after each step, and the end of a rank where there is a file that
# names it.
WATCHED = """
import os, signal, sys
from pathlib import Path
if "ireasoner_cli.workers.worker" in " ".join(sys.orig_argv):
    import stages.learning.model as model
    import stages.update as updating
    from stages.learning.learner import Learner
    load, step = model.load_base, Learner.step
    def loaded(*given):
        open("loaded", "a").write(".")
        return load(*given)
    def taken(self, *given):
        done, dies = step(self, *given), Path("dies", os.environ.get("RANK", ""))
        if dies.is_file() and [*Path().glob(".*.partial/step-*")]:
            dies.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    model.load_base, Learner.step = loaded, taken
    updating.update.__defaults__ = (*updating.update.__defaults__[:-2], 0.0, None)
"""


@pytest.fixture
def crew(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """Two workers that are watched."""
    site = workdir / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WATCHED)
    (workdir / "dies").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    crew = Crew(Processes([None, None]))
    yield crew
    crew.close()


def loads() -> int:
    return Path("loaded").stat().st_size


def test_warm_ranks_write_the_policies_of_torchrun(crew: Crew) -> None:
    """From the base model, from a policy, and from the base model again; then one of them alone."""
    iteration(Path())
    words = ["update", *OPTIONS, "--", "scored.parquet"]
    crew.together([*words[:-2], "--out", "one", *words[-2:]], 2)
    iteration(Path("it2"), Path("one"))
    second = ["update", *OPTIONS, "--policy", "one", "--out", "two", "--", "it2/scored.parquet"]
    said = crew.together(second, 2)
    crew.together([*words[:-2], "--out", "again", *words[-2:]], 2)
    assert loads() == 2 and not said
    assert chain.file_bytes(Path("again")) == chain.file_bytes(Path("one"))
    by_torchrun = torchrun(*[word if word != "two" else "theirs" for word in second[1:]])
    assert by_torchrun.returncode == 0, by_torchrun.stderr
    assert chain.file_bytes(Path("two")) == chain.file_bytes(Path("theirs"))
    crew.together(["update", "--lr", "1e-3", "--out", "alone", "--", "scored.parquet"], 1)
    update([Path("scored.parquet")], PARAMS, Call(out=Path("here")))
    assert chain.file_bytes(Path("alone")) == chain.file_bytes(Path("here")) and loads() == 2
