"""Costs by name: those of any distribution are found through the entry points `spa_compiler.costs`."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint

from spa_compiler.analysis.cost_kinds import Cost, CountedCost, GroupShare, MeasuredCost
from spa_compiler.errors import UsageError
from spa_compiler.plugins import find_entry_points


@functools.cache
def find_cost_points() -> dict[str, EntryPoint]:
    """Entry points of costs by name. Raises UsageError when two distributions use one name."""
    return find_entry_points("spa_compiler.costs", "cost")


@functools.cache
def find_costs() -> dict[str, Cost]:
    """Costs by name, in the order in which they are listed, without those that cannot be loaded.

    Raises UsageError when two distributions use one name, or two costs one unit.
    """
    loaded = [c for c in (_try_load(n) for n in find_cost_points()) if c is not None]
    listed = sorted(loaded, key=lambda c: (c.rank, c.name))
    by_unit: dict[str, Cost] = {}
    for cost in listed:
        other = by_unit.setdefault(cost.unit, cost)
        if other is not cost:
            raise UsageError(f"the costs '{other.name}' and '{cost.name}' are both counted in the unit '{cost.unit}'")
    return {c.name: c for c in listed}


def _try_load(name: str) -> Cost | None:
    """A cost; None where it cannot be loaded: only who asks for it by name has to know."""
    try:
        return _load_cost(name)
    except UsageError:
        return None


def _load_cost(name: str) -> Cost:
    """A cost under the name of its entry point; a plain function lists the terms of a counted one."""
    point = find_cost_points()[name]
    try:
        found = point.load()
    except Exception as e:
        raise UsageError(f"the cost '{name}' ({point.value}) cannot be loaded: {e}") from e
    if not isinstance(found, Cost) and not callable(found):
        raise UsageError(f"the cost '{name}' ({point.value}) is neither a Cost nor a function that lists terms")
    cost: Cost = found if isinstance(found, Cost) else CountedCost(terms=found)
    return cost.rename(name)


def list_cost_names() -> list[str]:
    """Names that may be asked for: those of the costs, then those of which asking says why they cannot be loaded."""
    return [*find_costs(), *sorted(find_cost_points().keys() - find_costs().keys())]


def find_cost(name: str) -> Cost:
    """A cost by name. Raises UsageError with the names that there are, or why it cannot be loaded."""
    if name not in find_cost_points():
        raise UsageError(f"no cost is called '{name}'; there are {', '.join(find_costs())}")
    return find_costs().get(name) or _load_cost(name)


def find_tracked_cost(name: str) -> CountedCost:
    """The cost itself where it is counted, else the counted one that stands in for it."""
    cost = find_cost(name)
    if isinstance(cost, MeasuredCost | GroupShare):
        cost = find_cost(cost.stand_in)
    if not isinstance(cost, CountedCost):
        raise UsageError(f"the cost '{cost.name}' stands in for '{name}' and is not counted itself")
    return cost


def find_counted_costs() -> dict[str, CountedCost]:
    """Counted costs by their unit."""
    return {c.unit: c for c in find_costs().values() if isinstance(c, CountedCost)}


def find_group_shares() -> dict[str, GroupShare]:
    """Costs that are a share of the groups, by their unit."""
    return {c.unit: c for c in find_costs().values() if isinstance(c, GroupShare)}


def list_table_costs() -> list[CountedCost]:
    """Counted costs that are shown where there is room for few."""
    return [c for c in find_counted_costs().values() if c.in_tables]
