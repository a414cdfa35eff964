"""Working ahead must not be visible, except in the time it takes."""

import threading
from collections.abc import Iterator

import pytest

from stages.ahead import ahead


@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_same_items_in_the_same_order(count: int) -> None:
    assert list(ahead(range(count))) == list(range(count))


def test_the_next_item_is_made_while_this_one_is_used() -> None:
    made = [threading.Event() for _ in range(5)]

    def items() -> Iterator[int]:
        for index, event in enumerate(made):
            event.set()
            yield index

    source = ahead(items())
    assert next(source) == 0
    assert made[1].wait(10)
    assert not made[4].is_set()  # no further than asked


def test_an_error_comes_where_its_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    source = ahead(items())
    assert next(source) == 1
    with pytest.raises(ValueError, match="the second"):
        next(source)


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    source = ahead(iter(range(1000)))
    next(source)
    source.close()
    assert threading.active_count() <= before
