"""What a file of rows is asked."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

Record = Mapping[str, Any]  # some of a row's columns, as Python values


class Problem(str):
    """Why a row cannot be read."""


class Source(Protocol):
    """The rows of one file."""

    columns: Sequence[str]

    def __len__(self) -> int: ...

    def rows(self, wanted: Collection[int], columns: Sequence[str]) -> Iterator[tuple[int, Record | Problem]]:
        """The rows at the places `wanted`, in the file's order, with their places. Raises DataError for damage, and
        for what could exhaust memory."""
        ...

    def kind(self, column: str) -> pa.DataType | None:
        """The type of its values; None where a row's need not be another's."""
        ...


BYTES_AND_TEXT = (
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
)
LISTS = (
    *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    *(pa.types.is_list_view, pa.types.is_large_list_view),
)


def holds_pictures(kind: pa.DataType | None) -> bool:
    """Whether a type is one that pictures come in: bytes, text, a struct of either, or a list of these."""
    if kind is None:
        return True
    if isinstance(kind, pa.BaseExtensionType):
        return holds_pictures(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return holds_pictures(kind.value_type)
    if is_list(kind):
        return kind.value_type == pa.uint8() or holds_pictures(kind.value_type)
    if pa.types.is_struct(kind):
        return not {"bytes", "path"}.isdisjoint(kind.names)
    return any(is_kind(kind) for is_kind in BYTES_AND_TEXT)


def is_list(kind: pa.DataType | None) -> bool:
    """Whether values of a type are lists, or may be."""
    return kind is None or any(is_kind(kind) for is_kind in LISTS)
