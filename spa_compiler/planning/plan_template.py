"""Plan templates: what groups keep, said by lists, widths, shares or thresholds; scores fill in which channels stay.

    {"version": 1, "groups": {"conv1.weight:0": [0, 2, 5], "layer2*": 24, "layer3*": 0.5, "*": {"above": 0.01}}}

An entry is a list of channels that stay (a list for each block), a whole number (how many stay, of each block), a share
between 0 and 1 (of those that stay), {"above": t} (those whose score is larger), or what a saved plan has. A key is a
group's name or label, one of its members (weight:axis), or a shell pattern of these, of weights, nodes, modules and
operators, as --include takes them. Names count before patterns, and of several patterns the first.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.analysis.patterns import is_group_named, suggest_groups
from spa_compiler.errors import UsageError
from spa_compiler.planning.plan import PLAN_FORMAT, Floats, Plan, lower_removed, make_best_plan, parse_group, read_name
from spa_compiler.planning.scores import Scores
from spa_compiler.planning.width_ladder import LEAST_OF_STATISTIC

WILDCARDS = frozenset("*?[")
"""Signs that make a key a pattern."""
Entry = Any
"""An entry as JSON has it."""


@dataclass(frozen=True)
class PlanTemplate:
    """Entries by key, in the order of the file; `source` names it in messages."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    source: str = "plan"

    @property
    def has_gaps(self) -> bool:
        """Does an entry leave open which channels stay?"""
        return any(is_open(e) for e in self.entries.values())

    def resolve(self, graph: DependencyGraph, scores: Scores, erased: Plan | None = None) -> Plan:
        """The plan of a graph, of which channels that are `erased` go first.

        Raises UsageError that names the key: nothing matches it, or it does not fit.
        """
        chosen, erased = self._choose_entries(graph), erased or Plan()
        lists, widths = dict[str, Any](), dict[str, int]()
        for label, (key, entry) in chosen.items():
            group = graph.group(label)
            if not is_open(entry):
                lists[label] = self._read_list(key, entry, group)
            elif label not in scores:
                raise UsageError(
                    f"{self.source}: '{key}' leaves channels of '{group.name}' to scores, which it has none of"
                )
            else:
                left = erased.keep.get(label, np.ones(group.shape, bool))
                widths[label] = self._find_width(key, entry, group, np.where(left, scores[label], -np.inf))
        found = Plan(lists)
        return found.merge(make_best_plan(graph, lower_removed(scores, erased), widths)) if widths else found

    def _choose_entries(self, graph: DependencyGraph) -> dict[str, tuple[str, Entry]]:
        """The key and the entry of each group that one matches."""
        out: dict[str, tuple[str, Entry]] = {}
        by_name = sorted(self.entries, key=lambda k: is_pattern(k) and graph.find_group(k) is None)
        for key in by_name:
            groups = list(find_groups(graph, key)) or [*filter(None, [graph.by_name.get(read_name(self.entries[key]))])]
            if not groups:
                near = suggest_groups(graph, key)
                raise UsageError(f"{self.source}: '{key}' matches no group{near}; `spa inspect` lists them")
            for group in groups:
                first = out.setdefault(group.label, (key, self.entries[key]))
                if first[1] != self.entries[key] and not is_pattern(key):
                    raise UsageError(
                        f"{self.source}: '{first[0]}' and '{key}' are coupled (group '{group.name}') and ask for "
                        f"{json.dumps(first[1])} and {json.dumps(self.entries[key])}: give one of them; `spa explain` "
                        "shows what couples them"
                    )
        return out

    def _read_list(self, key: str, entry: Entry, group: Group) -> Any:
        whole = entry if isinstance(entry, dict) else {"size": group.size, "keep": entry}
        return parse_group(self.source, key, whole)[1]

    def _find_width(self, key: str, entry: Entry, group: Group, scores: Floats) -> int:
        """Channels of each block that stay."""
        size, least = group.size, LEAST_OF_STATISTIC if group.stat and group.size > 1 else 1
        if isinstance(entry, dict):
            rows = scores.reshape(-1, size)
            return max(least, int((rows > float(entry["above"])).sum(1).max()))
        if isinstance(entry, float):
            return max(least, math.floor(size * entry + 0.5))
        if not least <= entry <= size:
            raise UsageError(
                f"{self.source}: '{key}' asks for {entry} channels of '{group.name}', which has {size} and keeps at "
                f"least {least}"
            )
        return int(entry)


def is_open(entry: Entry) -> bool:
    """Does an entry leave open which channels stay?"""
    return not isinstance(entry, list) and not (isinstance(entry, dict) and "keep" in entry)


def is_pattern(key: str) -> bool:
    """Does a key have signs that stand for others?"""
    return not WILDCARDS.isdisjoint(key)


def find_groups(graph: DependencyGraph, key: str) -> Iterator[Group]:
    """Groups that a key names: by label, name or member, else by weights and nodes, as --include does."""
    if (found := graph.find_group(key)) is not None:
        yield found
        return
    named = [g for g in graph.groups if any(fnmatchcase(n, key) for n in (g.label, g.name, *_list_members(g)))]
    yield from named or [g for g in graph.groups if is_group_named(graph, g, key)]


def _list_members(group: Group) -> Iterable[str]:
    return (f"{m.value}:{m.axis}" for m in group.members)


def check_entry(source: str, key: str, entry: Entry) -> None:
    """Raise UsageError for an entry that is of none of the kinds."""
    number = isinstance(entry, int | float) and not isinstance(entry, bool)
    above = entry.get("above") if isinstance(entry, dict) and set(entry) == {"above"} else None
    is_limit = isinstance(above, int | float) and not isinstance(above, bool) and math.isfinite(above)
    is_count = number and (entry >= 1 if isinstance(entry, int) else 0 < entry <= 1)
    if not (is_limit or is_count or not is_open(entry)):
        raise UsageError(
            f"{source}: '{key}': {json.dumps(entry)[:80]} is neither a list of channels, a width from 1 on, a share "
            'between 0 and 1, nor {"above": a score}'
        )


def load_template(path: Path) -> PlanTemplate:
    """Read a plan file, saved or written by hand. Raises UsageError when it is neither."""
    source = str(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise UsageError(f"{path}: no such file") from e
    except (OSError, ValueError, RecursionError) as e:  # brackets can be nested as deep as a file is long
        raise UsageError(f"{path}: cannot read the plan: {e}") from e
    groups = document.get("groups") if isinstance(document, dict) else None
    if not isinstance(groups, dict) or document.get("version") != PLAN_FORMAT:
        raise UsageError(f'{source}: not a plan: expected {{"version": {PLAN_FORMAT}, "groups": {{...}}}}')
    for key, entry in groups.items():
        check_entry(source, key, entry)
    return PlanTemplate(groups, source)


def list_turned(path: str) -> list[str]:
    """Groups of a saved plan whose channels are those of another basis; none in a file that cannot be read."""
    file = Path(path)
    if file.suffix == ".npz" or not file.is_file():
        return []
    try:
        entries = load_template(file).entries
    except UsageError:  # it is named where the plan is read
        return []
    return [name for name, entry in entries.items() if isinstance(entry, dict) and entry.get("turned") is True]


def has_open_entries(path: str) -> bool:
    """Does a plan file leave open which channels stay? False for one that cannot be read, or only once."""
    file = Path(path)
    if file.suffix == ".npz" or not file.is_file():
        return False
    state = file.stat()
    return _has_open_entries(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=8)
def _has_open_entries(path: str, changed: int, size: int) -> bool:
    """`has_open_entries` of a file in this state."""
    try:
        return load_template(Path(path)).has_gaps
    except UsageError:  # it is named where the plan is read
        return False
