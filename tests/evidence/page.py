"""Puts what was measured into pages: tables between their marks, figures beside the CSV files.

python -m tests.evidence.page docs/evidence README.md docs/*.md

A mark names a table or a figure and what it is of. What stands between it and its end is replaced, the rest is the
writer's, and a page without marks stays as it is:

    <!-- table: accuracy cpu home -->
    <!-- end -->
"""

import os
import re
import sys
from inspect import signature
from pathlib import Path

from stages.errors import DataError
from tests.evidence.results import read_accuracy, read_dynamics
from tests.evidence.tables import TABLES

BEGIN = "<!-- (table|figure): "
MARK = re.compile(rf"({BEGIN}([^\n]+?) -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)
NOTHING = "Not measured yet."
# What each figure is drawn from, and what it says to those who do not see it.
FIGURES = {
    "ablation": (read_accuracy, "How far each configuration's accuracy is from base, with 95 % intervals"),
    "dynamics": (read_dynamics, "Rewards, agreement, KL and truth over training"),
}


def fill(folder: Path, page: Path) -> tuple[str, list[str]]:
    """The page filled in from the CSV files in `folder`, and the figures that it shows, in the words of their marks.
    Raises DataError where a mark or a file is wrong."""
    if not page.is_file():
        raise DataError(f"{page}: there is no such page to fill in")
    text = page.read_text(encoding="utf-8")
    if len(MARK.findall(text)) != len(re.findall(BEGIN, text)):
        raise DataError(f"{page}: a mark has no <!-- end -->")
    shown = []

    def filled(mark: re.Match[str]) -> str:
        begin, kind, words, end = mark.groups()
        body = _table(folder, page, words) if kind == "table" else _figure(folder, page, words)
        if kind == "figure" and body:
            shown.append(words)
        return f"{begin}\n{body or NOTHING}\n\n{end}"

    return MARK.sub(filled, text), shown


def _table(folder: Path, page: Path, words: str) -> str:
    name, *arguments = words.split()
    if name not in TABLES:
        raise DataError(f"{page}: there is no table {name}, but {', '.join(TABLES)}")
    _, *needed = signature(TABLES[name]).parameters
    if len(arguments) != len(needed):
        raise DataError(f"{page}: table {words}: write {' '.join([name, *map(str.upper, needed)])}")
    return TABLES[name](folder, *arguments)


def _figure(folder: Path, page: Path, words: str) -> str:
    name, settings = name_and_settings(words)
    if name not in FIGURES:
        raise DataError(f"{page}: there is no figure {name}, but {', '.join(FIGURES)}")
    read, says = FIGURES[name]
    return (
        "" if read(folder, settings).empty else f"![{says}]({os.path.relpath(folder, page.parent)}/{file_name(words)})"
    )


def name_and_settings(words: str) -> tuple[str, str]:
    """Of a figure: cpu where its mark names none."""
    name, settings = [*words.split(), "cpu"][:2]
    return name, settings


def file_name(words: str) -> str:
    return f"{'-'.join(words.split())}.svg"


def write(folder: Path, *pages: Path) -> None:
    """Fills in the pages and draws their figures. Writes nothing before all of them are made."""
    from tests.evidence import figures  # needs matplotlib, the tables do not

    filled = {page: fill(folder, page) for page in pages}
    shown = dict.fromkeys(words for _, own in filled.values() for words in own)
    drawn = {file_name(words): figures.draw(folder, *name_and_settings(words)) for words in shown}
    for name, svg in drawn.items():
        (folder / name).write_bytes(svg)
    for page, (text, _) in filled.items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        write(*map(Path, sys.argv[1:]))
    except (DataError, ModuleNotFoundError) as error:
        sys.exit(str(error))
