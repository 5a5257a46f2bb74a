"""Facts of operators beside axes and numbers: whether they can be run, folded, repeated, moved or refused.

    if node.op in UNFOLDED: ...        # chance, or the format in which numbers are stored: never computed beforehand
    is_refusing_rank(node, 2, None)        # of LSTM: True, it takes three axes

Whoever folds, infers shapes or runs nodes asks these. How axes relate is the rule (`tables`); sizes of what a node
makes are in `size_formulas` and `size_tables`, intervals of its numbers in `value_ranges`, inputs that point into
others in `lookups`; nodes are made by `build`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.operators.tables.compute import UNARY

RANDOM_OPERATORS = frozenset(
    "RandomNormal RandomUniform RandomNormalLike RandomUniformLike Multinomial Bernoulli".split()
)
"""Operators that give other numbers in every run."""
DRAWS = RANDOM_OPERATORS | {"Dropout"}
"""Operators that take a seed for the numbers that they draw; Dropout draws in training mode, its third input."""
UNFOLDED = RANDOM_OPERATORS | {"QuantizeLinear", "DequantizeLinear", "Dropout"}
"""Chance, and the format in which numbers are stored: never computed beforehand."""
POINTWISE = frozenset([*UNARY, "QuantizeLinear", "DequantizeLinear", "Add", "Div", "Mul", "Sub"])
"""Operators that treat every number alike, where all their operands but one are single numbers."""
SIZED_BY_DATA = frozenset("NonZero NonMaxSuppression Compress Unique".split())
"""Operators that give as much as they find: how much, only a run of the whole model shows."""
SHAPED_BY_VALUE: dict[str, tuple[int, ...]] = {
    "Slice": (1, 2, 3, 4), "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Pad": (1, 3), "Resize": (2, 3),
    "Upsample": (1,), "TopK": (1,), "Range": (0, 1, 2), "ConstantOfShape": (0,), "OneHot": (1,), "Split": (1,),
    "Squeeze": (1,), "Unsqueeze": (1,), "CenterCropPad": (1,), "HannWindow": (0,), "HammingWindow": (0,),
    "BlackmanWindow": (0,), "DFT": (1, 2), "STFT": (1, 3), "MaxUnpool": (2,), "AffineGrid": (1,), "Col2Im": (1, 2),
    "MelWeightMatrix": (0, 1), "SplitToSequence": (1,), "SequenceAt": (1,),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
                     "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"), (1,)),
}  # fmt: skip
"""Operators whose result is as large as the numbers in these inputs say."""
RANKED_BY = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Squeeze": 1, "Unsqueeze": 1}
"""Operators whose result has as many axes as the length of this operand says."""
CELLS = frozenset(("LSTM", "GRU", "RNN"))
"""Recurrent cells, which run along a sequence."""
CONTRACTS_INTEGERS = frozenset(
    """ConvInteger MatMulInteger DynamicQuantizeMatMul MatMulIntegerToFloat QLinearConv QLinearMatMul QGemm""".split()
)
"""Operators that contract integers: onnxruntime may let their products overflow."""
EXACT_IN_REFERENCE = frozenset(
    """Abs Add And Concat ConstantOfShape Equal Expand Flatten Gather Greater GreaterOrEqual Identity Less LessOrEqual
    Max Min Mul Neg Not Or Reshape Shape Size Split Sqrt Squeeze Sub Tile Transpose Unsqueeze Where Xor""".split()
)
"""Operators for which onnx's reference gives bit for bit what onnxruntime does, and sooner. All others are run by
onnxruntime: what is folded has to be what the model computes (Softmax before opset 13, bounds of negative steps, the
rounding of integer divisions, of Exp and of casts differ)."""
BOUNDED = (EXACT_IN_REFERENCE | {"Cast", "Div", "Mod", "Ceil", "Floor", "Slice"}) - SHAPED_BY_VALUE.keys() | {
    "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"
}  # fmt: skip
"""Operators that make no more entries than those of their operands times each other, or added up."""
REFERENCE_TYPES = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
"""Types that integers and booleans are cast to without a choice."""
HOLDS_STATISTICS = frozenset({"BatchNormalization"})
"""Normalisations that hold the statistics of training."""
KEEPS_NUMBERS = frozenset({"Transpose", "Cast", "Identity"})
"""Operators whose output has the numbers of the input, each once."""
FIRST_CONTRACTIONS = frozenset({"Conv", "MatMul", "Gemm"})
"""Contractions with which models begin: their response tells the scale of an input."""
KEEPS_ENTRIES = frozenset({"Reshape"})
"""Operators that shape inference accepts although they may make more or fewer entries than they read: to be checked."""


def can_grow(op: str, operands: Sequence[NDArray[Any]], limit: int) -> bool:
    """Might a node make more than `limit` entries of these numbers?

    What moves its operands, or broadcasts them with each other, makes no more than the product of their sizes.
    """
    sizes = [v.size for v in operands]
    return op not in BOUNDED or max(math.prod(sizes), sum(sizes)) > limit


def is_exact_in_reference(node: onnx.NodeProto, operands: Sequence[NDArray[Any]]) -> bool:
    """Does onnx's reference implementation give what onnxruntime gives, bit for bit, for these operands?

    The inputs of the node are called x0, x1, ... by their place in `operands`.
    """
    if node.op_type == "Slice":  # axes may be left out, and one constant may be two operands
        steps = node.input[4] if len(node.input) > 4 else ""
        return not steps or not (operands[int(steps[1:])] < 0).any()
    if node.op_type in ("Div", "Range"):
        return all(v.dtype.kind == "i" and not (v < 0).any() for v in operands)
    if node.op_type == "Cast":
        plain = all(a.i in REFERENCE_TYPES for a in node.attribute if a.name == "to")
        return operands[0].dtype.kind in "iub" and plain
    return node.op_type in EXACT_IN_REFERENCE


def is_statistic(node: gs.Node) -> bool:
    """Does this node take a mean, a variance or the like of what it reads?"""
    trained = node.op == "BatchNormalization" and bool(node.attrs.get("training_mode", 0))
    return trained or (node.op.startswith("Reduce") and node.domain in (None, "", "ai.onnx"))


def is_fill(node: gs.Node) -> bool:
    """Does this node make one number as often as its operand says?"""
    return bool(node.op == "ConstantOfShape")


def is_refusing_rank(node: gs.Node, x: int | None, w: int | None) -> bool:
    """Does this operator fail for ranks x and w of its first inputs, by its specification and in onnxruntime?

    Only operators that do so at every level of optimisation, and for empty inputs, too (Concat does not). None: not
    known.
    """
    if node.domain not in (None, "", "ai.onnx") or x is None:
        return False
    if node.op in CELLS:
        return x != 3
    if node.op in ("Conv", "ConvTranspose"):
        return w is not None and x != w
    if node.op in ("MaxPool", "AveragePool"):
        return x != 2 + len(node.attrs["kernel_shape"])
    return node.op == "Gemm" and x > 2  # onnxruntime takes a vector


def is_convolution(op: str) -> bool:
    """Is this the convolution of floats?"""
    return op == "Conv"


def find_affine(op: str, constant: float, first: bool) -> tuple[float, float] | None:
    """Factor and shift of an operator of x and one constant; None for any other. `first`: x is the first operand."""
    if op == "Mul":
        return constant, 0.0
    if op == "Div" and first:
        return 1 / constant if constant else 1.0, 0.0
    if op == "Add":
        return 1.0, constant
    if op == "Sub":
        return (1.0, -constant) if first else (-1.0, constant)
    return None
