"""Test models: ONNX text, initializers, and the groups that the analysis must find.

Every `Case` states its prunable groups by reasoning about the model, not by running an implementation. The rules:

- Graph inputs and outputs are frozen on every axis, and so are spatial and sequence axes that stem from them.
- A group is one dim: its *members* are the axes of float initializers of rank 1 or more that carry it, contracted axes
  included (`w2:1`). Axes of size 1, integer and boolean initializers and configuration inputs (the scales of a Resize)
  are never members. A dim without a member is not listed. Its key is the sorted members, separated by spaces.
- A member is named as in the file: a copy of an initializer that analysis makes for each use (untie) counts under
  the name of the original; the value of a Constant node counts under the name of the node's output.
- An axis that is a concatenation or a product of dims appears in several groups. Where two groups would have the same
  key, the first one, walking the first member's axis from the left and from the outer digit to the inner one, has the
  plain key and the next ones end in `#2`, `#3`.
- A contiguous pick (Slice, Split, a single index) cuts an axis into pieces, and each piece is a group of its own; only
  what is picked with steps, permuted or straddling is atomised.
- Units (the single channels of an atomised dim) with the same members are one group; its size is their number.
- Channels that nothing uses (a part that no Slice picks) are a group with the producer's members only.
- In a group with `blocks`, every block keeps equally many channels, of its own choice; `groups` then holds the number
  of channels of one block. The block dim itself is another group, or it is frozen. Of two dims that accompany each
  other everywhere the outer digit is the block.
- `stats` names the groups over which a statistic is taken, so that prune equals mask only approximately.

    Case("(float[1,3,4,4] x) => (float[1,4,4,4] y) { a = Conv(x, w1)  y = Conv(a, w2) }",
         {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1)}, {"w1:0 w2:1": 6}, frozen={"w2:0": "output"})
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

Init = tuple[int, ...] | list[int] | int | float | np.ndarray
LAST = (1 << 63) - 1  # "to the end" in a Slice
FIRST = -LAST  # "to the beginning" in a Slice with a negative step


@dataclass(frozen=True)
class Case:
    """One model and what its analysis must find.

    text    graph in onnx text without its name; `build` adds name, ir_version and opsets
    inits   name -> shape of random floats (positive where the name starts with `var`), or an integer constant
            (list, int), a float scalar, or an array as it is
    groups  key -> number of channels (of one block, where `blocks` has the key); None: nothing is stated
    blocks  key -> number of blocks
    stats   keys of the groups over which a statistic is taken
    opset   version of the default domain
    frozen  "initializer:axis" -> a part of the reason, in any case, for at least one digit or piece of the axis;
            an empty string: any reason will do
    inside  initializer -> the body that holds it: "first output of the control node/attribute", and so on inwards
    runs    whether onnxruntime can run it
    """

    text: str
    inits: dict[str, Init]
    groups: dict[str, int] | None
    blocks: dict[str, int] = field(default_factory=dict)
    stats: tuple[str, ...] = ()
    opset: int = 18
    frozen: dict[str, str] = field(default_factory=dict)
    inside: dict[str, str] = field(default_factory=dict)
    runs: bool = True


def value(name: str, init: Init) -> np.ndarray:
    """The array of an initializer, the same in every process; floats are seeded by their name."""
    if isinstance(init, np.ndarray):
        return init
    if isinstance(init, tuple):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        floats = rng.uniform(0.5, 1.5, init) if name.startswith("var") else 0.5 * rng.standard_normal(init)
        return np.asarray(floats, np.float32)
    return np.array(init, np.float32 if isinstance(init, float) else np.int64)


def build(case: Case) -> onnx.ModelProto:
    """The model of a case, checker-valid."""
    extra = [d for d in ("custom", "com.microsoft") if f"{d}." in case.text]
    domains = f'"" : {case.opset}' + "".join(f', "{d}" : 1' for d in extra)
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{domains}]> m {case.text}")
    for n, i in case.inits.items():
        body(model.graph, case.inside.get(n, "")).initializer.append(numpy_helper.from_array(value(n, i), n))
    onnx.checker.check_model(model)
    return model


def body(graph: onnx.GraphProto, path: str) -> onnx.GraphProto:
    """The graph itself, or the body of a control node in it."""
    if not path:
        return graph
    name, attribute, *rest = path.split("/")
    node = next(n for n in graph.node if n.output[0] == name)
    return body(next(a.g for a in node.attribute if a.name == attribute), "/".join(rest))


def feeds(model: onnx.ModelProto, seed: int = 0, symbol: int = 2) -> dict[str, np.ndarray]:
    """Random inputs; symbolic axes get the size `symbol`, integers are 0, 1 or 2 (they index)."""
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    initialized = {t.name for t in model.graph.initializer}
    for info in model.graph.input:
        if info.name in initialized:
            continue
        tensor = info.type.tensor_type
        shape = [d.dim_value or symbol for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind in "iub":
            out[info.name] = rng.integers(0, 2 if dtype.kind == "b" else 3, shape).astype(dtype)
        else:
            out[info.name] = rng.standard_normal(shape).astype(dtype)
    return out
