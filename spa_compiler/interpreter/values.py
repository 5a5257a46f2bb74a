"""The values that are at hand while a model runs node by node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from spa_compiler.interpreter.chunks import Chunks

Array = NDArray[Any]


class Values(dict[str, Chunks]):
    """Values by name, `count` chunks of each, and beside them the constants, which are the same for all chunks."""

    def __init__(self, constants: dict[str, Array], count: int) -> None:
        super().__init__()
        self.constants, self.count = constants, count

    def chunks_of(self, name: str) -> Chunks | None:
        """A value or a constant as chunks; None when it could not be computed."""
        if name in self:
            return self[name]
        return [self.constants[name]] * self.count if name in self.constants else None

    def list_rows(self, names: Iterable[str]) -> list[dict[str, Array]] | None:
        """These values by name, chunk by chunk; None where one of them could not be computed."""
        sources = {n: self.chunks_of(n) for n in names}
        known = {n: c for n, c in sources.items() if c is not None}
        if len(known) < len(sources):
            return None
        return [{n: c[k] for n, c in known.items()} for k in range(self.count)]

    def find_constants(self, names: Iterable[str]) -> set[str]:
        """Those of the names that are constants and no values."""
        return {n for n in names if n in self.constants and n not in self}

    def find_unknown(self, names: Iterable[str]) -> str | None:
        """The first of the names that could not be computed."""
        return next((n for n in names if n not in self.constants and n not in self), None)

    def append(self, more: Values) -> None:
        """Further chunks of each value; one that these do not have is not known any more."""
        for name in list(self):
            if name in more:
                self[name] = self[name] + more[name]
            else:
                del self[name]
        self.count += more.count
