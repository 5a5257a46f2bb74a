"""Entries of constants by channel, and what nodes say of the channels of their output.

ChannelRows(model).read(weight, d)      # (channels, rest): row j holds all that belongs to channel j
find_free(site, weight)                 # dims of a weight that the output carries
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.algebra.expr import Dim, iterate_dims
from spa_compiler.algebra.masks import NO_CHANNEL, find_coordinates
from spa_compiler.ir.model import Model, find_element_type
from spa_compiler.operators.site import Site, Value

EXACT_TYPES = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
"""Weights whose numbers are compared and bounded; in shorter types all is rounded."""


class ChannelRows:
    """Reads the constants of a model by the channels of their dims."""

    def __init__(self, model: Model) -> None:
        self.model, self.constants = model, model.constants()

    def read(self, v: Value, d: Dim) -> NDArray[np.float64] | None:
        """(channels, rest): the entries of a constant by channel; None where it does not hold each channel once."""
        tensor = self.constants.get(v.name)
        if tensor is None or find_element_type(tensor) not in EXACT_TYPES:
            return None
        at = [i for i, a in enumerate(v.axes) if d in set(iterate_dims(a))]
        place = find_coordinates(v.axes[at[0]], (d,)).get(d) if len(at) == 1 else None
        if place is None or d.size != (place != NO_CHANNEL).sum() or not np.isin(np.arange(d.size), place).all():
            return None
        order = np.argsort(np.where(place == NO_CHANNEL, d.size, place), kind="stable")[: d.size]
        array = np.asarray(self.model.array(tensor), np.float64)
        return np.moveaxis(array, at[0], 0)[order].reshape(d.size, -1)


def find_free(site: Site, weight: Value) -> list[Dim]:
    """Dims of a weight that the output carries: not those that are summed over."""
    out: list[Dim] = []
    for scope in site.scopes:
        summed = scope.find_contracted()
        for v, output, row in scope.tensors:
            if v is weight and not output:
                out += [
                    d for names in row for n in names - summed if n in scope.env for d in iterate_dims(scope.env[n])
                ]
    return out


def is_window(site: Site) -> bool:
    """Does a node take the mean or the largest of windows?"""
    return "kernel_shape" in site.attrs


def is_unpadded(site: Site) -> bool:
    """Are all windows of a node within its input?"""
    auto = site.attrs.get("auto_pad", b"NOTSET")
    return (
        not any(site.attrs.get("pads") or ())
        and auto in (b"NOTSET", "NOTSET", b"VALID", "VALID", "", b"")
        and not (site.attrs.get("ceil_mode", 0))
    )


def is_covering(v: Value, d: Dim) -> bool:
    """Does every entry of a value belong to a channel of the dim?"""
    return any((find_coordinates(a, (d,)).get(d, np.full(1, -1)) >= 0).all() for a in v.axes)


__all__ = ["EXACT_TYPES", "ChannelRows", "find_free", "is_covering", "is_unpadded", "is_window"]
