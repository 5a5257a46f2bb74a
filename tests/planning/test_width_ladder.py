"""Widths that a group may take."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

import spa_compiler


def test_dead_channels_that_fill_a_block_of_the_kernel_stay() -> None:
    rng = np.random.default_rng(2)
    w1, w2 = rng.standard_normal((64, 3, 3, 3)), rng.standard_normal((32, 64, 1, 1))
    w1[[5, 9, 11, 20, 21, 22]] = 0
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,8,8] x) => (float[1,32,6,6] y) {
        a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }"""
    model = onnx.parser.parse_model(text)
    for name, w in (("w1", w1), ("w2", w2)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(w.astype(np.float32), name))

    def width(ratio: float, **given: Any) -> int:
        report = spa_compiler.compile(model, ratio, criterion="l2", latency=False, quality=False, **given).report
        return int(report["groups"][0]["kept"])

    assert width(0.0) == 58  # all that is free goes where nothing else is asked for
    assert width(0.001, device="avx512") % 4 == 0
    assert width(0.2, device="avx512") % 16 == 0
    assert width(0.05, align=1) == 58
