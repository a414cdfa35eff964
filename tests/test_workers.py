"""Several workers: the files of one, whatever becomes of them."""

import json
from pathlib import Path

from tests import chain
from tests.test_run import call, run, world  # noqa: F401


def test_the_files_are_those_of_one_worker(world: Path) -> None:  # noqa: F811
    asked = ("--benchmark", "benchmark.parquet", "--eval-every", 1)
    assert run(*asked, out="one").exit_code == 0
    done = run(*asked, "--workers", 2, "--json", out="two")
    assert done.exit_code == 0, done.output
    assert chain.file_bytes(Path("two")) == chain.file_bytes(Path("one"))
    assert json.loads(done.stdout)["best"].startswith("two/it000")
