"""The weight and bias update that absorbs what was removed, in topological order, dense and compiled side by side.

    better = compensate(graph, masks, rewrite(graph, masks), feeds)

Every contraction whose input has changed is solved anew: from the inputs that it gets in the compiled model to the
outputs that it had in the dense one, least squares with intercept and a ridge towards the old weights,

    W = W0 + (C_tx - W0 C_xx) (C_xx + lambda I)^-1,     b = mean(t) - W mean(x)

and where its output feeds a residual Add, the target is the dense sum minus the compiled shortcut, so that errors of
earlier blocks are corrected, not passed on (docs/data-free; OSSCAR, Meng et al. 2024, without its targets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from scipy.linalg import lapack

from spa_compiler.axes import Bools, Masks, keep, whole
from spa_compiler.canonical import drop_dead
from spa_compiler.gram import shrinkage
from spa_compiler.graph import DependencyGraph
from spa_compiler.linear import Form
from spa_compiler.lockstep import Adjust, Affine, Chunks, Feed, Step, Walk
from spa_compiler.model import Model, constant
from spa_compiler.moments import Branch, accumulate, follow, form_of
from spa_compiler.spec import Value

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """How to compensate.

    ridge       share of the mean diagonal of C_xx, towards the old weights
    adjust      what calibration does to values of both models (synthetic inputs)
    residual    correct the errors of earlier blocks at residual Adds
    shrink      shrink covariances towards their diagonal by what so few inputs cannot tell
    everything  solve contractions that were not cut, but whose inputs changed, too
    bias_only   only the intercept (FLAP): W stays
    repair      largest factor by which the deviation of an output row may be restored; 1: not at all
    """

    ridge: float = 0.02
    adjust: Adjust = field(default_factory=Adjust)
    residual: bool = True
    shrink: bool = True
    everything: bool = True
    bias_only: bool = False
    repair: float = 1.0
    seed: int = 0


@dataclass
class Update:
    """New weights and the change of the bias of one node, by the name of its first output."""

    form: Form
    weights: Array
    bias: Floats  # (rows,) to be added to the output


def compensate(
    graph: DependencyGraph, masks: Masks, small: Model, feeds: Sequence[Feed], options: Options | None = None
) -> Model:
    """A copy of `small` (the rewrite of `graph` by `masks`) with new weights and biases."""
    updates = _Lockstep(graph, masks, small, options or Options()).run(feeds)
    return apply(small, updates)


class _Lockstep:
    def __init__(self, graph: DependencyGraph, masks: Masks, small: Model, options: Options) -> None:
        self.graph, self.masks, self.options = graph, masks, options
        self.dense, self.compiled = Walk(graph.model), Walk(small)
        self.place = {n.output[0]: i for i, n in enumerate(self.dense.nodes) if n.output}
        self.stored = {n for node in self.compiled.nodes if node.op_type == "DequantizeLinear" for n in node.output}
        self.updates: dict[str, Update] = {}

    def run(self, feeds: Sequence[Feed]) -> dict[str, Update]:
        self.dense.start(feeds)
        self.compiled.start(feeds)
        for name in self.compiled.inputs:
            self.compiled.values[name] = self.dense.values[name]
        for j, node in enumerate(self.compiled.nodes):
            i = self.place.get(node.output[0]) if node.output else None
            if i is None:
                self.compiled.execute(self.compiled.step(j))
            else:
                self._pair(i, j)
                self.dense.forget(i)
            self.compiled.forget(j)
        return self.updates

    def _pair(self, i: int, j: int) -> None:
        """The same node of both models."""
        mine, theirs = self.dense.step(i), self.compiled.step(j)
        if i in self.dense.inside.around:
            return self._inside(i, j, mine, theirs)
        affine = self.options.adjust.of(self.dense, mine)
        if not mine.outputs and not (affine is not None and mine.node.op_type == "BatchNormalization"):
            self.dense.execute(mine)
        raw = mine.outputs[0] if mine.outputs else None
        same = self._same(mine, theirs)
        update = None if same or raw is None else self._solve(i, mine, theirs, raw)
        self._finish(self.dense, mine, affine, None)
        if same:
            for name in theirs.node.output:
                if name in self.dense.values:
                    self.compiled.values[name] = self.dense.values[name]
                elif name in self.dense.constants:
                    self.compiled.constants[name] = self.dense.constants[name]
        else:
            self._finish(self.compiled, theirs, self._cut(i, affine), update)
        return None

    def _inside(self, i: int, j: int, mine: Step, theirs: Step) -> None:
        """A node of a body: what it reads and gives was recorded when the control node around it ran."""
        self.dense.execute(mine)
        self.compiled.most = max((r.runs[-1] + 1 for r in self.dense.records.values()), default=0)
        self.compiled.execute(theirs)
        known, found = self.dense.records.get(i), self.compiled.records.get(j)
        sized = bool(self.graph.sites[i].outputs)  # its shape is known
        if known is None or found is None or known.runs != found.runs or mine.outputs[0] is None or not sized:
            return
        same = mine.node == theirs.node and all(
            len(a) == len(b) and all(map(np.array_equal, a, b))
            for a, b in zip(known.inputs.values(), found.inputs.values(), strict=True)
        )
        update = None if same else self._solve(i, mine, theirs, mine.outputs[0])
        if update is not None:
            shape = [1] * known.output[0].ndim
            shape[update.form.out] = -1
            dtype = self.compiled.constants[theirs.node.input[update.form.weight]].dtype
            self.compiled.amend(j, theirs.node.output[0], update.bias.reshape(shape).astype(dtype))

    def _finish(self, walk: Walk, step: Step, affine: Affine | None, update: Update | None) -> None:
        """Run a node, with its new bias and the map that calibration asks for."""
        if affine is not None and step.node.op_type == "BatchNormalization":
            source = step.inputs[0]
        else:
            if not step.outputs:
                walk.execute(step)
            source = step.outputs[0] if step.outputs else None
        if source is None or (update is None and affine is None):
            return
        if update is not None:
            shape = [1] * source[0].ndim
            shape[update.form.out] = -1
            source = [c + update.bias.reshape(shape).astype(c.dtype) for c in source]
        if affine is not None:
            source = [affine.apply(c) for c in source]
        walk.give(step, source)

    def _same(self, mine: Step, theirs: Step) -> bool:
        """Nothing upstream of the node and nothing in it has changed."""
        if mine.node.SerializeToString() != theirs.node.SerializeToString():
            return False
        for name in self.dense.reads[mine.index]:
            a, b = self.dense.constants.get(name), self.compiled.constants.get(name)
            if name in self.dense.values:
                if self.dense.values[name] is not self.compiled.values.get(name):
                    return False
            elif a is None or b is None or not (a is b or (a.shape == b.shape and np.array_equal(a, b))):
                return False
        return True

    def _cut(self, i: int, affine: Affine | None) -> Affine | None:
        value = self.graph.sites[i].outputs[0]
        if affine is None or value is None:
            return None
        shape = (1, -1, *(1,) * (len(value.axes) - 2))
        both = [slice_to(self.graph, value, a.reshape(shape), self.masks) for a in (affine.scale, affine.shift)]
        return Affine(both[0].ravel(), both[1].ravel())

    def _solve(self, i: int, mine: Step, theirs: Step, raw: Chunks) -> Update | None:
        """New weights, from compiled inputs to dense outputs; None where there is nothing to solve."""
        form = form_of(self.graph, self.compiled, theirs)
        output = self.graph.sites[i].outputs[0]
        if form is None or output is None or theirs.inputs[form.data] is None:
            return None
        weight = theirs.node.input[form.weight]
        if len(self.compiled.readers[weight]) > 1 or weight in self.stored:
            return None
        if self.compiled.constants[weight].dtype.kind != "f":
            return None
        uncut = self.dense.constants[weight].shape == self.compiled.constants[weight].shape
        if uncut and not self.options.everything:
            return None
        target = self._target(mine, output, raw)
        update = self._regress(form, theirs, target, (self.options.seed, i))
        self.updates[theirs.node.output[0]] = update
        self.compiled.replace(weight, update.weights)
        return update

    def _target(self, mine: Step, output: Value, raw: Chunks) -> Chunks:
        """Dense outputs on the kept channels, plus what the compiled shortcut lacks where a residual Add follows."""
        out = [slice_to(self.graph, output, c, self.masks) for c in raw]
        branch = follow(self.dense, mine, self.options.adjust.batch_norm) if self.options.residual else None
        if branch is None:
            return out
        dense, compiled = self.dense.values.get(branch.shortcut), self.compiled.values.get(branch.shortcut)
        value = self.graph.values.get(branch.shortcut)
        if dense is None or compiled is None or dense is compiled or value is None or dense[0].shape != raw[0].shape:
            return out
        gain = self._gain(branch, output, raw)
        lacks = [slice_to(self.graph, value, d, self.masks) - c for d, c in zip(dense, compiled, strict=True)]
        return [t + lack * gain for t, lack in zip(out, lacks, strict=True)]

    def _gain(self, branch: Branch, output: Value, raw: Chunks) -> Array:
        """1 / gain per kept channel, 0 where the branch is all but closed; shaped to broadcast."""
        axis = 1 if raw[0].ndim == 4 else raw[0].ndim - 1
        full = np.broadcast_to(branch.gain, (raw[0].shape[axis],))
        kept = full[keep(output.axes[axis], {d: m for d, m in self.masks.items() if m.ndim == 1})]
        size = np.abs(kept)
        inverse = np.divide(1.0, kept, out=np.zeros_like(kept), where=size > 0.05 * np.median(size))
        return inverse.reshape([-1 if k == axis else 1 for k in range(raw[0].ndim)]).astype(raw[0].dtype)

    def _regress(self, form: Form, step: Step, target: Chunks, seed: tuple[int, ...]) -> Update:
        x = step.inputs[form.data]
        assert x is not None
        old = self.compiled.constants[step.node.input[form.weight]]
        gram = accumulate(form, x, target, target, seed, self.graph)
        w = before = form.weights(old)
        covariance = gram.covariance()
        if not self.options.bias_only:
            shrink = shrinkage(covariance, gram.rows()) if self.options.shrink else 0.0
            w = solve(before, covariance, gram.cross(), self.options.ridge, shrink)
            w = repaired(w, covariance, gram.variance(), self.options.repair)
        weights = form.restore(w, old)
        bias = gram.mean(1) - np.einsum("bmd,bd->bm", form.weights(weights), gram.mean())
        return Update(form, weights, bias.ravel() - self._old_bias(form, step, bias.size))

    def _old_bias(self, form: Form, step: Step, rows: int) -> Floats:
        """The bias that the node adds by itself."""
        slot = form.bias
        chunks = step.inputs[slot] if slot is not None and slot < len(step.inputs) else None
        if chunks is None:
            return np.zeros(rows)
        return np.broadcast_to(getattr(form, "beta", 1.0) * chunks[0].astype(np.float64).ravel(), (rows,))


def solve(before: Floats, covariance: Array, cross: Floats, ridge: float, shrink: Floats | float = 0.0) -> Floats:
    """Least squares with a ridge towards the old weights: (blocks, m, d).

    `shrink` (per block) is by how much the joint covariance of all inputs is shrunk towards its diagonal, which for the
    kept ones comes to a ridge of shrink / (1 - shrink) of that diagonal.
    """
    d = covariance.shape[-1]
    strength = ridge * np.trace(covariance, axis1=1, axis2=2) / d
    residual = cross.astype(covariance.dtype) - before.astype(covariance.dtype) @ covariance
    h, at, rho = covariance.copy(), np.arange(d), np.reshape(shrink, (-1, 1))
    h[:, at, at] += np.maximum(np.maximum(strength, 1e-12)[:, None], rho / (1 - rho) * h[:, at, at])
    if len(h) > 1:
        return np.asarray(before + np.linalg.solve(h, residual.transpose(0, 2, 1)).transpose(0, 2, 1))
    posv = lapack.sposv if h.dtype == np.float32 else lapack.dposv
    _, change, info = posv(h[0], residual[0].T)
    if info:  # not positive definite to this precision
        change = np.linalg.solve(h[0].astype(np.float64), residual[0].T)
    return np.asarray(before + change.T[None])


def repaired(w: Floats, covariance: Array, variance: Floats, limit: float) -> Floats:
    """Rows scaled back to the variance of their target: regression shrinks. At most by sqrt(limit), never down."""
    if limit <= 1:
        return w
    now = np.einsum("bmd,bde,bme->bm", w, covariance, w, optimize=True)
    ratio = np.clip(variance / np.maximum(now, 1e-30), 1, limit)
    return np.asarray(w * np.sqrt(ratio)[:, :, None])


def slice_to(graph: DependencyGraph, value: Value, array: Array, masks: Masks) -> Array:
    """The entries of an activation that a plan keeps; axes that no mask cuts may have any size."""
    per_axis, full = whole(value.axes, masks, graph.blocks)
    sizes = [int(k.sum()) if not k.all() else array.shape[i] for i, k in enumerate(per_axis)]
    if full is not None:
        kept = np.broadcast_to(full, array.shape).copy()
        for i, k in enumerate(per_axis):
            if not k.all():
                kept &= k.reshape([-1 if j == i else 1 for j in range(array.ndim)])
        picked = array[kept]
        short = next(i for i in range(array.ndim) if full.shape[i] > 1)
        sizes[short] = -1
        return picked.reshape(sizes)
    for i, k in enumerate(per_axis):
        if not k.all():
            array = np.compress(k, array, axis=i)
    return array


def apply(small: Model, updates: Mapping[str, Update]) -> Model:
    """The model with the new weights; a bias is created where there was none."""
    model = small.copy()
    outputs = {t.name for t in model.graph.outputs}
    for node in list(model.graph.nodes):
        update = updates.get(node.outputs[0].name) if node.outputs else None
        if update is None:
            continue
        tensor = node.inputs[update.form.weight]
        name = tensor.name if isinstance(tensor, gs.Constant) else f"{node.outputs[0].name}.weight"
        node.inputs[update.form.weight] = constant(name, update.weights)
        if update.form.bias is None:
            _add_behind(model, node, update, outputs)
        else:
            _add_bias(model, node, update, update.form.bias)
    drop_dead(model)
    return model


def _add_bias(model: Model, node: gs.Node, update: Update, slot: int) -> None:
    """Into the bias input of Conv, ConvTranspose or Gemm."""
    beta = getattr(update.form, "beta", 1.0) or 1.0
    old = node.inputs[slot] if slot < len(node.inputs) and node.inputs[slot].name else None
    before = 0.0 if old is None else model.array(old).astype(np.float64)
    values = (before + update.bias / beta).astype(update.weights.dtype)
    name = f"{node.outputs[0].name}.bias" if old is None or len(old.outputs) > 1 else old.name
    while len(node.inputs) <= slot:
        node.inputs.append(gs.Variable.empty())
    node.inputs[slot] = constant(name, values)


def _add_behind(model: Model, node: gs.Node, update: Update, outputs: set[str]) -> None:
    """Into the constant of an Add behind a MatMul, or as an Add of its own."""
    y = node.outputs[0]
    shape = (-1, 1) if update.form.out == -2 else (-1,)
    bias = update.bias.reshape(shape).astype(update.weights.dtype)
    reader = y.outputs[0] if len(y.outputs) == 1 and y.name not in outputs else None
    if reader is not None and reader.op == "Add":
        for k, t in enumerate(reader.inputs):
            if not isinstance(t, gs.Constant) or len(t.outputs) > 1:
                continue
            old = model.array(t)
            if old.shape[-bias.ndim :] == bias.shape and old.size == bias.size:
                added = old.astype(np.float64) + bias.reshape(old.shape)
                reader.inputs[k] = constant(t.name, added.astype(old.dtype))
                return
    raw = gs.Variable(f"{y.name}.unbiased")
    node.outputs[0] = raw
    at = next(i for i, n in enumerate(model.graph.nodes) if n is node)
    node = gs.Node("Add", f"{y.name}.bias", {}, [raw, constant(f"{y.name}.bias", bias)], [y])
    model.graph.nodes.insert(at + 1, node)


__all__ = ["Bools", "Options", "Update", "apply", "compensate", "repaired", "slice_to", "solve"]
