"""The values that an input can take, read off the graph: masks of 0 and 1, and numbers that must be positive.

    told = inspect_inputs(model)
    told["attention_mask"].mask, told["attention_mask"].open      # True, 1: the value that hides nothing
    told["spectrum"].positive                                     # it reaches a Log, a Sqrt, a divisor
    find_sources(model)["logits"]                                      # inputs whose numbers decide this value

A mask is known by what becomes of 0 and of 1: two numbers go with every value that an input alone decides, through
operators with single constants. Where one of them ends far below zero and the other does not, where the value becomes a
truth value or weighs an activation, 0 and 1 is what the graph was made for.

Signs are known by intervals: every value gets the interval that it lies in when inputs are any numbers, and when they
are between 0 and 1. Where an operator is defined in the second and not in the first, the inputs it follows from are
positive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from spa_compiler.execution.finite import ignore_overflow
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import get_tensor_type
from spa_compiler.operators.value_ranges import (
    ANYTHING,
    FEW_VALUES,
    READ_NO_NUMBERS,
    Span,
    find_interval,
    find_mask_signs,
    find_nonnegative_slots,
    has_no_negative_weights,
    map_bits,
    replace_undefined,
)

Inputs = frozenset[str]
POSITIVE = (0.05, 0.95)
"""The range of positive inputs: logarithms, roots and reciprocals are finite, and those of 1 - x as well."""


@dataclass(frozen=True)
class InputFacts:
    """Facts about an input that the graph tells. `open`: the value of a mask that hides nothing."""

    mask: bool = False
    open: int = 1
    positive: bool = False


def inspect_inputs(model: Model) -> dict[str, InputFacts]:
    """Facts about each input that the graph tells."""
    kinds = _find_kinds(model)
    with ignore_overflow():
        positive = _find_positive(model, kinds)
        masks = {t.name: _inspect_mask(model, t, kinds.get(t.name, "")) for t in model.graph.inputs}
    return {n: replace(told, positive=n in positive) for n, told in masks.items()}


def _find_kinds(model: Model) -> dict[str, str]:
    """For every tensor input what numpy calls its kind of numbers: f, i, u or b."""
    types = {vi.name: get_tensor_type(vi.type).elem_type for vi in model.header.graph.input}
    return {n: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(t)).kind for n, t in types.items() if t}


def find_sources(model: Model) -> dict[str, Inputs]:
    """For every value the inputs whose numbers, and not only sizes, it may follow from."""
    found = {t.name: frozenset([t.name]) for t in model.graph.inputs}
    none: Inputs = frozenset()
    for node in model.graph.nodes:
        held = none if node.op in READ_NO_NUMBERS else none.union(*(found.get(t.name, none) for t in node.inputs))
        for t in node.outputs:
            found[t.name] = held
    return found


def _inspect_mask(model: Model, tensor: gs.Tensor, kind: str) -> InputFacts:
    """Facts about an input that could be a mask: a tensor that is 0 or 1 everywhere."""
    whole = kind in ("i", "u", "b")
    values: dict[str, Span] = {tensor.name: (0.0, 1.0)}
    hints: list[int] = []
    todo = [tensor]
    while todo:  # every value once: it is in `values` from then on
        t = todo.pop()
        for node in t.outputs:
            hints += find_mask_signs(model, node, t, values, whole)
            pair = map_bits(model, node, values)
            for out in node.outputs if pair is not None else ():
                if pair is not None and out.name not in values:
                    values[out.name] = pair
                    todo.append(out)
    if not hints and not (kind in ("i", "u") and "mask" in tensor.name.lower()):
        return InputFacts()
    sure = [h for h in hints if h >= 0]
    return InputFacts(True, sure[0] if sure else 1)


def _find_positive(model: Model, kinds: Mapping[str, str]) -> set[str]:
    """Inputs that something is undefined without, unless they are positive."""
    out: set[str] = set()
    after = find_sources(model)
    whole = {n for n, kind in kinds.items() if kind != "f"}
    both: dict[str, tuple[Span, Span]] = {}
    for t in model.graph.inputs:
        both[t.name] = ((0.0, math.inf), (1.0, math.inf)) if t.name in whole else (ANYTHING, POSITIVE)
    for node in model.graph.nodes:
        pairs = [_read_spans(model, t, both) for t in node.inputs]
        for k in find_nonnegative_slots(model, node):
            (low, _), (inside, _) = pairs[k]
            held = after.get(node.inputs[k].name, frozenset())
            if inside >= 0 and (low < 0 or (low == 0 and inside > 0 and held & whole)):
                out |= held
        changes = any(a != b for a, b in pairs)
        weights = changes and has_no_negative_weights(model, node)
        spans = [find_interval(node, [p[k] for p in pairs], weights) for k in (0, 1)]
        for t in node.outputs:
            both[t.name] = (replace_undefined(spans[0]), replace_undefined(spans[1]))
    return out


def _read_spans(model: Model, t: gs.Tensor, both: Mapping[str, tuple[Span, Span]]) -> tuple[Span, Span]:
    span = read_span(model, t)
    return both.get(t.name, (ANYTHING, ANYTHING)) if span is None else (span, span)


def read_span(model: Model, t: gs.Tensor) -> Span | None:
    """The interval of the numbers of a constant, ANYTHING of a large one; None where it is no constant."""
    if not isinstance(t, gs.Constant):
        return None
    if not math.prod(t.shape or ()) or math.prod(t.shape or ()) > FEW_VALUES * FEW_VALUES:
        return ANYTHING
    values = np.asarray(model.array(t))
    if values.dtype.kind not in "fiub":
        return ANYTHING
    span = float(values.min()), float(values.max())
    return ANYTHING if np.isnan(span).any() else span
