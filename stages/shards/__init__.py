"""Shards on disk: what is read is checked first, and what is written appears whole or not at all.

`locating` says which files are meant, `parquet` reads and writes one, `reading` makes groups of many; `sealing` and
`pages` find damage and what would exhaust memory. Writing (`output`, `durable`) goes through a hidden `.NAME.partial/`
beside the output: finished chunks of groups gather there, so that a killed stage loses at most one chunk and an
interrupted one nothing, and the file appears by an atomic rename once all its bytes are on disk. What several
processes make lies as parts in `.NAME.parts/` until `joining` puts them together. `reuse` says whether what is there
already will do.
"""

from stages.shards.durable import (
    clear_leftovers,
    discard_old_directory,
    partial_directory,
    parts_directory,
    publish_directory,
    restore_directory,
    sync_directory,
    sync_tree,
    write_file,
    writing,
)
from stages.shards.joining import join
from stages.shards.locating import PART, Found, Part, find_output, input_files, input_refs, output_path
from stages.shards.output import Output, left_over
from stages.shards.parquet import (
    read_batches,
    read_metadata,
    read_rows,
    read_table,
    row_count,
    schema_of,
    write_table,
)
from stages.shards.reading import Records, Rows, Shards, select_groups, whole_groups
from stages.shards.reuse import differences, is_done, is_usable, plan, refuse_differences

__all__ = [
    "PART",
    "Found",
    "Output",
    "Part",
    "Records",
    "Rows",
    "Shards",
    "clear_leftovers",
    "differences",
    "discard_old_directory",
    "find_output",
    "input_files",
    "input_refs",
    "is_done",
    "is_usable",
    "join",
    "left_over",
    "output_path",
    "partial_directory",
    "parts_directory",
    "plan",
    "publish_directory",
    "read_batches",
    "read_metadata",
    "read_rows",
    "read_table",
    "refuse_differences",
    "restore_directory",
    "row_count",
    "schema_of",
    "select_groups",
    "sync_directory",
    "sync_tree",
    "whole_groups",
    "write_file",
    "write_table",
    "writing",
]
