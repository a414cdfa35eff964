"""The contract's rules about who may know whom, read off the imports."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "vllm", "pyarrow", "rich"}
STAGES = ("propose", "rollout", "score", "update", "evaluate")


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for folder in ("stages", "ireasoner_cli") for file in (ROOT / folder).rglob("*.py")}


def imported(name: str) -> set[str]:
    """What a module imports, wherever in it: modules of ours by their own name, of others by theirs."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each in MODULES else node.module for each in inner}
    return found


IMPORTS = {name: imported(name) for name in MODULES}


def test_no_imports_go_round() -> None:
    """Not even those made within functions, when they run."""
    TopologicalSorter({name: found & MODULES.keys() for name, found in IMPORTS.items()}).prepare()


def test_the_method_does_not_know_the_command_line() -> None:
    for name, found in IMPORTS.items():
        if name.startswith("stages"):
            assert not any(each.startswith("ireasoner_cli") for each in found), name


@pytest.mark.parametrize("stage", STAGES)
def test_stages_do_not_import_each_other(stage: str) -> None:
    others = {f"stages.{other}" for other in STAGES if other != stage}
    assert not IMPORTS[f"stages.{stage}"] & others


def test_one_room_touches_parquet() -> None:
    users = {name for name, found in IMPORTS.items() if any(each.startswith("pyarrow.parquet") for each in found)}
    assert users and all(name.startswith("stages.shards.") for name in users), users


def test_rewards_are_mathematics() -> None:
    for name, found in IMPORTS.items():
        if name.startswith("stages.rewards"):
            heavy = {
                each for each in found if each.split(".")[0] in ("torch", "transformers", "vllm", "pyarrow", "rich")
            }
            assert not heavy, f"{name}: {heavy}"


def test_a_cluster_is_one_carrier_of_workers() -> None:
    users = {name for name, found in IMPORTS.items() if any(each.split(".")[0] == "ray" for each in found)}
    assert users == {"ireasoner_cli.workers.cluster", "ireasoner_cli.workers.acting"}


def test_what_stands_at_the_top_is_stages_and_what_they_share() -> None:
    """Whoever adds a helper finds it a room."""
    shared = {"ahead", "errors", "export", "hub", "interrupts", "job", "policy", "progress", "result"}
    assert {file.stem for file in (ROOT / "stages").glob("*.py")} == {"__init__", *STAGES, *shared}
