"""Runs of several models as rows that come one by one, as JSON and as Markdown.

    found = make_batch(reports)         # a document: the worst status, its exit code, the report of every run
    for line in format_batch_rows(names, reports): print(line)
    print(format_batch_line(found))

The last line is made like that of one run; its first word is the worst status of all:

    VERIFIED | 3 models: 3 VERIFIED | bytes -48.2% (12.1M -> 6.3M)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spa_compiler.analysis.cost_registry import list_table_costs
from spa_compiler.quality.verdict import shorten_quality
from spa_compiler.report.document import format_change, format_si
from spa_compiler.report.failure import FAILED_STATUSES
from spa_compiler.report.markdown import MARKS, escape_text, make_table
from spa_compiler.version import VERSION

BATCH_FORMAT = "spa-compile batch"
WORST_FIRST = ("ERROR", "FAILED", "GATE_MISSED", "UNPROVEN", "UNCHANGED", "VERIFIED")
Report = Mapping[str, Any]


def make_batch(runs: Sequence[Report]) -> dict[str, Any]:
    """The document of all runs; `status` and `exit_code` are those of the worst.

    A run that ends with 0 is better than one that does not, whatever its status.
    """
    worst = min(runs, key=lambda r: (not r["exit_code"], WORST_FIRST.index(r["status"])))
    return {
        "format": BATCH_FORMAT,
        "version": 1,
        "tool": f"spa-compile {VERSION}",
        "status": worst["status"],
        "exit_code": worst["exit_code"],
        "runs": list(runs),
    }


def list_batch_heads() -> list[str]:
    """The heads of the columns."""
    return ["model", "status", "quality", *(c.title for c in list_table_costs()), "ms", "accuracy"]


def list_batch_cells(run: Report) -> list[str]:
    """The cells of a run behind its name; one without a result has the reason behind its status."""
    if run["status"] in FAILED_STATUSES:
        return [run["status"], f"{run['error']} (exit code {run['exit_code']})"]
    latency, accuracy = run["latency"], run["accuracy"]
    return [
        run["status"],
        shorten_quality(run["quality"]),
        *(format_change(run["reached"][c.unit]) for c in list_table_costs()),
        f"{latency['dense_ms']:.3g} -> {latency['compiled_ms']:.3g}" if latency else "",
        f"{accuracy['dense']:.1%} -> {accuracy['compiled']:.1%}" if accuracy else "",
    ]


def format_batch_rows(names: Sequence[str], runs: Iterable[Report]) -> Iterator[str]:
    """Lines of equal columns, each as soon as its run is over; `names` of all models that will be run."""
    heads = list_batch_heads()
    widths = [max(map(len, [heads[0], *names])), *(max(11, len(h)) for h in heads[1:-2]), 14, len(heads[-1])]
    yield _align_cells(heads, widths)
    for name, run in zip(names, runs, strict=False):
        yield _align_cells([name, *list_batch_cells(run)], widths)


def _align_cells(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=False)).rstrip()


def format_batch_line(found: Mapping[str, Any]) -> str:
    """All runs in one line."""
    runs = found["runs"]
    counts = Counter(r["status"] for r in runs)
    parts = [
        found["status"],
        f"{len(runs)} model{'s' * (len(runs) != 1)}: "
        + ", ".join(f"{counts[s]} {s}" for s in reversed(WORST_FIRST) if counts[s]),
    ]
    done = [r for r in runs if r["status"] not in FAILED_STATUSES]
    if before := sum(r["dense"]["bytes"] for r in done):
        after = sum(r["compiled"]["bytes"] for r in done)
        parts.append(f"weights {format_change(1 - after / before)} ({format_si(before)} -> {format_si(after)} bytes)")
    return " | ".join(parts)


def format_batch_markdown(found: Mapping[str, Any]) -> str:
    """The table, and what is to be said of each run, for the summary of a CI job."""
    heads, runs = list_batch_heads(), found["runs"]
    rows = []
    for run in runs:
        cells = list_batch_cells(run)
        rows.append([Path(run["input"]["path"]).name, *cells, *[""] * (len(heads) - 1 - len(cells))])
    mark = MARKS.get(found["status"], "❌")
    lines = [f"## spa-compile: {len(runs)} models", "", f"{mark} {escape_text(format_batch_line(found))}", ""]
    lines += make_table(heads, [[escape_text(cell) for cell in row] for row in rows])
    notes = [(Path(r["input"]["path"]).name, note) for r in runs for note in _list_notes(r)]
    lines += [""] * bool(notes) + [f"- {escape_text(name)}: {escape_text(note)}" for name, note in notes]
    return "\n".join(lines) + "\n"


def _list_notes(run: Report) -> Iterator[str]:
    """Advice for a poor model, and every gate that was missed."""
    if advice := run.get("quality", {}).get("advice"):
        yield f"the quality is {run['quality']['verdict']}. What helps: {'; '.join(advice)}"
    for gate in run.get("gates", ()):
        if not gate["holds"]:
            value = "not a number" if gate["value"] is None else f"{gate['value']:.4g}"
            yield f"gate {gate['gate']}: MISSED ({value})"


__all__ = ["BATCH_FORMAT", "format_batch_line", "format_batch_markdown", "format_batch_rows", "make_batch"]
