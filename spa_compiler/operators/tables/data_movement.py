"""Operators that only move data: for each of them, what is kept of the input is what is kept of the output.

Reshape [2, 12] -> [2, 3, 4]    unify(Prod(x.axes), Prod(y.axes)): the 12 is a product of 3 and 4
"""

from __future__ import annotations

from spa_compiler.algebra.expr import Dim, Expr, Prod, Sum, count_pieces, is_frozen
from spa_compiler.algebra.unify import PICKED
from spa_compiler.errors import Conflict
from spa_compiler.operators.rule import freeze_rule, rule
from spa_compiler.operators.site import Count, Operand, Row, Rule, Site, Take, Value
from spa_compiler.operators.tables.compute import name_axes


def reorder(site: Site) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: the row-major order of the elements is unchanged."""
    x, y = site.x(), site.y
    if 0 in x.shape or 0 in y.shape:
        raise Conflict("an axis is empty")
    site.unify(Prod(tuple(x.axes)), Prod(tuple(y.axes)))
    if site.op == "Reshape":
        every = tuple(range(len(y.axes)))
        site.operands.append(Operand(1, lambda n: [n(a) for a in y.axes], "shape", every, infers=True))


def transpose(site: Site) -> None:
    """Axes change places."""
    a = name_axes(site.x())
    perm = site.attrs.get("perm") or list(range(len(a)))[::-1]
    rule(f"{' '.join(a)} -> {' '.join(a[int(p)] for p in perm)}", move=True)(site)


MOST_PIECES = 1 << 14
"""Pieces of an axis that are followed: a value that is joined with itself has twice as many each time."""


def _write_concat(site: Site, axis: int, many: int) -> tuple[str, str]:
    """The parts and the whole of a concatenation of `many` tensors, as rule text."""
    a = name_axes(site.y)
    parts = [" ".join([*a[:axis], f"c{k}", *a[axis + 1 :]]) for k in range(many)]
    whole = [*a[:axis], "+".join(f"c{k}" for k in range(many)), *a[axis + 1 :]]
    return ", ".join(parts), " ".join(whole)


def concat(site: Site) -> None:
    """The axis of the output is the concatenation of the inputs' axes."""
    axis = int(site.attrs.get("axis", 1)) % len(site.y.axes)
    pieces = sum(count_pieces(v.axes[axis]) for v in site.inputs if v is not None)
    if pieces > MOST_PIECES:
        raise Conflict(f"it joins {pieces:,} pieces in one axis, of which {MOST_PIECES:,} are followed")
    parts, whole = _write_concat(site, axis, len(site.inputs))
    rule(f"{parts} -> {whole}", move=True)(site)


def split(site: Site) -> None:
    """The reverse of Concat. Split without sizes means equal parts, so the sizes are always written."""
    axis = int(site.attrs.get("axis", 0)) % len(site.y.axes)
    outputs = [v for v in site.outputs if v is not None]
    if len(outputs) != len(site.outputs):
        raise Conflict("a part has no name or no known shape")
    parts, whole = _write_concat(site, axis, len(outputs))
    rule(f"{whole}, _ -> {parts}", move=True)(site)
    site.operands.append(Operand(1, lambda n: [n(v.axes[axis]) for v in outputs], "split", parts=axis))


def _pass_others(site: Site, skip_x: set[int], skip_y: set[int]) -> None:
    """The axes that the operator does not touch pass through, in order."""
    x, y = site.x().axes, site.y.axes
    left = [x[i] for i in range(len(x)) if i not in skip_x]
    right = [y[i] for i in range(len(y)) if i not in skip_y]
    for a, b in zip(left, right, strict=True):
        site.unify(a, b)


def slice_(site: Site) -> None:
    """A run of positions moves its bounds; other selections on a live axis become a Gather.

    Bounds that are computed at run time freeze the axes that they are for.
    """
    x, y = site.x(), site.y
    starts, ends, steps = site.entries(1, "starts"), site.entries(2, "ends"), site.entries(4)
    named = site.ints(3, "axes")
    if named is None and len(site.inputs) > 3 and site.inputs[3] is not None:
        raise Conflict("the sliced axes are computed at run time")
    many = len(named) if named is not None else site.x(1).shape[0] if len(site.inputs) > 1 else len(starts or [])
    axes = [a % len(x.axes) for a in (named if named is not None else range(many))]
    if steps is None and len(site.inputs) > 4 and site.inputs[4] is not None:
        steps = [None] * many
    rows = list(zip(axes, starts or [None] * many, ends or [None] * many, steps or [1] * many, strict=True))
    _pass_others(site, set(axes), set(axes))
    befores: dict[int, Expr] = {}
    for k, (a, s, e, t) in enumerate(rows):
        if s is None or e is None or t is None:
            site.freeze(Prod((x.axes[a], y.axes[a])), "sliced with bounds that are computed at run time")
            continue
        positions = list(range(x.shape[a]))[s:e:t]
        before = site.select(x.axes[a], positions, y.axes[a])
        if before is not None:
            befores[k] = before
        elif not is_frozen(x.axes[a]):
            if len(axes) > 1:
                site.freeze(x.axes[a], "a Slice with a step works on several axes at once")
            site.take = Take(a, positions)

    def write_bound(n: Count, k: int, old: int | None, ending: bool) -> int:
        a = axes[k]
        if k not in befores or n(x.axes[a]) == x.shape[a]:
            return old or 0
        bound = n(befores[k]) + (n(y.axes[a]) if ending else 0)
        return _write_moving_bound(bound, old, x.shape[a], n(x.axes[a])) if x.dynamic[a] else bound

    site.operands.append(Operand(1, lambda n: [write_bound(n, k, r[1], False) for k, r in enumerate(rows)], "starts"))
    site.operands.append(Operand(2, lambda n: [write_bound(n, k, r[2], True) for k, r in enumerate(rows)], "ends"))


def _write_moving_bound(bound: int, old: int | None, before: int, after: int) -> int:
    """A bound on an axis that follows a symbol: the end stays the end, and what counts from there still does."""
    if old is not None and old >= before:
        return old
    return bound - after if old is not None and old < 0 else bound


def gather(site: Site) -> None:
    """Constant indices select channels; indices that are computed at run time freeze the axis (a vocabulary)."""
    x, index, y = site.x(0), site.x(1), site.y
    a = int(site.attrs.get("axis", 0)) % len(x.axes)
    n = len(index.axes)
    _pass_others(site, {a}, set(range(a, a + n)))
    if 1 not in site.consts or n > 1:
        for k in range(n):
            site.unify(index.axes[k], y.axes[a + k])
        return site.freeze(x.axes[a], "indexed at run time or by a table")
    positions = [int(p) % x.shape[a] for p in site.consts[1].ravel()]
    if n == 0:
        one = Dim(1, unit=True)
        before = site.select(x.axes[a], positions, one)
        site.freeze(one, PICKED)
    else:
        before = site.select(x.axes[a], positions, y.axes[a])
    site.take = Take(a, positions, before)
    return None


def gather_elements(site: Site) -> None:
    """The indexed axis is frozen; the others agree with those of the indices where their sizes do."""
    axis = int(site.attrs.get("axis", 0)) % len(site.x().axes)
    x, index = site.x(0), site.x(1)
    for i, (a, b, c) in enumerate(zip(x.axes, index.axes, site.y.axes, strict=True)):
        site.unify(b, c)
        if i != axis and x.size(i) == index.size(i):
            site.unify(a, b)
        else:
            site.freeze(Prod((a, b)), "indexed at run time or by a table")


def gather_nd(site: Site) -> None:
    """The leading axes are indexed at run time or by a table; what one index picks passes."""
    x, index, y = site.x(0), site.x(1), site.y
    batch, depth = int(site.attrs.get("batch_dims", 0)), index.shape[-1]
    _pass_trailing(site, x, y, batch + depth)
    site.freeze_all([index], "indexed at run time or by a table")


def scatter_nd(site: Site) -> None:
    """The leading axes are indexed; what one index writes is coupled between data, updates and result."""
    x, index, updates, y = site.x(0), site.x(1), site.x(2), site.y
    depth = index.shape[-1]
    _pass_trailing(site, x, y, depth)
    _pass_trailing(site, updates, y, len(index.axes) - 1, depth)
    site.freeze_all([index], "indexed at run time or by a table")


def _pass_trailing(site: Site, x: Value, y: Value, indexed: int, skip_y: int | None = None) -> None:
    """Freeze the first axes of x, and unify those from `indexed` on with the last ones of y."""
    tail = len(x.axes) - indexed
    first_y = len(y.axes) - tail if skip_y is None else skip_y
    for a in (*x.axes[:indexed], *y.axes[:first_y]):
        site.freeze(a, "indexed at run time or by a table")
    for a, b in zip(x.axes[indexed:], y.axes[first_y:], strict=True):
        site.unify(a, b)


def pad(site: Site) -> None:
    """Constant padding makes new channels, which may be removed again like any others (option-A shortcuts)."""
    x, y = site.x(), site.y
    pads, rank = site.entries(1, "pads"), len(x.axes)
    named = site.ints(3)
    if pads is None or (named is None and len(site.inputs) > 3 and site.inputs[3] is not None):
        raise Conflict("the padding is computed at run time")
    axes = [a % rank for a in (named if named is not None else range(rank))]
    constant = site.attrs.get("mode", "constant") == "constant"
    around: dict[int, tuple[Expr, Expr]] = {}
    for k, a in enumerate(axes):
        low, high = pads[k], pads[k + len(axes)]
        if low is None or high is None:
            site.freeze(Prod((x.axes[a], y.axes[a])), "padded by as much as is computed at run time")
            continue
        if min(low, high) < 0 or ((low or high) and not constant):
            site.freeze(Prod((x.axes[a], y.axes[a])), "padded by copies of other positions, or cropped")
            continue
        left, right = (Dim(n, unit=n == 1) if n else Sum(()) for n in (low, high))
        around[a] = left, right
        site.unify(Sum((left, x.axes[a], right)), y.axes[a])
    _pass_others(site, set(axes), set(axes))

    def sizes(n: Count) -> list[int]:
        places = [(side, k, a) for side in (0, 1) for k, a in enumerate(axes)]
        return [n(around[a][side]) if a in around else pads[k + side * len(axes)] or 0 for side, k, a in places]

    site.operands.append(Operand(1, sizes, "pads"))


def resize(site: Site) -> None:
    """Batch and channels pass where their size is unchanged; the resized axes do not change."""
    x, y = site.x(), site.y
    same = [x.size(i) == y.size(i) for i in range(len(x.axes))]
    spatial = [(i > 1 and not _is_nhwc_resize(site)) or not ok for i, ok in enumerate(same)]
    a = ["_" if hit else f"a{i}" for i, hit in enumerate(spatial)]
    rule(f"{' '.join(a)}{', _' * (len(site.inputs) - 1)} -> {' '.join(a)}")(site)
    axes = [int(i) % len(a) for i in site.attrs.get("axes", range(len(a)))]
    if len(site.inputs) > 3 and site.inputs[3] is not None:
        site.operands.append(Operand(3, lambda n: [n(y.axes[i]) for i in axes], axes=tuple(axes)))


def _is_nhwc_resize(site: Site) -> bool:
    """True when the last axis keeps its size while an earlier one changes: channels last."""
    x, y = site.x(), site.y
    return len(x.axes) > 2 and x.size(-1) == y.size(-1) and x.size(1) != y.size(1)


def expand(site: Site) -> None:
    """A repeated axis is new and free: grouped-query attention repeats its keys this way."""
    y = site.y
    rule("x..., _ -> x...")(site)
    if len(site.inputs) > 1 and site.inputs[1] is not None:
        rank = len(y.axes)
        tail = tuple(range(rank - site.x(1).shape[0], rank))
        old = site.ints(1)

        def values(n: Count) -> list[int]:
            return [1 if old is not None and old[k] == 1 else n(y.axes[i]) for k, i in enumerate(tail)]

        site.operands.append(Operand(1, values, axes=tail, broadcasts=True))


def tile(site: Site) -> None:
    """The result is (repeats x) on every axis. How often is not written where it is computed at run time: it stays."""
    x, y = site.x(), site.y
    repeats = site.entries(1) or [None] * len(x.axes)
    extra: list[Expr] = []
    for i, (a, b, many) in enumerate(zip(x.axes, y.axes, repeats, strict=True)):
        same = x.size(i) == y.size(i)
        times = Dim(many if many is not None else 1 if same else b.size // a.size)
        if many is None and not same:
            site.freeze(times, "repeated as often as is computed at run time")
        extra.append(times)
        site.unify(Prod((times, a)), b)
    if None not in repeats:
        site.operands.append(Operand(1, lambda n: [n(r) for r in extra]))


def shape(site: Site) -> None:
    """Only axes whose size reaches something that the rewrite does not write itself are frozen."""
    x = site.x()
    start, end = int(site.attrs.get("start", 0)), site.attrs.get("end")
    seen = range(len(x.axes))[start : None if end is None else int(end)]
    reads = range(len(seen)) if site.shape_reads is None else site.shape_reads
    for k in reads:
        site.freeze(x.axes[seen[k]], "its size is read at run time (Shape)")


def constant_of_shape(site: Site) -> None:
    """The same value everywhere: its axes are free and follow whatever they meet."""
    y = site.y
    site.operands.append(Operand(0, lambda n: [n(a) for a in y.axes], axes=tuple(range(len(y.axes)))))


def depth_to_space(site: Site) -> None:
    """`DCR`: the block digits are the major ones of the channel; `CRD`: the minor ones."""
    first = "(P Q c)" if site.attrs.get("mode", "DCR") == "DCR" else "(c P Q)"
    rule(f"_ {first} H W -> _ c (H P) (W Q)", move=True, P="blocksize", Q="blocksize")(site)


def one_hot(site: Site) -> None:
    """The new axis is as long as an operand says; those of the indices pass."""
    a = name_axes(site.x())
    k = int(site.attrs.get("axis", -1)) % (len(a) + 1)
    rule(f"{' '.join(a)}, _, _ -> {' '.join([*a[:k], '_', *a[k:]])}")(site)


def scatter_elements(site: Site) -> None:
    """The indexed axis is frozen; the others agree where indices and data have the same size."""
    x, index, updates, y = site.x(0), site.x(1), site.x(2), site.y
    axis = int(site.attrs.get("axis", 0)) % len(x.axes)
    for i, (a, b, c, d) in enumerate(zip(x.axes, index.axes, updates.axes, y.axes, strict=True)):
        site.unify(b, c)
        site.unify(a, d)
        if i != axis and x.size(i) == index.size(i):
            site.unify(a, b)
        else:
            site.freeze(Prod((a, b)), "indexed at run time or by a table")


RULES: dict[str, Rule] = {
    "Reshape": Row(reorder, zero="keeps", reorders=True),
    "Squeeze": Row(reorder, zero="keeps", reorders=True),
    **dict.fromkeys(("Flatten", "Unsqueeze"), Row(reorder, zero="keeps", reorders=True)),
    "Transpose": Row(transpose, zero="keeps", reorders=True),
    "Concat": Row(concat, zero="keeps", additive=True, moves=True),
    "Split": Row(split, zero="keeps", moves=True),
    "Slice": Row(slice_, zero="keeps", moves=True),
    "Gather": Row(gather, zero="keeps", lookup="plain", moves=True),
    "GatherElements": gather_elements,
    "GatherND": Row(gather_nd, lookup="nested"),
    "ScatterND": scatter_nd,
    "Pad": Row(pad, zero="pad"),
    "Resize": Row(resize, zero="resize"),
    "Upsample": Row(resize, zero="keeps"),
    "Expand": Row(expand, zero="keeps", moves=True),
    "Tile": Row(tile, zero="keeps", moves=True),
    "Shape": shape,
    "Size": freeze_rule("its size is read at run time"),
    "ConstantOfShape": Row(constant_of_shape, zero="fill"),
    "DepthToSpace": Row(depth_to_space, zero="keeps", moves=True),
    "SpaceToDepth": Row(
        rule("_ c (H P) (W Q) -> _ (P Q c) H W", move=True, P="blocksize", Q="blocksize"), zero="keeps", moves=True
    ),
    "OneHot": one_hot,
    "ScatterElements": scatter_elements,
    "Scatter": scatter_elements,
}
