"""Operators of com.microsoft that onnxruntime's optimisers write: fused activations, norms, quantised families.

SkipLayerNormalization   b... c, b... c, c, c, c -> b... c, _, _, b... c       stat="c"
"""

from __future__ import annotations

from spa_compiler.errors import Conflict
from spa_compiler.operators.rule import freeze_rule, rule
from spa_compiler.operators.site import Row, Rule, Site
from spa_compiler.operators.tables import attention, compute, quantized
from spa_compiler.operators.traits import EVERY_NAME, UNCOUNTED, Norm


def fused_matmul(site: Site) -> None:
    """MatMul with transposed operands; a transposed batch is not followed."""
    if site.attrs.get("transBatchA", 0) or site.attrs.get("transBatchB", 0):
        raise Conflict("FusedMatMul transposes its batch")
    a = "b... k m" if site.attrs.get("transA", 0) else "b... m k"
    b = "b... n k" if site.attrs.get("transB", 0) else "b... k n"
    rule(f"{a}, {b} -> b... m n")(site)


def fused_conv(site: Site) -> None:
    """Conv, an addition and an activation."""
    x, y = compute.name_space(site)
    added = y if x != "_..." else x
    rule(f"n (g i) {x}, (g o) i _k..., (g o), n (g o) {added} -> n (g o) {y}", g="group")(site)


FROZEN_OPERATORS: dict[str, str] = {
    "blocks of quantised weights": "GatherBlockQuantized",
    "quantised inside the operator": "QEmbedLayerNormalization QLinearReduceMean QLinearSoftmax",
    "its sequence layout is packed": "RemovePadding RestorePadding",
    "every entry depends on every other": "Rfft Irfft",
    "compiled code of another runtime": "EPContext",
}
FROZEN_CONTRACTIONS: dict[str, str] = {
    "blocks of quantised weights": "MatMulNBits MatMulBnb4 MatMulFpQ4 MatMulNBitsMlp MatMulNBitsQkv",
    "experts are routed by number": "MoE QMoE",
    "quantised inside the operator": "QAttention DynamicQuantizeLSTM",
    "its sequence layout is packed": "PackedAttention PackedMultiHeadAttention",
    "caches and generation loops": """BeamSearch GreedySearch Sampling WhisperBeamSearch DecoderAttention
        DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention SparseAttention PagedAttention
        LongformerAttention""",
    "channels last": "NhwcConv NhwcFusedConv",
}
SKIP = "b... c, b... c, c, c, c -> b... c, _, _, b... c"
SKIP_UNCENTRED = "b... c, b... c, c, c -> b... c, _, _, b... c"
EMBED = "b s, b s, _ c, _ c, _ c, c, c, _, _ -> b s c, _, b s c"
RULES: dict[str, Rule] = {
    **attention.MICROSOFT_RULES,
    **quantized.MICROSOFT_QUANTIZED_RULES,
    "Gelu": compute.RULES["Gelu"],
    **dict.fromkeys(("QuickGelu", "FastGelu", "BiasGelu", "BiasAdd"), compute.elementwise),
    "FusedConv": Row(
        fused_conv,
        macs=EVERY_NAME,
        kernel="convolution",
        bias=2,
        activation="activation_params",
        defaults=compute.GROUP_DEFAULT,
    ),
    **dict.fromkeys(
        ("FusedMatMul", "TransposeMatMul"), Row(fused_matmul, macs=EVERY_NAME, kernel="matrix", zero="product")
    ),
    "FusedMatMulActivation": Row(fused_matmul, macs=EVERY_NAME, kernel="matrix", activation="activation_alpha"),
    "FusedGemm": Row(compute.gemm, macs=EVERY_NAME, kernel="matrix", bias=2, activation="activation_alpha"),
    "LayerNormalization": compute.RULES["LayerNormalization"],
    "SimplifiedLayerNormalization": compute.RULES["RMSNormalization"],
    "SkipLayerNormalization": Row(rule(SKIP, stat="c"), norm=Norm(gain=2, sum_output=3, epsilon=1e-12)),
    "SkipSimplifiedLayerNormalization": Row(
        rule(SKIP_UNCENTRED, stat="c"), norm=Norm(gain=2, centred=False, sum_output=3, epsilon=1e-12)
    ),
    "EmbedLayerNormalization": Row(rule(EMBED, stat="c"), norm=Norm(gain=5, sum_output=2, epsilon=1e-12)),
    "Inverse": rule("b... _ _ -> b... _ _"),
    "CDist": rule("m K, n K -> m n"),
    "NhwcMaxPool": compute.pool_channels_last,
    "Trilu": compute.RULES["Trilu"],
    "GridSample": compute.RULES["GridSample"],
    **{op: freeze_rule(why) for why, ops in FROZEN_OPERATORS.items() for op in ops.split()},
    **{op: Row(freeze_rule(why), macs=UNCOUNTED) for why, ops in FROZEN_CONTRACTIONS.items() for op in ops.split()},
}
