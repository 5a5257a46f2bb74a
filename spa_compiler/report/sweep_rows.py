"""Rows of a sweep as text that comes row by row, as CSV, Markdown, JSON and a page with its curve.

for line in format_rows(rows): print(line)
save_rows({"input": "model.onnx", "rows": rows}, Path("curve.html"))
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spa_compiler.analysis.cost_registry import list_table_costs
from spa_compiler.quality.verdict import shorten_quality
from spa_compiler.report.document import format_si
from spa_compiler.report.numbers import replace_unfinite, write_json
from spa_compiler.report.page import format_sweep_page

FORMAT = {"format": "spa-compile sweep", "version": 1}
Row = Mapping[str, Any]


def list_heads() -> list[str]:
    """The heads of the columns."""
    return ["budget", *(c.title for c in list_table_costs()), "ms", "speed-up", "accuracy", "drop"]


def list_cells(row: Row) -> list[str]:
    """The cells of a row; one that failed has the reason behind its budget."""
    budget = f"{row['ratio']:g}" if "ratio" in row else str(row["target"])
    if "error" in row:
        return [budget, row["error"].split(";")[0]]
    costs = [format_si(row[c.unit]) for c in list_table_costs()]
    times = ["" if row["latency_ms"] is None else f"{row['latency_ms']:.3g}"]
    speed = ["" if row["speedup"] is None else f"{row['speedup']:.2f}"]
    right = ["" if row["accuracy"] is None else f"{row['accuracy']:.2%}"]
    return [budget, *costs, *times, *speed, *right, shorten_quality(row)]


def format_rows(rows: Iterable[Row]) -> Iterator[str]:
    """Lines of equal columns, each as soon as its row is there."""
    heads = list_heads()
    widths = [max(len(h), 10) for h in heads]
    yield _align_cells(heads, widths)
    for row in rows:
        cells = list_cells(row)
        yield f"{cells[0]:<{widths[0]}}  {cells[1]}" if "error" in row else _align_cells(cells, widths)


def _align_cells(cells: Sequence[str], widths: Sequence[int]) -> str:
    rest = (c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))
    return "  ".join([cells[0].ljust(widths[0]), *rest]).rstrip()


def save_rows(found: Mapping[str, Any], path: Path) -> None:
    """Write rows in the form that the name asks for: CSV, Markdown, a page, else JSON."""
    suffix = path.suffix.lower()
    writers = {".csv": _format_csv, ".md": _format_markdown, ".markdown": _format_markdown, ".html": _format_page,
               ".htm": _format_page}  # fmt: skip
    path.write_text(writers.get(suffix, format_json)(found), encoding="utf-8")


def format_json(found: Mapping[str, Any]) -> str:
    """The document."""
    return write_json(replace_unfinite({**FORMAT, **found})) + "\n"


def _format_csv(found: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(n for row in found["rows"] for n in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found["rows"])
    return out.getvalue()


def _format_markdown(found: Mapping[str, Any]) -> str:
    heads = list_heads()
    lines = [
        f"## spa-compile: {Path(found['input']).name}",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
    ]
    for row in found["rows"]:
        cells = [c.replace("|", "\\|") for c in list_cells(row)]
        lines.append("| " + " | ".join([*cells, *[""] * (len(heads) - len(cells))]) + " |")
    return "\n".join(lines) + "\n"


def _format_page(found: Mapping[str, Any]) -> str:
    rows = [{**r, "removed": r.get("macs_removed")} for r in found["rows"]]
    return format_sweep_page(Path(found["input"]).name, rows, list_heads(), [list_cells(r) for r in found["rows"]])


__all__ = ["format_json", "format_rows", "list_cells", "list_heads", "save_rows"]
