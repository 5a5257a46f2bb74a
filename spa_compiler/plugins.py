"""Passes and criteria of any distribution, found through entry points, this one's in the same way."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from spa_compiler.errors import UsageError


def find_entry_points(group: str, what: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name. Raises UsageError when two distributions use one name."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        if point.name in found and found[point.name].value != point.value:
            both = f"{found[point.name].value}, {point.value}"
            raise UsageError(f"two distributions define the {what} '{point.name}': {both}")
        found[point.name] = point
    return found
