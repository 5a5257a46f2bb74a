"""The groups that the analysis must find in the exports of tests/exports, stated by reasoning about the networks.

The networks are in tools/exports: torch_nets.py, keras_nets.py and jax_nets.py; their widths differ wherever they may.
Every exporter writes the same network down in its own way: what can be pruned is the same.

A group is written `SIZE`, `SIZExBLOCKS` where every block (head, group) chooses on its own, with `stat` after it where
a norm takes statistics over it. `frozen` counts the parameters that nothing can cut, by a part of the reason; `reasons`
are those of axes of parameters whose other axes can be cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CLASSES = 7
OUTPUT, INPUT, KERNEL, TABLE = "graph output", "graph input", "Conv", "indexed at run time"


@dataclass(frozen=True)
class Export:
    """One file.

    producer     what the file says made it: name and the version's beginning
    total        parameters: numbers in constants of rank 1 or more
    groups       what -> size, blocks and statistic
    frozen       part of a reason -> parameters that no group can cut
    reasons      parts of the reasons of single frozen axes; a file with others fails, and so does one without
    """

    producer: str
    total: int
    groups: dict[str, str]
    frozen: dict[str, int] = field(default_factory=lambda: {OUTPUT: CLASSES})
    reasons: tuple[str, ...] = (INPUT, OUTPUT)


def conv(i: int, o: int, k: int, groups: int = 1, bias: bool = True) -> int:
    """Parameters of a convolution with a square kernel."""
    return i // groups * o * k * k + o * bias


def bn_conv(i: int, o: int, k: int, groups: int = 1) -> int:
    """A convolution without bias, and the four vectors of its BatchNorm."""
    return conv(i, o, k, groups, bias=False) + 4 * o


def linear(i: int, o: int) -> int:
    """Parameters of a linear map with bias."""
    return i * o + o


TORCH, OPTIMISED, QUANTISED = "pytorch 2.13.0", "onnxruntime.transformers 1.31.1", "onnx.quantize 0.1.0"
TF, JAX = "tf2onnx 1.17.0", "jax2onnx 0.17.1"
IMAGE = (INPUT, OUTPUT, KERNEL)

RESNET = {"trunk": "6", "inside the first block": "5", "inside the second": "4", "trunk after it": "8"}
RESNET_CONVS = ((3, 6, 3), (6, 5, 3), (5, 6, 3), (6, 4, 3), (4, 8, 3), (6, 8, 1))
RESNET_FOLDED = sum(conv(*c) for c in RESNET_CONVS) + linear(8, CLASSES)
RESNET_KEPT = sum(bn_conv(*c) for c in RESNET_CONVS) + linear(8, CLASSES)
RESNET_WEIGHTS = sum(conv(*c, bias=False) for c in RESNET_CONVS) + 8 * CLASSES
RESNET_OUTPUTS = sum(c[1] for c in RESNET_CONVS) + CLASSES

MOBILENET = {
    "trunk": "8", "expanded, depthwise and gate": "12", "squeezed": "5", "expanded again": "10", "second trunk": "6",
    "before the head": "14",
}  # fmt: skip
MOBILENET_CONVS = (
    (3, 8, 3), (8, 12, 1), (12, 12, 3, 12), (12, 8, 1), (8, 10, 1), (10, 10, 3, 10), (10, 6, 1), (6, 14, 1),
)  # fmt: skip
MOBILENET_KEPT = sum(bn_conv(*c) for c in MOBILENET_CONVS) + conv(12, 5, 1) + conv(5, 12, 1) + linear(14, CLASSES)

SHUFFLENET = {  # the stem is l0..l5 r0..r5; after the first unit: l0 n0 l1 n1 l2 n2 | l3 n3 l4 n4 l5 n5
    "left half of the stem that the head reads": "3",
    "left half of the stem that the second branch reads": "3",
    "right half of the stem": "6",
    "inside the first branch": "5",
    "out of the first branch, read by the head": "3",
    "out of the first branch, read by the second": "3",
    "inside the second branch": "4",
    "out of the second branch": "6",
}
SHUFFLENET_CONVS = ((3, 12, 3), (6, 5, 1), (5, 5, 3, 5), (5, 6, 1), (6, 4, 1), (4, 4, 3, 4), (4, 6, 1))
SHUFFLENET_TOTAL = sum(conv(*c) for c in SHUFFLENET_CONVS) + linear(12, CLASSES)

CONVNEXT = {"first trunk": "8 stat", "first mlp": "12", "second trunk": "10 stat", "second mlp": "14"}
CONVNEXT_TOTAL = (
    conv(3, 8, 4) + 16 + conv(8, 8, 3, 8) + 16 + linear(8, 12) + linear(12, 8) + 8
    + 16 + conv(8, 10, 2) + conv(10, 10, 3, 10) + 20 + linear(10, 14) + linear(14, 10) + 10 + 20 + linear(10, CLASSES)
)  # fmt: skip

TRANSFORMER = {"residual stream": "8 stat", "heads": "2", "queries and keys": "4x2", "values": "4x2", "mlp": "10"}
MLP = linear(8, 10) + linear(10, 8)
VIT_TOTAL = (
    conv(3, 8, 4) + 8 + 5 * 8 + 3 * 16 + linear(8, 24) + linear(8, 8) + MLP + linear(8, CLASSES)
)  # fmt: skip
SCALES = {"a single number": 2}  # of queries and of keys, [1] each
TOKENS = "Softmax works along"  # the class token beside the patches
BERT = {**TRANSFORMER, "pooler": "8"}
BERT_TOTAL = (20 + 2 + 16) * 8 + 16 + 4 * linear(8, 8) + 32 + MLP + linear(8, 8) + linear(8, CLASSES)
GPT2_TOTAL = (20 + 16 + 20) * 8 + 48 + linear(8, 24) + linear(8, 8) + MLP  # the tied head is written out
LLAMA = {
    "residual stream": "8 stat", "key-value heads with their queries": "2", "queries of a key-value head": "2x2",
    "pairs of a rotary table that all heads share": "3", "values of a key-value head": "6x2", "gated mlp": "10",
}  # fmt: skip
LLAMA_TOTAL = 2 * 20 * 8 + 3 * 8 + 8 * (24 + 12 + 12) + 24 * 8 + 3 * 8 * 10 + 3
SWIN = {**TRANSFORMER, "merged patches": "12 stat"}
SWIN_MASK = 4 * 4 * 4  # windows, positions, positions
SWIN_TOTAL = (
    conv(3, 8, 2) + 32 + linear(8, 24) + linear(8, 8) + 2 * 4 * 4 + SWIN_MASK + MLP + 2 * 32 + 32 * 12 + 24
    + linear(12, CLASSES)
)  # fmt: skip

RNN = {"both directions": "5x2", "second cell": "4"}
KERAS_RNN = {"first cell": "5", "second cell": "4"}
HEAD = linear(4, CLASSES)
LSTM_TOTAL = 2 * 4 * (6 * 5 + 5 * 5 + 2 * 5) + 4 * (10 * 4 + 4 * 4 + 2 * 4) + HEAD
GRU_STATES = 2 * 2 * 5 + 2 * 4  # zeros at the start, batch 2
GRU_TOTAL = 2 * 3 * (6 * 5 + 5 * 5 + 2 * 5) + 3 * (10 * 4 + 4 * 4 + 2 * 4) + HEAD + GRU_STATES
KERAS_LSTM = 4 * (6 * 5 + 5 * 5 + 5) + 4 * (5 * 4 + 4 * 4 + 4) + HEAD

UNET = {
    "norm groups of the upper level": "4", "channels of an upper group": "2x4 stat",
    "norm groups of the lower level": "3", "channels of a lower group": "3x3 stat",
    "transposed convolution": "5",
    "norm groups of the last block": "2", "channels of a last group": "5x2 stat",
}  # fmt: skip
UNET_TOTAL = conv(3, 8, 3) + 16 + conv(8, 9, 3) + 18 + conv(9, 5, 2) + conv(13, 10, 1) + 20 + conv(10, 3, 3)
EDSR = {"residual stream": "6", "inside": "4", "channels before and after the shuffle": "5"}
EDSR_TOTAL = conv(3, 6, 3) + conv(6, 4, 3) + conv(4, 6, 3) + conv(6, 20, 3) + conv(5, 3, 3)
C2F = {
    "stem": "6", "half that passes": "4", "half of the residual steps": "4", "inside the first step": "3",
    "inside the second": "5", "mixed": "9",
}  # fmt: skip
C2F_CONVS = ((3, 6, 3), (6, 8, 1), (4, 3, 3), (3, 4, 3), (4, 5, 3), (5, 4, 3), (16, 9, 1), (9, CLASSES, 1))
C2F_TOTAL = sum(conv(*c) for c in C2F_CONVS) + 4

CNN = {"trunk": "6", "expanded and depthwise": "10", "separable": "9"}
CNN_CONVS = ((3, 6, 3), (6, 10, 1), (10, 10, 3, 10), (10, 6, 1), (6, 6, 3, 6), (6, 9, 1))
CNN_WEIGHTS = sum(conv(*c, bias=False) for c in CNN_CONVS)
CNN_OUTPUTS = sum(c[1] for c in CNN_CONVS)
KERAS_HEADS = {**TRANSFORMER, "queries and keys": "3x2"}
ENTRY = linear(6, 8) + 3 * 16 + MLP + linear(8, CLASSES)

EXPORTS = {
    "resnet.legacy17": Export(TORCH, RESNET_FOLDED, RESNET, reasons=IMAGE),
    "resnet.legacy13_bn": Export(TORCH, RESNET_KEPT, RESNET, reasons=IMAGE),
    "resnet.legacy17.ort": Export(TORCH, RESNET_FOLDED, RESNET, reasons=IMAGE),  # FusedConv
    # quantised: scale and zero point per channel, in QDQ also the bias's scale; int32 biases are not counted
    "resnet.legacy17.qdq": Export(
        QUANTISED, RESNET_WEIGHTS + 3 * RESNET_OUTPUTS, RESNET, {OUTPUT: 3 * CLASSES}, IMAGE
    ),
    "resnet.legacy17.qop": Export(
        QUANTISED, RESNET_WEIGHTS + 2 * RESNET_OUTPUTS, RESNET, {OUTPUT: 2 * CLASSES}, IMAGE
    ),
    "mobilenet.dynamo20_bn": Export(TORCH, MOBILENET_KEPT, MOBILENET, reasons=IMAGE),
    "shufflenet.legacy17": Export(TORCH, SHUFFLENET_TOTAL, SHUFFLENET, reasons=IMAGE),
    "shufflenet.dynamo18": Export(TORCH, SHUFFLENET_TOTAL, SHUFFLENET, reasons=IMAGE),
    "convnext.legacy17": Export(TORCH, CONVNEXT_TOTAL, CONVNEXT, reasons=IMAGE),
    "vit.legacy17": Export(TORCH, VIT_TOTAL + 2, TRANSFORMER, {OUTPUT: CLASSES} | SCALES, (*IMAGE, TOKENS)),
    "vit.dynamo18": Export(TORCH, VIT_TOTAL + 2, TRANSFORMER, {OUTPUT: CLASSES} | SCALES, (*IMAGE, TOKENS)),
    # the operator of opset 23
    "vit.dynamo23": Export(TORCH, VIT_TOTAL, TRANSFORMER, reasons=(*IMAGE, "Attention fixes")),
    "vit.legacy17.ort": Export(OPTIMISED, VIT_TOTAL + 2, TRANSFORMER, {OUTPUT: CLASSES} | SCALES, (*IMAGE, TOKENS)),
    "swin.dynamo18": Export(
        TORCH, SWIN_TOTAL, SWIN, {OUTPUT: CLASSES, "no single channel": SWIN_MASK}, (*IMAGE, "no single channel")
    ),
    "bert.dynamo23": Export(TORCH, BERT_TOTAL, BERT, reasons=(INPUT, OUTPUT, TABLE)),
    "bert.legacy14.ort": Export(OPTIMISED, BERT_TOTAL, BERT, reasons=(OUTPUT, TABLE)),  # com.microsoft.Attention
    "gpt2.dynamo18": Export(TORCH, GPT2_TOTAL, TRANSFORMER, {}, (OUTPUT, TABLE)),
    "llama.dynamo18": Export(TORCH, LLAMA_TOTAL, LLAMA, {}, (OUTPUT, TABLE)),
    "lstm.legacy17": Export(TORCH, LSTM_TOTAL, RNN, reasons=(INPUT, OUTPUT, "LSTM")),
    "gru.legacy13": Export(TORCH, GRU_TOTAL, RNN, reasons=(INPUT, OUTPUT, "GRU")),
    "gru.dynamo18": Export(TORCH, GRU_TOTAL, RNN, reasons=(INPUT, OUTPUT, "GRU")),
    "unet.legacy17": Export(TORCH, UNET_TOTAL + 2 * (4 + 3 + 2), UNET, {OUTPUT: 3}, IMAGE),  # ones and zeros of norms
    "unet.dynamo21": Export(TORCH, UNET_TOTAL, UNET, {OUTPUT: 3}, IMAGE),
    "edsr.legacy13": Export(TORCH, EDSR_TOTAL, EDSR, {OUTPUT: 3}, (*IMAGE, "DepthToSpace")),
    "c2f.legacy17": Export(TORCH, C2F_TOTAL, C2F, {OUTPUT: CLASSES, "Resize": 4}, (*IMAGE, "Resize")),
    # BatchNorm: folded into dense convolutions, a scale and a shift after the depthwise one
    "cnn.tf2onnx": Export(TF, CNN_WEIGHTS + 6 + 10 + 20 + 6 + 9 + linear(9, CLASSES), CNN, reasons=IMAGE),
    "cnn.tflite": Export(
        TF, CNN_WEIGHTS + 9 * CLASSES + 3 * (CNN_OUTPUTS + CLASSES), CNN, {OUTPUT: 3 * CLASSES}, IMAGE
    ),
    "cnn.keras": Export(  # BatchNorm is Sub, Mul, Add
        TORCH, CNN_WEIGHTS + 3 * (6 + 10 + 10 + 6) + 9 + linear(9, CLASSES), CNN, reasons=IMAGE
    ),
    "attention.tf2onnx": Export(
        TF, ENTRY + 2 * linear(8, 2 * 3) + linear(8, 2 * 4) + linear(2 * 4, 8), KERAS_HEADS, reasons=(INPUT, OUTPUT)
    ),
    "lstm.tf2onnx": Export(TF, KERAS_LSTM + 4 * (5 + 4), KERAS_RNN, reasons=(INPUT, OUTPUT, "LSTM")),  # two biases
    "lstm.keras": Export(TORCH, KERAS_LSTM, KERAS_RNN, reasons=(INPUT, OUTPUT)),  # unrolled: weights used twice
    "gru.tf2onnx": Export(  # a Loop; the state starts as zeros, batch 2
        TF, 3 * (6 * 5 + 5 * 5 + 2 * 5) + 2 * 5 + linear(5, CLASSES), {"cell": "5"},
        reasons=(INPUT, OUTPUT, "cuts 15 channels"),  # three gates side by side
    ),
    "cnn.jax2onnx": Export(
        JAX,
        bn_conv(3, 6, 3) + bn_conv(6, 10, 1) + conv(10, 10, 3, 10) + conv(10, 6, 1) + 4 * 6 + conv(6, 9, 3)
        + linear(9, CLASSES), CNN, reasons=IMAGE,
    ),
    "attention.jax2onnx": Export(JAX, ENTRY + 4 * linear(8, 8), TRANSFORMER, reasons=(INPUT, OUTPUT)),
    "mlp.jax2onnx": Export(
        JAX, 2 * linear(6, 10) + linear(10, 8) + 8 + linear(8, CLASSES), {"gated": "10", "norm": "8 stat"}
    ),
}  # fmt: skip
