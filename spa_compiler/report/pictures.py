"""Pictures of a run for its page: what went in all, of each group, of each layer, and the network with what was cut.

matplotlib draws them (extra `report`): it writes SVG, which a page holds without a network, a script or a font, and
which stays sharp. Every function gives '' where it is missing, or where there is nothing to draw.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import networkx as nx

KEPT_COLOUR, GONE_COLOUR, EDGE_COLOUR = "#1f6feb", "#8c959f", "#8c959f"
"""Of channels that stay, of those that went, and of lines between layers: seen on white and on black."""
TEXT_COLOUR, REPLACED = "currentColor", "#123456"
"""Texts and axes take the colour of the page; matplotlib knows none such, so what it draws with is replaced."""
NO_PICTURE = "pictures need matplotlib: pip install 'spa-compile[report]'"
WIDTH, ROW, HEAD = 7.2, 0.21, 0.9
"""Inches of a picture, of one row of bars, and of what stands above and below them."""
MOST_BARS, MOST_CONTRACTIONS = 60, 160
"""Bars that one picture has, and layers of a network that is drawn; the report as JSON has all."""
LABEL_LENGTH = 34
"""Characters of a name that are shown: its end tells it from others."""
GONE_ALPHA = 0.35


def shorten(name: str) -> str:
    """The end of a long name."""
    return name if len(name) <= LABEL_LENGTH else f"…{name[1 - LABEL_LENGTH :]}"


def _has_library() -> bool:
    try:
        import matplotlib.figure  # noqa: F401  # half a second, and for pages alone
    except ImportError:
        return False
    return True


def _make_axes(height: float) -> tuple[Any, Any]:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(WIDTH, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Any) -> None:
    """Lines and numbers in the colour of the page, and nothing behind them."""
    axes.patch.set_alpha(0)
    axes.tick_params(colors=REPLACED, labelsize=8)
    for side in axes.spines.values():
        side.set_color(REPLACED)


def _draw_bars(names: Sequence[str], before: Sequence[float], after: Sequence[float], title: str) -> str:
    """Bars of what was there, and over them of what is left."""
    import matplotlib.ticker

    figure, axes = _make_axes(HEAD + ROW * len(names))
    rows = range(len(names))
    axes.barh(rows, before, height=0.72, color=GONE_COLOUR, alpha=GONE_ALPHA, label="dense")
    axes.barh(rows, after, height=0.72, color=KEPT_COLOUR, label="compiled")
    axes.set_yticks(list(rows), [shorten(n) for n in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.02)
    axes.set_xlabel(title, color=REPLACED, fontsize=8)
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=7, frameon=False, labelcolor=REPLACED)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return write_svg(figure)


def draw_totals(shares: Mapping[str, float]) -> str:
    """The part that is left of every cost, as a share of the dense model's."""
    if not shares or not _has_library():
        return ""
    return _draw_bars(list(shares), [100.0] * len(shares), [100 * v for v in shares.values()], "% of the dense model")


def draw_widths(groups: Sequence[Mapping[str, Any]]) -> str:
    """Channels of every group, and those that stay; of many groups those that lose most."""
    if not groups or not _has_library():
        return ""
    shown = _choose_rows(groups, lambda g: (g["size"] - g["kept"]) * g["blocks"])
    sizes = [[g[k] * g["blocks"] for g in shown] for k in ("size", "kept")]
    return _draw_bars([g["name"] for g in shown], sizes[0], sizes[1], "channels")


def draw_contractions(contractions: Sequence[Mapping[str, Any]], unit: str, title: str) -> str:
    """`macs` or `ms` of every layer; of many layers those that took most."""
    known = [row for row in contractions if row[f"dense_{unit}"] is not None and row[f"compiled_{unit}"] is not None]
    if not known or not _has_library():
        return ""
    shown = _choose_rows(known, lambda row: row[f"dense_{unit}"])
    before, after = ([float(row[f"{when}_{unit}"]) for row in shown] for when in ("dense", "compiled"))
    return _draw_bars([row["name"] for row in shown], before, after, title)


def _choose_rows(
    rows: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], float]
) -> list[Mapping[str, Any]]:
    """The largest rows, in their own order."""
    largest = sorted(range(len(rows)), key=lambda k: -key(rows[k]))[:MOST_BARS]
    return [rows[k] for k in sorted(largest)]


def draw_network(contractions: Sequence[Mapping[str, Any]]) -> str:
    """The layers from the input down, as wide as they are: what stays in colour, what went pale, and who reads whom."""
    if not 0 < len(contractions) <= MOST_CONTRACTIONS or not _has_library():
        return ""
    network: nx.DiGraph[str] = nx.DiGraph()
    network.add_nodes_from(row["name"] for row in contractions)
    network.add_edges_from((a, row["name"]) for row in contractions for a in row["after"] if a != row["name"])
    if not nx.is_directed_acyclic_graph(network):
        return ""
    places = _place_contractions(network)
    lanes, depth = (1 + max(p[k] for p in places.values()) for k in (0, 1))
    figure, axes = _make_axes(0.4 + 0.3 * depth)
    widest = max((row["width"] or 1 for row in contractions), default=1)
    lane = 1.0 / lanes
    for a, b in network.edges:
        _draw_edge(axes, places[a], places[b], lane)
    for row in contractions:
        _draw_contraction(axes, row, places[row["name"]], lane, widest)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(depth - 0.4, -0.6)
    axes.set_axis_off()
    return write_svg(figure)


def _place_contractions(network: nx.DiGraph[str]) -> dict[str, tuple[int, int]]:
    """Lane and row of every layer: below all that it reads, beside those that are as far from the input."""
    return {
        name: (lane, row)
        for row, generation in enumerate(nx.topological_generations(network))
        for lane, name in enumerate(generation)
    }


def _draw_edge(axes: Any, start: tuple[int, int], end: tuple[int, int], lane: float) -> None:
    import matplotlib.patches

    bend = 0.0 if end[1] - start[1] <= 1 else -0.25
    points = [((lane * (x + 0.04)), y) for x, y in (start, end)]
    axes.add_patch(
        matplotlib.patches.FancyArrowPatch(
            points[0], points[1], arrowstyle="-", connectionstyle=f"arc3,rad={bend}", color=EDGE_COLOUR,
            linewidth=0.7, alpha=0.7, zorder=0,
        )
    )  # fmt: skip


def _draw_contraction(axes: Any, row: Mapping[str, Any], place: tuple[int, int], lane: float, widest: int) -> None:
    width, kept = row["width"] or 0, row["kept"] or 0
    x, y = lane * place[0], place[1]
    room = 0.36 * lane
    whole = max(room * width / widest, 0.012 * lane)
    left = whole * kept / width if width else 0.0
    axes.barh(y, whole, left=x, height=0.5, color=GONE_COLOUR, alpha=GONE_ALPHA)
    axes.barh(y, left, left=x, height=0.5, color=KEPT_COLOUR)
    change = f"{width} → {kept}" if kept != width else f"{width}" if width else ""
    axes.text(x + whole + 0.01, y, f"{shorten(row['name'])}  {change}", fontsize=6, va="center", color=REPLACED)


def write_svg(figure: Any) -> str:
    """The picture alone, without a date, with texts as texts, as wide as its place."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "spa-compile", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(REPLACED, TEXT_COLOUR)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r'\1width="100%"', text, count=1)


__all__ = [
    "NO_PICTURE",
    "draw_contractions",
    "draw_network",
    "draw_totals",
    "draw_widths",
    "shorten",
    "style_axes",
    "write_svg",
]
