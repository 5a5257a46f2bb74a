"""Tables of sizes: the results of shape arithmetic whose operands are not numbers but sizes (`algebra.sizes`).

    apply_node(node, [array of sizes, None, ...], run)      # arrays of ints, bools and sizes, or None

What only moves data (Concat, Gather, Slice, Reshape, Where by a known condition, ...) is run by an evaluator on numbers
that stand for entries, so that this knows no operator that moves data by more than its name. Arithmetic is done entry
by entry. What is not followed gives an atom per entry: the same for the same operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from spa_compiler.algebra import sizes
from spa_compiler.algebra.sizes import Size

Table = NDArray[Any]
"""Numbers, or objects that are ints, bools, Fractions and sizes."""
Run = Callable[[onnx.NodeProto, list[NDArray[Any] | None]], list[NDArray[Any]] | None]
"""Gives the outputs of a node whose operands are numbers."""
MOVES: dict[str, tuple[int, ...] | None] = dict.fromkeys(
    """Compress DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Reshape ReverseSequence Slice
    SpaceToDepth Split Squeeze Tile Transpose Unsqueeze""".split(),
    (0,),
) | {"Concat": None, "Where": (1, 2), "Pad": (0, 2), "ScatterND": (0, 2), "ScatterElements": (0, 2)}
"""Operators that move data, and the inputs that hold it (None: all); the others have to be numbers."""
SIZE_LIMIT = 1 << 12
"""Entries up to which a table is followed: shapes and positions, not images."""
COMPUTED_LIMIT = 1 << 9
"""Entries up to which arithmetic is followed: it takes about a millisecond each."""
EXACT_LIMIT = 1 << 8
"""Numerators and denominators up to which products with sizes are exact in float32, which holds integers of 24 bits."""


TABLE_DTYPES = frozenset(map(np.dtype, (bool, np.int32, np.int64, np.float32, np.float64)))
"""Types that hold sizes as they are. Others wrap around at 256, or round above 2048."""
EMPTY_ENTRY = 0
"""The fewest entries that an axis may have where something is decided: a branch for an empty cache is one."""


def is_table(value: NDArray[Any]) -> bool:
    """Does this hold sizes that are no numbers?"""
    return value.dtype == object


def simplify(table: Table, like: np.dtype[Any]) -> Table:
    """Numbers of a dtype where every entry is one, the table otherwise."""
    if not all(isinstance(e, int | Fraction | np.generic) for e in table.ravel()):
        return table
    return np.array([float(e) if isinstance(e, Fraction) else e for e in table.ravel()], like).reshape(table.shape)


def apply_node(
    node: onnx.NodeProto, operands: Sequence[Table | None], like: Sequence[NDArray[Any]], run: Run
) -> list[Table]:
    """The outputs of a node on tables: one each, of the shapes and types of `like` (its outputs at one binding)."""
    found, most = None, max((a.size for a in (*operands, *like) if a is not None), default=0)
    if node.op_type in MOVES and most <= SIZE_LIMIT:
        found = _move_entries(node, operands, like, run)
    elif most <= COMPUTED_LIMIT:
        found = _compute_entries(node, operands, like)
    if found is None or any(f.shape != v.shape for f, v in zip(found, like, strict=True)):
        found = [_make_opaque(node, operands, k, v) for k, v in enumerate(like)]
    return [simplify(f, v.dtype) for f, v in zip(found, like, strict=True)]


@dataclass(frozen=True)
class Real:
    """A float of which nothing is known but what it is a function of."""

    key: tuple[Any, ...]


def _make_unfollowed(function: str, key: tuple[Any, ...], kind: str) -> Any:
    """An entry that is a function of others that is not followed; `kind` is that of its dtype."""
    if kind not in "iub":
        return Real((function, *key))
    return sizes.make_atom(function, key, (0, 1) if kind == "b" else sizes.ANY)


def _make_opaque(node: onnx.NodeProto, operands: Sequence[Table | None], output: int, like: NDArray[Any]) -> Table:
    """Entries of which nothing is known but what they are a function of."""
    key = tuple(None if o is None else (o.shape, tuple(o.ravel().tolist())) for o in operands)
    attributes = tuple(a.SerializeToString() for a in node.attribute)
    whole = sizes.make_atom(
        node.op_type, ((node.domain, attributes, *key),)
    )  # long keys are looked up once, not per entry
    table = np.empty(like.size, object)
    for k in range(like.size):
        table[k] = _make_unfollowed(node.op_type, (whole, output, k), like.dtype.kind)
    return table.reshape(like.shape)


def _move_entries(
    node: onnx.NodeProto, operands: Sequence[Table | None], like: Sequence[NDArray[Any]], run: Run
) -> list[Table] | None:
    """The entries where a node puts them: it is run on their numbers."""
    slots = MOVES[node.op_type]
    moving = {k for k, o in enumerate(operands) if o is not None and (slots is None or k in slots)}
    if any(o is not None and is_table(o) for k, o in enumerate(operands) if k not in moving):
        return _choose_entries(operands, like) if node.op_type == "Where" else None
    if node.op_type in ("ScatterND", "ScatterElements") and find_attribute(node, "reduction", b"none") != b"none":
        return None
    if node.op_type == "Pad" and find_attribute(node, "mode", b"constant") != b"constant":
        slots = (0,)
    entries: list[Any] = [0]  # what stands where nothing was put: Pad without a value
    numbers: list[NDArray[Any] | None] = []
    for k, o in enumerate(operands):
        if o is None or k not in moving:
            numbers.append(o)
            continue
        numbers.append(np.arange(len(entries), len(entries) + o.size, dtype=np.int64).reshape(o.shape))
        entries += o.ravel().tolist()
    moved = run(node, numbers)
    if moved is None:
        return None
    table = np.empty(len(entries), object)
    table[:] = entries
    return [table[m.astype(np.int64).ravel()].reshape(m.shape) for m in moved]  # of rank 0 an entry would come back


def find_attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute; text is bytes."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _choose_entries(operands: Sequence[Table | None], like: Sequence[NDArray[Any]]) -> list[Table] | None:
    """Where, entry by entry: a side where the condition is known or both sides are equal."""
    given = [o for o in operands if o is not None]
    return [_make_entrywise("Where", _choose_entry, like[0].dtype.kind, *given)] if len(given) == 3 else None


def _choose_entry(condition: Any, a: Any, b: Any) -> Any:
    if isinstance(condition, bool | int):
        return a if condition else b
    if type(a) is type(b) and a == b:
        return a
    if not all(isinstance(x, int) or sizes.is_size(x) for x in (a, b)):
        raise NotFollowedError
    ends = sizes.find_bounds(a, EMPTY_ENTRY), sizes.find_bounds(b, EMPTY_ENTRY)
    return sizes.make_atom("Where", (condition, a, b), (min(e[0] for e in ends), max(e[1] for e in ends)))


class NotFollowedError(Exception):
    """An operation on sizes that gives no size that can be stated."""


def _make_entrywise(name: str, function: Callable[..., Any], kind: str, *operands: Table) -> Table:
    """A function of entries, broadcast; what it does not follow is an entry of its own."""
    arrays = np.broadcast_arrays(*[np.asarray(o, object) for o in operands])
    out = np.empty(arrays[0].size, object)
    for k, entries in enumerate(zip(*(a.ravel() for a in arrays), strict=True)):
        row = tuple(map(_to_entry, entries))
        try:
            out[k] = function(*row)
        except (NotFollowedError, ZeroDivisionError, OverflowError):
            out[k] = _make_unfollowed(name, row, kind)
    return out.reshape(arrays[0].shape)


def _to_entry(value: Any) -> Any:
    """An entry as a Python object; floats as exact fractions."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return Fraction(value) if math.isfinite(value) else Real((value,))
    return value


def _compute_entries(
    node: onnx.NodeProto, operands: Sequence[Table | None], like: Sequence[NDArray[Any]]
) -> list[Table] | None:
    """Arithmetic entry by entry, and reductions; None where it is not followed."""
    given, kind = [o for o in operands if o is not None], like[0].dtype.kind
    if like[0].dtype not in TABLE_DTYPES:
        return None
    if node.op_type in REDUCTION_FUNCTIONS:
        return _reduce_entries(node, operands, like[0])
    if node.op_type == "Cast":
        wide = kind == "b" or like[0].dtype.itemsize >= 4  # shorter types do not hold every size
        return [_make_entrywise("Cast", CASTS[kind], kind, given[0])] if kind in CASTS and wide else None
    if node.op_type == "Clip":
        return _clip_entries(operands, kind)
    if node.op_type == "Mod" and find_attribute(node, "fmod", 0):
        return None
    function = (FLOAT_FUNCTIONS if any(map(_has_floats, given)) else INTEGER_FUNCTIONS).get(node.op_type)
    if function is None:
        return None
    if len(given) == 1:
        return [_make_entrywise(node.op_type, function, kind, given[0])]
    out = given[0]
    for other in given[1:]:
        out = _make_entrywise(node.op_type, function, kind, out, other)
    return [out]


def _minimum(a: Size, b: Size) -> Size:
    return sizes.minimum(a, b, EMPTY_ENTRY)


def _maximum(a: Size, b: Size) -> Size:
    return sizes.maximum(a, b, EMPTY_ENTRY)


def _is_equal(a: Size, b: Size) -> bool | None:
    return sizes.is_equal(a, b, EMPTY_ENTRY)


def _is_less(a: Size, b: Size) -> bool | None:
    return sizes.is_less(a, b, EMPTY_ENTRY)


def _has_floats(table: Table) -> bool:
    """Is an entry a float? Those that Pad puts in are not."""
    return any(isinstance(e, float | Fraction | Scaled | Real | np.floating) for e in table.ravel())


def _clip_entries(operands: Sequence[Table | None], kind: str) -> list[Table] | None:
    table, low, high = [*operands, None, None][:3]
    if table is None or kind not in "iu":
        return None
    if low is not None:
        table = _make_entrywise("Max", _maximum, kind, table, low)
    return [table if high is None else _make_entrywise("Min", _minimum, kind, table, high)]


class Scaled(tuple[Any, int]):
    """An exact fraction of a size, as floats compute it: (numerator, denominator), the denominator a power of two."""


def _to_scaled(value: Any) -> Scaled:
    if isinstance(value, Scaled):
        return value
    if isinstance(value, Fraction):
        if (
            value.denominator & (value.denominator - 1)
            or value.denominator > EXACT_LIMIT
            or abs(value.numerator) > EXACT_LIMIT
        ):
            raise NotFollowedError
        return Scaled((value.numerator, value.denominator))
    if isinstance(value, Real | float):
        raise NotFollowedError
    return Scaled((int(value) if isinstance(value, bool) else value, 1))


def _reduce(numerator: Size, denominator: int) -> Any:
    if isinstance(numerator, int):
        return Fraction(numerator, denominator)
    while denominator > 1 and sizes.modulo(numerator, 2) == 0:
        numerator, denominator = sizes.floor_divide(numerator, 2), denominator // 2
    if denominator > EXACT_LIMIT:
        raise NotFollowedError
    return Scaled((numerator, denominator))


def _add_floats(a: Any, b: Any) -> Any:
    p, q = _to_scaled(a), _to_scaled(b)
    return _reduce(sizes.add(sizes.multiply(p[0], q[1]), sizes.multiply(q[0], p[1])), p[1] * q[1])


def _multiply_floats(a: Any, b: Any) -> Any:
    p, q = _to_scaled(a), _to_scaled(b)
    return _reduce(sizes.multiply(p[0], q[0]), p[1] * q[1])


def _divide_floats(a: Any, b: Any) -> Any:
    """By powers of two: a third is no float."""
    p, q = _to_scaled(a), _to_scaled(b)
    divisor = q[0]
    if not isinstance(divisor, int) or divisor <= 0 or divisor & (divisor - 1):
        raise NotFollowedError
    return _reduce(sizes.multiply(p[0], q[1]), p[1] * divisor)


def _negate_float(a: Any) -> Any:
    return _multiply_floats(a, Fraction(-1))


def _choose_float(function: Callable[[Size, Size], Size]) -> Callable[[Any, Any], Any]:
    def choose(a: Any, b: Any) -> Any:
        p, q = _to_scaled(a), _to_scaled(b)
        return _reduce(function(sizes.multiply(p[0], q[1]), sizes.multiply(q[0], p[1])), p[1] * q[1])

    return choose


def _floor(value: Any) -> Any:
    numerator, denominator = _to_scaled(value)
    return _as_float(sizes.floor_divide(numerator, denominator))


def _ceil(value: Any) -> Any:
    return _negate_float(_floor(_negate_float(value)))


def _as_float(size: Any) -> Any:
    return Fraction(size) if isinstance(size, int) else Scaled((size, 1))


def _to_bool(entry: Any) -> Any:
    if isinstance(entry, int | Fraction):
        return entry != 0
    numerator = _to_scaled(entry)[0]
    found = _is_equal(numerator, 0)
    return not found if found is not None else sizes.make_atom("bool", (numerator,), (0, 1))


def _to_integer(entry: Any) -> Any:
    """Floats are rounded toward 0."""
    if isinstance(entry, int | Fraction):
        return int(entry)
    return sizes.truncate_divide(*_to_scaled(entry))


def _to_float(entry: Any) -> Any:
    return Fraction(entry) if isinstance(entry, int | Fraction) else _to_scaled(entry)


CASTS: dict[str, Callable[[Any], Any]] = {"b": _to_bool, "i": _to_integer, "f": _to_float}
"""By the kind of the type. Those without a sign are left out: what is below 0 becomes another number."""


def _make_comparison(name: str, decide: Callable[[Size, Size], bool | None]) -> Callable[[Any, Any], Any]:
    """A comparison; both sides times the denominators, which are positive."""

    def compare(a: Any, b: Any) -> Any:
        p, q = _to_scaled(a), _to_scaled(b)
        x, y = sizes.multiply(p[0], q[1]), sizes.multiply(q[0], p[1])
        found = decide(x, y)
        return found if found is not None else sizes.make_atom(name, (x, y), (0, 1))

    return compare


def _is_greater_or_equal(a: Size, b: Size) -> bool | None:
    less = _is_less(a, b)
    return None if less is None else not less


def _make_logical(name: str, decide: Callable[[bool | None, bool | None], bool | None]) -> Callable[[Any, Any], Any]:
    def combine(a: Any, b: Any) -> Any:
        known = [bool(x) if isinstance(x, int) else None for x in (a, b)]
        found = decide(*known)
        return found if found is not None else sizes.make_atom(name, (a, b), (0, 1))

    return combine


def _and(a: bool | None, b: bool | None) -> bool | None:
    return False if False in (a, b) else None if None in (a, b) else True


def _or(a: bool | None, b: bool | None) -> bool | None:
    return True if True in (a, b) else None if None in (a, b) else False


def _not(a: Any) -> Any:
    return not a if isinstance(a, int) else sizes.make_atom("Not", (a,), (0, 1))


def _guard_divisor(function: Callable[[Size, Size], Size]) -> Callable[[Size, Size], Size]:
    """Where a divisor is the size of an empty axis the node does not run."""

    def divide(a: Size, b: Size) -> Size:
        if sizes.is_equal(b, 0) is not False:
            raise NotFollowedError
        return function(a, b)

    return divide


def _absolute(a: Size) -> Size:
    return _maximum(a, sizes.negate(a))


COMPARISONS: dict[str, Callable[..., Any]] = {
    "Equal": _make_comparison("Equal", _is_equal),
    "Less": _make_comparison("Less", _is_less),
    "Greater": _make_comparison("Greater", lambda a, b: _is_less(b, a)),
    "GreaterOrEqual": _make_comparison("GreaterOrEqual", _is_greater_or_equal),
    "LessOrEqual": _make_comparison("LessOrEqual", lambda a, b: _is_greater_or_equal(b, a)),
    "And": _make_logical("And", _and),
    "Or": _make_logical("Or", _or),
    "Not": _not,
}
INTEGER_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **COMPARISONS, "Add": sizes.add, "Sub": sizes.subtract, "Mul": sizes.multiply, "Sum": sizes.add,
    "Div": _guard_divisor(sizes.truncate_divide), "Mod": _guard_divisor(sizes.modulo), "Min": _minimum,
    "Max": _maximum, "Neg": sizes.negate, "Abs": _absolute,
}  # fmt: skip
FLOAT_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **COMPARISONS, "Add": _add_floats, "Sub": lambda a, b: _add_floats(a, _negate_float(b)), "Mul": _multiply_floats,
    "Div": _divide_floats, "Floor": _floor, "Ceil": _ceil, "Neg": _negate_float,
    "Min": _choose_float(_minimum), "Max": _choose_float(_maximum),
}  # fmt: skip
REDUCTION_FUNCTIONS: dict[str, Callable[[Size, Size], Size]] = {
    "ReduceProd": sizes.multiply, "ReduceSum": sizes.add, "ReduceMax": _maximum, "ReduceMin": _minimum,
}  # fmt: skip


def _reduce_entries(node: onnx.NodeProto, operands: Sequence[Table | None], like: NDArray[Any]) -> list[Table] | None:
    """A reduction of a row of integers to one."""
    table = operands[0]
    if table is None or like.dtype.kind != "i" or table.ndim > 1 or like.size != 1 or not table.size:
        return None
    total, *rest = [_to_entry(e) for e in table.ravel()]
    for e in rest:
        total = REDUCTION_FUNCTIONS[node.op_type](total, e)
    out = np.empty(1, object)
    out[0] = total
    return [out.reshape(like.shape)]


__all__ = ["SIZE_LIMIT", "Table", "apply_node", "find_attribute", "is_table", "simplify"]
