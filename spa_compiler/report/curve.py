"""The curve of a model as a picture that a page holds: what is lost over what is removed, and how much faster it is.

svg = draw_curve(rows, best)        # "" where matplotlib is missing, or nothing can be drawn
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spa_compiler.report.pictures import REPLACED, style_axes, write_svg

SIZE = (7.2, 3.2)
"""Inches, at 72 points; the page scales it."""
LINE_COLOURS = {"drop": "#1f6feb", "speedup": "#d4730b"}


def draw_curve(rows: Sequence[Mapping[str, Any]], limit: float | None = None, best: float | None = None) -> str:
    """An SVG of `drop` (points) and `speedup`, where rows have them, over `removed` (share of the MACs).

    `limit`: points that may be lost; `best`: the share that was chosen.
    """
    try:
        from matplotlib.figure import Figure  # half a second, and for pages alone
    except ImportError:
        return ""
    drops = _list_points(rows, "drop")
    speeds = _list_points(rows, "speedup")
    if not drops and not speeds:
        return ""
    figure = Figure(figsize=SIZE, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    _draw_line(axes, drops, "drop", "drop, points")
    if limit is not None:
        axes.axhline(limit, color=LINE_COLOURS["drop"], linestyle=":", linewidth=1)
    if speeds:
        other = axes.twinx() if drops else axes
        _draw_line(other, speeds, "speedup", "times faster")
    if best is not None:
        axes.axvline(100 * best, color=REPLACED, linestyle=":", linewidth=1)
    axes.set_xlabel("MACs removed, %", color=REPLACED)
    return write_svg(figure)


def _list_points(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    found = [(100 * r["removed"], r[name]) for r in rows if r.get(name) is not None and r.get("removed") is not None]
    return sorted(found)


def _draw_line(axes: Any, points: list[tuple[float, float]], name: str, title: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), marker="o", color=LINE_COLOURS[name], linewidth=1.6, markersize=4)
        axes.set_ylabel(title, color=LINE_COLOURS[name])
    style_axes(axes)


__all__ = ["draw_curve"]
