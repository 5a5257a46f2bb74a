"""Quantised graphs: scales and zero points follow the axis that they belong to.

DequantizeLinear, per channel (axis 0)   a0 a1 a2 a3, a0, a0 -> a0 a1 a2 a3
"""

from __future__ import annotations

from spa_compiler.errors import Conflict
from spa_compiler.operators.rule import rule
from spa_compiler.operators.site import Row, Rule, Site
from spa_compiler.operators.tables.compute import GROUP_DEFAULT, name_axes, name_pooled_axes, name_space
from spa_compiler.operators.traits import EVERY_NAME


def linear(site: Site) -> None:
    """QuantizeLinear and DequantizeLinear: one scale for all (rank 0), or one per position of `axis` (rank 1)."""
    a, scale = name_axes(site.x()), site.x(1)
    if len(scale.axes) > 1 or site.attrs.get("block_size", 0):
        raise Conflict("blocked quantisation ties neighbouring positions together")
    per_axis = len(scale.axes) == 1 and scale.shape[0] != 1
    s = a[int(site.attrs.get("axis", 1)) % len(a)] if per_axis else "_"
    rule(f"{' '.join(a)}{f', {s}' * (len(site.inputs) - 1)} -> {' '.join(a)}")(site)


def concat(site: Site) -> None:
    """QLinearConcat: the scale and zero point of the result, then (tensor, scale, zero point) for each part."""
    a = name_axes(site.y)
    k, many = int(site.attrs.get("axis", 1)) % len(a), (len(site.inputs) - 2) // 3
    parts = "".join(f", {' '.join([*a[:k], f'c{j}', *a[k + 1 :]])}, _, _" for j in range(many))
    rule(f"_, _{parts} -> {' '.join([*a[:k], '+'.join(f'c{j}' for j in range(many)), *a[k + 1 :]])}")(site)


def pool(site: Site) -> None:
    """QLinear pooling, channels first or last."""
    places = " ".join(name_pooled_axes(site)) if "kernel_shape" in site.attrs else "_..."
    order = f"n {places} c" if site.attrs.get("channels_last", 0) else f"n c {places}"
    rule(f"{order}, _, _, _, _ -> {order}")(site)


def convolution(site: Site) -> None:
    """QLinearConv; scales and zero points of the weights may be one per output channel."""
    read, made = name_space(site, 3)
    last = site.attrs.get("channels_last", 0)
    x, y = (f"n {read} (g i)", f"n {made} (g o)") if last else (f"n (g i) {read}", f"n (g o) {made}")
    scale, zero = (_per_channel(site, slot, "(g o)") for slot in (4, 5))
    rule(f"{x}, _, _, (g o) i _k..., {scale}, {zero}, _, _, (g o) -> {y}", g="group")(site)


def matmul(site: Site) -> None:
    """QLinearMatMul with one scale for all, or one per column."""
    scale, zero = (_per_channel(site, slot, "n") for slot in (4, 5))
    rule(f"b... m k, _, _, b... k n, {scale}, {zero}, _, _ -> b... m n")(site)


def integers(spec: str, columns: str, group: bool = False) -> Rule:
    """ConvInteger and MatMulInteger: the zero point of the weights may be one per output channel."""

    def apply(site: Site) -> None:
        text = spec.format(zero=_per_channel(site, 3, columns))
        (rule(text, g="group") if group else rule(text))(site)

    apply.__doc__ = f"`{spec.format(zero=columns)}`"
    return apply


def _per_channel(site: Site, slot: int, name: str) -> str:
    value = site.inputs[slot] if slot < len(site.inputs) else None
    return name if value is not None and len(value.axes) == 1 and value.shape[0] > 1 else "_"


def gemm(site: Site) -> None:
    """QGemm: A, its scale and zero point, B, its own, C."""
    a = "k m" if site.attrs.get("transA", 0) else "m k"
    b = "n k" if site.attrs.get("transB", 0) else "k n"
    scale, zero = (_per_channel(site, slot, "n") for slot in (4, 5))
    rule(f"{a}, _, _, {b}, {scale}, {zero}, n, _, _ -> m n")(site)


def dynamic_matmul(slots: tuple[int, int, int], stat: str = "") -> Rule:
    """DynamicQuantizeMatMul and MatMulIntegerToFloat; `slots`: scale, zero point and bias of the columns.

    `stat`: the range of all that is read decides how it is rounded.
    """

    def apply(site: Site) -> None:
        rest = ["_"] * (slots[2] - 1)
        for slot in slots:
            rest[slot - 2] = _per_channel(site, slot, "n")
        rule(f"b... m k, b... k n, {', '.join(rest)} -> b... m n", stat=stat)(site)

    apply.__doc__ = "`b... m k, b... k n, ... -> b... m n`, scales, zero points and bias per n"
    return apply


UNARY_RULE = rule("x..., _, _, _, _ -> x...")
BINARY_RULE = rule("x..., _, _, x..., _, _, _, _ -> x...")
STEP_ROW = Row(linear, decides="step")
QLINEAR_CONV = Row(convolution, macs=EVERY_NAME, kernel="convolution", zero_points=(2, 5), defaults=GROUP_DEFAULT)
RULES: dict[str, Rule] = {
    "QuantizeLinear": STEP_ROW,
    "DequantizeLinear": Row(linear, dequantizes=True),
    "ConvInteger": Row(
        integers("n (g i) _..., (g o) i _k..., _, {zero} -> n (g o) _s...", "(g o)", group=True),
        macs=EVERY_NAME,
        kernel="convolution",
        zero_points=(2, 3),
        defaults=GROUP_DEFAULT,
    ),
    "MatMulInteger": Row(
        integers("b... m k, b... k n, _, {zero} -> b... m n", "n"),
        macs=EVERY_NAME,
        kernel="matrix",
        zero_points=(2, 3),
    ),
    "QLinearConv": QLINEAR_CONV,
    "QLinearMatMul": Row(matmul, macs=EVERY_NAME, kernel="matrix", zero_points=(2, 5)),
}
MICROSOFT_QUANTIZED_RULES: dict[str, Rule] = {
    "QuantizeLinear": STEP_ROW,
    "DequantizeLinear": Row(linear, dequantizes=True),
    "QLinearConv": QLINEAR_CONV,
    "QGemm": Row(gemm, macs=EVERY_NAME, kernel="matrix", zero_points=(2, 5)),
    "QLinearConcat": concat,
    "QLinearAdd": BINARY_RULE,
    "QLinearMul": BINARY_RULE,
    "QLinearSigmoid": UNARY_RULE,
    "QLinearLeakyRelu": UNARY_RULE,
    "QLinearGlobalAveragePool": pool,
    "QLinearAveragePool": pool,
    "QLinearWhere": rule("x..., x..., _, _, x..., _, _, _, _ -> x..."),
    "DynamicQuantizeMatMul": Row(
        dynamic_matmul((2, 3, 4), stat="k"), macs=EVERY_NAME, kernel="matrix", zero_points=(0, 3)
    ),
    "MatMulIntegerToFloat": Row(dynamic_matmul((3, 5, 6)), macs=EVERY_NAME, kernel="matrix", zero_points=(4, 5)),
}
