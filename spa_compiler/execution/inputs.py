"""Running models in onnxruntime: sessions, inputs in their valid ranges, and extra outputs.

session = open_session(proto, folder)
session.run_session(None, draw_random_inputs(model, sizes, rng))
draw_finite_inputs(execute, model, sizes, rng).feed           # inputs on which outputs are finite and follow from them
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from spa_compiler.errors import ModelError, UsageError
from spa_compiler.execution.finite import is_finite
from spa_compiler.execution.index_limits import find_count_limits
from spa_compiler.execution.index_ranges import IdRange, find_index_ranges
from spa_compiler.execution.input_ranges import POSITIVE, InputFacts, find_sources, inspect_inputs
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import get_tensor_type, make_array_types
from spa_compiler.operators.shape_uses import find_shaping_defaults

Array = NDArray[Any]


WHOLE_LIMIT = 8
"""Whole numbers that the graph says nothing about are below this."""


@dataclass(frozen=True)
class Recipe:
    """How inputs are drawn that the caller gave no range for; what the graph says, unless told otherwise.

    `masks`: "" some of each, "open" nothing hidden, "closed" all hidden. `floats`: lowest and highest number and
    whether these are a deviation instead. `whole`: lowest and highest whole number of unknown meaning.
    """

    masks: str = ""
    floats: tuple[float, float] | None = None
    normal: tuple[float, float] | None = None  # mean and deviation
    whole: tuple[int, int] | None = None

    def __str__(self) -> str:
        parts = [f"masks all {self.masks}"] if self.masks else []
        parts += ["floats between {:g} and {:g}".format(*self.floats)] if self.floats else []
        parts += ["floats around {:g} by {:g}".format(*self.normal)] if self.normal else []
        parts += ["whole numbers from {} to {}".format(*self.whole)] if self.whole else []
        return ", ".join(parts) or "as the graph says"


MASK_RECIPES = Recipe(masks="open"), Recipe(masks="closed")
FLOAT_RECIPES = (
    Recipe(floats=POSITIVE), Recipe(normal=(1.0, 0.1)), Recipe(normal=(0.0, 0.01)), Recipe(floats=(0.0, 255.0)),
    Recipe(normal=(0.0, 100.0)),
)  # fmt: skip
WHOLE_RECIPES = Recipe(whole=(0, 1)), Recipe(whole=(1, WHOLE_LIMIT - 1))
"""Other ways to draw, tried in turn where outputs are not finite or do not depend on the inputs."""
SEEN_SHARE = 0.7
"""Share of a mask that is open."""


def draw_random_inputs(
    model: Model,
    sizes: dict[str, int],
    rng: np.random.Generator,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    recipe: Recipe | None = None,
    facts: Mapping[str, InputFacts] | None = None,
) -> dict[str, Array]:
    """Inputs of the right types and shapes that the graph can take, or within the range that the caller gave.

    Floats are standard normal, or positive where something is undefined for negative ones; ids are below their limit;
    masks are 0 and 1, and every row of them shows something; other whole numbers are below WHOLE. `ranges` are closed.
    An input with a default gets another value where it is one of floats; of integers, flags and scales no other is sure
    to be valid, so that these are left out. `facts` are what `inspect_inputs` gives, for callers that draw often.
    """
    out: dict[str, Array] = {}
    limits, counts = find_index_ranges(model, sizes), find_count_limits(model)
    told = inspect_inputs(model) if facts is None else facts
    for name, t in make_array_types(model, sizes).items():
        bounds, ids = (ranges or {}).get(name), limits.get(name, (0, 0))
        if bounds is None and name in counts:
            bounds = (1, counts[name])
        out[name] = _draw_input(t, rng, told.get(name, InputFacts()), ids, bounds, recipe or Recipe())
    shaping = find_shaping_defaults(model)
    for name in (n for n in model.defaults if n not in shaping):
        value = model.default_array(name)
        if value.dtype.kind == "f":
            out[name] = _vary_value(value, rng)
    return out


def _vary_value(value: Array, rng: np.random.Generator) -> Array:
    """Another value for an input with a default: valid numbers near the default and of its signs."""
    other = np.where(value == 0, 0.5, value) * rng.uniform(0.5, 1.5, value.shape)
    return np.asarray(other, value.dtype)


def _draw_input(
    t: onnx.TypeProto, rng: np.random.Generator, told: InputFacts, ids: IdRange, bounds: tuple[float, float] | None,
    recipe: Recipe,
) -> Array:  # fmt: skip
    """One input; `ids`: the lowest, and what all are below, or 0."""
    least, limit = ids
    shape = [d.dim_value for d in t.tensor_type.shape.dim]
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(t.tensor_type.elem_type))
    whole = dtype.kind in "iub"
    if bounds is not None:
        drawn = _draw_whole_numbers(rng, *bounds, shape, limit) if whole else rng.uniform(*bounds, shape)
        return drawn.astype(dtype)
    if limit and whole and not least:
        return draw_random_array(t, rng, limit)
    if limit and whole:
        return _draw_whole_numbers(rng, least, limit - 1, shape).astype(dtype)
    if told.mask and dtype.kind != "b" and not shape:
        return np.asarray(rng.integers(0, 2)).astype(dtype)
    flags = dtype.kind == "b" and bool(shape) and shape[-1] > 1
    if (flags or (told.mask and shape)) and math.prod(shape):
        return _draw_mask(shape, rng, told.open, recipe.masks).astype(dtype)
    if whole and dtype.kind != "b":
        low, high = recipe.whole or (1 if told.positive else 0, WHOLE_LIMIT - 1)
        return _draw_whole_numbers(rng, low, high, shape).astype(dtype)
    if whole:
        return draw_random_array(t, rng)
    if recipe.normal is not None:
        return np.asarray(rng.normal(*recipe.normal, shape)).astype(dtype)
    if recipe.floats is not None or told.positive:
        return np.asarray(rng.uniform(*(recipe.floats or POSITIVE), shape)).astype(dtype)
    return draw_random_array(t, rng)


def _draw_whole_numbers(
    rng: np.random.Generator, low: float, high: float, shape: Sequence[int], limit: int = 0
) -> Array:
    """Whole numbers from `low` to `high`, both among them, below `limit` where there is one."""
    most = math.floor(high) if not limit else min(math.floor(high), limit - 1)
    return np.asarray(rng.integers(min(math.ceil(low), most), most + 1, shape))


def _draw_mask(shape: Sequence[int], rng: np.random.Generator, shown: int, which: str) -> Array:
    """0 and 1: the first of every row is open, so that a causal mask beside it hides nothing more, and one is not."""
    seen = rng.random(shape) < SEEN_SHARE
    seen[..., 0] = True
    if shape[-1] > 1:
        seen[..., -1] &= ~seen.all(axis=-1)
    if which:
        seen = np.full(shape, which == "open")
    return seen if shown else ~seen


@dataclass(frozen=True)
class DrawnInputs:
    """Inputs, what a model gives for them, how they were drawn, and outputs that prove nothing on them."""

    feed: dict[str, Array]
    outputs: Mapping[str, Any]
    unfit: tuple[str, ...] = ()  # outputs that hold NaN or infinite numbers
    still: tuple[str, ...] = ()  # outputs no finite number of which follows from the inputs
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def is_powerful(self) -> bool:
        """Are all numbers finite, and does every output depend on the inputs?"""
        return not self.unfit and not self.still


def draw_finite_inputs(
    execute: Callable[[dict[str, Array]], Mapping[str, Any]],
    model: Model,
    sizes: dict[str, int],
    rng: np.random.Generator,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> DrawnInputs:
    """Random inputs on which outputs are finite and depend on the inputs, as far as such are found.

    `execute` runs the dense model: a feed in, values by name out (more than its outputs, where wanted). Inputs are
    drawn as the graph says first, then in other ways, one kind of input after another: 10 ways at most, two runs each.
    Where none of them will do, the best comes back and says what is wrong with it. Raises ModelError where no run
    succeeds.
    """
    seed = int(rng.integers(1 << 62))
    best: DrawnInputs | None = None
    base, failure = Recipe(), None
    reached = {n for n, held in find_sources(model).items() if held}
    for others in ((Recipe(),), *_list_recipes(model, sizes, ranges or {})):
        start = base
        for other in others:
            recipe = replace(start, **{k: v for k, v in vars(other).items() if v})
            try:
                found = _judge_recipe(execute, model, sizes, seed, ranges, recipe, reached)
            except ModelError as e:
                failure = failure or e
                continue
            if best is None or _rate_blindness(found) < _rate_blindness(best):
                best, base = found, recipe
            if best.is_powerful:
                return best
    if best is None:
        raise failure or ModelError("the model has no inputs that can be drawn")
    return best


def _list_recipes(
    model: Model, sizes: dict[str, int], ranges: Mapping[str, tuple[float, float]]
) -> Iterator[tuple[Recipe, ...]]:
    """Recipes for the kinds of inputs that the model has and nobody gave a range for."""
    told, limits = inspect_inputs(model), find_index_ranges(model, sizes)
    kinds = {n: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(t.tensor_type.elem_type)).kind
             for n, t in make_array_types(model, sizes).items() if n not in ranges and n not in limits}  # fmt: skip
    if any(told[n].mask or kind == "b" for n, kind in kinds.items() if n in told):
        yield MASK_RECIPES
    if "f" in kinds.values():
        yield FLOAT_RECIPES
    if any(kind in "iu" and not told[n].mask for n, kind in kinds.items() if n in told):
        yield WHOLE_RECIPES


def _judge_recipe(
    execute: Callable[[dict[str, Array]], Mapping[str, Any]], model: Model, sizes: dict[str, int], seed: int,
    ranges: Mapping[str, tuple[float, float]] | None, recipe: Recipe, reached: set[str],
) -> DrawnInputs:  # fmt: skip
    """Two draws by a recipe: the first, with what both say about it."""
    feeds = [draw_random_inputs(model, sizes, np.random.default_rng((seed, k)), ranges, recipe) for k in (0, 1)]
    first, second = (execute(f) for f in feeds)
    numbers = {n: a for n, a in first.items() if isinstance(a, np.ndarray) and a.size and a.dtype.kind in "fiub"}
    floats = {n: a for n, a in numbers.items() if a.dtype.kind == "f"}
    unfit = tuple(n for n, a in floats.items() if not is_finite(a))
    still = tuple(n for n, a in (floats or numbers).items() if n in reached and not _is_different(a, second[n]))
    return DrawnInputs(feeds[0], first, unfit, still, recipe)


def _is_different(a: Array, b: Array) -> bool:
    """Is some number finite in both and not the same?"""
    if a.shape != b.shape:
        return True
    return bool(((a != b) & np.isfinite(a) & np.isfinite(b)).any())


def _rate_blindness(found: DrawnInputs) -> tuple[int, float]:
    """How little inputs prove: outputs that say nothing, and the share of numbers that are not finite."""
    wrong = [np.asarray(found.outputs[n]) for n in found.unfit]
    return len(found.still), sum(float((~np.isfinite(a)).mean()) for a in wrong)


def split_named_entries(option: str, entries: tuple[str, ...], model: Model) -> list[tuple[str, str, str]]:
    """(input, value, entry) of entries NAME:VALUE; with a single input the name may be left out.

    Raises UsageError for a name that no input has.
    """
    names = [vi.name for vi in model.header.graph.input]
    out = []
    for entry in entries:
        name, colon, value = entry.rpartition(":")
        if not colon and len(names) == 1:
            name = names[0]
        if name not in names:
            raise UsageError(f"{option} {entry}: expected NAME:VALUES with one of the inputs {', '.join(names)}")
        out.append((name, value, entry))
    return out


def parse_ranges(entries: tuple[str, ...], model: Model) -> dict[str, tuple[float, float]]:
    """`("x:0,255",)` as a dictionary. Raises UsageError for anything else, and where an input of whole numbers has none
    in its range.
    """
    types = {vi.name: get_tensor_type(vi.type).elem_type for vi in model.header.graph.input}
    out: dict[str, tuple[float, float]] = {}
    for name, bounds, entry in split_named_entries("--input-range", entries, model):
        try:
            low, high = (float(b) for b in bounds.split(","))
        except ValueError as e:
            raise UsageError(f"--input-range {entry}: expected NAME:LOW,HIGH") from e
        if not (low <= high and np.isfinite([low, high]).all()):
            raise UsageError(f"--input-range {entry}: expected NAME:LOW,HIGH with LOW no higher than HIGH")
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(types[name] or onnx.TensorProto.FLOAT))
        if dtype.kind in "iu" and not np.iinfo(dtype).min <= math.ceil(low) <= math.floor(high) <= np.iinfo(dtype).max:
            raise UsageError(f"--input-range {entry}: '{name}' is {dtype}, and there are none, or not all of these")
        out[name] = (low, high)
    return out


def draw_random_array(t: onnx.TypeProto, rng: np.random.Generator, limit: int = 2) -> Array:
    """A normal (or below `limit`, for integers) array of a static tensor type."""
    shape = [d.dim_value for d in t.tensor_type.shape.dim]
    if math.prod(shape) > 1 << 31:
        raise ModelError(f"an input of shape {shape} is too large to be made up")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(t.tensor_type.elem_type))
    if dtype.kind in "iub":
        return np.asarray(rng.integers(0, 2 if dtype.kind == "b" else max(limit, 1), shape)).astype(dtype)
    return np.asarray(rng.normal(size=shape)).astype(dtype)
