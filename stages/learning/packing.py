"""How much runs through the model at a time."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

# Prompts, and completions, that run together: enough to keep the device busy, few enough to bound their activations.
TOKENS_PER_PASS = {"cpu": 256, "cuda": 2048}

T = TypeVar("T")


def packed(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """The items in their order, as many at a time as have a size of `limit` together, at least one."""
    pack: list[T] = []
    total = 0
    for item in items:
        if pack and total + size(item) > limit:
            yield pack
            pack, total = [], 0
        pack.append(item)
        total += size(item)
    if pack:
        yield pack
