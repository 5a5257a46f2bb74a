"""Symbolic axes of the graph inputs: their names, and the sizes that are tried for them."""

from __future__ import annotations

import functools
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

import onnx

from spa_compiler.algebra.sizes import (
    Size,
    add,
    compute_value,
    find_bounds,
    find_size_symbols,
    format_size,
    multiply,
    parse_size,
    split_linear,
    subtract,
)
from spa_compiler.errors import ModelError, UsageError
from spa_compiler.ir.model import Model

PRIMES = (2, 5, 7, 11, 13, 17, 19, 23), (3, 11, 13, 17, 19, 23, 29, 31)
WINDOWS = (512, 256, 128, 16)
LONGER = (16, 64, 512, 4096)
"""Factors by which the sizes of axes that are no images grow until the model runs."""
IMAGES = (64, 96, 160, 192), (96, 128, 192, 224)
SMALL_IMAGES = (16, 32, 48, 64), (32, 48, 64, 80)
"""For graphs in which every place looks at every other: their values grow with the fourth power of a side."""


@dataclass(frozen=True)
class Symbol:
    """A symbolic axis of an input: where it first occurs."""

    name: str
    input: str
    axis: int
    rank: int
    batch: bool  # the first axis, or the second of a state whose first is fixed, wherever it occurs
    is_alone: bool = True  # is it the whole size of an axis, not only a part of an expression?


def list_symbols(model: Model) -> list[Symbol]:
    """Free sizes of the graph inputs in order; unnamed ones are called `input.axis`.

    What a name states as an expression (`past + 1`) follows the symbols in it, and is none of its own.
    """
    out: dict[str, Symbol] = {}
    for name, axes in find_input_axes(model).items():
        fixed = [isinstance(s, int) for s in axes]
        for k, size in enumerate(axes):
            batch = k == 0 or (k == 1 and len(axes) == 3 and fixed[0])
            for symbol in sorted(find_size_symbols(size)):
                alone = size == symbol
                before = out.get(symbol)
                if before is None or (alone and not before.is_alone):
                    out[symbol] = Symbol(symbol, name, k, len(axes), batch and alone, alone)
                elif before.batch and not batch:  # one name for the nodes of a graph and both sides of its adjacency
                    out[symbol] = replace(before, batch=False)
    return list(out.values())


def find_input_axes(model: Model) -> dict[str, tuple[Size, ...]]:
    """Sizes of the axes of the graph inputs: numbers, symbols, and what names state as expressions of them."""
    rows = {vi.name: list(vi.type.tensor_type.shape.dim) for vi in model.header.graph.input}
    named = {d.dim_param for dims in rows.values() for d in dims if not _is_fixed(d) and d.dim_param}
    read = _read_names(frozenset(named))
    return {
        name: tuple(d.dim_value if _is_fixed(d) else read.get(d.dim_param, f"{name}.{k}") for k, d in enumerate(dims))
        for name, dims in rows.items()
    }


def _is_fixed(d: onnx.TensorShapeProto.Dimension) -> bool:
    return d.HasField("dim_value") and d.dim_value > 0


@functools.lru_cache(maxsize=256)
def _read_names(names: frozenset[str]) -> dict[str, Size]:
    """The sizes that names of dims state: a number, an expression of other names or of one symbol, or a symbol.

    `batch-size` is no difference, unless there is a `batch` and a `size`. `?`, `-1` and `None` name nothing: exporters
    write them on any axis that they do not know, and two of these need not be equal.
    """
    parsed = {n: parse_size(n) for n in names if is_telling(n)}
    alone = {n for n, size in parsed.items() if size == n}
    out: dict[str, Size] = {}
    for name, size in parsed.items():
        found = find_size_symbols(size)
        stated = size == name or isinstance(size, int) or found <= alone or len(found) == 1
        sensible = not isinstance(size, int) or size > 0
        out[name] = size if stated and sensible else name
    return out


def is_telling(name: str) -> bool:
    """Does the name of a dim tell it from others, or say how large it is?"""
    return any(c.isalnum() for c in name) and name.strip() != "None" and not NO_SIZE_PATTERN.fullmatch(name)


NO_SIZE_PATTERN = re.compile(r"\s*(-\s*\d+|0+)\s*")
"""Numbers that no size is."""


def make_input_types(model: Model, sizes: dict[str, int]) -> dict[str, onnx.TypeProto]:
    """Types of the graph inputs with symbols replaced by sizes. Raises ModelError where a name comes to less than 1."""
    out = {}
    axes = find_input_axes(model)
    for vi in model.header.graph.input:
        t = onnx.TypeProto()
        t.CopyFrom(vi.type)
        if t.HasField("optional_type"):
            _bind_names(get_tensor_type(t), sizes)
        for k, d in enumerate(t.tensor_type.shape.dim):
            if not _is_fixed(d):
                number = compute_value(axes[vi.name][k], sizes)
                if number is None or number < 1:
                    what = f"axis {k} of input '{vi.name}' ({d.dim_param}) would have {number} entries"
                    raise ModelError(f"{model.path}: {what} at {sizes}")
                d.dim_value = number
        out[vi.name] = t
    return out


def get_tensor_type(t: onnx.TypeProto) -> onnx.TypeProto.Tensor:
    """The type of a tensor, also of one that may be missing."""
    return t.optional_type.elem_type.tensor_type if t.HasField("optional_type") else t.tensor_type


def make_array_types(model: Model, sizes: dict[str, int]) -> dict[str, onnx.TypeProto]:
    """Types of the arrays that a run is given: of a tensor that may be missing, that of the tensor."""
    found = make_input_types(model, sizes)
    return {n: onnx.TypeProto(tensor_type=get_tensor_type(t)) for n, t in found.items()}


def check_inputs(model: Model) -> None:
    """Raise ModelError for an input that no array can be given for."""
    for vi in model.header.graph.input:
        if not get_tensor_type(vi.type).elem_type:
            kind = str(vi.type.WhichOneof("value") or "value").removesuffix("_type")
            what = f"input '{vi.name}' is a {kind}, expected a tensor or an optional tensor"
            raise ModelError(f"{model.path}: {what}; export the part of the model behind it")


def _bind_names(t: onnx.TypeProto.Tensor, sizes: dict[str, int]) -> None:
    """Give every open size a number: what its name says, where other inputs have that symbol, else a small one."""
    for d in t.shape.dim:
        if not _is_fixed(d):
            number = compute_value(parse_size(d.dim_param), sizes) if is_telling(d.dim_param) else None
            d.dim_value = max(number or PRIMES[0][0], 1)


def has_common_batch(model: Model) -> bool:
    """Do all inputs have the same first axis, so that one row of each makes a sample?

    A size that other axes have too is none of samples: the nodes of a graph, whose adjacency has as many columns.
    """
    axes = list(find_input_axes(model).values())
    first = {a[0] if a else None for a in axes}
    others = {s for a in axes for size in a[1:] for s in find_size_symbols(size)}
    return len(first) <= 1 and None not in first and others.isdisjoint(f for f in first if isinstance(f, str))


def find_only_batch(model: Model) -> int:
    """The first input's first size where both bindings have the same, or 0: exporters write 1 under a symbol."""
    bound = model.shapes.sizes.items() if model.shapes else ()
    types = [list(make_array_types(model, {n: pair[k] for n, pair in bound}).values())[:1] for k in (0, 1)]
    first = {t.tensor_type.shape.dim[0].dim_value for side in types for t in side if t.tensor_type.shape.dim}
    return first.pop() if len(first) == 1 else 0


def find_only_sizes(model: Model) -> dict[str, int]:
    """Symbols that fit one size alone, as far as was tried."""
    sizes = model.shapes.sizes if model.shapes is not None else {}
    return {n: a for n, (a, b) in sizes.items() if a == b}


BindingPair = tuple[dict[str, int], dict[str, int]]
Ties = dict[str, Size]
"""Symbols that have to be what an expression of others comes to, so that the model runs."""


def apply_ties(sizes: dict[str, int], ties: Ties) -> dict[str, int]:
    """Sizes in which tied symbols are what their expressions come to."""
    out = dict(sizes)
    for name, size in ties.items():
        number = compute_value(size, out)
        out[name] = number if number is not None and number >= 1 else out[name]
    return out


def list_bindings(found: list[Symbol], given: dict[str, int], ties: Ties | None = None) -> list[BindingPair]:
    """Pairs of bindings to try, most general first.

    Distinct primes, so that axes of equal size are not taken for one another; realistic image sides, and right after
    them small ones and primes (what looks like an image may be a cache of attention); longer and longer ones (windows
    and strides of speech and music need hundreds of samples); then sizes that some exporters insist on (batch 1 written
    into a Reshape of a graph whose input says N; windows of 512 or 256 samples).
    """
    if not found:
        return [({}, {})]
    pair = _PairMaker(found, given, ties or {}).make
    has_images = any(_is_side(s, given) for s in found)
    same = ((224,) * 4, (224,) * 4)
    tries = [pair((2, 3), IMAGES, None), pair((2, 3), same, None), pair((1, 1), IMAGES, None), pair((1, 1), same, None)]
    if not all(s.batch or _is_side(s, given) for s in found):
        sides = (IMAGES, PRIMES) if has_images else (IMAGES,)
        tries += [pair(b, side, None, times) for times in LONGER for b in ((2, 3), (1, 1)) for side in sides]
    tries += [pair((2, 3), IMAGES, n) for n in WINDOWS] + [pair((1, 1), IMAGES, n) for n in WINDOWS]
    if has_images:
        tries[1:1] = [pair((2, 3), SMALL_IMAGES, None), pair((2, 3), PRIMES, None)]

    def spread(p: BindingPair) -> BindingPair:
        return p[0], apply_ties({n: (2 * p[0][n] if n in given else v) for n, v in p[1].items()}, ties or {})

    return [*(map(spread, tries) if given else ()), *tries]


def list_rare_bindings(
    found: list[Symbol], given: dict[str, int], ties: Ties, multiples: Sequence[int]
) -> list[BindingPair]:
    """Pairs for models that take none of `list_bindings`: multiples of what the graph cuts axes into pieces of
    (`bindings.find_multiples`), these numbers themselves (exporters write the length of their example into a Reshape
    of a graph whose input says T), and long first axes, for a waveform may have no other.
    """  # fmt: skip
    pair = _PairMaker(found, given, ties).make
    rows = {n: (tuple(p * n for p in PRIMES[0]), tuple(p * n for p in PRIMES[1])) for n in multiples}
    tries = [pair(b, rows[n], None, n) for b in ((2, 3), (1, 1)) for n in multiples]
    tries += [pair(b, IMAGES, n) for b in ((2, 3), (1, 1)) for n in multiples]
    if any(s.batch for s in found):
        tries += [pair(None, IMAGES, None, times) for times in (*multiples, *LONGER)]
        tries += [pair(None, IMAGES, n) for n in WINDOWS]
    return tries


def _is_side(s: Symbol, given: Container[str]) -> bool:
    """Does it look like a side of an image?"""
    return not s.batch and s.rank >= 4 and s.axis > 0 and s.name not in given


@dataclass(frozen=True)
class _PairMaker:
    """Makes pairs of bindings of these symbols; those in `given` have the size that the caller wants."""

    symbols: list[Symbol]
    given: dict[str, int]
    ties: Ties

    def make(
        self, batch: tuple[int, int] | None, images: tuple[tuple[int, ...], ...], fixed: int | None, times: int = 1
    ) -> BindingPair:
        """Sizes of the first axes (None: as of any other), of sides of images, and of all others `fixed` or primes
        `times` something.
        """  # fmt: skip
        out: BindingPair = ({}, {})
        for k, s in enumerate(self.symbols):
            is_batch = s.batch and batch is not None
            for side in (0, 1):
                size = PRIMES[side][k % 4] * times
                if batch is not None and is_batch:
                    size = batch[side]
                elif _is_side(s, self.given):
                    size = images[side][k % 4]
                out[side][s.name] = self.given.get(s.name, fixed if fixed and not is_batch else size)
        return apply_ties(out[0], self.ties), apply_ties(out[1], self.ties)


def solve_ties(demands: Iterable[tuple[Size, Size]], ties: Ties, free: Container[str]) -> Ties:
    """Ties that meet pairs of sizes which have to be equal: each is solved for a symbol that it holds once.

    A symbol in `free` stays as it is: the caller gave it a size.
    """
    out = dict(ties)
    for a, b in demands:
        found = _solve_equation(substitute(a, out), substitute(b, out), free)
        if found is not None:
            name, size = found
            out = {n: substitute(s, {name: size}) for n, s in out.items()} | {name: size}
    return out


def substitute(size: Size, ties: Ties) -> Size:
    """A size in which tied symbols are what they have to be."""
    for name, other in ties.items():
        coefficient = split_linear(size, name)
        if coefficient is not None and coefficient[0] != 0:
            size = add(multiply(coefficient[0], other), coefficient[1])
    return size


def _solve_equation(a: Size, b: Size, free: Container[str]) -> tuple[str, Size] | None:
    """(symbol, what it has to be) so that a = b, where that is 1 or more for every binding of the others."""
    difference = subtract(a, b)
    for name in sorted(find_size_symbols(difference)):
        parts = split_linear(difference, name)
        if name not in free and parts is not None and parts[0] in (1, -1):
            size = multiply(parts[1], -parts[0])
            if find_bounds(size)[0] >= 1:
                return name, size
    return None


def find_input_sizes(model: Model, shapes: dict[str, list[int]]) -> dict[str, int]:
    """Sizes of symbols from whole input shapes. Raises UsageError for a name or shape that does not fit."""
    axes = find_input_axes(model)
    stated: list[tuple[str, int, Size, int]] = []
    for name, numbers in shapes.items():
        if name not in axes:
            raise UsageError(f"no input is called '{name}'; there are {sorted(axes)}")
        if len(numbers) != len(axes[name]):
            raise UsageError(f"input '{name}' has rank {len(axes[name])}, the shape {numbers} has {len(numbers)}")
        stated += [(name, k, s, n) for k, (s, n) in enumerate(zip(axes[name], numbers, strict=True))]
    out: dict[str, int] = {s: n for _, _, s, n in stated if isinstance(s, str)}
    for name, k, size, number in stated:  # `past + 1` of 6 says that past is 5
        for symbol in sorted(find_size_symbols(size) - set(out)):
            parts = split_linear(size, symbol)
            rest = compute_value(parts[1], out) if parts is not None else None
            if parts is not None and rest is not None and parts[0] != 0 and (number - rest) % parts[0] == 0:
                out[symbol] = (number - rest) // parts[0]
        found = compute_value(size, out)
        if isinstance(size, int) and size != number:
            raise UsageError(f"axis {k} of input '{name}' has the fixed size {size}, not {number}")
        if found is not None and found != number:
            given = ", ".join(f"{n}={out[n]}" for n in sorted(find_size_symbols(size)))
            what = f"axis {k} of input '{name}' is {format_size(size)}"
            raise UsageError(f"{what}, which is {found} with {given}, not {number}")
    return out
