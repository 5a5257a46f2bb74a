"""Numbers of an operator's outputs, given those of its inputs: an interval, and the results for 0 and for 1.

    find_interval(node, [(0, inf), (2, 2)], False)      # of Add: (2, inf)
    map_bits(model, node, {"mask": (0, 1)})             # of Sub(1, mask): (1, 0)
    find_nonnegative_slots(model, node)                      # of Log: (0,)

Which inputs of a model are masks or positive is concluded from these in `execution.input_ranges`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from spa_compiler.ir.model import Model

Span = tuple[float, float]
ANYTHING = (-math.inf, math.inf)
HIDDEN, SHOWN = -1e3, 1.0
"""Added to a score, a number below the first hides it, and one up to the second does not."""
FEW_VALUES = 64
"""Elements up to which a constant is looked at for being one number."""
SAME_NUMBERS = set(
    """Cast Identity Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Slice Split Gather GatherND GatherElements
    Concat Dropout DepthToSpace SpaceToDepth Pad ReduceMax ReduceMin ReduceMean MaxPool AveragePool GlobalAveragePool
    GlobalMaxPool Compress Trilu""".split()
)
"""Operators whose outputs lie between the numbers of their first input, or of all inputs (Concat), and zero."""
ZERO_ADDING = {"Pad", "AveragePool", "Trilu"}
"""Those of them that put in zeros."""
READ_NO_NUMBERS = {"Shape", "Size", "ConstantOfShape", "EyeLike", "RandomNormalLike", "RandomUniformLike"}
"""Operators that look at the sizes of their inputs only."""
MASK_INPUTS = {"Attention": (3, 5), "MultiHeadAttention": (4,), "EmbedLayerNormalization": (7,), "QAttention": (5,)}
"""Inputs of operators that are masks, with 1 for what is seen."""


def read_number(model: Model, t: gs.Tensor) -> float | None:
    """The number that a constant consists of; None where it is no constant or has several."""
    if not isinstance(t, gs.Constant) or math.prod(t.shape or ()) > FEW_VALUES:
        return None
    values = np.asarray(model.array(t))
    values = np.unique(values.astype(np.float64)) if values.dtype.kind in "fiubV" else np.zeros(0)
    return float(values[0]) if values.size == 1 else None


def map_bits(model: Model, node: gs.Node, values: Mapping[str, Span]) -> Span | None:
    """The two numbers of a node's output for 0 and 1, where only they and single numbers decide it."""
    operands: list[Span] = []
    moving = node.op in SAME_NUMBERS
    for t in node.inputs[: 1 if moving and node.op != "Concat" else None]:
        constant = read_number(model, t)
        if t.name in values:
            operands.append(values[t.name])
        elif constant is not None:
            operands.append((constant, constant))
        elif node.op not in ("Mul", "Min", "And", "Max", "Or"):  # a second mask is 1 where it does not matter
            return None
    if moving:
        truth = node.op == "Cast" and node.attrs.get("to") in (onnx.TensorProto.BOOL, np.bool_, bool)
        return (float(operands[0][0] != 0), float(operands[0][1] != 0)) if truth else operands[0]
    if node.op not in EXACT_FUNCTIONS or not operands or (node.op == "Div" and np.ptp(operands[-1])):
        return None
    function = EXACT_FUNCTIONS[node.op]
    try:
        first, second = (float(function(*(np.float64(o[k]) for o in operands))) for k in (0, 1))
    except TypeError:  # operands are missing
        return None
    return first, second


def _fold_operands(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda first, *rest: first if not rest else function(first, _fold_operands(function)(*rest))


EXACT_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": _fold_operands(np.multiply),
    "Div": np.divide,
    "Neg": np.negative,
    "Abs": np.abs,
    "Not": lambda a: a == 0,
    "And": _fold_operands(np.multiply),
    "Or": _fold_operands(np.maximum),
    "Xor": lambda a, b: a != b,
    "Equal": lambda a, b: a == b,
    "Greater": lambda a, b: a > b,
    "Less": lambda a, b: a < b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "LessOrEqual": lambda a, b: a <= b,
    "Min": _fold_operands(np.minimum),
    "Max": _fold_operands(np.maximum),
    "Where": lambda c, a, b: a if c else b,
    "Clip": lambda a, *_: a,
}
"""Operators as functions of single numbers."""


def find_mask_signs(
    model: Model, node: gs.Node, t: gs.Tensor, values: Mapping[str, Span], whole: bool
) -> Iterator[int]:
    """Signs that an input is a mask, for each the input's value that hides nothing, or -1 where this is not told."""
    zero, one = values[t.name]
    slots = [k for k, x in enumerate(node.inputs) if x is t]
    if whole and set(slots) & set(MASK_INPUTS.get(node.op, ())):
        yield 1
    if {zero, one} <= {0.0, 1.0} and zero != one:
        if node.op == "Cast" and node.attrs.get("to") in (onnx.TensorProto.BOOL, np.bool_, bool):
            yield -1
        if node.op == "Where" and 0 in slots:
            yield from _find_shown(model, node, one == 1)
        compared = any(read_number(model, x) in (0.0, 1.0) for x in node.inputs if x is not t)
        if compared and (node.op == "Equal" or (whole and node.op in ("Greater", "GreaterOrEqual", "Less"))):
            yield -1
        if whole and node.op == "Sub" and slots == [1] and read_number(model, node.inputs[0]) == 1:
            yield -1
        if whole and node.op == "Mul" and any(_is_activation(x, values) for x in node.inputs):
            yield int(one == 1)
    image = map_bits(model, node, values)
    if image is not None and not np.isnan(image).any():
        low, high = min(image), max(image)
        if low <= HIDDEN and abs(high) <= SHOWN:
            yield int(image[1] == high)


def _is_activation(t: gs.Tensor, values: Mapping[str, Span]) -> bool:
    return not isinstance(t, gs.Constant) and t.name not in values


def _find_shown(model: Model, node: gs.Node, upright: bool) -> Iterator[int]:
    """Where(mask, a, b): which value of the input lets through what is no constant far below zero."""
    for slot, open_ in ((1, not upright), (2, upright)):
        constant = read_number(model, node.inputs[slot]) if len(node.inputs) > 2 else None
        if constant is not None and constant <= HIDDEN:
            yield int(open_)


def find_nonnegative_slots(model: Model, node: gs.Node) -> tuple[int, ...]:
    """Operands of a node that must not be negative."""
    if node.op in ("Log", "Sqrt", "Reciprocal"):
        return (0,)
    if node.op == "Div":
        return (1,)
    exponent = read_number(model, node.inputs[1]) if node.op == "Pow" else None
    return (0,) if exponent is not None and exponent != math.floor(exponent) else ()


def has_no_negative_weights(model: Model, node: gs.Node) -> bool:
    """Is this a product with constants that hold nothing negative (a mel filter bank, a mean)?"""
    if node.op not in ("MatMul", "Conv", "Gemm", "ConvTranspose"):
        return False
    for t in (t for t in node.inputs if isinstance(t, gs.Constant)):
        values = np.asarray(model.array(t))
        if (values.ravel()[:4096] < 0).any() or (values < 0).any():
            return False
    return any(isinstance(t, gs.Constant) for t in node.inputs)


def replace_undefined(span: Span) -> Span:
    """The interval itself; ANYTHING where an end is not defined."""
    return ANYTHING if np.isnan(span).any() else span


def find_interval(node: gs.Node, spans: list[Span], weights: bool) -> Span:
    """The interval of a node's outputs, given those of its inputs; ANYTHING where it is not known."""
    if node.op in SAME_NUMBERS:
        given = spans if node.op == "Concat" else spans[:1]
        given = [*given, *spans[2:3], (0.0, 0.0)] if node.op in ZERO_ADDING else given
        return min(a for a, _ in given), max(b for _, b in given)
    if node.op in BOUNDED_OPERATORS:
        return BOUNDED_OPERATORS[node.op]
    if node.op in MONOTONE_FUNCTIONS:
        return _order_pair(float(MONOTONE_FUNCTIONS[node.op](np.float64(v))) for v in spans[0])
    if weights:
        free = [s for s, t in zip(spans, node.inputs, strict=True) if not isinstance(t, gs.Constant)]
        return (0.0, math.inf) if all(a >= 0 for a, _ in free) else ANYTHING
    if node.op in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "LpPool"):
        return (max(spans[0][0], 0.0), math.inf) if spans[0][0] >= 0 or node.op != "ReduceSum" else ANYTHING
    if node.op == "Mod":
        return _find_remainders(node, *spans)
    rule = SPAN_RULES.get(node.op)
    if rule is None:
        return ANYTHING
    twice = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
    return _square_span(spans[0]) if node.op == "Mul" and twice else rule(spans)


def is_followed(node: gs.Node) -> bool:
    """Does the interval of a node's outputs follow from those of its inputs?"""
    known = node.op in SAME_NUMBERS or node.op in MONOTONE_FUNCTIONS or node.op in SPAN_RULES
    return known or node.op in BOUNDED_OPERATORS or node.op == "Mod"


def _find_remainders(node: gs.Node, span: Span, divisor: Span) -> Span:
    """Remainders of a positive divisor; of whole numbers they end one below it."""
    if divisor[0] <= 0 or not math.isfinite(divisor[1]):
        return ANYTHING
    if 0 <= span[0] <= span[1] < divisor[0]:
        return span
    dtypes = [t.dtype for t in (*node.inputs, *node.outputs) if t.dtype is not None]
    most = divisor[1] - float(any(np.dtype(d).kind in "iu" for d in dtypes))
    follows_sign = bool(node.attrs.get("fmod", 0)) and span[0] < 0
    return (-most if follows_sign else 0.0), (min(most, span[1]) if span[0] >= 0 else most)


def _order_pair(values: Iterator[float]) -> Span:
    found = list(values)
    return min(found), max(found)


def _make_corner_rule(function: Callable[[Any, Any], Any]) -> Callable[[list[Span]], Span]:
    """The interval of an operator that is monotone in each of two operands."""

    def rule(spans: list[Span]) -> Span:
        if len(spans) != 2:
            return ANYTHING
        found = [float(function(np.float64(a), np.float64(b))) for a in spans[0] for b in spans[1]]
        return min(found), max(found)

    return rule


def _multiply(a: Any, b: Any) -> Any:
    return 0.0 if a == 0 or b == 0 else a * b  # zero times what is endless but a number


def _square_span(span: Span) -> Span:
    low, high = sorted((abs(span[0]), abs(span[1])))
    return (0.0 if span[0] < 0 < span[1] else low * low), high * high


def _divide_spans(spans: list[Span]) -> Span:
    low, high = spans[1]
    if low < 0 <= high or low == high == 0:
        return ANYTHING
    inverse = (1 / high if high else -math.inf), (1 / low if low else math.inf)
    return _make_corner_rule(_multiply)([spans[0], inverse])


def _raise_span(spans: list[Span]) -> Span:
    low, high = spans[1]
    if low != high:
        return (0.0, math.inf) if spans[0][0] >= 0 else ANYTHING
    if low == 2:
        return _square_span(spans[0])
    return (0.0, math.inf) if low % 2 == 0 or spans[0][0] >= 0 else ANYTHING


SPAN_RULES: dict[str, Callable[[list[Span]], Span]] = {
    "Add": _make_corner_rule(np.add),
    "Sub": _make_corner_rule(np.subtract),
    "Mul": _make_corner_rule(_multiply),
    "Div": _divide_spans,
    "Pow": _raise_span,
    "Sum": lambda spans: (sum(a for a, _ in spans), sum(b for _, b in spans)),
    "Max": lambda spans: (max(a for a, _ in spans), max(b for _, b in spans)),
    "Min": lambda spans: (min(a for a, _ in spans), min(b for _, b in spans)),
    "Mean": lambda spans: (min(a for a, _ in spans), max(b for _, b in spans)),
    "Where": lambda spans: (min(a for a, _ in spans[1:]), max(b for _, b in spans[1:])),
    "Clip": lambda spans: _clip_span(*spans, *[ANYTHING] * (3 - len(spans))),
    "Abs": lambda spans: (0.0 if spans[0][0] < 0 < spans[0][1] else min(map(abs, spans[0])), max(map(abs, spans[0]))),
    "Reciprocal": lambda spans: _divide_spans([(1.0, 1.0), spans[0]]),
}
MONOTONE_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "Relu": lambda v: max(v, 0.0), "Exp": np.exp, "Sqrt": lambda v: np.sqrt(max(v, 0.0)), "Neg": np.negative,
    "Log": lambda v: np.log(v) if v > 0 else -math.inf, "Floor": np.floor, "Ceil": np.ceil, "Round": np.round,
    "Softplus": lambda v: np.logaddexp(0.0, v),
}  # fmt: skip
BOUNDED_OPERATORS: dict[str, Span] = {
    **dict.fromkeys(["Sigmoid", "HardSigmoid", "Softmax", "Hardmax", "Not", "And", "Or", "Xor", "IsNaN"], (0.0, 1.0)),
    **dict.fromkeys(["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "RandomUniform"], (0.0, 1.0)),
    **dict.fromkeys(["Tanh", "Erf", "Sin", "Cos", "Sign", "Softsign"], (-1.0, 1.0)),
    **dict.fromkeys(["Shape", "Size", "NonZero", "ArgMax", "ArgMin"], (0.0, math.inf)),
}


def _clip_span(span: Span, least: Span, most: Span) -> Span:
    return min(max(span[0], least[0]), most[1]), max(min(span[1], most[1]), least[0])
