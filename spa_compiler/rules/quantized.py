"""Quantised graphs: scales and zero points follow the axis that they belong to.

    DequantizeLinear, per channel (axis 0)   a0 a1 a2 a3, a0, a0 -> a0 a1 a2 a3
"""

from __future__ import annotations

from spa_compiler.errors import Conflict
from spa_compiler.rules.core import letters
from spa_compiler.spec import Rule, Site, rule


def linear(site: Site) -> None:
    """QuantizeLinear and DequantizeLinear: one scale for all (rank 0), or one per position of `axis` (rank 1)."""
    a, scale = letters(site.x()), site.x(1)
    if len(scale.axes) > 1 or site.attrs.get("block_size", 0):
        raise Conflict("blocked quantisation ties neighbouring positions together")
    per_axis = len(scale.axes) == 1 and scale.shape[0] != 1
    s = a[int(site.attrs.get("axis", 1)) % len(a)] if per_axis else "_"
    rule(f"{' '.join(a)}{f', {s}' * (len(site.inputs) - 1)} -> {' '.join(a)}")(site)


RULES: dict[str, Rule] = {
    "QuantizeLinear": linear,
    "DequantizeLinear": linear,
    "ConvInteger": rule("n (g i) _..., (g o) i _..., _, _ -> n (g o) _...", g="group"),
    "MatMulInteger": rule("b... m k, k n, _, _ -> b... m n"),
    "QLinearConv": rule("n (g i) _..., _, _, (g o) i _..., _, _, _, _, (g o) -> n (g o) _...", g="group"),
    "QLinearMatMul": rule("b... m k, _, _, k n, _, _, _, _ -> b... m n"),
}
