"""Search for the groups that break a proof, and a check of the plan without them.

excluded = find_culprits(groups, breaks)       # ["conv1.weight:0"]: the rest was tried, and holds
"""

from __future__ import annotations

import glob
import shlex
from collections.abc import Callable

from spa_compiler.analysis.dependency_graph import Group

MOST_CULPRITS = 16
"""Groups that are taken out, one after another, before it is given up."""
Breaks = Callable[[list[Group]], bool]


def find_culprit(groups: list[Group], breaks: Breaks) -> Group | None:
    """Halve the plan until one group is left that breaks the check on its own; None where only several do."""
    while len(groups) > 1:
        half = len(groups) // 2
        if breaks(groups[:half]):
            groups = groups[:half]
        elif breaks(groups[half:]):
            groups = groups[half:]
        else:
            return None
    return groups[0] if groups else None


def find_culprits(groups: list[Group], breaks: Breaks, holds: Breaks) -> tuple[list[Group], bool]:
    """Groups that have to stay whole, and whether the plan without them was proven.

    `breaks` is quick and asked often; `holds` is the whole proof, and asked once for what is left.
    """
    out: list[Group] = []
    left = groups
    while left and len(out) < MOST_CULPRITS:
        culprit = find_culprit(left, breaks)
        if culprit is None:
            return out, False
        out.append(culprit)
        left = [g for g in left if g is not culprit]
        if left and not breaks(left):
            return out, holds(left)
    return out, False


def describe_culprits(groups: list[Group], total: int, proven: bool) -> str:
    """A message about these groups, and how to compile the rest."""
    if not groups:
        return "several groups break it together; no --exclude was found that compiles the rest"
    names = ", ".join(f"'{g.name}'" for g in groups[:4]) + ", ..." * (len(groups) > 4)
    what = f"the culprit is the group {names}" if len(groups) == 1 else f"the culprits are the groups {names}"
    if not proven or len(groups) == total:
        return f"{what}; no --exclude was found that compiles the rest"
    return f"{what}; the rest is proven with {' '.join(format_exclude_option(g) for g in groups)}"


def format_exclude_option(group: Group) -> str:
    """The option that leaves a group alone; characters that patterns give a meaning are taken as they are."""
    return f"--exclude {shlex.quote(glob.escape(group.name))}"
