"""Computed positions: tables, of any size, whose entries are a start plus a step for each axis.

    find_index(model, tensor, general)      # Index(axes=(N, 4), start=0, steps=(4, 1)): i * 4 + j

Exporters compute positions with Range, Unsqueeze, Expand, Mul and Add. How many there are may follow a symbol, so they
are no numbers, and still count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from spa_compiler.algebra import sizes
from spa_compiler.algebra.sizes import Size
from spa_compiler.ir.model import Model
from spa_compiler.operators.movement import REGROUPING, find_joined_axis
from spa_compiler.operators.positions import INDEX_STEPS, Index, Step, make_even_index, reshape_index
from spa_compiler.shape_inference.every_binding import General

LARGEST_TABLE = 1 << 24
"""Entries of a constant up to which it is looked at."""


def find_places(model: Model, tensor: gs.Tensor, general: General, pointed: Sequence[Size]) -> list[Index] | None:
    """The positions along each axis that the last axis of an operand of ScatterND lists, each as an index.

    `pointed` are the sizes of the axes that they point into: negative positions count from the end.
    """
    maker, axes = tensor.inputs[0] if tensor.inputs else None, general.axes(tensor.name)
    if axes is None or not isinstance(axes[-1], int):
        return None
    if maker is not None and find_joined_axis(maker) in (-1, len(axes) - 1):
        parts = [find_index(model, t, general) for t in maker.inputs]
        if all(p is not None and p.axes[-1] == 1 for p in parts):
            return [Index(p.axes[:-1], p.start, p.steps[:-1]) for p in parts if p is not None]
    inner = general.axes(maker.inputs[0].name) if maker is not None and maker.op in REGROUPING else None
    if maker is not None and inner and inner[-1] == axes[-1]:  # axes in front of the last come and go
        places = find_places(model, maker.inputs[0], general, pointed)
        moved = [reshape_index(p, axes[:-1]) for p in places or ()]
        if places and None not in moved:
            return [m for m in moved if m is not None]
    known = _read_numbers(model, tensor, general)
    columns: list[Index | None] = []
    for k, size in enumerate(pointed[: axes[-1]] if known is not None else ()):
        column = known[..., k] if known is not None else np.zeros(0)
        columns.append(make_even_index(column % size if isinstance(size, int) and size else column))
    found = [c for c in columns if c is not None]
    if columns and len(found) == len(columns):
        return found
    whole = find_index(model, tensor, general)
    return [Index(whole.axes[:-1], whole.start, whole.steps[:-1])] if whole is not None and axes[-1] == 1 else None


def find_index(model: Model, tensor: gs.Tensor, general: General) -> Index | None:
    """The table that a value is, or None. Found once for each value: sums of sums read the same ones again."""
    if tensor.name not in general.positions:
        general.positions[tensor.name] = _find_index(model, tensor, general)
    found: Index | None = general.positions[tensor.name]
    return found


def _find_index(model: Model, tensor: gs.Tensor, general: General) -> Index | None:
    known = _read_numbers(model, tensor, general)
    if known is not None:
        return make_even_index(known)
    table = general.table(tensor.name)
    if table is not None and table.size == 1 and sizes.is_size(table.ravel()[0]):
        return Index((1,) * table.ndim, table.ravel()[0], (0,) * table.ndim)
    if not tensor.inputs:
        return None
    node, axes = tensor.inputs[0], general.axes(tensor.name)
    make = INDEX_STEPS.get(node.op)
    if make is None or axes is None:
        return None
    element = general.types[tensor.name].tensor_type.elem_type
    return make(
        Step(node, axes, element, lambda t: find_index(model, t, general), lambda t: _find_table(model, t, general))
    )


def _find_table(model: Model, tensor: gs.Tensor, general: General) -> NDArray[Any] | None:
    return model.array(tensor) if isinstance(tensor, gs.Constant) else general.table(tensor.name)


def _read_numbers(model: Model, tensor: gs.Tensor, general: General) -> NDArray[Any] | None:
    if isinstance(tensor, gs.Constant):
        wide = int(np.prod(tensor.shape, dtype=np.int64)) > LARGEST_TABLE
        return None if wide else model.array(tensor)
    return general.values.get(tensor.name)


__all__ = ["find_index", "find_places"]
