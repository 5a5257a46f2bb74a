"""Nodes that rewrites make are nodes that ONNX has, at every opset."""

from __future__ import annotations

from collections.abc import Callable

import onnx.defs
import pytest

from spa_compiler.operators import build
from spa_compiler.operators.build import Call

CALLS: dict[str, tuple[int, Callable[[int], Call[str]]]] = {
    "add": (7, lambda opset: build.add("a", "b")),
    "cast": (7, lambda opset: build.cast("a", 11)),
    "add_all": (8, lambda opset: build.add_all(["a", "b", "c"])),
    "maximum": (8, lambda opset: build.maximum("a", "b")),
    "subtract": (7, lambda opset: build.subtract("a", "b")),
    "multiply": (7, lambda opset: build.multiply("a", "b")),
    "multiply_matrices": (7, lambda opset: build.multiply_matrices("a", "b")),
    "dequantize": (13, lambda opset: build.dequantize(["a", "s", "z"], 0)),
    "divide": (7, lambda opset: build.divide("a", "b")),
    "square_root": (7, lambda opset: build.square_root("a")),
    "choose": (9, lambda opset: build.choose("c", "a", "b")),
    "identity": (7, lambda opset: build.identity("a")),
    "shape_of": (7, lambda opset: build.shape_of("a")),
    "gather": (7, lambda opset: build.gather("a", "i", 1)),
    "concat": (7, lambda opset: build.concat(["a", "b"], 1)),
    "cut": (10, lambda opset: build.cut("a", "s", "e", "x")),
    "reshape": (7, lambda opset: build.reshape("a", "s")),
    "expand": (8, lambda opset: build.expand("a", "s")),
    "transpose": (7, lambda opset: build.transpose("a", [1, 0])),
    "squeeze": (7, lambda opset: build.squeeze("a", [0], opset, lambda values: "x")),
    "unsqueeze": (7, lambda opset: build.unsqueeze("a", [0], opset, lambda values: "x")),
    "reduce_mean": (7, lambda opset: build.reduce_mean("a", [0], opset, lambda values: "x")),
    "reduce_sum": (13, lambda opset: build.reduce_sum("a", "x")),
    "reduce_sum_all": (7, lambda opset: build.reduce_sum_all("a")),
}
"""By builder the first opset at which it may be asked, and a call."""


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_one_that_onnx_has(name: str) -> None:
    first, make = CALLS[name]
    for opset in range(first, onnx.defs.onnx_opset_version() + 1):
        call = make(opset)
        schema = onnx.defs.get_schema(call.op, opset, "")
        assert schema.min_input <= len(call.inputs) <= schema.max_input
        assert set(call.attributes) <= set(schema.attributes)


@pytest.mark.parametrize("op", build.INPUT_SINCE)
def test_integers_are_an_input_from_the_opset_that_onnx_says(op: str) -> None:
    since = build.INPUT_SINCE[op]
    before, after = (onnx.defs.get_schema(op, opset, "") for opset in (since - 1, since))
    assert after.max_input > before.max_input


def test_every_builder_is_tried() -> None:
    made = {n for n, f in vars(build).items() if getattr(f, "__annotations__", {}).get("return") == "Call[V]"}
    assert made - {"_with_integers"} == set(CALLS)
