"""Reports as files: JSON, a page for .html, Markdown for .md and for the summary of a GitHub job.

save_report(report, Path("run.md"))
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from spa_compiler.report.markdown import format_markdown
from spa_compiler.report.numbers import write_json
from spa_compiler.report.page import format_page

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
"""The environment variable that names the file of a job's summary, to which every step adds."""
OWN_BEGINNINGS = (
    '{\n  "format": "spa-compile report"',
    "<!doctype html><meta charset=utf-8><title>spa-compile",
    "## spa-",
)
"""How files begin that were written here."""


def save_report(report: dict[str, Any], path: Path) -> None:
    """Write a report in the form that the name asks for; the summary of a job is added to."""
    if is_summary(path):
        with path.open("a", encoding="utf-8") as file:
            file.write(format_markdown(report))
        return
    path.write_text(_format_report(report, path.suffix.lower()), encoding="utf-8")


def _format_report(report: dict[str, Any], suffix: str) -> str:
    if suffix in (".md", ".markdown"):
        return format_markdown(report)
    if suffix in (".html", ".htm"):
        return format_page(report)
    return write_json(report) + "\n"


def is_summary(path: Path) -> bool:
    """Is it the file of the job's summary?"""
    summary = os.environ.get(SUMMARY_VARIABLE)
    return bool(summary) and path.resolve() == Path(summary or "").resolve()


def is_replaceable(path: Path) -> bool:
    """May the report of a run that failed early take its place? Nothing is there, or a report, or it is added to.

    What a run reads is only known when it has begun, and none of that may be written onto.
    """
    if is_summary(path) or not path.exists() or not path.is_file():
        return True
    with path.open("rb") as file:
        begins = file.read(128).decode("utf-8", "replace")
    return not begins or begins.startswith(OWN_BEGINNINGS)


__all__ = ["is_replaceable", "is_summary", "save_report"]
