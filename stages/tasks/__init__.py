"""The benchmarks, a file each: its schema, how it is asked, how an answer is read off a completion, its metric.

To add one, write its file with a `TASK` and put its name here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.tasks.task import Task

NAMES = ("infovqa", "ai2d", "scienceqa", "mmmu", "chartqa", "mathvista", "mathvision", "mathverse")  # the paper's order


def load(name: str) -> "Task":
    """The task of that name, one of NAMES or `plain`, the schema of our own."""
    return import_module(f"stages.tasks.{name}").TASK
