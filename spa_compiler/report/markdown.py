"""A report as Markdown, for the summary of a CI job: the verdict, what changed, every gate, widths, notes.

print(format_markdown(report))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spa_compiler.report.document import describe_fidelity, format_last_line, list_cost_rows
from spa_compiler.report.failure import FAILED_STATUSES

MARKS = {"VERIFIED": "✅", "UNPROVEN": "⚠️", "UNCHANGED": "⚠️"}
"""In front of the status; others are failures."""


def format_markdown(report: Mapping[str, Any]) -> str:
    """The whole text."""
    return "\n".join(_list_lines(report)) + "\n"


def _list_lines(report: Mapping[str, Any]) -> Iterator[str]:
    status = report["status"]
    yield f"## spa-compile: {escape_text(Path(report['input']['path']).name)}"
    yield ""
    if status in FAILED_STATUSES:
        why = f"(exit code {report['exit_code']}): {escape_text(report['error'])}"
        yield f"{MARKS.get(status, '❌')} **{status}** {why}"
        return
    yield f"{MARKS.get(status, '❌')} {escape_text(format_last_line(report))}"
    yield ""
    yield from make_table(("", "dense", "compiled", "change"), list_cost_rows(report))
    if report["gates"]:
        yield ""
        yield from make_table(
            ("gate", "measured", ""),
            [
                (
                    g["gate"],
                    "not a number" if g["value"] is None else f"{g['value']:.4g}",
                    "holds" if g["holds"] else "**MISSED**",
                )
                for g in report["gates"]
            ],
        )
    yield ""
    fidelity = report["fidelity"]
    yield f"- fidelity on {escape_text(fidelity['inputs'])}: {describe_fidelity(fidelity)}"
    if advice := report["quality"]["advice"]:
        yield f"- the quality is {report['quality']['verdict']}. What helps: {escape_text('; '.join(advice))}"
    yield from (f"- {escape_text(note)}" for note in report["notes"])
    if cut := [g for g in report["groups"] if g["kept"] < g["size"]]:
        yield ""
        yield f"<details><summary>{len(cut)} groups lost channels</summary>"
        yield ""
        yield from make_table(("group", "channels", "kept"), [(f"`{g['name']}`", g["size"], g["kept"]) for g in cut])
        yield ""
        yield "</details>"


def make_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Lines of a table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


def escape_text(text: str) -> str:
    """Text that Markdown and HTML leave as it is, in one line."""
    out = " ".join(text.split())
    for letter in "\\`*_<>[]|":
        out = out.replace(letter, f"\\{letter}")
    return out


__all__ = ["MARKS", "escape_text", "format_markdown", "make_table"]
