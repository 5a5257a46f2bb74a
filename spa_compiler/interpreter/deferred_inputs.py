"""Inputs that join on the way: there is no room for them where the graph is wide.

first = deferred.split(feeds, Late(first=2, at=7))     # the others wait
deferred.note_change(index, affine, bias)              # what was done to what a node gave for the first ones
for feeds in deferred.take_batches(len(first)):        # runs the others up to where the first ones are,
    for index, change in deferred.list_changes():      # ... with the same changes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from spa_compiler.interpreter.chunks import Affine, Feed

Array = NDArray[Any]
Change = tuple[Affine | None, Array | None]
"""A map of what a node gives, and a bias that is added before."""


@dataclass(frozen=True)
class Late:
    """Inputs that join on the way: there is no room for them where the graph is wide."""

    first: int  # feeds that start
    at: int  # index of the node that all of them reach


class DeferredInputs:
    """Holds the inputs that wait, and the changes that were made to the values of the first ones."""

    def __init__(self) -> None:
        self.waiting: Sequence[Feed] = ()
        self._changes: dict[int, Change] = {}

    def split(self, feeds: Sequence[Feed], late: Late | None) -> Sequence[Feed]:
        """The feeds that start; the others wait."""
        if late is None:
            return feeds
        self.waiting = feeds[late.first :]
        return feeds[: late.first]

    def note_change(self, index: int, affine: Affine | None, bias: Array | None) -> None:
        """Note what was done to what a node gives."""
        self._changes[index] = affine, bias

    def list_changes(self) -> list[tuple[int, Change]]:
        """The nodes that have been run, in that order, and what was done to each."""
        return list(self._changes.items())

    def take_batches(self, size: int) -> Iterator[Sequence[Feed]]:
        """The inputs that wait, so many at a time; none waits any more."""
        waiting, self.waiting = self.waiting, ()
        for k in range(0, len(waiting), size):
            yield waiting[k : k + size]
