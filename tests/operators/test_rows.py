"""One row makes an operator known everywhere: groups, costs, dead channels, scores, masks and compensation."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from laws import TOLERANCE, compare
from networks import cut, feeds, graph_of
from spa_compiler.analysis.cost import CostModel, describe_uncounted
from spa_compiler.analysis.dead_channels import find_dead_channels
from spa_compiler.compensation.lockstep import compensate_weights
from spa_compiler.compensation.options import Options
from spa_compiler.operators import contraction, tables
from spa_compiler.operators.rule import rule
from spa_compiler.operators.site import Row
from spa_compiler.operators.tables.compute import elementwise, normalisation
from spa_compiler.operators.traits import EVERY_NAME, Norm
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.statistics.moments import collect_moments
from zoo_base import Case

FUNCTION = Case(
    "(float[N,5] x) => (float[N,3] y) { a = MatMul(x, w1)  b = Softsign(a)  y = MatMul(b, w2) }",
    {"w1": (5, 7), "w2": (7, 3)},
    None,
)
PRODUCT = Case(
    """(float[N,5] x) => (float[N,3] y) { a = MatMul(x, w1)  b = Relu(a)
        y = com.microsoft.TransposeMatMul<transB=1>(b, w2) }""",
    {"w1": (5, 7), "w2": (3, 7)},
    None,
)
NORM = Case(
    "(float[N,5] x) => (float[N,3] y) { a = MatMul(x, w1)  b = RMSNormalization(a, g)  y = MatMul(b, w2) }",
    {"w1": (5, 7), "g": (7,), "w2": (7, 3)},
    None,
    opset=23,
)
ROWS: dict[str, tuple[Case, str, str, Row]] = {
    "elementwise": (FUNCTION, "", "Softsign", Row(elementwise, zero="keeps")),
    "contraction": (
        PRODUCT, "com.microsoft", "TransposeMatMul",
        Row(rule("b... m k, b... n k -> b... m n"), macs=EVERY_NAME, kernel="matrix", zero="product"),
    ),
    "normalisation": (NORM, "", "RMSNormalization", Row(normalisation, norm=Norm(centred=False))),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_an_operator_without_a_row_stops_everything(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, domain, op, _ = ROWS[kind]
    monkeypatch.delitem(tables.TABLES[domain], op)
    graph = graph_of(case)
    assert not graph.groups
    assert any("there is no rule" in r.text for r in graph.find_reasons(("w1", 1)))


@pytest.mark.parametrize("kind", ROWS)
def test_one_row_is_enough(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, domain, op, row = ROWS[kind]
    monkeypatch.setitem(tables.TABLES[domain], op, row)
    graph = graph_of(case)
    assert [g.size for g in graph.groups] == [7]
    cost = CostModel(graph)
    assert cost.total("macs", {}) == math.prod((5, 7)) + math.prod((7, 3))
    assert not describe_uncounted(cost)
    masks = cut(graph)
    assert compare(graph, masks)[0] < TOLERANCE
    given = feeds((200, 5))
    moments = collect_moments(graph, given)
    assert not moments.missed
    assert [graph.sites[k].outputs[0].name for k in moments.of] == ["y"]  # type: ignore[union-attr]
    _, outcome = compensate_weights(graph, masks, rewrite(graph, masks), given, Options())
    assert outcome.solved == 2 and not outcome.left


@pytest.mark.parametrize("kind", ["elementwise", "contraction"])
def test_what_holds_zeros_is_erased_through_one_row(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, domain, op, row = ROWS[kind]
    monkeypatch.setitem(tables.TABLES[domain], op, row)
    w1 = np.ones((5, 7), np.float32)
    w1[:, :2] = 0
    dead = find_dead_channels(graph_of(case, w1=w1))
    assert [int(d.sum()) for d in dead.values()] == [2]


def test_a_rule_alone_is_a_row_without_traits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tables.TABLES[""], "Softsign", elementwise)
    graph = graph_of(FUNCTION)
    assert [g.size for g in graph.groups] == [7]
    assert not find_dead_channels(graph_of(FUNCTION, w1=np.zeros((5, 7), np.float32)))


def test_a_contraction_whose_rule_does_not_hold_is_not_counted_in_silence() -> None:
    text = """(float[2,3,5] x) => (float[2,3,4] y) { t = Transpose<perm=[1,0,2]>(x)
        y = com.microsoft.FusedMatMul<transBatchA=1>(t, w) }"""
    graph = graph_of(Case(text, {"w": (2, 5, 4)}, None))
    assert "FusedMatMul 'y'" in describe_uncounted(CostModel(graph))[0]


def test_an_attribute_that_a_node_leaves_out_has_its_default_wherever_the_rule_is_asked() -> None:
    """`group` of a DeformConv may be left out; it has no form, because it reads offsets, too."""
    node = onnx.helper.make_node("DeformConv", ["x", "w", "o"], ["y"], kernel_shape=[3, 3])
    assert contraction.find_form(node, [(1, 4, 8, 8), (6, 4, 3, 3), (1, 18, 8, 8)], [False, True, False]) is None
