"""Inputs that somebody gave, in the report: lines for the terminal, and a section of the page with small pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Given = Mapping[str, Any]


def describe_inputs(given: Given | None) -> list[str]:
    """Lines on what was taken; nothing where nothing was given, and little of arrays, which are taken as they are."""
    if not given:
        return []
    parts = [f"{given['name']}: {describe_number(given)}"]
    parts += [f"{given['sizes']} pixels"] * bool(given["sizes"])
    if given["kind"] not in ("arrays", "stream"):
        parts.append(given["treatment"])
    if given["values"] != "scale=1" or given["kind"] == "pictures":
        parts.append(f"{given['values']} ({given['decided']})")
    parts += [f"labels: {given['labels']}"] * bool(given["labels"])
    return ["; ".join(parts)]


def describe_number(given: Given) -> str:
    """How many rows of how many, and how many were kept apart."""
    of = "" if given["of"] in (None, given["rows"]) else f" of {given['of']}"
    apart = f", {given['apart']} kept apart" if given["apart"] else ""
    kind = {"stream": "rows of a stream", "arrays": "rows"}.get(given["kind"], given["kind"])
    return f"{given['rows']}{of} {kind}{apart}"


def list_given(report: Mapping[str, Any]) -> list[tuple[str, Given]]:
    """The inputs of --calib and --data, with a title."""
    found = [("Calibration", (report["calibration"] or {}).get("given")), ("Data", report["data"])]
    return [(title, given) for title, given in found if given]


def list_range_rows(given: Given) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the table of ranges, by input."""
    rows: list[tuple[str, ...]] = [
        (name, str(r["shape"]), str(r["dtype"]), _format_values(r.get("low", [])), _format_values(r.get("high", [])))
        for name, r in given["ranges"].items()
    ]
    return ("input", "shape", "type", "low", "high"), rows


def _format_values(values: list[float | None]) -> str:
    return ", ".join("not finite" if v is None else f"{v:.4g}" for v in values)


def strip_thumbnails(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report without pictures, which a page shows and does not spell out."""
    out = dict(report)
    if out["data"]:
        out["data"] = {**out["data"], "thumbnails": []}
    if (out["calibration"] or {}).get("given"):
        out["calibration"] = {**out["calibration"], "given": {**out["calibration"]["given"], "thumbnails": []}}
    return out
