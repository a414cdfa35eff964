"""The learner against a plain loop and trl: `python -m tests.benchmarks.learner`."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from stages.models.finding import Model
from tests.benchmarks import contenders
from tests.benchmarks.measure import GPU, Figures, flop_counter, matrix_rate, memory_meter, stopwatch
from tests.benchmarks.shapes import SHAPES, Shape, build, example, swept


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def compare(name: str, shape: Shape, repetitions: int, folder: Path) -> list[dict[str, Any]]:
    """A row a contender: medians, counted FLOPs, and what our FLOPs allow of its time; one that fails says so.

    Each has a process of its own, since three copies of a 7B are too much for a GPU; the shape's model is built as
    `folder`/model, and stays.
    """
    rows: list[dict[str, Any]] = []
    say(f"{name}: building the model")
    build(shape, folder / "model")
    for contender in contenders.MAKERS:
        if contender == contenders.Trl.name and not find_spec("trl"):
            continue
        command = [sys.executable, "-m", "tests.benchmarks.contest", name, contender, str(folder), str(repetitions)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            rows.append({"shape": name, "contender": contender, "failed": done.returncode})
        else:
            rows.append(_row(name, shape, contender, json.loads(done.stdout.splitlines()[-1]), rows))
    return rows


def _row(name: str, shape: Shape, contender: str, made: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """Of what `contest` printed; the first row is ours."""
    figures = Figures(made["seconds"], made["flops"], made["peak"])
    base = before[0] if before and "failed" not in before[0] else None
    tokens = shape.samples * shape.completion_tokens
    speed_up = figures.median / base["seconds"] if base else 1.0
    allowed = figures.flops / 1e12 / base["TFLOP"] if base else 1.0
    return {
        "shape": name,
        "contender": contender,
        "seconds": figures.median,
        "rollouts/s": shape.samples / figures.median,
        "tokens/s": tokens / figures.median,
        "TFLOP": figures.flops / 1e12,
        "of the matrix rate": figures.flops / figures.median / made["rate"],
        "held GiB": made["held"] / 2**30,
        "peak MiB": figures.peak / 2**20,
        "our speed-up": speed_up,
        "allowed by FLOPs": allowed,
        "reached": speed_up / allowed,
        "our memory": base["peak MiB"] * 2**20 / figures.peak if base else 1.0,
        "finite": made["finite"],
        "shares": made["shares"],
    }


def sweep(repetitions: int) -> list[dict[str, Any]]:
    """Ours alone, one thing changed at a time."""
    rows = []
    models: dict[int, Model] = {}  # by the side of the images that their processors keep
    for what, shapes in swept().items():
        for value, shape in shapes.items():
            if shape.pixels not in models:
                models[shape.pixels] = build(_with_image(shape), Path(tempfile.mkdtemp()) / "model")
            model = models[shape.pixels]
            contender, figures = contenders.Ours(model, example(shape, model)), Figures()
            contender.step(flop_counter(figures))
            contender.step(memory_meter(figures))
            for _ in range(repetitions):
                contender.step(stopwatch(figures))
            rows.append(
                {
                    "sweep": what,
                    "value": int(value),
                    "seconds": figures.median,
                    "seconds a rollout": figures.median / shape.samples,
                    "TFLOP": figures.flops / 1e12,
                    "peak MiB": figures.peak / 2**20,
                }
            )
            say(f"  {what} {value}: {figures.median:.2f} s")
    return rows


def _with_image(shape: Shape) -> Shape:
    """The shape with a processor that keeps images of its size."""
    return replace(shape, sizes=replace(shape.sizes, pixels=shape.pixels**2))


def show(rows: list[dict[str, Any]], title: str) -> None:
    table = Table(title=title)
    columns = [name for name in rows[0] if not isinstance(rows[0][name], dict)]
    for name in columns:
        table.add_column(name, justify="right" if not isinstance(rows[0][name], str) else "left")
    for row in rows:
        cells = (row.get(name, "failed") for name in columns)
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in cells))
    Console(width=200).print(table)


def main(
    shapes: Annotated[list[str], typer.Option("--shape", help="Shapes to race on.")] = list(SHAPES)[: 3 if GPU else 2],
    repetitions: Annotated[int, typer.Option(min=1)] = 5,
    sweeps: Annotated[bool, typer.Option(help="Also how cost grows with N, completion length and image size.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the tables here as JSON, too.")] = None,
) -> None:
    rate = matrix_rate()
    say(f"{torch.get_num_threads()} threads, large matrix products at {rate / 1e9:.0f} GFLOP/s")
    raced = []
    for name in shapes:
        with tempfile.TemporaryDirectory() as scratch:
            raced += compare(name, SHAPES[name], repetitions, Path(scratch))
    show(raced, "an optimizer step on one group")
    grown = sweep(1) if sweeps else []
    if grown:
        show(grown, "how our cost grows (one run each)")
    if out:
        device = torch.cuda.get_device_name() if GPU else f"CPU, {torch.get_num_threads()} threads"
        shapes_used = {name: asdict(SHAPES[name]) for name in shapes}
        content = {"device": device, "matrix_rate": rate, "shapes": shapes_used, "race": raced, "sweeps": grown}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    typer.run(main)
