from pathlib import Path
from typing import Annotated

import typer

from ireasoner_cli import console, options


def command(
    policy: Annotated[Path, typer.Argument(help="The policy directory.")],
    merge: Annotated[
        Path, options.Option(metavar="OUT", help="A new folder for the checkpoint, the adapter merged into it.")
    ],
    model: options.Model = None,
    force: options.Force = False,
    json: options.Json = False,
    config: options.Config = None,
    debug: options.Debug = False,
) -> None:
    """Write the policy's Solver as a plain checkpoint that transformers, vLLM and lmms-eval load, with a model card.

    The policy's adapters (policy/solver, policy/proposer and, if it has one, policy/teacher) are also usable as they
    are, by PEFT and vLLM.

    ireasoner export policy/ --merge charts-solver/

    ireasoner export it0040/policy --merge solver/ --model models/Qwen2.5-VL-7B
    """
    from stages.export import export

    result = export(policy, merge, model, force, console.TerminalProgress())
    console.result(result.path, result.summary, result.reused, json)
