"""Groups of coupled channels, and the axes of constants that they cut."""

from __future__ import annotations

from dataclasses import dataclass

from spa_compiler.algebra.expr import Dim


@dataclass(frozen=True)
class Member:
    """One axis of a constant that a group cuts. Roles: `out` produced, `in` contracted, `scale` one per channel."""

    value: str
    axis: int
    role: str


@dataclass(eq=False)
class Group:
    """Coupled channels: every axis that shares a dim (or the units of one dim that was written out as units).

    With `blocks` > 1, channels are chosen inside each block (head, convolution group) on their own. `label` is the
    first member that produces them, the key of plans and masks; `name` is the one that people know, and ends in `kind`;
    `writers` and `readers` are modules that make them and that sum over them (`group_names`).
    """

    label: str
    dims: tuple[Dim, ...]
    members: list[Member]
    block: Dim | None = None
    name: str = ""
    kind: str = ""
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Channels, per block where there are blocks."""
        return sum(d.size for d in self.dims)

    @property
    def blocks(self) -> int:
        return self.block.size if self.block is not None else 1

    @property
    def stat(self) -> str:
        """The statistic that is taken over this group, or ''."""
        return next((d.stat for d in self.dims if d.stat), "")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the group's mask: (size,) or (blocks, size)."""
        return (self.size,) if self.block is None else (self.blocks, self.size)


__all__ = ["Group", "Member"]
