from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ireasoner_cli import console, options
from stages.parameters.sampling import Pixels

if TYPE_CHECKING:
    from ireasoner_cli.doctor.finding import Finding
    from ireasoner_cli.doctor.fitting import Wishes

FITTING = "Whether it fits (--model)"


@options.declared
def command(
    pixels: Pixels,
    model: Annotated[
        str | None,
        options.Option(help="Also whether this one fits: Hugging Face directory or hub id.", show_default=False),
    ] = None,
    policy: Annotated[
        Path | None, options.Option(help="The policy whose adapters count, and its model.", show_default=False)
    ] = None,
    deep: Annotated[
        bool, options.Option("--deep", help="Also compute: the learner and the engine, each step with its figure.")
    ] = False,
    tensor_parallel: Annotated[int, options.Option(min=1, help="GPUs for one engine.", rich_help_panel=FITTING)] = 1,
    gpu_memory_utilization: Annotated[
        float | None,
        options.Option(
            min=0.05, max=1.0, help="vLLM's share of a GPU.", show_default="vLLM's", rich_help_panel=FITTING
        ),
    ] = None,
    max_model_len: Annotated[
        int | None,
        options.Option(
            min=1, help="Prompt and completion at most.", show_default="the model's", rich_help_panel=FITTING
        ),
    ] = None,
    samples: Annotated[int, options.Option(min=1, help="N, answers to a question.", rich_help_panel=FITTING)] = 5,
    max_tokens: Annotated[int, options.Option(min=1, help="Tokens of an answer.", rich_help_panel=FITTING)] = 256,
    gradient_checkpointing: Annotated[
        bool, options.Option("--gradient-checkpointing", help="As of update.", rich_help_panel=FITTING)
    ] = False,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Say what this machine is and what will run on it, in seconds, without loading a model.

    ireasoner doctor

    ireasoner doctor --model Qwen/Qwen2.5-VL-7B-Instruct

    ireasoner doctor --deep --model model/

    GPUs, driver, libraries that do not go together, memory, disk, locks; with --model the gigabytes of each part, and
    the options with which it fits. --deep takes up to ten minutes on a GPU. The exit code is the number of failures.
    """
    from ireasoner_cli.doctor import display
    from ireasoner_cli.doctor.fitting import Wishes

    wishes = Wishes(
        pixels, tensor_parallel, gpu_memory_utilization, max_model_len, samples, max_tokens, gradient_checkpointing
    )
    found = []
    for finding in _findings(model, policy, wishes, deep):
        found.append(finding)
        if not json:
            display.show(finding)
    failed = sum(finding.verdict == "FAIL" for finding in found)
    if json:
        console.print_json({"failed": failed, "findings": [finding.to_json() for finding in found]})
    else:
        display.end(found)
    if failed:
        raise typer.Exit(min(failed, 99))


def _findings(model: str | None, policy: Path | None, wishes: "Wishes", deep: bool) -> Iterator["Finding"]:
    with console.TerminalProgress().busy("looking"):
        from ireasoner_cli.doctor import fitting, machine, packages, place
        from stages.policy import DEFAULT_LORA, read_state

        here = machine.look()
    yield from machine.findings(here)
    yield from packages.findings(here)
    yield from place.findings(Path.cwd())
    state = read_state(policy) if policy else None
    name = model or (state.model.name if state else None)
    if name is not None:
        yield from fitting.findings(name, wishes, here, state.lora if state else DEFAULT_LORA)
    if deep:
        from ireasoner_cli.doctor.deep import steps

        yield from steps(name)
