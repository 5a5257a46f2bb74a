"""Masks of axes: which positions a plan keeps, how many, and which channel of which dim each position carries.

A plan over dims is `Masks`: one boolean array per dim, of shape (size,), or (blocks, size) where every index of an
outer dim (a head, a convolution group) keeps channels of its own, equally many in each.

>>> h, d = Dim(2), Dim(3)
>>> make_keep_mask(Prod((h, d)), {h: np.array([True, False])}).tolist()
[True, True, True, False, False, False]
>>> count_kept(Prod((h, d)), {d: np.array([[True, False, True], [False, True, True]])})
4
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from spa_compiler.algebra.expr import (
    Dim,
    Expr,
    Prod,
    Sum,
    find_first_reason,
    is_frozen,
    iterate_dims,
    resolve,
)

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Masks = Mapping[Dim, Bools]
NO_CHANNEL = -1


def make_keep_mask(e: Expr, masks: Masks) -> Bools:
    """Keep-mask (size,) over an axis from one-dimensional masks; dims without a mask are kept."""
    e = resolve(e)
    if isinstance(e, Dim):
        mask = masks.get(e)
        return np.ones(e.size, bool) if mask is None else mask
    parts = [make_keep_mask(p, masks) for p in e.parts]
    if isinstance(e, Sum):
        return np.concatenate([np.zeros(0, bool), *parts])
    out = parts[0]
    for part in parts[1:]:
        out = np.logical_and.outer(out, part).ravel()
    return out


def count_kept(e: Expr, masks: Masks) -> int:
    """Size of an axis after pruning."""
    e = resolve(e)
    if isinstance(e, Dim):
        mask = masks.get(e)
        if mask is None:
            return e.size
        return int(mask.sum()) if mask.ndim == 1 else int(mask[0].sum())
    sizes = [count_kept(p, masks) for p in e.parts]
    return sum(sizes) if isinstance(e, Sum) else math.prod(sizes)


def is_cut(e: Expr, masks: Masks) -> bool:
    """Does the axis get another size?"""
    return count_kept(e, masks) != e.size


def find_moving_digits(e: Expr, fixed: Collection[Dim]) -> tuple[Expr, Expr, Expr] | None:
    """(major, moving, minor) of an axis: its one run of frozen digits that are not `fixed`, and what lies around it.

    None where there is no such run, or several: then the length of the axis does not tell how long each is.
    """
    e = resolve(e)
    parts = e.parts if isinstance(e, Prod) else (e,)
    moving = [i for i, p in enumerate(parts) if is_frozen(p) and not _is_fixed(p, fixed)]
    if not moving:
        return None
    first, end = moving[0], moving[-1] + 1
    run = Prod(parts[first:end])
    return (Prod(parts[:first]), run, Prod(parts[end:])) if is_frozen(run) else None


def resize_axis(e: Expr, size: int, fixed: Collection[Dim]) -> Expr | None:
    """The axis at another length; None where the length does not tell which of its digits has changed.

    Only frozen dims that are not `fixed` change: of `(n h)` with h fixed, n is as large as h leaves room for.

    >>> from spa_compiler.algebra.expr import Reason
    >>> n, h, d = Dim(2, Reason.new("the batch")), Dim(3), Dim(4)
    >>> resolve(resize_axis(Prod((n, h, d)), 60, {h, d})).parts[0].size
    5
    """
    if e.size == size:
        return e
    digits = find_moving_digits(e, fixed)
    if digits is None:
        return None
    major, run, minor = digits
    rest = major.size * minor.size
    if not rest or size % rest:
        return None
    return Prod((major, Dim(size // rest, find_first_reason(run)), minor))


def _is_fixed(e: Expr, fixed: Collection[Dim]) -> bool:
    return all(d in fixed for d in iterate_dims(e))


def find_coordinates(e: Expr, among: Collection[Dim] | None = None) -> dict[Dim, Ints]:
    """For every dim of an axis: the channel of it that each position carries, NOWHERE where it does not occur.

    A dim that occurs twice at one position (a diagonal) is reported by its last occurrence. `among`: only these dims;
    an axis may have thousands.
    """
    return _spread_strides(e, False, among)


def find_strides(e: Expr) -> dict[Dim, Ints]:
    """For every dim of an axis: how far apart neighbouring channels of it are, at each position that carries it."""
    return _spread_strides(e, True)


def _spread_strides(e: Expr, strides: bool, among: Collection[Dim] | None = None) -> dict[Dim, Ints]:
    e = resolve(e)
    if isinstance(e, Dim):
        if among is not None and e not in among:
            return {}
        return {e: np.ones(e.size, np.int64) if strides else np.arange(e.size)}
    return _spread_over_sum(e, strides, among) if isinstance(e, Sum) else _spread_over_product(e, strides, among)


def _spread_over_sum(e: Sum, strides: bool, among: Collection[Dim] | None) -> dict[Dim, Ints]:
    out: dict[Dim, Ints] = {}
    at, size = 0, e.size
    for p in e.parts:
        for d, c in _spread_strides(p, strides, among).items():
            if d not in out:  # an array only once: there may be thousands of parts
                out[d] = np.full(size, NO_CHANNEL)
            out[d][at : at + p.size] = c
        at += p.size
    return out


def _spread_over_product(e: Prod, strides: bool, among: Collection[Dim] | None) -> dict[Dim, Ints]:
    out: dict[Dim, Ints] = {}
    sizes = [p.size for p in e.parts]
    for i, p in enumerate(e.parts):
        outer, inner = math.prod(sizes[:i]), math.prod(sizes[i + 1 :])
        for d, c in _spread_strides(p, strides, among).items():
            out[d] = np.tile(np.repeat(c * inner if strides else c, inner), outer)
    return out


def find_covering_dims(e: Expr) -> set[Dim]:
    """Dims that every position of the axis carries."""
    e = resolve(e)
    if isinstance(e, Dim):
        return {e}
    sets = [find_covering_dims(p) for p in e.parts]
    if isinstance(e, Sum):
        return set.intersection(*sets) if sets else set()
    return set().union(*sets)


def multiplicity(e: Expr) -> dict[Dim, int]:
    """How often each dim of an axis occurs at one position at most: twice in `(d d)`, once in `d+d`."""
    e = resolve(e)
    if isinstance(e, Dim):
        return {e: 1}
    out: dict[Dim, int] = {}
    for p in e.parts:
        for d, times in multiplicity(p).items():
            out[d] = max(out.get(d, 0), times) if isinstance(e, Sum) else out.get(d, 0) + times
    return out


def find_companion_dims(e: Expr) -> dict[Dim, set[Dim]]:
    """For every dim of an axis: the dims that accompany it wherever it occurs (digits of the same product)."""
    e = resolve(e)
    if isinstance(e, Dim):
        return {e: set()}
    covers = [find_covering_dims(p) for p in e.parts] if isinstance(e, Prod) else []
    out: dict[Dim, set[Dim]] = {}
    for i, p in enumerate(e.parts):
        beside = set().union(*(c for j, c in enumerate(covers) if j != i))
        for d, r in find_companion_dims(p).items():
            out[d] = out[d] & (r | beside) if d in out else r | beside
    return out


def list_kept_positions(e: Expr, masks: Masks, blocks: Mapping[Dim, Dim], beside: Mapping[Dim, int]) -> Ints:
    """The positions of an axis that a plan keeps, in the order in which the pruned axis holds them.

    `beside` says at which index of a block on another axis this is asked. Where the block is a minor digit of the
    same axis, `(d h)`, the j-th channel that is kept of every block comes before the j+1-th of any: not the old order.
    """
    place, step = find_coordinates(e), find_strides(e)
    kept = make_keep_mask(e, {d: masks[d] for d in place if d in masks and masks[d].ndim == 1})
    target = np.arange(e.size)
    for d, channel in place.items():
        mask = masks.get(d)
        if mask is None or mask.ndim == 1:
            continue
        block = place.get(blocks[d], np.full(e.size, beside.get(blocks[d], 0)))
        held = channel != NO_CHANNEL
        kept = kept & (~held | mask[block, channel])
        rank = np.cumsum(mask, axis=1)[block, channel] - 1
        target = target + np.where(held, (rank - channel) * step[d], 0)
    found = np.flatnonzero(kept)
    return found[np.argsort(target[found], kind="stable")]


def make_tensor_masks(axes: list[Expr], masks: Masks, blocks: Mapping[Dim, Dim]) -> tuple[list[Bools], Bools | None]:
    """Which entries of a tensor a plan keeps: a mask per axis, and one that broadcasts over the tensor or None.

    The second is there where a dim with a mask per block and its block lie on different axes (the weight of a
    grouped convolution: outputs `(g o)` on axis 0, and `i`, chosen per g, on axis 1).
    """
    plain = {d: m for d, m in masks.items() if m.ndim == 1}
    per_axis = [make_keep_mask(a, plain) for a in axes]
    places = [find_coordinates(a) for a in axes]
    full: Bools | None = None
    for i, place in enumerate(places):
        for d, channel in place.items():
            mask = masks.get(d)
            if mask is None or mask.ndim == 1:
                continue
            j = next(j for j, other in enumerate(places) if blocks[d] in other)
            block = places[j][blocks[d]]
            if i == j:
                per_axis[i] = per_axis[i] & ((channel == NO_CHANNEL) | mask[block, channel])
                continue
            both = (channel == NO_CHANNEL)[None] | (block == NO_CHANNEL)[:, None] | mask[block[:, None], channel[None]]
            shape = [1] * len(axes)
            shape[i], shape[j] = len(channel), len(block)
            both = (both if j < i else both.T).reshape(shape)
            full = both if full is None else full & both
    return per_axis, full
