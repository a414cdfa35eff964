"""How findings are shown."""

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ireasoner_cli import console
from ireasoner_cli.doctor.finding import Finding

COLOURS = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}
WIDTHS = {"verdict": 4, "about": 13}


def show(finding: Finding) -> None:
    """One line as it is found; what to do about it stands below."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=WIDTHS["verdict"])
    table.add_column(width=WIDTHS["about"])
    table.add_column(overflow="fold")
    body = console.safe_text(finding.text)
    if finding.advice:
        body.append(f"\n→ {console.plain(finding.advice)}", style="dim")
    table.add_row(Text(finding.verdict, style=COLOURS[finding.verdict]), Text(finding.about), body)
    console.print_table(table)


def end(findings: list[Finding]) -> None:
    failed = sum(finding.verdict == "FAIL" for finding in findings)
    warned = sum(finding.verdict == "warn" for finding in findings)
    worth = f", {warned} worth a look" if warned else ""
    text = f"{failed} of {len(findings)} failed" if failed else f"all {len(findings)} well"
    console.print_view(Padding(Text(text + worth, style="bold"), (1, 0, 0, 0)))
