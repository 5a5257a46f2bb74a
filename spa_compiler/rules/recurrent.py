"""RNN, GRU and LSTM: the hidden size is one dim of the gates, the recurrence, the states and the output.

    GRU   _ _ i, D (3 h) i, D (3 h) h, D (6 h), _, D _ h -> _ D _ h, D _ h       h="hidden_size"
"""

from __future__ import annotations

from spa_compiler.spec import Rule, Site, rule


def recurrent(gates: int) -> Rule:
    """The rule of an operator with this many gates; `layout` = 1 puts the batch first (opset 14)."""

    def apply(site: Site) -> None:
        batch_first = bool(site.attrs.get("layout", 0))
        state = "_ D h" if batch_first else "D _ h"
        out = "_ _ D h" if batch_first else "_ D _ h"
        rule(
            f"_ _ i, D ({gates} h) i, D ({gates} h) h, D ({2 * gates} h), _, {state}, {state}, D (3 h)"
            f" -> {out}, {state}, {state}",
            h="hidden_size",
        )(site)

    return apply


RULES: dict[str, Rule] = {"RNN": recurrent(1), "GRU": recurrent(3), "LSTM": recurrent(4)}
