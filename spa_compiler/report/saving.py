"""Reports of runs and of batches as files: JSON, Markdown for .md and for the summary of a GitHub job, pages for .html.

save_report(report, Path("run.md"))
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from spa_compiler.report.batch_rows import BATCH_FORMAT, format_batch_markdown
from spa_compiler.report.markdown import format_markdown
from spa_compiler.report.numbers import write_json
from spa_compiler.report.page import format_page

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
"""The environment variable that names the file of a job's summary, to which every step adds."""
MARKDOWN_SUFFIXES = (".md", ".markdown")
PAGE_SUFFIXES = (".html", ".htm")
"""Pages show one run; for a batch there is none."""
OWN_BEGINNINGS = (
    '{\n  "format": "spa-compile report"',
    f'{{\n  "format": "{BATCH_FORMAT}"',
    "<!doctype html><meta charset=utf-8><title>spa-compile",
    "## spa-",
)
"""How files begin that were written here."""


def save_report(report: dict[str, Any], path: Path) -> None:
    """Write a report in the form that the name asks for; the summary of a job is added to."""
    if is_summary(path):
        with path.open("a", encoding="utf-8") as file:
            file.write(_format_report(report, MARKDOWN_SUFFIXES[0]))
        return
    path.write_text(_format_report(report, path.suffix.lower()), encoding="utf-8")


def _format_report(report: dict[str, Any], suffix: str) -> str:
    if suffix in MARKDOWN_SUFFIXES:
        return format_batch_markdown(report) if report["format"] == BATCH_FORMAT else format_markdown(report)
    if suffix in PAGE_SUFFIXES:
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


__all__ = ["PAGE_SUFFIXES", "is_replaceable", "is_summary", "save_report"]
