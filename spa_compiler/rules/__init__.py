"""The operator tables. `find(domain, op)` gives the rule of an operator, or None.

A table maps an operator's name to its rule, most of them one string (see `spec`). Adding an operator is one row.
"""

from __future__ import annotations

from spa_compiler.rules import core, movement, quantized, recurrent
from spa_compiler.spec import Rule

ONNX_DOMAINS = ("", "ai.onnx")
TABLES: dict[str, dict[str, Rule]] = {
    "": {**core.RULES, **movement.RULES, **recurrent.RULES, **quantized.RULES},
}


def find(domain: str, op: str) -> Rule | None:
    """The rule of an operator; None when there is none and everything it touches must be frozen."""
    return TABLES.get("" if domain in ONNX_DOMAINS else domain, {}).get(op)
