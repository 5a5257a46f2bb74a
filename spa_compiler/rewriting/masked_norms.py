"""Normalisations written out, with their statistics over the kept channels only."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.operators import build
from spa_compiler.operators.site import Site, Value
from spa_compiler.operators.traits import Norm
from spa_compiler.rewriting.node_editor import NodeEditor

Array = NDArray[Any]


class MaskedNorm:
    """Writes out the normalisation that a node is, with its statistics over the kept channels only."""

    def __init__(self, editor: NodeEditor, site: Site, norm: Norm) -> None:
        self.editor, self.site, self.norm = editor, site, norm

    def write_out(self, value: Value, mask: Array) -> None:
        """Put the written-out form in the place of what the node gives; `mask` is 1 for what `value` keeps."""
        norm = self.norm
        if norm.over == "groups":
            return self._write_groups(value, mask)
        rank = len(value.axes)
        x: gs.Tensor = self.editor.put_copy(norm.sum_output) if norm.sum_output else self.editor.node.inputs[0]
        axes, spread = self._list_axes(rank), self.editor.put_mask(x, value, mask)
        if norm.centred:
            centred = self.editor.put(build.subtract(x, self._mean(x, mask, spread, axes)))
            x = self.editor.put(build.multiply(centred, spread))
        self.editor.replace_output(self._apply_affine(self._normalise(x, mask, spread, axes), rank))
        return None

    def _mean(self, x: gs.Tensor, mask: Array, spread: gs.Tensor, axes: list[int]) -> gs.Variable:
        """Mean over the kept entries of these axes, which stay with size 1; `spread` is the mask as an operand."""
        kept = self.editor.put(build.multiply(x, spread))
        mean = self._reduce_mean(kept, axes)
        share = mask.astype(np.float64).mean(axis=tuple(axes), keepdims=True)
        return self.editor.put(build.divide(mean, self.editor.put_constant(share.astype(mask.dtype))))

    def _reduce_mean(self, x: gs.Tensor, axes: list[int]) -> gs.Variable:
        return self.editor.put(build.reduce_mean(x, axes, self.editor.model.opset.get("", 1), self.editor.put_constant))

    def _list_axes(self, rank: int) -> list[int]:
        if self.norm.over == "space":
            return list(range(2, rank))
        if self.norm.over == "axes":
            return [int(a) % rank for a in self.site.attrs.get("axes", [0, 2, 3])]
        return list(range(int(self.site.attrs.get("axis", -1)) % rank, rank))

    def _normalise(self, x: gs.Tensor, mask: Array, spread: gs.Tensor, axes: list[int]) -> gs.Variable:
        power = self._mean(self.editor.put(build.multiply(x, x)), mask, spread, axes)
        return self._divide_by_root(x, power, self._put_epsilon(mask.dtype))

    def _put_epsilon(self, dtype: Any) -> gs.Constant:
        return self.editor.put_constant(np.array(float(self.site.attrs.get("epsilon", self.norm.epsilon)), dtype))

    def _divide_by_root(self, x: gs.Tensor, power: gs.Tensor, epsilon: gs.Tensor) -> gs.Variable:
        """Divide x by the root of its mean square and epsilon."""
        root = self.editor.put(build.square_root(self.editor.put(build.add(power, epsilon))))
        return self.editor.put(build.divide(x, root))

    def _apply_affine(self, y: gs.Tensor, rank: int) -> gs.Tensor:
        """Gain and bias; those of a normalisation per channel lie on axis 1."""
        operands = self.editor.node.inputs[self.norm.gain : self.norm.gain + 1 + self.norm.centred]
        for combine, t in zip((build.multiply, build.add), operands, strict=False):
            if t.name:
                shape = self.editor.put_constant(np.array([-1] + [1] * (rank - 2), np.int64))
                y = self.editor.put(
                    combine(y, self.editor.put(build.reshape(t, shape)) if self.norm.is_per_channel else t)
                )
        return y

    def _write_groups(self, value: Value, mask: Array) -> None:
        """Channels (G c) with any spatial axes: a mean over space, then over the kept channels of a group."""
        rank, groups = len(value.axes), int(self.site.attrs["num_groups"])
        space = list(range(2, rank))
        small = mask.reshape(1, groups, -1)
        back = self.editor.put_constant(np.array([0, -1] + [1] * (rank - 2), np.int64))

        def per_group(t: gs.Tensor) -> gs.Variable:
            mean = self._reduce_mean(t, space)
            flat = self.editor.put(build.reshape(mean, self.editor.put_constant(np.array([0, groups, -1], np.int64))))
            ones = self.editor.put_constant(np.ones(small.shape, small.dtype))
            mean = self._mean(flat, small, self.editor.put_constant(small), [2])
            return self.editor.put(build.reshape(self.editor.put(build.multiply(mean, ones)), back))

        x = self.editor.node.inputs[0]
        centred = self.editor.put(build.subtract(x, per_group(x)))
        epsilon = self._put_epsilon(mask.dtype)
        power = per_group(self.editor.put(build.multiply(centred, centred)))
        self.editor.replace_output(self._apply_affine(self._divide_by_root(centred, power, epsilon), rank))
