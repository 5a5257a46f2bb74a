"""How far a long loop is: whoever shows progress listens.

    with listen_to_items(lambda done, of: print(done, of)):
        for node in count_items(nodes, len(nodes)):
            ...

Loops in other threads tell nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Listener = Callable[[int, int], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listen_to_items(listener: Listener) -> Iterator[None]:
    """Every `count_items` inside tells how many items are done, and of how many."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def count_items(items: Iterable[T], of: int) -> Iterator[T]:
    """The items, as they come; the listener hears of each when the next is asked for.

    >>> heard = []
    >>> with listen_to_items(lambda done, of: heard.append((done, of))):
    ...     list(count_items("ab", 2))
    ['a', 'b']
    >>> heard
    [(1, 2), (2, 2)]
    """
    for k, item in enumerate(items, 1):
        yield item
        if (listener := _listener.get()) is not None:
            listener(k, of)


__all__ = ["count_items", "listen_to_items"]
