"""The pages of `docs/` that are made from the code: the Parquet reference from the schemas, the terms of rewards from
their docstrings, a page a command from its help.

python -m ireasoner_cli.reference docs/
"""

import inspect
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import typer

from ireasoner_cli.app import app
from stages import contract
from stages.contract import descriptions
from stages.rewards import proposer, terms

GENERATED = "<!-- Made from the code by `make docs`; edit there. -->"
NOT_SHOWN = {"help"}


def pages() -> dict[str, str]:
    """Every generated page by its path under docs/."""
    group: Any = typer.main.get_command(app)
    commands = {name: _command_page(name, command) for name, command in group.commands.items()}
    return {
        "parquet.md": _parquet_page(),
        "terms.md": _terms_page(),
        "commands/README.md": _command_index(group),
        **{f"commands/{name}.md": page for name, page in commands.items()},
    }


def write(folder: Path) -> None:
    """Writes the pages, and removes those of commands that are no more."""
    made = pages()
    for old in (folder / "commands").glob("*.md"):
        if f"commands/{old.name}" not in made:
            old.unlink()
    for name, text in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


# ----------------------------------------------------------------------------------------------- Parquet

_TABLES: tuple[tuple[str, str, pa.Schema, Mapping[str, str]], ...] = (
    (
        "Trajectories",
        "`questions`, `rollouts` and `scored`: one row a sampled trajectory, whoever sampled it. Rows of one group are "
        "contiguous and in one part file, the Proposer's row first, then the Solver's by pass, as these were made, and "
        "sample_index. `propose` writes the rows of role `proposer`, `rollout` adds those of role `solver`.",
        contract.TRAJECTORY,
        descriptions.TRAJECTORY,
    ),
    (
        "What `score` adds",
        "Columns that make sense for the Solver only are null on the Proposer's row. Each other [term](terms.md) of "
        "the reward has a column `r_TERM`, float64, and `--vote self-reward` the column `self_reward`, float64: what "
        "the policy thinks of the row's answer.",
        contract.SCORE_COLUMNS,
        descriptions.SCORE_COLUMNS,
    ),
    (
        "Credit by step",
        "Of a shard made with `score --credit`.",
        contract.CREDIT,
        descriptions.CREDIT,
    ),
    (
        "Preferences",
        "Of a shard made with `score --pairs`, for `update --loss dpo`.",
        contract.PAIRS,
        descriptions.PAIRS,
    ),
    (
        "Metrics",
        "`policy/metrics.parquet`: one row an optimizer step of the update that wrote the policy.",
        contract.METRICS,
        descriptions.METRICS,
    ),
    (
        "Benchmark",
        "What `eval` reads; the last three columns are optional.",
        pa.schema([*contract.BENCHMARK, *contract.BENCHMARK_OPTIONAL]),
        descriptions.BENCHMARK,
    ),
    (
        "Evaluation",
        "`eval`: one row a question and sample.",
        contract.EVALUATED,
        descriptions.EVALUATED,
    ),
)

_METADATA = """\
## Metadata

Every file that a stage writes says what it is made of, as one JSON object under the key `ireasoner` of the Parquet
schema's metadata (a policy has the same in `state.json`, an exported checkpoint in `ireasoner.json`):

| field | meaning |
| --- | --- |
| format | version of this contract; this version of ireasoner reads {format} |
| stage | which stage wrote the file: `propose`, `rollout`, `score` or `eval` |
| version | of the package that wrote it |
| params | every resolved parameter that shapes the rows; under the stage before's name, that stage's; under `passes`, \
those of earlier passes by name |
| seed | the run's |
| inputs | name and SHA-256 of each file that was read |
| model | name as given, revision (the commit, for a model of the hub), sha256 (the fingerprint) |
| policy | step, and sha256 of the policy directory; null at step 0, the base model |
| device | what a model computed the rows on: name and dtype; of vLLM `tensor_parallel` and `batch_invariant`, of an \
update `ranks`, the number of its processes; under `earlier` others, on which it was begun. Empty where none did. It \
does not decide whether a file is reused |

A shard written by another tool is welcome when it has the columns and, of the metadata, `format`, `stage`,
`model.name` and `policy.step`.

```python
import json, pyarrow.parquet as pq

json.loads(pq.read_schema("scored.parquet").metadata[b"ireasoner"])
```
"""


def _parquet_page() -> str:
    parts = [GENERATED, "# Parquet reference", "Columns, their types and what they mean. Any column may be null unless "
             "it is needed to tell what the row is."]  # fmt: skip
    for title, text, schema, meanings in _TABLES:
        rows = [(f"`{column.name}`", _cell(_type(column.type)), _cell(meanings[column.name])) for column in schema]
        parts += [f"## {title}", text, _table(("column", "type", "meaning"), rows)]
    metadata = _METADATA.format(format=contract.FORMAT)
    return "\n\n".join([*parts, metadata])


_TERMS = """\
# Reward terms

What `score --solver-reward` and `--proposer-reward` add up. N rows answer a question, a is a row's answer, and G are
the rows whose answer is the dominant one; p(a) is the share of the rows with that answer, H the entropy of the answers
in nats, c the dominant answer's share. The target is the dominant answer, or what `--target` says. How to write a
reward, and where its passes come from, is told in [Recipes](recipes.md#what-a-method-is-made-of); a term of your own
takes [a function](recipes.md#a-term-of-your-own)."""


def _terms_page() -> str:
    parts = [GENERATED, _TERMS]
    for title, package in (("The Solver's", terms), ("The Proposer's", proposer)):
        rows = []
        for name in package.names():
            term = package.load(name)
            formula = re.sub(r"\s*\[[RM]\]", "", inspect.getdoc(term) or "").replace("\n\n", ". ")
            rows.append((f"`{name}`", _cell(inspect.getdoc(inspect.getmodule(term)) or ""), _cell(formula)))
        parts += [f"## {title}", _table(("term", "", ""), rows)]
    return "\n\n".join(parts) + "\n"


def _type(kind: pa.DataType) -> str:
    """As numpy and pandas call it: `list<float32>`."""
    if pa.types.is_list(kind):
        return f"list<{_type(kind.value_type)}>"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heading, tuple("---" for _ in heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "∣")


# ---------------------------------------------------------------------------------------------- commands


def _command_index(group: Any) -> str:
    rows = [(f"[`{name}`]({name}.md)", _cell(_paragraphs(command)[0])) for name, command in group.commands.items()]
    settings = (
        "Options come from flags, then `IREASONER_<COMMAND>_<OPTION>` variables, then `ireasoner.toml`, then the "
        "defaults. stdout carries the result, stderr everything else. Exit codes: 0 done, 2 wrong usage, 3 bad input "
        "data, 4 model, engine or device failure, 130 interrupted, 1 where stdout was closed; of `doctor` the number "
        "of failures. `ireasoner --install-completion` teaches the current shell (bash, zsh, fish, "
        "PowerShell) to complete commands and options."
    )
    return "\n\n".join([GENERATED, "# Commands", _table(("command", ""), rows), settings]) + "\n"


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in command.help.split("\n\n")]


def examples(command: Any) -> list[str]:
    """The command lines that the help gives to copy."""
    return [paragraph for paragraph in _paragraphs(command) if paragraph.startswith("ireasoner ")]


def _command_page(name: str, command: Any) -> str:
    text = [paragraph for paragraph in _paragraphs(command) if not paragraph.startswith("ireasoner ")]
    hints = typing.get_type_hints(command.callback)
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name not in NOT_SHOWN]
    usage = " ".join([f"ireasoner {name}", *(_argument(p) for p in arguments), "[options]"])
    parts = [GENERATED, f"# ireasoner {name}", *text, _code([usage]), "For example:", _code(examples(command))]
    if arguments:
        told = [(f"`{_argument(p)}`", _cell(p.help or "")) for p in arguments]
        parts += ["## Arguments", _table(("argument", ""), told)]
    for panel in dict.fromkeys(p.rich_help_panel or "Options" for p in options):
        rows = [
            (f"`{_spelling(p)}`", _cell(_default(p)), _cell(_choices(hints[p.name]) + (p.help or "")))
            for p in options
            if (p.rich_help_panel or "Options") == panel
        ]
        parts += [f"## {panel}", _table(("option", "default", ""), rows)]
    return "\n\n".join(parts) + "\n"


def _code(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```"])


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name).upper()
    return f"{name.rstrip('…')}…" if parameter.nargs == -1 else name


def _spelling(parameter: Any) -> str:
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return ", ".join([*parameter.opts, *parameter.secondary_opts]) + value


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    value = parameter.opts[0] if parameter.default is True and parameter.secondary_opts else parameter.default
    return "" if value is None or value is False or not parameter.show_default else f"`{value}`"


def _choices(kind: Any) -> str:
    """What there is to choose from, where `kind` is a choice, or one that may be left out."""
    values = [value for part in (kind, *typing.get_args(kind)) if _is_choice(part) for value in typing.get_args(part)]
    return f"{', '.join(f'`{value}`' for value in values)}. " if values else ""


def _is_choice(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal


if __name__ == "__main__":
    write(Path(*sys.argv[1:] or ["docs"]))
