"""Sizes in shape operands that the rewrite has to write where channels go: how, and whether it can.

An entry whose axis multiplies a symbol and channels, `(n h)`, has no constant size. Reshape works one such entry out
(-1); the others follow by themselves, or are computed from the dense size where the node is run. An entry that is read
off another value changes with that value, whether its own axis loses channels or not (`y.view_as(x)`). What none of
that gives is frozen here, so that no plan asks for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum, auto

from spa_compiler.algebra.expr import Dim, Expr, Prod, is_frozen, iterate_dims, resolve
from spa_compiler.algebra.masks import find_moving_digits
from spa_compiler.operators.shape_uses import NO_SOURCE, SizeSource
from spa_compiler.operators.site import Operand, Site, Value

NO_ROOM = "its size multiplies a symbol with channels, and the shape has no place where that can be worked out"
FED = "its size comes from the numbers of a graph input, which a rewrite cannot change"


class Writing(Enum):
    """How the entry of a shape follows when channels of its axis go."""

    STAYS = auto()  # works itself out, or is read off a value that loses the same channels
    ONE = auto()  # of an Expand, where the operand has the axis already
    NUMBER = auto()  # no symbol in it
    SCALED = auto()  # computed from the dense size at run time
    WORKED_OUT = auto()  # only as the -1 of a Reshape


def find_fixed_dims(values: Iterable[Value]) -> frozenset[Dim]:
    """Dims whose size is the same for every binding of the symbols: those that lie on an axis of such a size."""
    axes = [a for v in values for a, moves in zip(v.axes, v.dynamic, strict=True) if not moves]
    return frozenset(d for a in axes for d in iterate_dims(a))


class SizeWriter:
    """Says how the entries of shape operands are written, for any plan."""

    def __init__(
        self,
        values: Mapping[str, Value],
        sources: Mapping[str, list[SizeSource]],
        fixed: Collection[Dim],
        fed: Collection[str] = (),
    ) -> None:
        self.values, self.sources, self.fixed, self.fed = values, sources, fixed, fed

    def find_writings(self, site: Site, operand: Operand) -> list[Writing]:
        """How each entry of an operand that holds sizes of the output is written."""
        axes = operand.axes or ()
        known = site.entries(operand.slot, operand.attr) or [None] * len(axes)
        sources = self._find_sources(site, operand)
        return [self._find_writing(site, operand, i, known[k], sources[k]) for k, i in enumerate(axes)]

    def _find_sources(self, site: Site, operand: Operand) -> list[SizeSource]:
        found = self.sources.get(_get_computed_name(site, operand.slot))
        return found or [NO_SOURCE] * len(operand.axes or ())

    def is_fed(self, site: Site, operand: Operand) -> bool:
        """May an entry of the operand that is not known be any number of a graph input's, -1 among them?"""
        if _get_computed_name(site, operand.slot) not in self.fed:
            return False
        known = site.entries(operand.slot, operand.attr) or [None] * len(operand.axes or ())
        sources = self._find_sources(site, operand)
        return any(e is None and not s.reads for e, s in zip(known, sources, strict=True))

    def has_room(self, site: Site, operand: Operand) -> bool:
        """May the operand hold a -1 that it does not hold yet? Of one of which nothing is known, that is not known."""
        held = site.entries(operand.slot, operand.attr)
        return operand.infers and held is not None and -1 not in held and not self.is_fed(site, operand)

    def find_axes_read(self, site: Site, operand: Operand) -> list[list[Expr]]:
        """For each entry of such an operand the axes that can lose channels and whose sizes it is computed from."""
        return [
            [self.values[name].axes[i] for name, i in sorted(source.reads) if name in self.values]
            for source in self._find_sources(site, operand)
        ]

    def _find_writing(self, site: Site, operand: Operand, i: int, known: int | None, source: SizeSource) -> Writing:
        axis = site.y.axes[i]
        if operand.infers and known is not None and _is_working_itself_out(site, i, axis, known):
            return Writing.STAYS
        if source.plain and all(self._has_axis(read, axis) for read in source.reads):
            return Writing.STAYS
        if not site.y.dynamic[i]:
            return Writing.NUMBER
        if operand.broadcasts and _is_in_operand(site, i, axis):
            return Writing.ONE
        computed = _get_computed_name(site, operand.slot)
        scales = computed and computed not in self.fed and known is None and not source.reads
        return Writing.SCALED if scales and find_moving_digits(axis, self.fixed) is not None else Writing.WORKED_OUT

    def _has_axis(self, read: tuple[str, int], axis: Expr) -> bool:
        value = self.values.get(read[0])
        return value is not None and resolve(value.axes[read[1]]) == resolve(axis)


def _is_working_itself_out(site: Site, i: int, axis: Expr, known: int) -> bool:
    """Is it -1, or a 0 that copies an axis which loses the same channels?"""
    x = site.x().axes
    copies = known == 0 and not site.attrs.get("allowzero", 0)
    return known == -1 or (copies and i < len(x) and resolve(x[i]) == resolve(axis))


def _is_in_operand(site: Site, i: int, axis: Expr) -> bool:
    """Has what is expanded this axis, with all of its positions?"""
    x = site.x()
    at = i - (len(site.y.axes) - len(x.axes))
    return at >= 0 and x.size(at) == site.y.size(i) and resolve(x.axes[at]) == resolve(axis)


def _get_computed_name(site: Site, slot: int) -> str:
    """The name of an operand that is computed at run time, else ''."""
    value = site.inputs[slot] if slot < len(site.inputs) and slot not in site.consts else None
    return value.name if value is not None else ""


def _find_stuck_axes(writer: SizeWriter, site: Site, operand: Operand) -> list[Expr]:
    """Axes of the output whose sizes cannot be written for every plan, and those whose sizes their entries read."""
    if operand.axes is None:
        return []
    found = zip(operand.axes, writer.find_writings(site, operand), writer.find_axes_read(site, operand), strict=True)
    worked_out = [[site.y.axes[i], *read] for i, writing, read in found if writing is Writing.WORKED_OUT]
    moving = [axes for axes in worked_out if not all(map(is_frozen, axes))]
    return [a for axes in moving[writer.has_room(site, operand) :] for a in axes]


def _find_unequal_parts(site: Site, operand: Operand) -> list[Expr]:
    """Parts of an axis that follows a symbol which would have to get other sizes than the node says."""
    if operand.parts is None:
        return []
    parts = [v for v in site.outputs if v is not None]
    live = [a for v in parts if v.dynamic[operand.parts] and not is_frozen(a := v.axes[operand.parts])]
    said = site.ints(operand.slot, operand.attr) is not None or _get_computed_name(site, operand.slot)
    equal = len(live) == len(parts) and all(resolve(a) == resolve(live[0]) for a in live)
    return [] if equal and not said else live


def freeze_unwritable(sites: Iterable[Site], writer: SizeWriter) -> None:
    """Freeze axes of shapes that no rewrite could write: Reshape works out one entry, other operators none."""
    for site in sites:
        for operand in site.operands:
            stuck = [*_find_stuck_axes(writer, site, operand), *_find_unequal_parts(site, operand)]
            if stuck:
                site.freeze(Prod(tuple(stuck)), FED if writer.is_fed(site, operand) else NO_ROOM)
