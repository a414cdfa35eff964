"""Lays out a folder in which the whole loop can be tried: pool, model, benchmark, settings, Makefile."""

import os
import shutil
from pathlib import Path

import pyarrow as pa

from ireasoner_cli.demo import world
from stages import shards
from stages.contract import BENCHMARK
from stages.errors import EngineError, UsageError, why

HERE = Path(__file__).parent
MODEL = HERE / "model"
TEMPLATES = HERE / "templates"
LAST = "ireasoner.toml"  # is put in its place when all else is there
UNFINISHED = ".ireasoner-demo.partial"  # inside the folder, which may be the one that the user is in
POOL_IMAGES = 512
BENCHMARK_QUESTIONS = 300


def lay_out(folder: Path) -> bool:
    """Fills `folder`; False when it was laid out before, and is left as it is. Interrupted, it can be called again.

    Raises UsageError when something else is in the way, EngineError when the folder cannot be written.
    """
    if all((folder / name).exists() for name in (LAST, "pool", "model", "benchmark.parquet")):
        return False
    unfinished = folder / UNFINISHED
    if folder.exists() and not unfinished.is_dir() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is in the way; name a folder that is new or empty")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        world.write_pool(unfinished / "pool", POOL_IMAGES)
        shutil.copytree(MODEL, unfinished / "model")
        rows = [{**row, "image": {"bytes": row["image"]}} for row in world.benchmark(BENCHMARK_QUESTIONS)]
        schema = pa.schema([*BENCHMARK, ("type", pa.string())])
        shards.write_table(unfinished / "benchmark.parquet", pa.Table.from_pylist(rows, schema))
        for template in sorted(TEMPLATES.iterdir()):
            shutil.copyfile(template, unfinished / template.name)
        for made in sorted(unfinished.iterdir(), key=lambda made: made.name == LAST):
            if not (folder / made.name).exists():
                os.replace(made, folder / made.name)
        shutil.rmtree(unfinished)
    except OSError as error:
        raise EngineError(f"{folder}: cannot be written ({why(error)})") from error
    return True
