"""The table of `tests.campaigns.gpus`, which needs hours of GPUs for its figures."""

import os
from pathlib import Path

import pytest

from tests.campaigns.gpus import HEAD, Layout, Times, layouts, row, times

LAYOUT = Layout("two", 2, 10, 2)


def test_an_iteration_is_timed_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    for name, at in (("rollouts.parquet", 107), ("scored.parquet", 108), ("policy/state.json", 120)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (at, at))
    assert times(tmp_path, 100) == Times(sampling=7, learning=12, rest=1)
    assert times(tmp_path, 100).whole == 20


def test_the_start_is_paid_once_and_the_rest_each_time() -> None:
    found = [Times(30, 40, 1), Times(6, 12, 1), Times(6, 12, 1)]
    cells = [cell.strip() for cell in row(LAYOUT, found, images=100).split("|")[1:-1]]
    assert cells == ["two", "10 × 10", "60", "120", "62", "4.0"]
    assert len(cells) == len(HEAD.splitlines()[0].split("|")) - 2
    assert row(LAYOUT, found[:1], images=10).split("|")[3].strip() == "30"


@pytest.mark.parametrize("workers", [2, 8])
def test_each_way_to_use_the_gpus_is_measured(workers: int) -> None:
    found = layouts(workers, 64)
    assert len({layout.name for layout in found}) == len(found) == 6
    assert [layout.workers for layout in found] == [1, *[workers] * 5]
    assert {layout.per_step for layout in found} == {1, workers}
    assert [layout.settings().get("IREASONER_ROLLOUT_GPU_MEMORY_UTILIZATION") for layout in found].count("0.92") == 2
