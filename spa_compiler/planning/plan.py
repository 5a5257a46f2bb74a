"""A plan: which channels every group keeps. JSON with stable labels, so that it applies to other checkpoints.

    plan = Plan({"conv1.weight:0": np.array([True, False, ...])})
    plan.save(Path("plan.json")); Plan.load(Path("plan.json")).masks(graph)

A mask has the group's shape: (channels,), or (blocks, channels) where every block keeps channels of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, iterate_dims
from spa_compiler.algebra.masks import Bools, count_kept
from spa_compiler.analysis.cost import make_group_widths
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.errors import UsageError

PLAN_FORMAT = 1
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """Keep-masks by group label, of the group's shape; groups without one keep everything."""

    keep: Mapping[str, Bools] = field(default_factory=dict)
    turned: frozenset[str] = frozenset()
    """Groups whose channels are those of another basis than the file's (pass `basis`)."""
    names: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Names of groups by label, as a file has them: they find a group whose label another export counts differently."""

    def masks(self, graph: DependencyGraph) -> dict[Dim, Bools]:
        """The plan on the dims of a graph. Raises UsageError for a label or a size that the graph does not have."""
        out: dict[Dim, Bools] = {}
        for label, mask in self.keep.items():
            group = graph.group(label)
            _check(group, mask)
            out |= _spread_over_dims(group, mask)
        for name, axis in find_empty_axes(graph, out):
            raise UsageError(f"the plan would remove every channel of '{name}' axis {axis}")
        return out

    def use_labels(self, graph: DependencyGraph) -> Plan:
        """The same plan with every group called by its label.

        Raises UsageError for a group that there is not, or that is called by its label and by its name.
        """
        labels = {n: find_saved_group(graph, n, self.names.get(n, "")).label for n in self.keep.keys() | self.turned}
        names: dict[str, str] = {}
        for n in self.keep:
            label = labels[n]
            if label in names:
                raise UsageError(f"the plan names one group twice: '{names[label]}' and '{n}'")
            names[label] = n
        turned = frozenset(labels[n] for n in self.turned)
        return Plan({label: self.keep[n] for label, n in names.items()}, turned)

    def count_kept(self, group: Group) -> int:
        """Channels that a group keeps (per block)."""
        mask = self.keep.get(group.label)
        return group.size if mask is None else int(mask.reshape(-1, group.size)[0].sum())

    @property
    def is_empty(self) -> bool:
        """True when nothing is removed."""
        return all(m.all() for m in self.keep.values())

    def merge(self, other: Plan) -> Plan:
        """Both plans at once: a channel stays when both keep it."""
        shared = self.keep.keys() & other.keep.keys()
        both = {**self.keep, **other.keep, **{n: self.keep[n] & other.keep[n] for n in shared}}
        return Plan(both, self.turned | other.turned)

    def document(self) -> dict[str, Any]:
        """The JSON form: per group its size and the channels that stay."""
        groups = {
            n: {
                "size": m.shape[-1],
                "keep": [np.flatnonzero(r).tolist() for r in m] if m.ndim > 1 else np.flatnonzero(m).tolist(),
                **({"turned": True} if n in self.turned else {}),
            }
            for n, m in sorted(self.keep.items())
            if not m.all()
        }
        return {"format": "spa-compile plan", "version": PLAN_FORMAT, "groups": groups}

    def digest(self) -> str:
        """Hash of the plan: equal plans have equal digests."""
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()

    def save(self, path: Path, graph: DependencyGraph | None = None) -> None:
        """Write the JSON form; with a graph the names of groups, too, for people and for other exports."""
        document = self.document()
        if graph is not None:
            for label, entry in document["groups"].items():
                entry["name"] = graph.group(label).name
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def parse(cls, document: Any, source: str = "plan") -> Plan:
        """Read the JSON form. Raises UsageError that names the group that does not fit."""
        if (
            not isinstance(document, dict)
            or document.get("version") != PLAN_FORMAT
            or not isinstance(document.get("groups"), dict)
        ):
            raise UsageError(f'{source}: not a plan: expected {{"version": {PLAN_FORMAT}, "groups": {{...}}}}')
        groups = document["groups"]
        turned = frozenset(n for n, g in groups.items() if isinstance(g, dict) and g.get("turned") is True)
        keep = dict(parse_group(source, n, g) for n, g in groups.items())
        return cls(keep, turned, {n: read_name(g) for n, g in groups.items()})

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan file. Raises UsageError when it is not one."""
        try:
            return cls.parse(json.loads(Path(path).read_text()), str(path))
        except FileNotFoundError as e:
            raise UsageError(f"{path}: no such file") from e
        except (OSError, ValueError, RecursionError) as e:  # brackets can be nested as deep as a file is long
            raise UsageError(f"{path}: cannot read the plan: {e}") from e


def read_name(entry: Any) -> str:
    """The name of a group in an entry of the JSON form; '' without."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def find_saved_group(graph: DependencyGraph, key: str, name: str) -> Group:
    """The group that an entry is of: by its key (label or name), else by the name that was saved with it.

    Raises UsageError for a group that there is not.
    """
    return graph.find_group(key) or graph.by_name.get(name) or graph.group(key)


LARGEST_GROUP = 1 << 28
"""Channels above which no group is read: masks take a byte for each."""


def parse_group(source: str, name: str, entry: Any) -> tuple[str, Bools]:
    """The mask of an entry of the JSON form. Raises UsageError that names the group."""
    try:
        if not isinstance(entry, dict):
            raise ValueError(
                'expected {"size": n, "keep": [...]}; `spa-compile --plan` takes others, --save-plan these'
            )
        size, rows = entry["size"], entry["keep"]
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= LARGEST_GROUP:
            raise ValueError(f"expected a number of channels as its size, not {size}")
        nested = bool(rows) and isinstance(rows[0], list)
        mask = np.zeros((len(rows) if nested else 1, size), bool)
        for k, row in enumerate(rows if nested else [rows]):
            indices = np.array(row, np.int64 if not row else None)
            if indices.dtype != np.int64 or indices.ndim != 1:
                raise ValueError("expected a list of channel numbers")
            if indices.size and not 0 <= indices.min() <= indices.max() < size:
                raise ValueError(f"channel out of 0..{size - 1}")
            mask[k, indices] = True
    except (TypeError, KeyError, ValueError, IndexError, OverflowError) as e:
        raise UsageError(f"{source}: group '{name}': {e}") from e
    return name, mask if nested else mask[0]


def _check(group: Group, mask: Bools) -> None:
    if mask.shape != group.shape:
        raise UsageError(f"{_describe_group(group)} has shape {list(group.shape)}, the plan gives {list(mask.shape)}")
    rows = mask.reshape(-1, group.size).sum(1)
    if (rows != rows[0]).any():
        raise UsageError(f"{_describe_group(group)}: every block must keep equally many channels, not {rows.tolist()}")


def _describe_group(group: Group) -> str:
    """A group in a message about a plan, which may call it either way."""
    return f"group '{group.name}' (label '{group.label}')"


def _spread_over_dims(group: Group, mask: Bools) -> dict[Dim, Bools]:
    if mask.all():
        return {}
    if group.dims[0].unit:
        return {d: mask[i : i + 1] for i, d in enumerate(group.dims)}
    return {group.dims[0]: mask}


def find_widths(graph: DependencyGraph, plan: Plan) -> dict[Dim, float]:
    """Widths of every dim under a plan, for the cost model."""
    out: dict[Dim, float] = {}
    for group in graph.groups:
        mask = plan.keep.get(group.label)
        if mask is not None and group.dims[0].unit:
            out |= {d: float(m) for d, m in zip(group.dims, mask, strict=True)}
        elif mask is not None:
            out |= make_group_widths(group, plan.count_kept(group))
    return out


def find_empty_axes(graph: DependencyGraph, masks: Mapping[Dim, Bools]) -> Iterator[tuple[str, int]]:
    """Axes (value, axis) of which nothing would be left."""
    for name, axis in _find_cut_axes(graph, masks):
        if count_kept(graph.values[name].axes[axis], masks) == 0:
            yield name, axis


def _find_cut_axes(graph: DependencyGraph, masks: Mapping[Dim, Bools]) -> Iterator[tuple[str, int]]:
    for name, value in graph.values.items():
        for i, a in enumerate(value.axes):
            if a.size and any(d in masks for d in iterate_dims(a)):
                yield name, i


def make_best_plan(graph: DependencyGraph, scores: Mapping[str, Floats], widths: Mapping[str, int]) -> Plan:
    """The plan that keeps the best channels of every group at these widths, and something of every axis.

    A part of a group can be an axis of its own (a Slice of some channels): its best channel stays then, in place of the
    worst that would have stayed. Scores are finite.
    """
    scores = dict(scores)
    keep: dict[str, Bools] = {}
    for _ in range(1 + sum(graph.group(n).size for n in widths)):  # every round but the last holds one more channel
        keep = {n: keep_top(scores[n], w) for n, w in widths.items() if w < graph.group(n).size}
        masks: dict[Dim, Bools] = {}
        for n, mask in keep.items():
            masks |= _spread_over_dims(graph.group(n), mask)
        parts = (
            (n, part)
            for name, axis in find_empty_axes(graph, masks)
            for n, part in _find_parts(graph, keep, name, axis)
        )
        if (found := next(parts, None)) is None:
            break
        n, part = found
        needed = np.arange(len(scores[n])) == max(part, key=lambda c: float(scores[n][c]))
        scores[n] = np.where(needed, np.inf, scores[n])
        widths = {**widths, n: max(widths[n], int(np.isinf(scores[n]).sum()))}
    return Plan(keep)


def _find_parts(
    graph: DependencyGraph, keep: Mapping[str, Bools], name: str, axis: int
) -> Iterator[tuple[str, list[int]]]:
    """Groups of single channels that lie on an axis and keep none of those, and which of them do."""
    held = set(iterate_dims(graph.values[name].axes[axis]))
    for n, mask in keep.items():
        part = [c for c, d in enumerate(graph.group(n).dims) if d.unit and d in held]
        if part and not mask[part].any():
            yield n, part


def keep_top(scores: np.ndarray[Any, Any], kept: int) -> Bools:
    """Keep-mask of the `count_kept` best channels of each row; ties go to the lower index."""
    flat = scores.reshape(-1, scores.shape[-1])
    order = np.argsort(-flat, axis=1, kind="stable")[:, :kept]
    mask = np.zeros(flat.shape, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask.reshape(scores.shape)


def lower_removed(scores: Mapping[str, Floats], plan: Plan) -> dict[str, Floats]:
    """Scores in which the channels that a plan has removed already are the lowest."""
    out = dict(scores)
    for label in set(scores) & set(plan.keep):
        low = min(float(scores[label].min()), 0.0)
        out[label] = np.where(plan.keep[label], scores[label] - low + np.finfo(np.float64).tiny, 0.0)
    return out
