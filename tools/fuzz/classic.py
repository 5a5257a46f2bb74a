"""Classifiers as older tools write them: WinML's pictures of opset 8, scikit-learn's pipelines."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tools.fuzz.draft import Draft, Value
from tools.fuzz.vectors import add_zipmap

CLASSES = 3


def draw_picture_classifier(d: Draft) -> None:
    """Opset 8 or 9: ImageScaler by chance, convolutions, pools, Gemm, and a list of maps behind."""
    d.opset = d.pick([8, 9])
    n, c = d.draw_size("N", 2), d.pick([1, 3])
    x: Value = d.add_input("image", (n, c, 16, 16))
    if d.chance(0.6):
        x = x.become(d.op("ImageScaler", x, scale=0.5, bias=[0.1] * c))
    side = 16
    for _ in range(d.pick([1, 2])):
        out = d.draw_width()
        x = x.become(d.op("Conv", x, d.weight(out, x.width(1), 3, 3), d.weight(out), pads=[1] * 4), out, 1)
        if d.chance(0.4):
            given = d.positive(out), d.weight(out), d.weight(out), d.positive(out)
            x = x.become(d.op("BatchNormalization", x, *given))
        x = x.become(_squash(d, x))
        side //= 2
        x = Value(d.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), (n, out, side, side))
    if d.chance(0.4):  # the channels last, as a converter from another layout does
        x = d.transpose(x, 0, 2, 3, 1)
    many = out * side * side
    if d.chance(0.5):
        y = Value(d.op("Flatten", x), (n, many))
    else:
        y = d.reshape(x, d.pick([[0, -1], [-1, many]]), (n, many))
    wide = d.draw_width()
    y = y.become(d.op("Relu", d.op("Gemm", y, d.weight(many, wide, fan=many), d.weight(wide))), wide)
    y = y.become(d.op("Dropout", y)) if d.chance(0.3) else y
    y = y.become(d.op("Gemm", y, d.weight(wide, CLASSES, fan=wide), d.weight(CLASSES)), CLASSES)
    end_classifier(d, y.become(d.op("Softmax", y, axis=1)))


def _squash(d: Draft, x: Value) -> str:
    """An activation of an old opset."""
    kind = d.pick(["Relu", "Tanh", "Elu", "LRN", "Clip", "PRelu"])
    if kind == "LRN":
        return d.op(kind, x, size=3)
    if kind == "Clip":
        return d.op(kind, x, min=0.0, max=6.0)
    return d.op(kind, x, d.positive(x.width(1), 1, 1)) if kind == "PRelu" else d.op(kind, x)


def draw_pipeline(d: Draft) -> None:
    """Scikit-learn's MLP behind a scaler, with a label and a list of maps."""
    n = d.draw_size("N", 2)
    x = d.add_input("features", (n, 8))
    y = x
    if d.chance(0.6):
        offset, scale = d.numbers.random(8).tolist(), d.numbers.uniform(0.5, 1.5, 8).tolist()
        y = x.become(d.op("Scaler", x, domain="ai.onnx.ml", offset=offset, scale=scale))
    for wide in (d.draw_width(), d.draw_width()):
        z = d.op("MatMul", y, d.weight(y.width(1), wide, fan=y.width(1)))
        y = y.become(d.op(d.pick(["Relu", "Tanh"]), d.op("Add", z, d.weight(1, wide))), wide)
    z = d.op("Add", d.op("MatMul", y, d.weight(y.width(1), CLASSES)), d.weight(1, CLASSES))
    p = Value(d.op("Softmax", z, axis=1), (n, CLASSES))
    best = d.op("ArgMax", p, axis=1)
    labels = d.constant(np.array([3, 5, 7], np.int64))
    picked = Value(d.op("ArrayFeatureExtractor", labels, best, domain="ai.onnx.ml"), (1, n))
    label = d.reshape(picked, [-1], (n,))
    d.add_output(label, TensorProto.INT64)
    end_classifier(d, p)


def end_classifier(d: Draft, p: Value) -> None:
    """The probabilities as they are, or as maps."""
    if d.chance(0.6):
        add_zipmap(d, p)
    else:
        d.add_output(p)
