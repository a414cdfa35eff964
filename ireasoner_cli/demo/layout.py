"""Lays out a folder in which the whole loop can be tried: pool, model, benchmark, settings, Makefile."""

import os
import shutil
from pathlib import Path

import pyarrow as pa

from ireasoner_cli.demo import world
from stages import shards
from stages.contract import BENCHMARK
from stages.errors import UsageError

HERE = Path(__file__).parent
MODEL = HERE / "model"
TEMPLATES = HERE / "templates"
POOL_IMAGES = 512
BENCHMARK_QUESTIONS = 300


def lay_out(folder: Path) -> bool:
    """Fills `folder`, all or nothing; False when it was laid out before, and is left as it is.

    Raises UsageError when something else is in the way.
    """
    if (folder / "ireasoner.toml").is_file():
        return False
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is in the way; name a folder that is new or empty")
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        world.write_pool(unfinished / "pool", POOL_IMAGES)
        shutil.copytree(MODEL, unfinished / "model")
        rows = [{**row, "image": {"bytes": row["image"]}} for row in world.benchmark(BENCHMARK_QUESTIONS)]
        schema = pa.schema([*BENCHMARK, ("type", pa.string())])
        shards.write_table(unfinished / "benchmark.parquet", pa.Table.from_pylist(rows, schema))
        for template in sorted(TEMPLATES.iterdir()):
            shutil.copyfile(template, unfinished / template.name)
        os.replace(unfinished, folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return True
