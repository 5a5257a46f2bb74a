"""Symbolic axes of the graph inputs: their names, and the sizes that are tried for them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from spa_compiler.errors import UsageError
from spa_compiler.model import Model

PRIMES = (2, 5, 7, 11, 13, 17, 19, 23), (3, 11, 13, 17, 19, 23, 29, 31)
WINDOWS = (512, 256, 128, 16)
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
    batch: bool  # the first axis, or the second of a state whose first is fixed


def symbols(model: Model) -> list[Symbol]:
    """Symbolic axes of the graph inputs in order; unnamed ones are called `input.axis`."""
    out: dict[str, Symbol] = {}
    for vi in model.header.graph.input:
        for k, d in enumerate(vi.type.tensor_type.shape.dim):
            if not d.HasField("dim_value") or d.dim_value <= 0:
                name = d.dim_param or f"{vi.name}.{k}"
                dims = vi.type.tensor_type.shape.dim
                batch = k == 0 or (k == 1 and len(dims) == 3 and dims[0].dim_value > 0)
                out.setdefault(name, Symbol(name, vi.name, k, len(dims), batch))
    return list(out.values())


def input_types(model: Model, sizes: dict[str, int]) -> dict[str, onnx.TypeProto]:
    """Types of the graph inputs with symbols replaced by sizes."""
    out = {}
    for vi in model.header.graph.input:
        t = onnx.TypeProto()
        t.CopyFrom(vi.type)
        for k, d in enumerate(t.tensor_type.shape.dim):
            if not d.HasField("dim_value") or d.dim_value <= 0:
                d.dim_value = sizes[d.dim_param or f"{vi.name}.{k}"]
        out[vi.name] = t
    return out


def only_batch(model: Model) -> int:
    """The first input's first size where both bindings have the same, or 0: exporters write 1 under a symbol."""
    bound = model.shapes.sizes.items() if model.shapes else ()
    types = [list(input_types(model, {n: pair[k] for n, pair in bound}).values())[:1] for k in (0, 1)]
    first = {t.tensor_type.shape.dim[0].dim_value for side in types for t in side if t.tensor_type.shape.dim}
    return first.pop() if len(first) == 1 else 0


def only_sizes(model: Model) -> dict[str, int]:
    """Symbols that fit one size alone, as far as was tried: what follows from it is written into the compiled file."""
    sizes = model.shapes.sizes if model.shapes is not None else {}
    return {n: a for n, (a, b) in sizes.items() if a == b}


Pair = tuple[dict[str, int], dict[str, int]]


def bindings(found: list[Symbol], given: dict[str, int]) -> list[Pair]:
    """Pairs of bindings to try, most general first.

    Distinct primes, so that axes of equal size are not taken for one another; realistic image sides, and right after
    them small ones; then sizes that some exporters insist on (batch 1 written into a Reshape of a graph whose input
    says N; windows of 512 or 256 samples).
    """

    def square(s: Symbol) -> bool:
        return not s.batch and s.rank >= 4 and s.axis > 0 and s.name not in given

    def pair(batch: tuple[int, int], images: tuple[tuple[int, ...], ...], fixed: int | None) -> Pair:
        out: Pair = ({}, {})
        for k, s in enumerate(found):
            for side in (0, 1):
                size = batch[side] if s.batch else (images if square(s) else PRIMES)[side][k % 4]
                out[side][s.name] = given.get(s.name, fixed if fixed and not s.batch else size)
        return out

    def spread(p: Pair) -> Pair:
        return p[0], {n: (2 * p[0][n] if n in given else v) for n, v in p[1].items()}

    if not found:
        return [({}, {})]
    same = ((224,) * 4, (224,) * 4)
    tries = [pair((2, 3), IMAGES, None), pair((2, 3), same, None), pair((1, 1), IMAGES, None), pair((1, 1), same, None)]
    tries += [pair((2, 3), IMAGES, n) for n in WINDOWS] + [pair((1, 1), IMAGES, n) for n in WINDOWS]
    if any(map(square, found)):
        tries.insert(1, pair((2, 3), SMALL_IMAGES, None))
    return [*(map(spread, tries) if given else ()), *tries]


def input_sizes(model: Model, shapes: dict[str, list[int]]) -> dict[str, int]:
    """Sizes of symbols from whole input shapes. Raises UsageError for a name or shape that does not fit."""
    inputs = {vi.name: vi.type.tensor_type.shape.dim for vi in model.header.graph.input}
    out: dict[str, int] = {}
    for name, sizes in shapes.items():
        if name not in inputs:
            raise UsageError(f"no input is called '{name}'; there are {sorted(inputs)}")
        if len(sizes) != len(inputs[name]):
            raise UsageError(f"input '{name}' has rank {len(inputs[name])}, the shape {sizes} has {len(sizes)}")
        for k, (d, size) in enumerate(zip(inputs[name], sizes, strict=True)):
            if d.HasField("dim_value") and d.dim_value > 0:
                if d.dim_value != size:
                    raise UsageError(f"axis {k} of input '{name}' has the fixed size {d.dim_value}, not {size}")
            else:
                out[d.dim_param or f"{name}.{k}"] = size
    return out
