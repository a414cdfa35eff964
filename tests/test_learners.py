"""The learner in the workers, warm: the policies of torchrun, whatever becomes of a rank."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ireasoner_cli.workers.crew import Crew
from ireasoner_cli.workers.processes import Processes
from stages.learning.learner import UpdateParams
from stages.parameters import Call
from stages.update import update
from tests import chain
from tests.conftest import draw
from tests.test_update import PARAMS, iteration

ROOT = Path(__file__).parent.parent
SHARED = UpdateParams(lr=1e-3, groups_per_step=3, proposer_every=2, kl_start=0.1)
OPTIONS = ["--groups-per-step", "3", "--proposer-every", "2", "--kl-start", "0.1", "--lr", "1e-3"]

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


@pytest.fixture(scope="module")
def world(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder, the current one, with two scored shards: of the base model, and of the policy `one` that one process
    made of it."""
    folder = tmp_path_factory.mktemp("learners")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "model").symlink_to(model_dir)
        for index in range(8):
            draw(folder / "pool" / f"{index}.png", index)
        iteration(Path())
        update([Path("scored.parquet")], SHARED, Call(out=Path("one")))
        iteration(Path("it2"), Path("one"))
        yield folder


@pytest.fixture(scope="module")
def crew(world: Path) -> Iterator[Crew]:
    """Two workers that are watched."""
    site = world / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WATCHED)
    (world / "dies").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{site}:{ROOT}")
        with closing(Processes([None, None])) as carrier:
            yield Crew(carrier)


def words(out: str, scored: str = "scored.parquet", *more: str) -> list[str]:
    return ["update", *OPTIONS, *more, "--out", out, "--", scored]


def loads() -> int:
    return Path("loaded").stat().st_size


@pytest.fixture(scope="module")
def by_torchrun(world: Path) -> Path:
    """What torchrun makes of `words`."""
    run = torchrun(words("by-torchrun"))
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["by-torchrun"]
    return Path("by-torchrun")


def torchrun(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ireasoner_cli"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command, *words], env=environment, capture_output=True, text=True, timeout=180
    )


def test_two_processes_learn_what_one_does(by_torchrun: Path) -> None:
    """The groups of a step, an odd one out among them, are spread over the processes; files are written once."""
    both = (Path("one"), by_torchrun)
    ours, theirs = (chain.rows(policy / "metrics.parquet") for policy in both)
    assert len(ours) == len(theirs) > 4
    for row, expected in zip(theirs, ours, strict=True):
        assert row.pop("advantages") == pytest.approx(expected.pop("advantages"))
        assert row.pop("role") == expected.pop("role")
        own, other = (each.pop("effective_sample_size") for each in (row, expected))
        assert own == pytest.approx(other, rel=1e-2)  # squares of what differs in the last digits
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-5)
    for role in ("solver", "proposer"):
        alone, spread = (load_file(policy / role / "adapter_model.safetensors") for policy in both)
        for name, tensor in alone.items():
            assert (spread[name] - tensor).norm() <= 1e-3 * tensor.norm(), name
    lineages = [json.loads((policy / "state.json").read_text())["lineage"] for policy in both]
    assert [lineage["device"].pop("ranks") for lineage in lineages] == [1, 2]
    assert lineages[0] == lineages[1]


def test_warm_ranks_write_the_policies_of_torchrun(crew: Crew, by_torchrun: Path) -> None:
    """From the base model, then one of them by itself from a policy, and from the base model again."""
    crew.start(words("first"), 2)()
    crew.start(["update", "--lr", "1e-3", "--policy", "one", "--out", "alone", "--", "it2/scored.parquet"], 1)()
    crew.start(words("again"), 2)()
    assert loads() == 2
    for made in ("first", "again"):
        assert chain.file_bytes(Path(made)) == chain.file_bytes(by_torchrun)
    update([Path("it2/scored.parquet")], PARAMS, Call(policy=Path("one"), out=Path("here")))
    assert chain.file_bytes(Path("alone")) == chain.file_bytes(Path("here"))
    before = chain.file_bytes(by_torchrun)
    crew.start(words(str(by_torchrun)), 2)()  # it is there
    assert chain.file_bytes(by_torchrun) == before


def test_where_a_rank_is_lost_all_begin_again_at_the_checkpoint(crew: Crew, by_torchrun: Path) -> None:
    Path("dies/1").touch()
    crew.start(words("disturbed"), 2)()
    assert not Path("dies/1").exists()
    assert chain.file_bytes(Path("disturbed")) == chain.file_bytes(by_torchrun)
    assert not [*Path().glob(".disturbed*")]
