"""Operators of com.microsoft that onnxruntime's optimisers write: fused activations, norms, quantised families.

SkipLayerNormalization   b... c, b... c, c, c, c -> b... c, _, _, b... c       stat="c"
"""

from __future__ import annotations

from spa_compiler.errors import Conflict
from spa_compiler.operators.rule import freeze_rule, rule
from spa_compiler.operators.site import Rule, Site
from spa_compiler.operators.tables import attention, compute, quantized


def fused_matmul(site: Site) -> None:
    """MatMul with transposed operands; a transposed batch is not followed."""
    if site.attrs.get("transBatchA", 0) or site.attrs.get("transBatchB", 0):
        raise Conflict("FusedMatMul transposes its batch")
    a = "b... k m" if site.attrs.get("transA", 0) else "b... m k"
    b = "b... n k" if site.attrs.get("transB", 0) else "b... k n"
    rule(f"{a}, {b} -> b... m n")(site)


def fused_conv(site: Site) -> None:
    """Conv, an addition and an activation."""
    rule("n (g i) _..., (g o) i _..., (g o), n (g o) _... -> n (g o) _...", g="group")(site)


FROZEN: dict[str, str] = {
    "blocks of quantised weights": """MatMulNBits MatMulBnb4 MatMulFpQ4 GatherBlockQuantized MatMulNBitsMlp
        MatMulNBitsQkv""",
    "experts are routed by number": "MoE QMoE",
    "quantised inside the operator": """QAttention QEmbedLayerNormalization DynamicQuantizeLSTM QLinearReduceMean
        QLinearSoftmax""",
    "its sequence layout is packed": "PackedAttention PackedMultiHeadAttention RemovePadding RestorePadding",
    "caches and generation loops": """BeamSearch GreedySearch Sampling WhisperBeamSearch DecoderAttention
        DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention SparseAttention PagedAttention
        LongformerAttention""",
    "every entry depends on every other": "Rfft Irfft Inverse CDist",
    "channels last": "NhwcConv NhwcFusedConv",
    "compiled code of another runtime": "EPContext",
}
SKIP = "b... c, b... c, c, c, c -> b... c, _, _, b... c"
RULES: dict[str, Rule] = {
    **attention.MICROSOFT,
    **quantized.MICROSOFT,
    **dict.fromkeys(("Gelu", "QuickGelu", "FastGelu", "BiasGelu", "BiasAdd"), compute.elementwise),
    "FusedConv": fused_conv,
    "FusedMatMul": fused_matmul,
    "TransposeMatMul": fused_matmul,
    "FusedMatMulActivation": fused_matmul,
    "FusedGemm": compute.gemm,
    "LayerNormalization": compute.normalisation,
    "SimplifiedLayerNormalization": compute.normalisation,
    "SkipLayerNormalization": rule(SKIP, stat="c"),
    "SkipSimplifiedLayerNormalization": rule("b... c, b... c, c, c -> b... c, _, _, b... c", stat="c"),
    "EmbedLayerNormalization": rule("b s, b s, _ c, _ c, _ c, c, c, _, _ -> b s c, _, b s c", stat="c"),
    "NhwcMaxPool": rule("n _... c -> n _... c"),
    "Trilu": compute.RULES["Trilu"],
    "GridSample": compute.RULES["GridSample"],
    **{op: freeze_rule(why) for why, ops in FROZEN.items() for op in ops.split()},
}
