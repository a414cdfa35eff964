"""Workers on a Ray cluster: the files of one, whatever becomes of them. Skipped where Ray is not installed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")

from ray.cluster_utils import Cluster

from tests import chain
from tests.test_run import run, world  # noqa: F401

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines of one worker each, in processes here."""
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
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
