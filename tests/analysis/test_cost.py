"""Costs: known graphs by hand, and the law that the model of costs agrees with the rewritten model."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from laws import Masks, analyze_proto, random_masks
from spa_compiler.algebra.expr import Dim
from spa_compiler.analysis.cost import CostModel, describe_uncounted, make_group_widths
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.operators import tables
from spa_compiler.operators.macs import list_products
from spa_compiler.operators.site import Site, Value
from spa_compiler.rewriting.prune import rewrite
from zoo import CASES, Case, build


def totals(text: str, inits: dict[str, tuple[int, ...]], opset: int = 18) -> dict[str, int]:
    return CostModel(analyze_proto(build(Case(text, dict(inits), None, opset=opset)))).totals({})


BY_HAND: dict[str, tuple[str, dict[str, tuple[int, ...]], int]] = {
    "Conv": (
        "(float[1,3,8,8] x) => (float[1,5,6,6] y) { y = Conv(x, w, b) }",
        {"w": (5, 3, 3, 3), "b": (5,)},
        5 * 6 * 6 * 3 * 3 * 3,
    ),
    "strided Conv": (
        "(float[1,3,8,8] x) => (float[1,5,3,3] y) { y = Conv<strides=[2,2]>(x, w) }",
        {"w": (5, 3, 3, 3)},
        5 * 3 * 3 * 3 * 3 * 3,
    ),
    "grouped Conv": (
        "(float[1,6,8,8] x) => (float[1,9,8,8] y) { y = Conv<group=3>(x, w) }",
        {"w": (9, 2, 1, 1)},
        9 * 8 * 8 * 2,
    ),
    "depthwise Conv": (
        "(float[1,6,8,8] x) => (float[1,6,6,6] y) { y = Conv<group=6>(x, w) }",
        {"w": (6, 1, 3, 3)},
        6 * 6 * 6 * 9,
    ),
    "ConvTranspose": (
        "(float[1,3,4,4] x) => (float[1,5,8,8] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
        {"w": (3, 5, 2, 2)},
        3 * 4 * 4 * 5 * 2 * 2,
    ),
    "MatMul of stacks": (
        "(float[1,2,7,4] x) => (float[1,2,7,5] y) { y = MatMul(x, w) }",
        {"w": (2, 4, 5)},
        2 * 7 * 5 * 4,
    ),
    "Gemm": ("(float[2,4] x) => (float[2,5] y) { y = Gemm<transB=1>(x, w, b) }", {"w": (5, 4), "b": (5,)}, 2 * 5 * 4),
    "transposed Gemm": ("(float[4,2] x) => (float[2,5] y) { y = Gemm<transA=1>(x, w) }", {"w": (4, 5)}, 2 * 5 * 4),
    "Einsum": (
        '(float[2,3,4] x) => (float[2,3,5] y) { y = Einsum<equation="bij,jk->bik">(x, w) }',
        {"w": (4, 5)},
        2 * 3 * 4 * 5,
    ),
    "LSTM in both directions": (
        """(float[7,1,3] x) => (float[7,2,1,5] y) {
            y = LSTM<hidden_size=5,direction="bidirectional">(x, w, r) }""",
        {"w": (2, 20, 3), "r": (2, 20, 5)},
        7 * 2 * 20 * (3 + 5),
    ),
    "GRU": (
        "(float[7,1,3] x) => (float[7,1,1,5] y) { y = GRU<hidden_size=5>(x, w, r) }",
        {"w": (1, 15, 3), "r": (1, 15, 5)},
        7 * 15 * (3 + 5),
    ),
    "attention without weights": (
        """(float[1,7,4] x) => (float[1,7,4] y) {
            t = Transpose<perm=[0,2,1]>(x)  a = MatMul(x, t)  b = Softmax(a)  y = MatMul(b, x) }""",
        {},
        7 * 7 * 4 * 2,
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_macs_are_those_counted_by_hand(name: str) -> None:
    text, inits, macs = BY_HAND[name]
    found = totals(text, inits)
    assert found["macs"] == macs
    assert found["params"] == sum(int(np.prod(shape)) for shape in inits.values())
    assert found["bytes"] == 4 * found["params"]


def test_a_symbolic_batch_counts_as_one_sample() -> None:
    fixed = totals("(float[1,4] x) => (float[1,5] y) { y = MatMul(x, w) }", {"w": (4, 5)})
    assert totals("(float[n,4] x) => (float[n,5] y) { y = MatMul(x, w) }", {"w": (4, 5)}) == fixed


def test_integers_that_are_no_weights_are_not_parameters() -> None:
    case = Case(
        "(float[1,12] x) => (float[3,5] y) { a = Reshape(x, s)  y = MatMul(a, w) }", {"s": [3, 4], "w": (4, 5)}, None
    )
    assert CostModel(analyze_proto(build(case))).totals({}) == {"macs": 60, "params": 20, "bytes": 80, "flops": 120}


def test_half_precision_weights_take_half_the_bytes() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]> m (float16[1,4] x) => (float16[1,5] y) { y = MatMul(x, w) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 5), np.float16), "w"))
    assert CostModel(analyze_proto(model)).totals({})["bytes"] == 40


def test_weights_inside_the_body_of_an_if_are_parameters() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]> m (float[1,4] x, bool c) => (float[1,4] y) {
            y = If (c) <then_branch = a () => (float[1,4] p) <float[1,4] k = {1.0, 2.0, 3.0, 4.0}> { p = Add(x, k) },
                        else_branch = b () => (float[1,4] q) { q = Identity(x) }> }"""
    )
    graph = analyze_proto(model)
    assert CostModel(graph).totals({}) == {"macs": 0, "params": 4, "bytes": 16, "flops": 0}
    assert sum(graph.frozen_parameters().values()) == 4
    assert "graph" in next(iter(graph.frozen_parameters()))


def widths(graph: DependencyGraph, masks: Masks) -> dict[Dim, float]:
    """Channels that masks keep of each dim (per block)."""
    return {d: float(m.reshape(-1, d.size)[0].sum()) for d, m in masks.items()}


def by_shape(site: Site) -> float | None:
    """Multiply-accumulates of a plain contraction by the shapes of its output and its weight, without its rule."""
    if len(site.inputs) < 2 or not site.outputs or None in (*site.inputs[:2], site.outputs[0]):
        return None
    x, w, y = (v.shape for v in (site.x(), site.x(1), site.y))
    if site.op == "Conv":
        return math.prod(y) * math.prod(w[1:])
    if site.op == "ConvTranspose":
        return math.prod(x) * math.prod(w[1:])
    if site.op in ("MatMul", "MatMulInteger"):
        return math.prod(y) * x[-1]
    return math.prod(y) * x[0 if site.attrs.get("transA", 0) else 1] if site.op == "Gemm" else None


@pytest.mark.parametrize("name", sorted(CASES))
def test_macs_of_a_rule_are_those_of_the_shapes(name: str) -> None:
    for site in analyze_proto(build(CASES[name])).sites:
        expected = by_shape(site)
        if expected is not None and list_products(site) and not site.y.constant:
            assert sum(math.prod(a.size for a in axes) for axes in list_products(site)) == expected, site.name


FUSED = {
    "FusedGemm": 2 * 5 * 4,
    "FusedMatMul": 2 * 5 * 4,
    "TransposeMatMul": 2 * 5 * 4,
}


@pytest.mark.parametrize("op", FUSED)
def test_a_fused_contraction_counts_as_its_plain_form(op: str) -> None:
    text = f"(float[4,2] x) => (float[2,5] y) {{ y = com.microsoft.{op}<transA=1>(x, w) }}"
    assert totals(text, {"w": (4, 5)})["macs"] == FUSED[op]


@pytest.mark.parametrize("name", ["dynamic_quantize_matmul", "matmul_integer_to_float"])
def test_a_quantised_product_counts_as_its_plain_form(name: str) -> None:
    graph = analyze_proto(build(CASES[name]))
    assert CostModel(graph).totals({})["macs"] == sum(
        math.prod(s.y.shape) * s.x().shape[-1] for s in graph.sites if "MatMul" in s.op
    )


def test_a_product_of_constants_counts_nothing() -> None:
    a, b, y = Value("a", (4, 5), constant=True), Value("b", (5, 6), constant=True), Value("y", (4, 6), constant=True)
    row = tables.find_rule("", "MatMul")
    assert row is not None
    site = Site("MatMul", "product", 18, [a, b], [y], {}, {}, traits=row)
    row(site)
    assert list_products(site) == []


def test_a_contraction_without_a_count_is_named() -> None:
    cost = CostModel(analyze_proto(build(CASES["attention_23"])))
    assert cost.totals({})["macs"] == 5 * 8 * (12 + 6 + 10) + 5 * 20 * 8
    assert "Attention 'o'" in describe_uncounted(cost)[0]
    assert not describe_uncounted(CostModel(analyze_proto(build(CASES["residual_projection"]))))


@pytest.mark.parametrize("name", sorted(n for n in CASES if CASES[n].runs and CASES[n].groups))
def test_costs_under_widths_are_those_of_the_rewritten_model(name: str) -> None:
    graph = analyze_proto(build(CASES[name]))
    masks = random_masks(graph, np.random.default_rng(3))
    small = analyze_proto(rewrite(graph, masks).proto())
    assert CostModel(graph).totals(widths(graph, masks)) == CostModel(small).totals({})


def test_what_a_group_takes_part_in_is_what_changes_with_it() -> None:
    graph = analyze_proto(build(CASES["residual_projection"]))
    cost = CostModel(graph)
    for group in graph.groups:
        for unit in ("macs", "params", "bytes"):
            less = make_group_widths(group, group.size - 2)
            part = cost.of_group(group, unit, {}) - cost.of_group(group, unit, less)
            assert part == pytest.approx(cost.total(unit, {}) - cost.total(unit, less))
