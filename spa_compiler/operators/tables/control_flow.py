"""If, Loop and Scan: what their bodies give and take is indexed as outside; `ir.control_flow` has opened them.

A state of a Loop or Scan is one value: as given, inside, as the body leaves it, and at the end. What a Scan runs along
is cut into slices, what comes of each is stacked. The nodes inside have rules of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from spa_compiler.ir.control_flow import find_scan_axes
from spa_compiler.operators.site import Rule, Site, Value

Tensor = Value | None


def _unify_all(site: Site, what: str, values: Sequence[Tensor]) -> None:
    """These are one value in different places; where their shapes differ or are not known, they stay as they are."""
    known = [v for v in values if v is not None]
    odd = next((v for v in known if v.shape != known[0].shape), None)
    if len(known) < len(values):
        site.freeze_all(known, _describe_unknown(site, what))
    elif odd is not None:
        a, b = (f"'{v.name}' {list(v.shape)}" for v in (known[0], odd))
        site.freeze_all(known, f"{what} of {_name_kind(site)} has several shapes: {a}, {b}")
    else:
        for other in known[1:]:
            for one, same in zip(known[0].axes, other.axes, strict=True):
                site.unify(one, same)


def _describe_unknown(site: Site, what: str) -> str:
    return str(site.attrs.get("why", f"{what} of {_name_kind(site)} has a shape that is not known everywhere"))


def _name_kind(site: Site) -> str:
    return str(site.attrs.get("kind", site.op))


def _unify_slices(site: Site, what: str, whole: Tensor, part: Tensor, axis: int) -> None:
    """`part` is a slice of `whole` along `axis`, which stays."""
    if whole is None or part is None or len(whole.axes) != len(part.axes) + 1:
        return site.freeze_all([whole, part], _describe_unknown(site, what))
    at = axis % len(whole.axes)
    site.freeze(whole.axes[at], f"{_name_kind(site)} runs along this axis")
    for a, b in zip([a for i, a in enumerate(whole.axes) if i != at], part.axes, strict=True):
        site.unify(a, b)
    return None


def enter_body(site: Site) -> None:
    """Inputs of a body: states as they are given, slices of what a Scan runs along."""
    kind, formals = _name_kind(site), list(site.outputs)[1:]
    given = list(site.inputs)
    formals += [None] * (len(given) - len(formals))
    if kind == "If":
        return site.freeze_all(given, "If: decides between its branches")
    if kind == "Loop":
        site.freeze_all([*given[:2], *formals[:2]], "Loop: how often it runs")
        given, formals = given[2:], formals[2:]
    axes = find_scan_axes(len(given), site.attrs) if kind == "Scan" else {}
    for k, (a, b) in enumerate(zip(given, formals, strict=True)):
        if k in axes:
            _unify_slices(site, f"input {k}", a, b, axes[k])
        else:
            _unify_all(site, f"state {k}", [a, b])
    return None


def join_branches(site: Site) -> None:
    """Each output is that of either branch; conditions that are known are decided before."""
    cond, *rest = site.inputs
    site.freeze_all([cond], "If: decides between its branches")
    count = len(rest) // 2
    outputs = [*site.outputs, *[None] * count][:count]
    for k, (a, b, y) in enumerate(zip(rest[:count], rest[count:], outputs, strict=True)):
        unread = y is None and k in site.attrs["unread"]
        _unify_all(site, f"output {k}", [a, b] if unread else [a, b, y])


def repeat_body(site: Site) -> None:
    """Each state is one value in all places; slices are stacked along a new axis."""
    states, again = int(site.attrs["states"]), site.op == "Loop"
    before, after = list(site.inputs)[:states], list(site.inputs)[states + again :]
    if again:
        site.freeze_all([site.inputs[states]], "Loop: how often it runs")
    outputs = [*site.outputs, *[None] * len(after)][: len(after)]
    axes = site.attrs.get("scan_output_axes") or [0] * (len(after) - states)
    for k, (v, y) in enumerate(zip(after, outputs, strict=True)):
        unread = y is None and k in site.attrs["unread"]
        if k < states:
            _unify_all(site, f"state {k}", [before[k], v] if unread else [before[k], v, y])
        elif not unread:
            _unify_slices(site, f"output {k}", y, v, int(axes[k - states]))


RULES: dict[str, Rule] = {"If": join_branches, "Loop": repeat_body, "Scan": repeat_body}
MARKERS: dict[str, Rule] = {"Body": enter_body}
