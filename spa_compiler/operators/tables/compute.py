"""Operators that compute: contractions, norms, elementwise functions, reductions, pooling.

    BatchNormalization   _ c _..., c, c, c, c -> _ c _...

reads: the channel axis of input and output and the four vectors are indexed by the same set; the rest does not change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from spa_compiler.algebra.expr import Prod
from spa_compiler.errors import Conflict
from spa_compiler.operators.rule import rule
from spa_compiler.operators.site import Row, Rule, Site, Value
from spa_compiler.operators.traits import EVERY_NAME, Norm

FROM_ZERO_TO_ZERO = """Abs Asin Asinh Atan Ceil Celu Elu Erf Floor Gelu HardSwish LeakyRelu Mish Neg Round Selu Sign
Sin Sinh Softsign Sqrt Swish Tan""".split()
FUNCTIONS = """Acos Acosh Atanh BitwiseNot Cos Cosh Exp IsInf IsNaN Log Not Reciprocal Shrink Softplus ThresholdedRelu
BitCast Affine ParametricSoftplus Scale ScaledTanh""".split()
"""Functions of one number that do not give 0 for 0, or of which nobody has said that they do."""
OPERATIONS = """And BitShift BitwiseAnd BitwiseOr BitwiseXor Equal Greater GreaterOrEqual Less LessOrEqual Mod Or
SwiGLU Xor""".split()
DRAWN_BY_POSITION = "random numbers are drawn position by position"
GROUP_DEFAULT = {"group": 1}
"""Convolutions that say nothing of groups have one."""


def name_axes(v: Value) -> list[str]:
    """One name per axis."""
    return [f"a{i}" for i in range(len(v.axes))]


def elementwise(site: Site) -> None:
    """Every axis passes, with broadcasting from the right."""
    ins, outs = ", ".join(["x..."] * len(site.inputs)), ", ".join(["x..."] * len(site.outputs))
    rule(f"{ins} -> {outs}")(site)


def dropout(site: Site) -> None:
    """Every axis passes; in training mode, its third input, random numbers are drawn position by position."""
    elementwise(site)
    if len(site.inputs) > 2 and site.inputs[2] is not None and (2 not in site.consts or site.consts[2].any()):
        site.freeze_all([site.x(), *site.outputs], DRAWN_BY_POSITION)


def matmul(site: Site) -> None:
    """Operands of rank 1 lose their outer axis."""
    ra, rb = len(site.x(0).axes), len(site.x(1).axes)
    a, b = ("k" if ra == 1 else "b... m k"), ("k" if rb == 1 else "b... k n")
    batch = "b..." if ra > 1 or rb > 1 else ""
    rule(f"{a}, {b} -> {batch} {'m' * (ra > 1)} {'n' * (rb > 1)}")(site)


def gemm(site: Site) -> None:
    """C is broadcast to [m, n]: its axes of size 1 take no part."""
    a = "k m" if site.attrs.get("transA", 0) else "m k"
    b = "n k" if site.attrs.get("transB", 0) else "k n"
    if len(site.inputs) < 3 or site.inputs[2] is None:
        return rule(f"{a}, {b} -> m n")(site)
    y = site.y.shape
    c = [n if s == t else "_" for s, t, n in zip(site.inputs[2].shape[::-1], y[::-1], "nm", strict=False)][::-1]
    return rule(f"{a}, {b}, {' '.join(c)} -> m n")(site)


def einsum(site: Site) -> None:
    """The node's own equation is its rule. Letters are renamed, because an upper-case name would be frozen."""
    equation = str(site.attrs["equation"]).replace(" ", "")
    left, arrow, right = equation.partition("->")
    if not arrow:  # the implicit form: letters that occur once, in alphabetical order
        found = left.replace(",", "").replace("...", "")
        right = "..." * ("..." in left) + "".join(sorted(c for c in set(found) if found.count(c) == 1))

    def term(text: str) -> str:
        return " ".join("e..." if t == "..." else f"l{ord(t)}" for t in re.findall(r"\.\.\.|\w", text))

    rule(f"{', '.join(map(term, left.split(',')))} -> {term(right)}")(site)


def reduction(site: Site) -> None:
    """A reduced axis is a statistic: without weights behind it a removed channel would still count."""
    x = site.x()
    axes = site.ints(1, "axes")
    if axes is None and len(site.inputs) > 1 and site.inputs[1] is not None:
        raise Conflict("the reduced axes are computed at run time")
    a = name_axes(x)
    empty = range(0) if site.attrs.get("noop_with_empty_axes", 0) else range(len(a))
    reduced = [i % len(a) for i in (axes or empty)]
    kept = site.attrs.get("keepdims", 1)
    out = ["_" if i in reduced else n for i, n in enumerate(a) if kept or i not in reduced]
    rule(f"{' '.join(a)}, _ -> {' '.join(out)}", stat=" ".join(a[i] for i in reduced))(site)


def make_axis_rule(default: int, flattens_below: int = 0) -> Rule:
    """Softmax, ArgMax, TopK and the like work along one axis, which may not change; the others pass.

    Before opset `flattens_below` the operator worked on everything from `axis` on.
    """

    def apply(site: Site) -> None:
        a = name_axes(site.x())
        k = int(site.attrs.get("axis", 1 if site.opset < flattens_below else default)) % max(len(a), 1)
        hit = range(k, len(a)) if site.opset < flattens_below else [k]
        for i in hit:
            site.freeze(site.x().axes[i], f"{site.op} works along this axis")
        row = ["_" if i in hit else n for i, n in enumerate(a)]
        short = [n for i, n in enumerate(row) if i != k]
        outs = [" ".join(row if v is None or len(v.axes) == len(row) else short) for v in site.outputs]
        rule(f"{' '.join(row)}{', _' * (len(site.inputs) - 1)} -> {', '.join(outs)}")(site)

    apply.__doc__ = "Works along `axis`, which may not change; the other axes pass."
    return apply


def normalisation(site: Site) -> None:
    """LayerNormalization and RMSNormalization: statistics over every axis from `axis` on."""
    if site.read - {0}:
        raise Conflict("it gives out its mean and deviation, which are those of all channels")
    rank = len(site.x().axes)
    k = int(site.attrs.get("axis", -1)) % rank
    outer, inner = [f"b{i}" for i in range(k)], [f"c{i}" for i in range(k, rank)]
    operands = "".join(", " + " ".join(inner[rank - k - len(v.axes) :]) for v in site.inputs[1:] if v is not None)
    moments = f", {' '.join(outer + ['_'] * len(inner))}" * (len(site.outputs) - 1)
    rule(f"{' '.join(outer + inner)}{operands} -> {' '.join(outer + inner)}{moments}", stat=" ".join(inner))(site)


def group_norm(site: Site) -> None:
    """Whole groups may go. Before opset 21 gain and bias had one entry per group."""
    gain = "(g c)" if site.opset >= 21 else "g"
    rule(f"_ (g c) s..., {gain}, {gain} -> _ (g c) s...", stat="c s", g="num_groups")(site)


def lp_normalization(site: Site) -> None:
    """The norm is taken over one axis: a removed channel must not count in it."""
    a = name_axes(site.x())
    rule(f"{' '.join(a)} -> {' '.join(a)}", stat=a[int(site.attrs.get("axis", -1)) % len(a)])(site)


def cumulative(site: Site) -> None:
    """CumSum and CumProd along the axis that the second input names."""
    axis = site.ints(1)
    if axis is None:
        raise Conflict("the axis is computed at run time")
    _fix(site, [axis[0] % len(site.x().axes)])


def _fix(site: Site, hit: Sequence[int]) -> None:
    """These axes may not change, the others pass."""
    a = [f"A{i}" if i in hit else n for i, n in enumerate(name_axes(site.x()))]
    rule(f"{' '.join(a)}{', _' * (len(site.inputs) - 1)} -> {' '.join(a)}")(site)


def mean_variance(site: Site) -> None:
    """MeanVarianceNormalization: statistics over `axes`."""
    a = name_axes(site.x())
    axes = [int(i) % len(a) for i in site.attrs.get("axes", [0, 2, 3])]
    rule(f"{' '.join(a)} -> {' '.join(a)}", stat=" ".join(a[i] for i in axes))(site)


def batch_norm(site: Site) -> None:
    """Every channel on its own; in training mode the statistics are taken over all other axes, which stay."""
    rest = "N c S..." if site.attrs.get("training_mode", 0) else "n c s..."
    rule(f"{rest}, c, c, c, c -> {rest}, c, c, c, c")(site)


def name_space(site: Site, weight: int = 1) -> tuple[str, str]:
    """The axes behind the channels of what a kernel reads and of what it gives, as rule text; `weight`: its operand.

    Where the kernel is 1 and neither pads nor strides, it works on no such axis: it passes and stays free.
    """
    kernel = [int(n) for n in site.attrs.get("kernel_shape", site.x(weight).shape[2:])]
    many = len(kernel)
    strides, pads = site.attrs.get("strides", [1] * many), site.attrs.get("pads", [0] * 2 * many)
    passing = [kernel[k] == strides[k] == 1 and not (pads[k] or pads[k + many]) for k in range(many)]
    if not any(passing):
        return "_...", "_s..."
    names = [f"s{many - 1 - k}" for k in range(many)]
    read = [name if hit else "_" for name, hit in zip(names, passing, strict=True)]
    return " ".join(read), " ".join(name if hit else f"_{name}" for name, hit in zip(names, passing, strict=True))


def convolution(site: Site) -> None:
    """`n (g i) _..., (g o) i _k..., (g o) -> n (g o) _s...`, g="group"; axes with a kernel of 1 pass."""
    x, y = name_space(site)
    rule(f"n (g i) {x}, (g o) i _k..., (g o) -> n (g o) {y}", g="group")(site)


def transposed_convolution(site: Site) -> None:
    """`n (g i) _s..., (g i) o _k..., (g o) -> n (g o) _...`, g="group"; axes with a kernel of 1 pass."""
    y, x = ("_...", "_s...") if any(site.attrs.get("output_padding", ())) else name_space(site)
    rule(f"n (g i) {x}, (g i) o _k..., (g o) -> n (g o) {y}", g="group")(site)


def deform_conv(site: Site) -> None:
    """With several offset groups the input channels are dealt out to them by number: none may go, nor a group."""
    g, i = ("g", "i") if int(site.attrs.get("offset_group", 1)) == 1 else ("G", "I")
    bound: dict[str, Any] = {g: "group"}
    rule(f"n ({g} {i}) _..., ({g} o) {i} _k..., n _ _..., ({g} o), n _ _... -> n ({g} o) _s...", **bound)(site)


def reverse_sequence(site: Site) -> None:
    """Batch and time stay, the rest passes."""
    _fix(site, [int(site.attrs.get("batch_axis", 1)), int(site.attrs.get("time_axis", 0))])


def tensor_scatter(site: Site) -> None:
    """The sequence axis of a cache is written to; the others are those of the update."""
    a = name_axes(site.x())
    k = int(site.attrs.get("axis", -2)) % len(a)
    cache, update = (" ".join([*a[:k], name, *a[k + 1 :]]) for name in ("S", "T"))
    rule(f"{cache}, {update}, _ -> {cache}")(site)


def center_crop_pad(site: Site) -> None:
    """Axes that keep their size pass."""
    x, y = site.x(), site.y
    hit = [i for i in range(len(x.axes)) if x.size(i) != y.size(i)]
    named = [int(i) % len(x.axes) for i in site.attrs.get("axes", range(len(x.axes)))]
    for i in (*hit, *named):
        site.freeze(Prod((x.axes[i], y.axes[i])), "cropped or padded at run time")
    for i in set(range(len(x.axes))) - {*hit, *named}:
        site.unify(x.axes[i], y.axes[i])


def fourier_transform(site: Site) -> None:
    """DFT mixes the entries of one axis and the real and imaginary parts of the last; the other axes pass."""
    x = site.x()
    given = site.ints(2, "axis")
    if given is None and len(site.inputs) > 2 and site.inputs[2] is not None:
        raise Conflict("the axis is computed at run time")
    axis = given[0] if given else -2 if site.opset >= 20 else 1  # from opset 20 on it is an input
    hit = {axis % len(x.axes), len(x.axes) - 1}
    a = ["_" if i in hit else n for i, n in enumerate(name_axes(x))]
    rule(f"{' '.join(a)}, _, _ -> {' '.join(a)}")(site)


def pool(site: Site) -> None:
    """Batch and channels pass, and so does an axis along which every window is one position after the other."""
    if site.read - {0}:
        raise Conflict("it gives positions of maxima, which count along all axes")
    row = " ".join(["n", "c", *name_pooled_axes(site)])
    rule(f"{row} -> {row}, _")(site)


def pool_channels_last(site: Site) -> None:
    """As `pool`; the channels are the last axis."""
    row = " ".join(["n", *name_pooled_axes(site), "c"])
    rule(f"{row} -> {row}")(site)


def name_pooled_axes(site: Site) -> list[str]:
    """A name for each spatial axis that a pooling leaves as it is: windows of one entry, one after the other."""
    windows = site.attrs["kernel_shape"]
    steps, pads = site.attrs.get("strides") or [1] * len(windows), site.attrs.get("pads") or [0] * (2 * len(windows))
    if len(site.outputs) > 1:  # positions of maxima count along all axes
        return ["_"] * len(windows)
    plain = [w == s == 1 for w, s in zip(windows, steps, strict=True)]
    padded = [low != 0 or high != 0 for low, high in zip(pads, pads[len(windows) :], strict=False)]
    return [f"s{i}" if p and not q else "_" for i, (p, q) in enumerate(zip(plain, padded, strict=True))]


CHANNELS = rule("n c _... -> n c _...")
OVER_SPACE = rule("n c s... -> n c _...", stat="s")
POOL = Row(pool, zero="keeps")
RULES: dict[str, Rule] = {
    "Conv": Row(
        convolution,
        macs=EVERY_NAME,
        kernel="convolution",
        bias=2,
        zero="product",
        defaults=GROUP_DEFAULT,
    ),
    "ConvTranspose": Row(
        transposed_convolution,
        macs=EVERY_NAME,
        kernel="transposed",
        bias=2,
        zero="product",
        defaults=GROUP_DEFAULT,
    ),
    "DeformConv": Row(deform_conv, macs=EVERY_NAME, defaults=GROUP_DEFAULT),
    "CausalConvWithState": Row(rule("n c _, c _ _k..., c, n c _ -> n c _s..., n c _"), macs=EVERY_NAME),
    "MatMul": Row(matmul, macs=EVERY_NAME, kernel="matrix", stacks=True, zero="product"),
    "Gemm": Row(gemm, macs=EVERY_NAME, kernel="matrix", bias=2, zero="product"),
    "Einsum": Row(einsum, macs=EVERY_NAME),
    "BatchNormalization": Row(batch_norm, zero="gain", norm=Norm("batch", statistics=(3, 4))),
    "InstanceNormalization": Row(rule("n c s..., c, c -> n c s...", stat="s"), norm=Norm("space")),
    "GroupNormalization": Row(group_norm, norm=Norm("groups")),
    "LayerNormalization": Row(normalisation, norm=Norm()),
    "RMSNormalization": Row(normalisation, norm=Norm(centred=False)),
    "MeanVarianceNormalization": Row(mean_variance, norm=Norm("axes", epsilon=1e-9)),
    "LRN": rule("n C s... -> n C s..."),
    "LpNormalization": lp_normalization,
    **dict.fromkeys(("AveragePool", "LpPool"), POOL),
    "MaxPool": Row(pool, zero="keeps", one_output=True),
    "GlobalAveragePool": Row(OVER_SPACE, zero="keeps", mean=True),
    "GlobalMaxPool": Row(OVER_SPACE, zero="keeps", neutral=-math.inf),
    "GlobalLpPool": OVER_SPACE,
    "Crop": CHANNELS,
    "DFT": Row(fourier_transform, zero="keeps"),
    "STFT": Row(rule("b _..., _, _, _ -> b _ _ _"), zero="keeps"),
    "Det": rule("b... _ _ -> b..."),
    "Col2Im": Row(rule("n (c K) _, _, _ -> n c _..."), zero="keeps"),
    "MaxRoiPool": rule("_ c _..., _ -> _ c _..."),
    "RoiAlign": rule("_ c _..., _, _ -> _ c _..."),
    "GridSample": rule("_ c _..., _ -> _ c _..."),
    "ReverseSequence": reverse_sequence,
    "TensorScatter": tensor_scatter,
    "CenterCropPad": center_crop_pad,
    **dict.fromkeys(("Softmax", "LogSoftmax"), Row(make_axis_rule(-1, flattens_below=13), squashes=True)),
    "Hardmax": make_axis_rule(-1, flattens_below=13),
    **dict.fromkeys(("ArgMax", "ArgMin"), make_axis_rule(0)),
    **dict.fromkeys(("CumSum", "CumProd"), cumulative),
    "TopK": Row(make_axis_rule(-1), decides="choice"),
    "DynamicQuantizeLinear": Row(rule("x... -> x..., _, _", stat="x"), decides="step"),
    "Trilu": rule("b... _ _, _ -> b... _ _"),
    "CastLike": rule("x..., ? -> x..."),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceSum"), Row(reduction, zero="keeps")),
    **dict.fromkeys(("ReduceLogSum", "ReduceSumSquare"), reduction),
    "ReduceMean": Row(reduction, zero="keeps", mean=True),
    "ReduceMax": Row(reduction, zero="keeps", neutral=-math.inf),
    "ReduceMin": Row(reduction, zero="keeps", neutral=math.inf),
    "ReduceProd": Row(reduction, neutral=1.0),
    "ReduceLogSumExp": Row(reduction, neutral=-math.inf),
    "Identity": Row(elementwise, unary=True, zero="keeps", identity=True, reorders=True),
    "Dropout": Row(dropout, zero="keeps", one_output=True, identity=True),
    "Cast": Row(elementwise, unary=True, zero="keeps", reorders=True),
    "Relu": Row(elementwise, unary=True, zero="keeps", rectifies=True),
    "Clip": Row(elementwise, zero="clip"),
    "PRelu": Row(elementwise, zero="keeps"),
    "Tanh": Row(elementwise, unary=True, zero="keeps", squashes=True),
    **dict.fromkeys(("Sigmoid", "HardSigmoid"), Row(elementwise, unary=True, squashes=True)),
    "Add": Row(elementwise, zero="sum", additive=True, arithmetic="add", sums="plus"),
    "Sub": Row(elementwise, zero="sum", additive=True, sums="minus"),
    "Sum": Row(elementwise, zero="sum", additive=True, sums="plus"),
    "Mean": Row(elementwise, zero="sum", additive=True),
    **dict.fromkeys(("Max", "Min"), Row(elementwise, zero="sum")),
    "Mul": Row(elementwise, zero="multiply", arithmetic="multiply"),
    "Div": Row(elementwise, divides=True),
    "Pow": Row(elementwise, power=True),
    "Where": Row(elementwise, additive=True),
    **dict.fromkeys(FROM_ZERO_TO_ZERO, Row(elementwise, unary=True, zero="keeps")),
    **dict.fromkeys(FUNCTIONS, Row(elementwise, unary=True)),
    **dict.fromkeys(OPERATIONS, elementwise),
}
UNARY = tuple(op for op, row in RULES.items() if isinstance(row, Row) and row.unary)
