"""`make accept`: what one wants to know of a machine with a GPU, on a page to send: python -m tests.benchmarks.accept

`doctor --deep`, then the learner and its peers on Qwen2.5-VL-7B's shape, then `rollout` against bare vLLM on the same;
each in processes of their own. Without vLLM the learner's half alone.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.benchmarks import contenders
from tests.benchmarks.learner import compare, say
from tests.benchmarks.measure import GPU
from tests.benchmarks.shapes import SHAPES

TRAINING = 2500  # groups that the paper trains on
OURS = contenders.Ours.name


@dataclass(frozen=True)
class Goal:
    """For one H100 at 7B, five answers of 256 tokens behind a prompt of 1,300; `figure` is at most or at least it."""

    name: str
    unit: str
    bound: float
    most: bool = True

    def met(self, figure: float) -> bool:
        return figure <= self.bound if self.most else figure >= self.bound


GOALS = {
    "step": Goal("an update step", "s", 0.5),
    "mfu": Goal("of the measured matrix rate", "%", 40, most=False),
    "memory": Goal("learning, in all", "GB", 32),
    "rollout": Goal("rollout, of bare vLLM", "%", 95, most=False),
    "end to end": Goal("rollout and update", "tokens/s", 2000, most=False),
    "training": Goal(f"the paper's training, {TRAINING:,} groups", "h", 1),
}


def figures(shape: str, raced: list[dict[str, Any]], sampled: list[dict[str, Any]]) -> dict[str, float]:
    """What there is to hold to the goals, by their keys."""
    found: dict[str, float] = {}
    tokens = SHAPES[shape].samples * SHAPES[shape].completion_tokens
    ours = next((row for row in raced if row["contender"] == OURS and "failed" not in row), None)
    if ours:
        found["step"], found["mfu"] = ours["seconds"], 100 * ours["of the matrix rate"]
        found["memory"] = (ours["held GiB"] * 2**30 + ours["peak MiB"] * 2**20) / 1e9
    rollout = next((row for row in sampled if row["contender"] == "ireasoner rollout"), None)
    if rollout:
        found["rollout"] = 100 * rollout["of bare vLLM"]
    if ours and rollout:
        group = tokens / rollout["tokens/s"] + ours["seconds"]
        found["end to end"], found["training"] = tokens / group, TRAINING * group / 3600
    return found


def page(content: dict[str, Any]) -> str:
    """The Markdown of what was found."""
    found, judged = content["figures"], content["shape"] == "7b"
    goals = [
        (goal.name, f"{found[key]:.3g} {goal.unit}", f"{'≤' if goal.most else '≥'} {goal.bound:g}",
         ("yes" if goal.met(found[key]) else "**no**") if judged else "")
        for key, goal in GOALS.items() if key in found
    ]  # fmt: skip
    race = [
        (row["contender"], *(["failed"] * 5 if "failed" in row else (
            f"{row['seconds']:.3g}", f"{row['tokens/s']:,.0f}", f"{100 * row['of the matrix rate']:.1f} %",
            f"{row['held GiB']:.1f} + {row['peak MiB'] / 1024:.2f}", "yes" if row["finite"] else "**no**")))
        for row in content["race"]
    ]  # fmt: skip
    shares: dict[str, float] = next((row["shares"] for row in content["race"] if row.get("shares")), {})
    sampled = [
        (row["contender"], f"{row['tokens/s']:,.0f}", f"{100 * row['of bare vLLM']:.1f} %")
        for row in content["rollout"]
    ]
    checks = [(each["verdict"], each["about"], each["text"]) for each in content["doctor"]["findings"]]
    parts = [
        f"# Acceptance, {content['when']}",
        f"`ireasoner` {content['version']}; shape {content['shape']}; {content['doctor']['failed']} checks failed.",
        "## Goals" + ("" if judged else " (of one H100 at 7B; this is another shape)"),
        _table(("", "here", "goal", "met"), goals),
        "## An optimizer step on one group",
        _table(("", "s", "tokens/s", "of the matrix rate", "GiB held + peak", "finite"), race),
        _table(("share of our step", "%"), [(part, f"{100 * share:.0f}") for part, share in shares.items()]),
        *(["## Rollout", _table(("", "tokens/s", "of bare vLLM"), sampled)] if sampled else []),
        "## Checks",
        _table(("", "", ""), checks),
    ]
    return "\n\n".join(parts) + "\n"


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heading, tuple("---" for _ in heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |" for line in lines)


def examined(model: str | None) -> dict[str, Any]:
    """What the doctor says; its exit code is how many failed."""
    words = ["doctor", "--deep", "--json", *(["--model", model] if model else [])]
    done = subprocess.run([sys.executable, "-m", "ireasoner_cli", *words], stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()
    if not lines:
        return {"failed": 1, "findings": [{"about": "doctor", "verdict": "FAIL", "text": f"exit {done.returncode}"}]}
    return json.loads(lines[-1])


def main(
    tiny: Annotated[bool, typer.Option("--tiny", help="The same on a model of 0.1 million parameters.")] = False,
    model: Annotated[str | None, typer.Option(help="A checkpoint for the doctor to sample from and learn.")] = None,
    repetitions: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="A folder for accept.json and accept.md.")] = Path("build/accept"),
) -> None:
    from stages import __version__

    shape = "tiny" if tiny else "7b" if GPU else "paper-like"
    say("doctor --deep")
    doctor = examined(model)
    with tempfile.TemporaryDirectory() as scratch:
        raced = compare(shape, SHAPES[shape], repetitions, Path(scratch))
        sampled: list[dict[str, Any]] = []
        if find_spec("vllm") and not tiny:
            say("rollout against bare vLLM")
            command = [sys.executable, "-m", "tests.benchmarks.engine", f"{scratch}/model", "96", "3"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            sampled = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else []
    content = {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "shape": shape,
        "figures": figures(shape, raced, sampled),
        "race": raced,
        "rollout": sampled,
        "doctor": doctor,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "accept.json").write_text(json.dumps(content, indent=1))
    (out / "accept.md").write_text(page(content))
    print(out / "accept.md")
    failed = doctor["failed"] + sum("failed" in row for row in raced)
    raise typer.Exit(min(failed, 99))


if __name__ == "__main__":
    typer.run(main)
