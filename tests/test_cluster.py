"""Workers on a Ray cluster: the files of one, whatever becomes of them. Skipped where Ray is not installed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import chain
from tests.test_run import run, world  # noqa: F401

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines of one worker each, in processes here."""
    utilities = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed (the extra `ray`)")
    made = utilities.Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    made.add_node(**NODE)
    yield made
    made.shutdown()


def test_the_files_are_those_of_one_worker(world: Path, cluster: Any) -> None:  # noqa: F811
    asked = ("--benchmark", "benchmark.parquet", "--eval-every", 1)
    assert run(*asked, out="one").exit_code == 0
    done = run(*asked, "--ray", cluster.address, "--workers", 2, "--json", out="two")
    assert done.exit_code == 0, done.output
    assert chain.file_bytes(Path("two")) == chain.file_bytes(Path("one"))
    assert json.loads(done.stdout)["best"].startswith("two/it000")
