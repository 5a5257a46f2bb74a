"""A reference for a written file, made from the dense file by a few lines that know nothing of the compiler.

An entry of a weight of the dense file that the written one does not hold is gone: it becomes zero in the dense file,
in what makes a channel and in what reads it. A statistic over channels (LayerNorm, a mean that is written out) is
taken over those whose gain stays. The saved plan is compared with what is gone. Both files then run at sizes of the
symbols that an analysis seldom chooses, 1 and primes among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz.draft import POOLS, Input

Array = np.ndarray[Any, Any]
FLOATS = {1, 10, 11}  # float, float16, double
COPY = re.compile(r"\.use\d+$")
TRIED, WANTED = 8, 4
"""Sizes that are tried, and at how many of them both files run."""
TOLERANCE = {False: 1e-3, True: 5e-2}
"""Largest difference as a share of an output's scale, for floats and for half floats."""
ELEMENTS = 1 << 22
"""Weights above this are not compared."""


class Differs(Exception):
    """The written file is wrong; the message says how."""


@dataclass(frozen=True)
class Compared:
    """At how many sizes both files were run, and the largest error."""

    sizes: int
    error: float


def tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """(name, constant) of a graph and of the bodies in it: initializers, and tensors of Constant nodes."""
    yield from ((t.name, t) for t in graph.initializer)
    for node in graph.node:
        for a in node.attribute:
            if a.type == onnx.AttributeProto.TENSOR and node.op_type == "Constant":
                yield node.output[0], a.t
            elif a.type == onnx.AttributeProto.GRAPH:
                yield from tensors(a.g)


def open_file(path: Path) -> onnx.ModelProto:
    """A model; sparse initializers are made dense."""
    model = onnx.load(path)
    for s in model.graph.sparse_initializer:
        flat = np.zeros(int(np.prod(s.dims)), np.float32)
        places = numpy_helper.to_array(s.indices)
        flat[places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), tuple(s.dims))] = (
            numpy_helper.to_array(s.values)
        )
        model.graph.initializer.append(numpy_helper.from_array(flat.reshape(s.dims), s.values.name))
    model.graph.ClearField("sparse_initializer")
    return model


def zero_removed(dense: onnx.ModelProto, small: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The dense model with zeros for all that the small one does not hold, and what stays of every weight."""
    out = onnx.ModelProto()
    out.CopyFrom(dense)
    pools: dict[str, list[Array]] = {}
    for name, tensor in tensors(small.graph):
        if tensor.data_type in FLOATS:
            pools.setdefault(COPY.sub("", name), []).append(numpy_helper.to_array(tensor).ravel())
    every = np.concatenate([np.zeros(1), *(a for p in pools.values() for a in p)])
    kept: dict[str, Array] = {}
    divisors, reduced = set(list_divisors(dense.graph)), list_reduced(dense.graph)
    for name, tensor in tensors(out.graph):
        if tensor.data_type not in FLOATS:
            continue
        array = numpy_helper.to_array(tensor)
        pool = np.concatenate(pools[COPY.sub("", name)]) if COPY.sub("", name) in pools else every
        own = pools.get(COPY.sub("", name), [])
        stays = without_chance(np.isin(array, pool), own[0].size if len(own) == 1 else None)
        if array.size and stays.any() and not stays.all():
            kept[name] = stays
            if name not in divisors | reduced:
                tensor.CopyFrom(numpy_helper.from_array(np.where(stays, array, np.zeros((), array.dtype)), tensor.name))
    for name in reduced & kept.keys():
        mask_computed(out.graph, name, kept[name])
    return out, kept


def list_divisors(graph: onnx.GraphProto) -> Iterator[str]:
    """Values that may not be zero: what is divided by."""
    for node in graph.node:
        if node.op_type in ("Div", "Reciprocal", "Log", "Pow"):
            yield node.input[1 if node.op_type == "Div" else 0]
        for a in node.attribute:
            yield from list_divisors(a.g)


def list_reduced(graph: onnx.GraphProto) -> set[str]:
    """Constants over which a sum is taken (the norm of a weight), which is that of the whole constant."""
    constants = {t.name for t in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    squares = {n.output[0]: n.input[0] for n in graph.node if n.op_type in ("Mul", "Pow") and n.input[0] in constants}
    read = {n.input[0] for n in graph.node if n.op_type.startswith("Reduce")}
    return {squares.get(r, r) for r in read} & constants


def mask_computed(graph: onnx.GraphProto, name: str, stays: Array) -> None:
    """Zero what is gone of a weight where a contraction reads what was computed from it."""
    computed, nodes = {name}, list(graph.node)
    mask = numpy_helper.from_array(stays.astype(np.float32), f"{name}.stays")
    del graph.node[:]
    for node in nodes:
        if node.op_type in ("Div", "Mul") and node.input[0] in computed:
            computed.add(node.output[0])
        if node.op_type in ("Conv", "MatMul", "Gemm") and node.input[1] in computed:
            shown = f"{node.output[0]}.weight"
            graph.node.append(helper.make_node("Mul", [node.input[1], mask.name], [shown]))
            node.input[1] = shown
        graph.node.append(node)
    graph.initializer.append(mask)


def without_chance(stays: Array, wanted: int | None = None) -> Array:
    """The part that stays where whole slices went, without entries whose number is left elsewhere by chance.

    Of a million random numbers of 24 bits many are equal. Where other entries went than slices (the inputs of each
    group of a convolution) nothing is changed. `wanted`: how many entries stay, where that is known.
    """
    if not stays.size or stays.sum() == wanted:
        return stays
    whole = np.ones(stays.shape, bool)
    for axis in range(stays.ndim):
        share = np.moveaxis(stays, axis, 0).reshape(stays.shape[axis], -1).mean(1)
        whole &= (share > share.max() / 2).reshape([-1 if k == axis else 1 for k in range(stays.ndim)])
    return whole if stays[whole].all() and whole.sum() > 0.8 * stays.sum() else stays


def mask_statistics(graph: onnx.GraphProto, kept: Mapping[str, Array], kind: np.dtype[Any]) -> None:
    """Take statistics over the channels whose gain stays, in this graph and in its bodies."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                mask_statistics(a.g, kept, kind)
        gain = (
            node.input[1]
            if node.op_type == "LayerNormalization"
            else node.name.removeprefix("mean over ").removesuffix(" again")
        )
        if (
            gain in kept
            and kept[gain].ndim == 1
            and (node.op_type == "LayerNormalization" or node.name.startswith("mean over "))
        ):
            nodes += write_masked(node, kept[gain], kind)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def write_masked(node: onnx.NodeProto, stays: Array, kind: np.dtype[Any]) -> list[onnx.NodeProto]:
    """The node over the channels that stay."""
    made: list[onnx.NodeProto] = []

    def add(op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{node.output[0]}.oracle{len(made)}"
        made.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def say(array: Any) -> str:
        return add("Constant", value=numpy_helper.from_array(np.asarray(array)))

    mask, many = say(stays.astype(kind)), say(kind.type(stays.sum()))
    axis = say(np.array([-1]))

    def mean(x: str) -> str:
        return add("Div", add("ReduceSum", add("Mul", x, mask), axis, keepdims=1), many)

    x = node.input[0]
    if node.op_type != "LayerNormalization":
        made.append(helper.make_node("Identity", [mean(x)], node.output))
        return made
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    centred = add("Sub", x, mean(x))
    spread = add("Sqrt", add("Add", mean(add("Mul", centred, centred)), say(kind.type(epsilon))))
    y = add("Mul", add("Div", centred, spread), node.input[1])
    y = add("Add", y, node.input[2]) if len(node.input) > 2 else y
    made.append(helper.make_node("Identity", [y], node.output[:1]))
    return made


BY_CHANCE = 0.8
"""Of a channel that is gone, up to so large a share of the numbers of one that stays is found again by chance, where
numbers are half floats: there are few of them."""


def check_plan(plan: Mapping[str, Any], dense: onnx.ModelProto, kept: Mapping[str, Array], half: bool) -> None:
    """Compare what is gone with what the plan says, where a label is a whole axis of a weight."""
    known = {n: tuple(t.dims) for n, t in tensors(dense.graph) if t.data_type in FLOATS}
    for label, group in plan["groups"].items():
        name, _, axis = label.partition("#")[0].rpartition(":")
        if name not in kept or "#" in label or f"{label}#2" in plan["groups"]:
            continue
        if group["keep"] and isinstance(group["keep"][0], list):
            continue
        if known[name][int(axis)] != group["size"]:
            continue
        shares = np.moveaxis(kept[name], int(axis), 0).reshape(group["size"], -1).mean(1)
        stays = shares > (shares.max() * BY_CHANCE if half else 0)
        if np.flatnonzero(stays).tolist() != group["keep"]:
            raise Differs("the file keeps other channels than the plan says")


def open_session(model: onnx.ModelProto | str) -> onnxruntime.InferenceSession:
    """A session on one thread that keeps its errors to itself."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    source = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def draw_feeds(inputs: Mapping[str, Input]) -> Iterator[dict[str, Array]]:
    """Inputs at sizes of the symbols, all at the first of their pools and then drawn."""
    names = sorted(
        {p for i in inputs.values() for a in i.axes if isinstance(a, str) for p in a.split(" + ") if not p.isdigit()}
    )
    rng = np.random.default_rng(len(names))
    for k in range(TRIED if names else 2):
        sizes = {}
        for n in names:
            pool = POOLS.get(n[0], (3, 5, 1, 7))
            sizes[n] = pool[0] if k == 0 else int(rng.choice(pool))
        yield {n: i.draw(sizes, rng) for n, i in inputs.items()}


def flatten(outputs: Any) -> list[Array]:
    """Tensors of outputs that may be sequences and maps."""
    out: list[Array] = []
    for o in outputs:
        if isinstance(o, dict):
            out.append(np.array([o[k] for k in sorted(o)]))
        elif isinstance(o, list):
            out += flatten(o)
        elif o is not None:
            out.append(np.asarray(o))
    return out


def run(session: onnxruntime.InferenceSession, feed: Mapping[str, Array], skip: set[str]) -> list[Array]:
    """The outputs; inputs with a default are left out by name, and those that a model has not."""
    has = {v.name for v in (*session.get_inputs(), *session.get_overridable_initializers())}
    return flatten(session.run(None, {k: v for k, v in feed.items() if k in has - skip}))


def can_run(path: Path, inputs: Mapping[str, Input]) -> bool:
    """Does onnxruntime run the dense file at some size?"""
    try:
        session = open_session(str(path))
    except Exception:  # onnxruntime raises errors of many classes
        return False
    for feed in draw_feeds(inputs):
        try:
            outputs = run(session, feed, set())
        except Exception:
            continue
        if all(np.isfinite(a).all() for a in outputs if a.dtype.kind == "f"):
            return True
    return False


def compare(
    dense_path: Path, small_path: Path, inputs: Mapping[str, Input], plan: Any, exact: bool, half: bool,
    same: bool = False,
) -> Compared:  # fmt: skip
    """Run both files. Raises Differs where the small one does not do what it should (`same`: what the other does)."""
    try:
        small_session = open_session(str(small_path))
    except Exception as e:
        raise Differs(f"onnxruntime does not load it: {e}") from e
    dense, small = open_file(dense_path), open_file(small_path)
    masked = dense
    if exact and not same:
        masked, kept = zero_removed(dense, small)
        mask_statistics(masked.graph, kept, np.dtype(np.float16 if half else np.float32))
        exact = not any("stat" in n for n in kept)
        if plan is not None:
            check_plan(plan, dense, kept, half)
    wanted_session = open_session(masked)
    defaults = {v.name for v in wanted_session.get_overridable_initializers()}
    done, worst = 0, 0.0
    for feed in draw_feeds(inputs):
        skip = defaults if done % 2 else set()
        try:
            wanted = run(wanted_session, feed, skip)
        except Exception:  # the dense model does not take this size
            continue
        sizes = {k: list(v.shape) for k, v in feed.items()}
        try:
            got = run(small_session, feed, skip)
        except Exception as e:
            raise Differs(f"does not run where the dense file does, at {sizes}: {e}") from e
        worst = max(worst, distance(wanted, got, exact, half, sizes))
        done += 1
        if done == WANTED:
            break
    return Compared(done, worst)


def distance(wanted: list[Array], got: list[Array], exact: bool, half: bool, sizes: Any) -> float:
    """The largest error of an output as a share of its scale. Raises Differs above the tolerance."""
    worst = 0.0
    if len(wanted) != len(got):
        raise Differs(f"has {len(got)} outputs for {len(wanted)}")
    for a, b in zip(wanted, got, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise Differs(f"an output is {b.dtype} {b.shape} for {a.dtype} {a.shape} at {sizes}")
        if not exact or not a.size or a.dtype.kind in "OUS":
            continue
        if a.dtype.kind in "iub":
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(x)
        if not finite.any():
            continue
        scale = max(float(np.abs(x[finite]).max()), 1e-5)
        error = float(np.nan_to_num(np.abs(x - y)[finite] / scale, nan=np.inf).max())
        if error > TOLERANCE[half]:
            raise Differs(f"differs by {error:.1e} of the output's scale at {sizes}")
        worst = max(worst, error)
    return worst
