"""The operator tables. `find(domain, op)` gives the rule of an operator, or None.

A table maps an operator's name to its rule, most of them one string (see `rule`). Adding an operator is one row.
`python -m spa_compiler.operators.tables` prints all of them as Markdown: docs/operators.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from spa_compiler.ir.control_flow import DOMAIN
from spa_compiler.operators.site import Rule
from spa_compiler.operators.tables import (
    attention,
    compute,
    control_flow,
    data_movement,
    microsoft,
    quantized,
    recurrent,
    unsupported,
)

ONNX_DOMAINS = ("", "ai.onnx")
TABLES: dict[str, dict[str, Rule]] = {
    "": {
        **compute.RULES,
        **data_movement.RULES,
        **recurrent.RULES,
        **quantized.RULES,
        **attention.RULES,
        **unsupported.RULES,
        **control_flow.RULES,
        "SimplifiedLayerNormalization": compute.normalisation,  # onnxruntime writes it into the default domain
    },
    "com.microsoft": microsoft.RULES,
    "ai.onnx.ml": unsupported.ML_RULES,
    "ai.onnx.preview": unsupported.PREVIEW_RULES,
    "ai.onnx.preview.training": unsupported.TRAINING_RULES,
}


def find(domain: str, op: str) -> Rule | None:
    """The rule of an operator; None when there is none and everything it touches must be frozen."""
    table = control_flow.MARKERS if domain == DOMAIN else TABLES.get("" if domain in ONNX_DOMAINS else domain, {})
    return table.get(op)


def describe(rule: Rule) -> str:
    """One line: the rule's string, or the first sentence that its function says about itself."""
    return " ".join((rule.__doc__ or "").strip().split("\n\n")[0].split())


def table() -> Iterator[str]:
    """All operators as lines of Markdown, by domain and name."""
    yield "# Operators"
    yield ""
    yield "Made from the code by `python -m spa_compiler.operators.tables`; the notation is explained in"
    yield "`spa_compiler/operators/rule.py`."
    for domain, rules in TABLES.items():
        yield ""
        yield f"## {domain or 'ai.onnx'}"
        yield ""
        yield "| operator | rule |"
        yield "|---|---|"
        yield from (f"| {op} | {describe(rule).replace('|', chr(92) + '|')} |" for op, rule in sorted(rules.items()))
