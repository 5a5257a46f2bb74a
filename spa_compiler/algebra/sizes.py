"""Sizes that hold for every binding of the symbols: exact integer expressions.

    n = add(multiply("H", 2), -1)        # 2*H - 1, where H is a symbol
    floor_divide(multiply("H", 4), 2)    # 2*H: exact, so simplified
    is_less("H", 1)                      # False: a symbol is the size of an axis, 1 or more
    is_less("H", 1, least=0)             # None: an axis may be empty, a cache before the first step
    compute_value(n, {"H": 5})                # 9

A size is an int, the name of a symbol, or a SymPy expression of both. Arithmetic of ints and passing a name on never
touches SymPy, which is only imported for the first expression. What is not a polynomial (a floor division, a minimum,
the result of an operator that is not followed) is an *atom*: a symbol that stands for a function of other sizes. The
same function of the same sizes is the same atom, so that equal expressions are found equal; that two sizes are equal is
never concluded from numbers.
"""

from __future__ import annotations

import ast
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import sympy

    Size: TypeAlias = int | str | sympy.Expr
else:
    Size: TypeAlias = Any
Interval = tuple[float, float]
INFINITY = (1 << 31) - 1
"""A bound of a Slice from here on means "to the end": no axis is as long."""
ANY: Interval = (-math.inf, math.inf)
ATOM_MARK = "\0"
"""The first character of the name of every atom, and of no symbol: a file may call its dims as it likes."""


@dataclass(frozen=True)
class Atom:
    """A function that an expression names as one symbol: its name, its operands, and bounds of its values.

    Operands are sizes; what else the function depends on (the name of a value, tables) stands in tuples. Of a function
    in `_BOUNDS` the bounds follow from its operands.
    """

    function: str
    operands: tuple[Any, ...]
    bounds: Interval


_atoms: dict[str, Atom] = {}
_names: dict[tuple[str, tuple[Any, ...]], str] = {}
_count = itertools.count()


def make_atom(function: str, operands: tuple[Any, ...], bounds: Interval = ANY) -> Size:
    """The size that a function gives of these operands: the same one for the same operands."""
    key = function, operands
    if key not in _names:
        name = _names[key] = f"{ATOM_MARK}{function}#{next(_count)}"
        _atoms[name] = Atom(function, operands, bounds)
    return _names[key]


def is_size(value: object) -> bool:
    """Is this an int, a symbol or an expression of sizes?"""
    return isinstance(value, int | str) or hasattr(value, "free_symbols")


def make_unknown_size(value: str, axis: int) -> Size:
    """The size of an axis of which nothing is known but that it is no constant."""
    return make_atom("size", ((value,), axis), (0, math.inf))


@functools.lru_cache(maxsize=1 << 14)
def _make_symbol(name: str) -> sympy.Symbol:
    import sympy

    return sympy.Symbol(name, integer=True)


def _to_expression(size: Size) -> Any:
    return _make_symbol(size) if isinstance(size, str) else size


def _simplify(expression: Any) -> Size:
    """An expression as simple as it can be said: an int, a name, or a polynomial that is multiplied out."""
    import sympy

    found = sympy.expand(expression)
    if found.is_Integer:
        return int(found)
    return str(found.name) if found.is_Symbol else found


def _cache_results(function: Callable[[Size, Size], Size]) -> Callable[[Size, Size], Size]:
    """Remember what expressions give; ints are cheaper to compute than to look up."""
    remembered = functools.lru_cache(maxsize=1 << 14)(function)

    @functools.wraps(function)
    def apply(a: Size, b: Size) -> Size:
        return function(a, b) if isinstance(a, int) and isinstance(b, int) else remembered(a, b)

    return apply


@_cache_results
def add(a: Size, b: Size) -> Size:
    """The sum of two sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if 0 in (a, b):
        return b if a == 0 else a
    return _simplify(_to_expression(a) + _to_expression(b))


def negate(a: Size) -> Size:
    """A size with the other sign."""
    return multiply(a, -1)


def subtract(a: Size, b: Size) -> Size:
    """The difference of two sizes."""
    return 0 if a == b else add(a, negate(b))


@_cache_results
def multiply(a: Size, b: Size) -> Size:
    """The product of two sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if 0 in (a, b):
        return 0
    if 1 in (a, b):
        return b if a == 1 else a
    return _simplify(_to_expression(a) * _to_expression(b))


@_cache_results
def floor_divide(a: Size, b: Size) -> Size:
    """The largest integer that is not above a / b. The divisor is not 0.

    Terms that b divides leave the division; a division by an int inside of another is one division.
    """
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1 or a == 0:
        return a
    if a == b:
        return 1
    if b == -1:
        return negate(a)
    quotient, rest = _divide_terms(a, b)
    if rest == 0:
        return quotient
    if not isinstance(b, int):
        low, high = find_bounds(rest)
        inside = low >= 0 and find_bounds(subtract(b, rest))[0] > 0
        return quotient if inside else add(quotient, make_atom("floor_divide", (rest, b)))
    if b < 0:
        return add(quotient, floor_divide(negate(rest), -b))
    low, high = find_bounds(rest, 0)
    if math.isfinite(low) and math.isfinite(high) and low // b == high // b:
        return add(quotient, int(low // b))
    inner = _merge_quotients(rest, b)
    return add(quotient, inner if inner is not None else make_atom("floor_divide", (rest, b)))


def _divide_terms(a: Size, b: Size) -> tuple[Size, Size]:
    """(quotient, rest) of polynomials, term by term: a = quotient * b + rest, and no term of the rest is divided."""
    import sympy

    divisor = _to_expression(b)
    quotient, rest = sympy.Integer(0), sympy.Integer(0)
    for term in sympy.Add.make_args(sympy.expand(_to_expression(a))):
        if isinstance(b, int):
            coefficient, monomial = term.as_coeff_Mul()
            whole = coefficient // b
            quotient, rest = quotient + whole * monomial, rest + (coefficient - whole * b) * monomial
            continue
        ratio = sympy.cancel(term / divisor) if not divisor.is_Add else term / divisor
        integral = ratio.is_polynomial() and all(c.is_Integer for c in ratio.as_coefficients_dict().values())
        quotient, rest = (quotient + ratio, rest) if integral else (quotient, rest + term)
    if not isinstance(b, int) and divisor.is_Add:  # (2*H + 2) // (H + 1): a multiple of the whole sum
        many, left = sympy.div(_to_expression(a), divisor)
        if left == 0 and all(c.is_Integer for c in many.as_coefficients_dict().values()):
            return _simplify(many), 0
    return _simplify(quotient), _simplify(rest)


def _merge_quotients(a: Size, b: int) -> Size | None:
    """floor((floor(x / c) + k) / b) is floor((x + k * c) / (b * c)), for c > 0."""
    import sympy

    terms = sympy.Add.make_args(_to_expression(a))
    divisions = [t for t in terms if t.is_Symbol and t.name in _atoms and _atoms[t.name].function == "floor_divide"]
    others = [t for t in terms if not t.is_Integer and t not in divisions]
    if len(divisions) != 1 or others:
        return None
    x, c = _atoms[divisions[0].name].operands
    if not isinstance(c, int):
        return None
    constant = sum(int(t) for t in terms if t.is_Integer)
    return floor_divide(add(x, constant * c), b * c)


def _find_quotient_bounds(a: Interval, b: Interval) -> Interval:
    if b[0] <= 0:
        return ANY
    ends = [_floor_quotient(x, y) for x in a for y in b]
    return min(ends), max(ends)


def _floor_quotient(x: float, y: float) -> float:
    """The floor of x / y for y > 0; either may be infinite."""
    if math.isfinite(x) and math.isfinite(y):
        return math.floor(x / y)
    if math.isfinite(x):
        return 0 if x >= 0 else -1
    return x if math.isfinite(y) else (0.0 if x > 0 else -math.inf)


def modulo(a: Size, b: Size) -> Size:
    """The remainder a - b * floor(a / b): it has the sign of the divisor, as in Python and in ONNX's Mod."""
    return subtract(a, multiply(b, floor_divide(a, b)))


def truncate_divide(a: Size, b: Size) -> Size:
    """The quotient that ONNX's Div gives of integers, rounded toward 0."""
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    if find_bounds(a)[0] >= 0 and find_bounds(b)[0] > 0:
        return floor_divide(a, b)
    quotient, rest = _divide_terms(a, b)
    return quotient if rest == 0 else make_atom("truncate_divide", (a, b))


def minimum(a: Size, b: Size, least: int = 1) -> Size:
    """The smaller one, for every binding of symbols to `least` or more."""
    less = is_less(a, b, least)
    if less is not None:
        return a if less else b
    if is_less(b, a, least) is False:
        return a
    return make_atom("minimum", _sort_pair(a, b))


def maximum(a: Size, b: Size, least: int = 1) -> Size:
    """The larger one, for every binding of symbols to `least` or more."""
    less = is_less(a, b, least)
    if less is not None:
        return b if less else a
    if is_less(b, a, least) is False:
        return b
    return make_atom("maximum", _sort_pair(a, b))


def _sort_pair(a: Size, b: Size) -> tuple[Size, Size]:
    first, second = sorted((a, b), key=str)
    return first, second


def is_less(a: Size, b: Size, least: int = 1) -> bool | None:
    """Is a < b for every binding of symbols to `least` or more (True), for none (False), or is it not known (None)?"""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    low, high = find_bounds(subtract(a, b), least)
    return True if high < 0 else False if low >= 0 else None


def is_equal(a: Size, b: Size, least: int = 1) -> bool | None:
    """Are they the same for every binding of symbols to `least` or more (True), for none (False), or either (None)?"""
    if a == b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return False
    low, high = find_bounds(subtract(a, b), least)
    return False if high < 0 or low > 0 else None


@functools.lru_cache(maxsize=1 << 14)
def find_bounds(size: Size, least: int = 1) -> Interval:
    """Numbers between which a size lies for every binding of symbols to `least` or more."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, str):
        return _find_atom_bounds(_atoms[size], least) if size in _atoms else (least, math.inf)
    import sympy

    low = high = 0.0
    for term in sympy.Add.make_args(size):
        coefficient, monomial = term.as_coeff_Mul()
        below, above = (1.0, 1.0)
        for factor in sympy.Mul.make_args(monomial):
            base, power = factor.as_base_exp()
            if base.is_Integer:
                continue
            ends = find_bounds(str(base.name), least) if base.is_Symbol and power.is_Integer and power > 0 else ANY
            for _ in range(int(power) if power.is_Integer else 1):
                below, above = _multiply_intervals(below, above, *ends)
        ends = _multiply_intervals(float(int(coefficient)), float(int(coefficient)), below, above)
        low, high = low + ends[0], high + ends[1]
    return low, high


def _find_atom_bounds(made: Atom, least: int) -> Interval:
    found = _BOUNDS.get(made.function)
    return made.bounds if found is None else found(*(find_bounds(o, least) for o in made.operands))


_BOUNDS: dict[str, Callable[[Interval, Interval], Interval]] = {
    "floor_divide": _find_quotient_bounds,
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
}


def _multiply_bounds(x: float, y: float) -> float:
    return 0.0 if 0 in (x, y) else x * y


def _multiply_intervals(a: float, b: float, c: float, d: float) -> Interval:
    ends = [_multiply_bounds(x, y) for x in (a, b) for y in (c, d)]
    return min(ends), max(ends)


def compute_value(size: Size, sizes: Mapping[str, int], known: dict[Size, int | None] | None = None) -> int | None:
    """The number that a size is where symbols have these sizes; None where it holds what is not followed.

    `known` is what was found before for the same sizes, and grows: functions of functions share their operands.
    """
    if isinstance(size, int):
        return size
    if known is None:
        known = {}
    if size not in known:
        known[size] = _compute(size, sizes, known)
    return known[size]


def _compute(size: Any, sizes: Mapping[str, int], known: dict[Size, int | None]) -> int | None:
    if isinstance(size, str):
        return _compute_atom(_atoms[size], sizes, known) if size in _atoms else sizes.get(size)
    found: dict[Any, int] = {}
    for symbol in size.free_symbols:
        number = compute_value(str(symbol), sizes, known)
        if number is None:
            return None
        found[symbol] = number
    return int(size.xreplace(found))


def _compute_atom(made: Atom, sizes: Mapping[str, int], known: dict[Size, int | None]) -> int | None:
    functions: dict[str, Callable[[int, int], int]] = {
        "floor_divide": lambda a, b: a // b, "minimum": min, "maximum": max,
        "truncate_divide": lambda a, b: int(truncate_divide(a, b)),
    }  # fmt: skip
    if made.function not in functions:
        return None
    a, b = (compute_value(o, sizes, known) for o in made.operands)
    if a is None or b is None or (b == 0 and "divide" in made.function):
        return None
    return functions[made.function](a, b)


@functools.lru_cache(maxsize=1 << 14)
def find_size_symbols(size: Size) -> frozenset[str]:
    """The symbols that a size follows, those inside of atoms too."""
    if isinstance(size, int):
        return frozenset()
    names = [size] if isinstance(size, str) else [str(s) for s in size.free_symbols]
    found: set[str] = set()
    for name in names:
        if name not in _atoms:
            found.add(name)
            continue
        for o in _atoms[name].operands:
            if is_size(o):
                found |= find_size_symbols(o)
    return frozenset(found)


def multiply_all(axes: Iterable[Size]) -> Size:
    """How many entries axes have together."""
    total: Size = 1
    for size in axes:
        total = multiply(total, size)
    return total


def split_linear(size: Size, symbol: str) -> tuple[int, Size] | None:
    """(c, rest) where the size is c * symbol + rest and the rest does not hold the symbol; None for anything else."""
    if size == symbol:
        return 1, 0
    if symbol not in find_size_symbols(size):
        return 0, size
    if isinstance(size, int | str):
        return None
    coefficient = size.coeff(_make_symbol(symbol), 1)
    rest = subtract(size, multiply(_simplify(coefficient), symbol))
    return (int(coefficient), rest) if coefficient.is_Integer and symbol not in find_size_symbols(rest) else None


def format_size(size: Size) -> str:
    """A size as a user would write it: `(H + 31) // 32`."""
    if isinstance(size, int):
        return str(size)
    if isinstance(size, str):
        return _format_atom(_atoms[size]) if size in _atoms else size
    return str(size.xreplace({s: _make_symbol(format_size(str(s))) for s in size.free_symbols}))


def _format_atom(made: Atom) -> str:
    signs = {"floor_divide": " // ", "truncate_divide": " / "}
    parts = [format_size(o) if is_size(o) else "..." for o in made.operands]
    if made.function in signs:
        return signs[made.function].join(f"({p})" if " " in p else p for p in parts)
    names = {"minimum": "min", "maximum": "max"}
    return f"{names.get(made.function, made.function)}({', '.join(parts)})"


_OPERATORS: dict[type[ast.operator], Callable[[Size, Size], Size]] = {
    ast.Add: add, ast.Sub: subtract, ast.Mult: multiply, ast.FloorDiv: floor_divide, ast.Mod: modulo,
    ast.Div: floor_divide,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[[Size, Size], Size]] = {"max": maximum, "min": minimum, "Max": maximum, "Min": minimum}
LONGEST_NAME = 200
"""Characters up to which the name of a dim is read as an expression."""
EXPRESSION_PATTERN = re.compile(r"[A-Za-z0-9_ +\-*/%(),]+")
"""The characters of such a name: to Python's own parser, `T#1` would be `T` with a comment."""


@functools.lru_cache(maxsize=1 << 12)
def parse_size(name: str) -> Size:
    """The size that the name of a dim states: `past + 1` of PyTorch and optimum, `9`, `2*s0`, or a symbol of its own.

    Anything that is no such expression is a symbol as a whole: names may hold any text.
    """
    name = name.replace(ATOM_MARK, "?")
    try:
        if len(name) > LONGEST_NAME or not EXPRESSION_PATTERN.fullmatch(name):
            return name
        return _parse_node(ast.parse(name.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return name


def _parse_node(node: ast.expr) -> Size:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool) and abs(number) < INFINITY:
            return number
        case ast.Name(id=name):
            return name
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return negate(_parse_node(inner))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            return _OPERATORS[type(operator)](_parse_node(left), _parse_node(right))
        case ast.Call(func=ast.Name(id=name), args=[first, second], keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](_parse_node(first), _parse_node(second))
        case ast.Call(func=ast.Name(id="floor"), args=[inner], keywords=[]):
            return _parse_node(inner)
    raise ValueError("no expression of sizes")


__all__ = ["ANY", "INFINITY", "Size", "add", "find_bounds", "floor_divide", "is_equal", "make_atom"]
__all__ += ["is_less", "is_size", "maximum", "minimum", "modulo", "multiply", "negate", "parse_size", "split_linear"]
__all__ += [
    "compute_value",
    "find_size_symbols",
    "format_size",
    "make_unknown_size",
    "multiply_all",
    "subtract",
    "truncate_divide",
]
