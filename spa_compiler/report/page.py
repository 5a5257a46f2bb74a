"""A run, a sweep or a failed run as one HTML page: it needs no network and no script, and shows on a phone, too.

Path("run.html").write_text(format_page(report))

Jinja fills in `page.html.j2` and escapes every text; pictures are those of `pictures`.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spa_compiler.analysis.cost_registry import find_costs
from spa_compiler.report.contractions import summarize_contractions
from spa_compiler.report.curve import draw_curve
from spa_compiler.report.document import format_last_line, list_cost_rows, list_lines
from spa_compiler.report.failure import FAILED_STATUSES
from spa_compiler.report.inputs import describe_inputs, list_given, list_range_rows, strip_thumbnails
from spa_compiler.report.numbers import write_json
from spa_compiler.report.pictures import NO_PICTURE, draw_contractions, draw_network, draw_totals, draw_widths

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Section:
    """One part of a page. `text`: how many first columns are texts; `folded`: the words that open the table or code."""

    id: str
    title: str
    lines: Sequence[str] = ()
    pictures: Sequence[str] = ()
    thumbnails: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    text: int = 1
    folded: str = ""
    code: str = ""


@dataclass(frozen=True)
class Line:
    """A sentence at the top of a page, and how it looks."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Page:
    """All that a template is filled with."""

    name: str
    lead: Sequence[Line]
    sections: Sequence[Section] = field(default_factory=list)

    def format(self) -> str:
        """The page."""
        return _load_template().render(name=self.name, lead=self.lead, sections=self.sections)


@functools.cache
def _load_template() -> Template:
    import jinja2  # for pages alone

    text = importlib.resources.files("spa_compiler.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(text)


def format_page(report: Mapping[str, Any]) -> str:
    """The report of a run as a page; of one that ended without a result, what went wrong."""
    name = Path(report["input"]["path"]).name
    if report["status"] in FAILED_STATUSES:
        why = f"{report['status']} (exit code {report['exit_code']}): {report['error']}"
        return Page(name, [Line(why, "bad word")]).format()
    return Page(name, _list_lead(report), list(_list_sections(report))).format()


def format_sweep_page(name: str, rows: Sequence[Mapping[str, Any]], head: Sequence[str], cells: Any) -> str:
    """The rows of a sweep as a page, with their curve; `cells` are the rows of the table."""
    picture = draw_curve(rows)
    curve = Section(
        "curve", "What each share costs", [] if picture else [NO_PICTURE], [picture], head=head, rows=cells, text=0
    )
    return Page(name, [], [curve]).format()


def _list_lead(report: Mapping[str, Any]) -> list[Line]:
    """The last line, and in words what its first two fields mean."""
    lead = [Line(format_last_line(report), "word")]
    proof, quality = report["verification"]["prune_equals_mask"], report["quality"]
    if proof:
        lead.append(
            Line(
                "The proof: with the channels that went set to nothing, the given model computes what the compiled one "
                f"did before its weights were updated, to {proof['error']:.0e} of its values "
                f"({proof['tolerance']:.0e} allowed, {proof['checks']} runs).",
                "good" if report["status"] == "VERIFIED" else "fair",
            )
        )
    worth = f"What it is worth: {quality['verdict']}"
    if quality["drop"] is not None:
        worth += f", {quality['basis']} drop {quality['drop']:.1f} points"
    if quality["reason"]:
        worth += f" ({quality['reason']})"
    return [*lead, Line(f"{worth}.", quality["verdict"].lower())]


def _list_sections(report: Mapping[str, Any]) -> Iterator[Section]:
    yield from _show_costs(report)
    yield from _show_groups(report)
    yield from _show_contractions(report)
    yield from _show_search(report)
    frozen = report["analysis"]["frozen_parameters"]
    if frozen:
        rows = [(f"{n:,}", reason) for reason, n in frozen.items()]
        yield Section("frozen", "What may not be cut, and why", head=("parameters", "reason"), rows=rows, text=2)
    for title, given in list_given(report):
        lines = describe_inputs(given)
        head, ranges = list_range_rows(given)
        yield Section(title.lower(), title, lines, thumbnails=given["thumbnails"], head=head, rows=ranges)
    yield from _show_origin(report)


def _show_costs(report: Mapping[str, Any]) -> Iterator[Section]:
    yield Section("words", "In words", list_lines(report))
    rows: list[tuple[str, ...]] = [*list_cost_rows(report)]
    dense, small = report["dense"], report["compiled"]
    titles = {cost.unit: cost.row for cost in find_costs().values()}
    left = {titles.get(unit, unit): small[unit] / dense[unit] for unit in dense if unit in small and dense[unit]}
    if latency := report["latency"]:
        left["milliseconds"] = latency["compiled_ms"] / max(latency["dense_ms"], 1e-9)
    if accuracy := report["accuracy"]:
        left["accuracy"] = accuracy["compiled"] / max(accuracy["dense"], 1e-9)
        rows = [*rows, ("accuracy", f"{accuracy['dense']:.2%}", f"{accuracy['compiled']:.2%}", "")]
    picture = draw_totals(left)
    lines = [] if picture else [NO_PICTURE]
    yield Section("costs", "Before and after", lines, [picture], head=("", "dense", "compiled", "change"), rows=rows)
    if report["gates"]:
        measured = [
            (
                g["gate"],
                "not a number" if g["value"] is None else f"{g['value']:.4g}",
                "holds" if g["holds"] else "MISSED",
            )
            for g in report["gates"]
        ]
        yield Section("gates", "Gates", head=("gate", "measured", ""), rows=measured)


def _show_groups(report: Mapping[str, Any]) -> Iterator[Section]:
    groups = report["groups"]
    widths = [(g["name"], g["size"], g["kept"], g["blocks"], g["statistic"]) for g in groups]
    yield Section(
        "widths",
        "Groups of channels that go together",
        [f"{sum(g['kept'] < g['size'] for g in groups)} of {len(groups)} groups lost channels"],
        [draw_widths(groups)],
        head=("group", "channels", "kept", "blocks", "statistic"),
        rows=widths,
        folded="all groups",
    )


def _show_contractions(report: Mapping[str, Any]) -> Iterator[Section]:
    contractions, others = report["layers"], report["other_nodes"]
    if not contractions:
        return
    lines = [summarize_contractions(report)]
    if others:
        lines.append(f"all other nodes took {others['dense_ms']:.3g} ms, and take {others['compiled_ms']:.3g} ms now")
    rows = [
        (
            row["name"], row["op"], row["width"], row["kept"], f"{row['dense_macs']:,}", f"{row['compiled_macs']:,}",
            _format_ms(row["dense_ms"]), _format_ms(row["compiled_ms"]),
        )
        for row in contractions
    ]  # fmt: skip
    pictures = [
        draw_contractions(contractions, "macs", "multiply-accumulates"),
        draw_contractions(contractions, "ms", "milliseconds"),
    ]
    head = ("layer", "operator", "channels", "kept", "MACs", "now", "time, ms", "now")
    yield Section("layers", "Layers", lines, pictures, head=head, rows=rows, text=2, folded="all layers")
    if network := draw_network(contractions):
        told = "From the input down; a bar is as wide as its layer, and pale where channels went."
        yield Section("network", "The network", [told], [network])


def _format_ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _show_search(report: Mapping[str, Any]) -> Iterator[Section]:
    found = report["search"]
    if found:
        best = found["best"]["removed"] if found["best"] else None
        picture = draw_curve(found["trials"], found["limit"], best)
        yield Section("search", "What was tried", [] if picture else [NO_PICTURE], [picture])


def _show_origin(report: Mapping[str, Any]) -> Iterator[Section]:
    made = report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines = [
        f"{report['tool']}, {made['date']}",
        f"{made['processor']}, {made['cores']} cores, {made['system']}; {versions}",
        f"took {report['seconds']['total']:.1f} s and {report['peak_memory_bytes'] / 1e6:.0f} MB",
    ]
    command = report["command"] or f"spa-compile {report['input']['path']} --pipeline '{report['pipeline']}'"
    yield Section("origin", "How to make it again", lines, code=command)
    yield Section("json", "Everything", code=write_json(strip_thumbnails(report)), folded="the report as JSON")


__all__ = ["format_page", "format_sweep_page"]
