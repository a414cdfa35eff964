"""Puts what was measured into docs/evidence.md: tables between its marks, figures beside its CSV files.

python -m tests.evidence.page docs/evidence

A mark names a table or a figure and what it is of. What stands between it and its end is replaced, the rest is the
writer's:

    <!-- table: accuracy cpu home -->
    <!-- end -->
"""

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


def fill(folder: Path) -> tuple[str, list[str]]:
    """The page of `folder`, which lies beside it, filled in from the CSV files there, and the figures that it shows, in
    the words of their marks. Raises DataError where a mark or a file is wrong."""
    page = folder.with_suffix(".md")
    if not page.is_file():
        raise DataError(f"{page}: there is no such page to fill in")
    text = page.read_text(encoding="utf-8")
    if len(MARK.findall(text)) != len(re.findall(BEGIN, text)):
        raise DataError(f"{page}: a mark has no <!-- end -->")
    shown = []

    def filled(mark: re.Match[str]) -> str:
        begin, kind, words, end = mark.groups()
        body = _table(folder, words) if kind == "table" else _figure(folder, words)
        if kind == "figure" and body:
            shown.append(words)
        return f"{begin}\n{body or NOTHING}\n\n{end}"

    return MARK.sub(filled, text), shown


def _table(folder: Path, words: str) -> str:
    name, *arguments = words.split()
    if name not in TABLES:
        raise DataError(f"{folder}.md: there is no table {name}, but {', '.join(TABLES)}")
    _, *needed = signature(TABLES[name]).parameters
    if len(arguments) != len(needed):
        raise DataError(f"{folder}.md: table {words}: write {' '.join([name, *map(str.upper, needed)])}")
    return TABLES[name](folder, *arguments)


def _figure(folder: Path, words: str) -> str:
    name, settings = name_and_settings(words)
    if name not in FIGURES:
        raise DataError(f"{folder}.md: there is no figure {name}, but {', '.join(FIGURES)}")
    read, says = FIGURES[name]
    return "" if read(folder, settings).empty else f"![{says}]({folder.name}/{file_name(words)})"


def name_and_settings(words: str) -> tuple[str, str]:
    """Of a figure: cpu where its mark names none."""
    name, settings = [*words.split(), "cpu"][:2]
    return name, settings


def file_name(words: str) -> str:
    return f"{'-'.join(words.split())}.svg"


def write(folder: Path) -> None:
    """Fills in the page and draws its figures. Writes nothing before all of them are made."""
    from tests.evidence import figures  # needs matplotlib, the tables do not

    text, shown = fill(folder)
    drawn = {file_name(words): figures.draw(folder, *name_and_settings(words)) for words in shown}
    for name, svg in drawn.items():
        (folder / name).write_bytes(svg)
    folder.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        write(Path(*sys.argv[1:] or ["docs/evidence"]))
    except (DataError, ModuleNotFoundError) as error:
        sys.exit(str(error))
