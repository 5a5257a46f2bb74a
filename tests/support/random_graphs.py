"""Random valid ONNX models: `graphs()` is a hypothesis strategy that stacks operators and ends in a dense head.

A model is an image part ([N,C,H,W]), a token part ([B,T,C]), or one after the other, then vectors ([N,C]) and a Gemm.
Hypothesis draws the structure (so that failures shrink), a drawn seed gives the weights.

    @given(graphs(statistics=False))
    def test_prune_equals_mask(model): ...
"""

from __future__ import annotations

import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper

from random_steps import ANY, IMAGE, STATISTICS, TOKENS, WIDTHS, Draft, Step, Value, dense, to_tokens, to_vector

OPSET = 18


def stack(b: Draft, x: Value, steps: list[Step], most: int) -> Value:
    """Up to `most` steps, one after the other."""
    for _ in range(b.pick(range(most + 1))):
        step = b.pick(steps if x.width > 1 else [dense])
        b.history.append(x)
        x = step(b, x)
    return x


@st.composite
def graphs(draw: st.DrawFn, most: int = 5, statistics: bool = True) -> onnx.ModelProto:
    """A random model with one float input `x` and one output `y`; `most` steps in every part.

    Without `statistics` no operator takes one over a channel axis, and prune equals mask exactly.
    """
    b = Draft(draw)
    extra = STATISTICS if statistics else []
    n, image = b.pick([1, 2]), b.pick([True, False])
    source = x = Value("x", (n, 3, 4, 4) if image else (n, 5, b.pick(WIDTHS)))
    if image:
        x = stack(b, dense(b, x), ANY + IMAGE, most)
    if not image or b.pick([True, False]):
        x = stack(b, to_tokens(b, x) if image else dense(b, x), ANY + TOKENS + extra, most)
    x = stack(b, to_vector(b, x), ANY + extra, 2)
    head = b.op("Gemm", [x, b.weight(x.width, 3, fan=x.width), b.weight(3)], (n, 3))
    b.nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        b.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, source.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, head.shape)],
        b.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
