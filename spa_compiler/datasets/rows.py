"""Rows of inputs, block by block: of arrays, of files that are decoded one by one, of streams that nobody holds whole.

A source says how many rows it has where that is known before they are read, and gives blocks of all of them or of some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spa_compiler.datasets.arrays import load_npy, load_npz
from spa_compiler.datasets.axis_order import plan_arrangement
from spa_compiler.datasets.fitting import InputSpec, count_rows, fit_arrays, list_moves, pick_array, take_labels
from spa_compiler.datasets.preprocess import ValueMap
from spa_compiler.errors import SpaError, UsageError

Array = NDArray[Any]
BLOCK_ROWS = 64


@dataclass(frozen=True)
class Block:
    """Rows by input, their labels or None, and notes on axes that were moved.

    `is_run`: not rows, but all that one run is given: inputs that have no first axis in common.
    """

    inputs: dict[str, Array]
    labels: Array | None = None
    notes: tuple[str, ...] = ()
    is_run: bool = False

    @property
    def rows(self) -> int:
        """Number of rows; a whole run is one."""
        if self.is_run:
            return 1
        return max((len(a) for a in self.inputs.values() if a.ndim), default=0)

    def slice(self, start: int, stop: int) -> Block:
        """Some of the rows."""
        labels = None if self.labels is None else self.labels[start:stop]
        return Block({n: a[start:stop] for n, a in self.inputs.items()}, labels, self.notes)

    def take(self, rows: Sequence[int]) -> Block:
        """The rows with these numbers."""
        labels = None if self.labels is None else self.labels[list(rows)]
        return Block({n: a[list(rows)] for n, a in self.inputs.items()}, labels, self.notes)

    def split_runs(self) -> Iterator[Block]:
        """Each row as all that a run is given."""
        for k in range(self.rows):
            labels = None if self.labels is None else np.atleast_1d(self.labels[k])
            yield Block({n: np.asarray(a[k]) for n, a in self.inputs.items()}, labels, self.notes, is_run=True)

    def has_shapes_of(self, other: Block) -> bool:
        """Have rows of both the same shapes, and both labels or none?"""
        if (self.labels is None) != (other.labels is None):
            return False
        pairs = [(a, other.inputs[n]) for n, a in self.inputs.items()]
        if self.labels is not None and other.labels is not None:
            pairs.append((self.labels, other.labels))
        return not self.is_run and all(a.shape[1:] == b.shape[1:] for a, b in pairs)


class RowSource(Protocol):
    """Where rows come from."""

    @property
    def count(self) -> int | None:
        """Rows in all; None where that is known at the end only."""
        ...

    def read_blocks(self, rows: Sequence[int] | None = None) -> Iterator[Block]:
        """The rows with these numbers, or all, in blocks. A stream gives all rows, whatever is asked for."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows of arrays that lie in memory or in a mapped file."""

    where: str
    arrays: Mapping[str, Array]
    labels: Array | None
    specs: Sequence[InputSpec]
    values: ValueMap | None = None

    @property
    def count(self) -> int:
        """Rows in all. Raises UsageError where arrays differ in their number."""
        return count_rows(self.where, self.arrays, self.labels)

    def read_blocks(self, rows: Sequence[int] | None = None) -> Iterator[Block]:
        """Slices, or the rows asked for."""
        wanted = range(self.count) if rows is None else rows
        for at in range(0, len(wanted), BLOCK_ROWS):
            part = wanted[at : at + BLOCK_ROWS]
            index = slice(part.start, part.stop) if isinstance(part, range) else list(part)
            labels = None if self.labels is None else self.labels[index]
            arrays = {n: a[index] for n, a in self.arrays.items()}
            inputs = fit_arrays(self.where, arrays, self.specs, self.values)
            yield Block(inputs, labels, list_moves(self.where, arrays, self.specs))


@dataclass(frozen=True)
class FileRows:
    """One row a file. `decode` gives a row by input, without the axis of rows."""

    files: Sequence[Path]
    decode: Callable[[Path], dict[str, Array]]
    labels: Array | None = None

    @property
    def count(self) -> int:
        """Number of files."""
        return len(self.files)

    def read_blocks(self, rows: Sequence[int] | None = None) -> Iterator[Block]:
        """Rows of files, decoded when their turn comes."""
        wanted = list(range(self.count)) if rows is None else list(rows)
        for at in range(0, len(wanted), BLOCK_ROWS):
            part = wanted[at : at + BLOCK_ROWS]
            rows_of = [self.decode(self.files[k]) for k in part]
            labels = None if self.labels is None else self.labels[part]
            yield Block({n: np.stack([r[n] for r in rows_of]) for n in rows_of[0]}, labels)


@dataclass(frozen=True)
class ArrayFileRows:
    """Rows of several .npz and .npy files, one file at a time."""

    files: Sequence[Path]
    specs: Sequence[InputSpec]
    values: ValueMap | None = None
    count: int | None = None

    def read_blocks(self, rows: Sequence[int] | None = None) -> Iterator[Block]:
        """All rows of all files."""
        for file in self.files:
            yield from open_array_file(file, self.specs, self.values).read_blocks()


@dataclass(frozen=True)
class StreamRows:
    """Rows that an iterator gives; `restart` gives it anew, where that is possible.

    `first` is what was already taken from it, to look at it.
    """

    where: str
    items: Iterator[Any]
    specs: Sequence[InputSpec]
    values: ValueMap | None = None
    count: int | None = None
    first: list[Any] = field(default_factory=list)

    def read_blocks(self, rows: Sequence[int] | None = None) -> Iterator[Block]:
        """Blocks as they come, each checked. Raises UsageError for what is raised on the way."""
        for k, item in enumerate(chain(self._take_first(), self._iterate())):
            yield read_item(f"{self.where}, item {k + 1}", item, self.specs, self.values)

    def look(self) -> Block:
        """The first block, which is given once more afterwards. Raises UsageError where there is none."""
        if not self.first:
            self.first.extend(item for _, item in zip(range(1), self._iterate(), strict=False))
        if not self.first:
            raise UsageError(f"{self.where}: it ends at once: expected arrays, dictionaries of arrays, or feeds")
        return read_item(f"{self.where}, item 1", self.first[0], self.specs, self.values)

    def _take_first(self) -> Iterator[Any]:
        while self.first:
            yield self.first.pop(0)

    def _iterate(self) -> Iterator[Any]:
        while True:
            try:
                item = next(self.items)
            except StopIteration:
                return
            except (KeyboardInterrupt, MemoryError, SpaError):
                raise
            except BaseException as e:  # a script may raise anything, SystemExit among it
                raise UsageError(f"{self.where}: it raises {type(e).__name__}: {e}") from e
            yield item


def open_array_file(path: Path, specs: Sequence[InputSpec], values: ValueMap | None = None) -> ArrayRows:
    """Rows of an .npz or .npy. Raises UsageError that names the file."""
    if path.suffix.lower() == ".npy":
        return make_array_rows(str(path), {"x": load_npy(path)}, specs, values)
    return make_array_rows(str(path), load_npz(path), specs, values)


def make_array_rows(
    where: str, arrays: dict[str, Array], specs: Sequence[InputSpec], values: ValueMap | None = None
) -> ArrayRows:
    """Rows of arrays by name, labels among them."""
    labels = take_labels(arrays, specs)
    picked = {s.name: arrays.get(s.name, arrays.get("x")) for s in specs}
    if len(specs) == 1 and picked[specs[0].name] is None and len(arrays) == 1:
        picked = {specs[0].name: next(iter(arrays.values()))}
    if any(a is None for a in picked.values()) or (len(specs) > 1 and any(s.name not in arrays for s in specs)):
        for s in specs:  # which says what is missing
            pick_array(where, s.name, arrays, len(specs))
    given = {n: a for n, a in picked.items() if a is not None}
    given, labels = _add_runs(given, _read_labels(where, labels), specs)
    made = ArrayRows(where, given, labels, specs, values)
    made.count  # noqa: B018  # raises where lengths differ
    return made


def read_item(where: str, item: Any, specs: Sequence[InputSpec], values: ValueMap | None = None) -> Block:
    """A block of what an iterator gave: an array, arrays by input, or such with labels behind them."""
    labels = None
    if isinstance(item, tuple | list) and len(item) == 2 and len(specs) == 1:
        item, labels = item
    if isinstance(item, tuple | list) and len(item) == len(specs):
        item = dict(zip((s.name for s in specs), item, strict=True))
    try:
        arrays = {n: np.asarray(a) for n, a in (item if isinstance(item, Mapping) else {specs[0].name: item}).items()}
        labels = None if labels is None else np.atleast_1d(np.asarray(labels))
    except (ValueError, TypeError, RuntimeError) as e:
        raise UsageError(f"{where}: not an array of numbers ({e})") from e
    labels = take_labels(arrays, specs) if labels is None else labels
    labels = _read_labels(where, labels)
    if specs[0].is_whole:
        arrays, labels = _add_runs(arrays, labels, specs)
    else:
        arrays = {n: _add_rows(a, next((s for s in specs if s.name == n), specs[0])) for n, a in arrays.items()}
    inputs = fit_arrays(where, arrays, specs, values)
    count_rows(where, inputs, labels)
    return Block(inputs, labels, list_moves(where, arrays, specs))


def _add_runs(
    arrays: dict[str, Array], labels: Array | None, specs: Sequence[InputSpec]
) -> tuple[dict[str, Array], Array | None]:
    """Where rows are whole runs: arrays and labels of one run get an axis of runs, and are there for each of several.

    Arrays with an axis more than the model takes hold several runs already.
    """
    dims = {s.name: s.dims for s in specs if s.is_whole}
    single = {n for n, a in arrays.items() if n in dims and a.ndim == len(dims[n]) - 1}
    if not single:
        return arrays, labels
    runs = max((len(a) for n, a in arrays.items() if n in dims and n not in single), default=1)
    if len(single) == len(arrays) and labels is not None:
        labels = labels[None]
    return {n: np.broadcast_to(a, (runs, *a.shape)) if n in single else a for n, a in arrays.items()}, labels


def _add_rows(array: Array, spec: InputSpec) -> Array:
    """The array with an axis of rows, where it is one row."""
    arrangement = plan_arrangement(array.shape, spec.dims[1:]) if array.ndim == len(spec.dims) - 1 else None
    return array[None] if arrangement is not None and not arrangement.is_reshaped else array


def _read_labels(where: str, labels: Array | None) -> Array | None:
    """Labels, one a row at least. Raises UsageError for text."""
    if labels is None:
        return None
    if labels.dtype.kind not in "biuf":
        raise UsageError(f"{where}: labels of type {labels.dtype}: expected the number of the class of each row")
    return np.atleast_1d(labels)


def join_blocks(blocks: Iterable[Block]) -> Block:
    """One block of all rows; labels only where all have some. Raises ValueError without blocks."""
    parts = list(blocks)
    labels = [b.labels for b in parts if b.labels is not None]
    inputs = {n: np.concatenate([b.inputs[n] for b in parts]) for n in parts[0].inputs}
    notes = tuple(dict.fromkeys(n for b in parts for n in b.notes))
    return Block(inputs, np.concatenate(labels) if len(labels) == len(parts) else None, notes)


def merge_blocks(blocks: Iterable[Block]) -> list[Block]:
    """The same rows in as few blocks as their shapes allow: sequences of other lengths stay apart."""
    groups: list[list[Block]] = []
    for block in blocks:
        if groups and groups[-1][0].has_shapes_of(block):
            groups[-1].append(block)
        else:
            groups.append([block])
    return [join_blocks(g) if len(g) > 1 else g[0] for g in groups]


def take_rows(blocks: Sequence[Block], rows: Sequence[int]) -> list[Block]:
    """The rows with these numbers, counted through all blocks, in the order of the blocks."""
    out: list[Block] = []
    before = 0
    for block in blocks:
        mine = [r - before for r in rows if before <= r < before + block.rows]
        before += block.rows
        if mine:
            out.append(block if len(mine) == block.rows else block.take(mine))
    return out


def regroup_blocks(blocks: Iterable[Block], rows: int, complete: bool) -> Iterator[Block]:
    """The same rows in blocks of so many; an incomplete last one is left out where blocks have to be `complete`."""
    rest: Block | None = None
    for block in blocks:
        if rest is not None and not rest.has_shapes_of(block):
            if not complete and rest.rows:
                yield rest
            rest = None
        rest = block if rest is None else join_blocks([rest, block])
        while rest.rows >= rows:
            yield rest.slice(0, rows)
            rest = rest.slice(rows, rest.rows)
    if rest is not None and rest.rows and not complete:
        yield rest
