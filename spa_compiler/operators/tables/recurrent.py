"""RNN, GRU and LSTM: the hidden size is one dim of the gates, the recurrence, the states and the output.

GRU   T b i, D (3 h) i, D (3 h) h, D (6 h), b, D b h -> T D b h, D b h       h="hidden_size"
"""

from __future__ import annotations

from spa_compiler.operators.rule import rule
from spa_compiler.operators.site import Row, Rule, Site


def recurrent(gates: int) -> Rule:
    """The rule of an operator with this many gates; `layout` = 1 puts the batch first (opset 14)."""

    def apply(site: Site) -> None:
        batch_first = bool(site.attrs.get("layout", 0))
        x = "b T i" if batch_first else "T b i"
        state = "b D h" if batch_first else "D b h"
        out = "b T D h" if batch_first else "T D b h"
        rule(
            f"{x}, D ({gates} h) i, D ({gates} h) h, D ({2 * gates} h), b, {state}, {state}, D (3 h)"
            f" -> {out}, {state}, {state}",
            h="hidden_size",
        )(site)

    weights = f"D ({gates} h) i, D ({gates} h) h, D ({2 * gates} h)"
    apply.__doc__ = f'`T b i, {weights}, b, D b h -> T D b h, D b h`, h="hidden_size"'
    return apply


def row(gates: int) -> Row:
    """At every step each direction's gates read the input and the state."""
    return Row(recurrent(gates), macs=f"T b D {gates} h i, T b D {gates} h h", zero="cell")


RULES: dict[str, Rule] = {"RNN": row(1), "GRU": row(3), "LSTM": row(4)}
