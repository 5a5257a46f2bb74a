"""Law 2: operators that only move data commute with the choice of channels, `op(keep(x)) == keep(op(x))`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from laws import Masks, analyze_proto, random_masks
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.execution.inputs import draw_random_inputs
from spa_compiler.execution.session import add_outputs, open_quiet_session, open_session, run_session
from spa_compiler.ir.model import Model
from spa_compiler.operators.tables import data_movement
from spa_compiler.rewriting.prune import rewrite, slice_array
from zoo import CASES, build

MOVING = set(data_movement.RULES) - {"Shape", "Size", "OneHot", "ConstantOfShape", "Resize", "Upsample"}
NAMES = sorted(n for n, c in CASES.items() if c.runs and c.groups != {})


def observed(model: Model, seed: int) -> dict[str, np.ndarray]:
    """Every value of one run outside of bodies."""
    assert model.shapes is not None
    names = [o for n in model.proto().graph.node for o in n.output if o]
    session = open_session(add_outputs(model.proto(), names), model.folder, level=0)
    feed = draw_random_inputs(model, {n: s[0] for n, s in model.shapes.sizes.items()}, np.random.default_rng(seed))
    return {**feed, **dict(zip([o.name for o in session.get_outputs()], run_session(session, feed), strict=True))}


def moved(model: Model, node: gs.Node, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of one node alone."""
    constants = [t for t in node.inputs if isinstance(t, gs.Constant)]
    initializers = [onnx.numpy_helper.from_array(model.array(t), t.name) for t in constants]
    inputs = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feed.items()
    ]
    proto = next(n for n in model.proto().graph.node if n.output[0] == node.outputs[0].name)
    outputs = [onnx.ValueInfoProto(name=t.name) for t in node.outputs]
    one = onnx.helper.make_graph([proto], "one", inputs, outputs, initializers)
    whole = onnx.helper.make_model(one, opset_imports=model.header.opset_import, ir_version=10)
    return list(open_quiet_session(whole.SerializeToString(), level=0).run(None, feed))


def list_stated(graph: DependencyGraph) -> Iterator[str]:
    """Values that some operator reads sizes or bounds from."""
    for site in graph.sites:
        yield from (v.name for o in site.operands for v in site.inputs[o.slot : o.slot + 1] if v is not None)


@pytest.mark.parametrize("name", NAMES)
def test_data_movement_commutes(name: str) -> None:
    graph = analyze_proto(build(CASES[name]))
    masks: Masks = random_masks(graph, np.random.default_rng(1), share=1.0)
    small, values = rewrite(graph, masks), observed(graph.model, 1)
    small.shapes = graph.model.shapes
    sizes, stated = observed(small, 1), set(list_stated(graph))  # sizes have no channels: they are computed anew
    nodes = {n.outputs[0].name: n for n in small.graph.nodes if n.op != "Where"}
    for site in graph.sites:
        first = site.outputs[0] if site.outputs else None
        if site.path or first is None or first.name in stated:  # no run shows what is inside a body
            continue
        node = nodes.get(first.name) if site.op in MOVING else None
        if node is None or not all(isinstance(t, gs.Constant) or t.name in values for t in node.inputs):
            continue
        given = {v.name: v for v in site.inputs if v is not None and v.name in values}
        feed = {n: slice_array(graph, given[n], values[n], masks) for n in given if n in {t.name for t in node.inputs}}
        feed |= {n: sizes[n] for n in feed.keys() & stated}
        for value, after in zip(site.outputs, moved(small, node, feed), strict=True):
            assert value is not None
            np.testing.assert_array_equal(
                after, slice_array(graph, value, values[value.name], masks), err_msg=site.name
            )
