"""The operator tables. `find(domain, op)` gives the rule of an operator, or None.

A table maps an operator's name to its rule, most of them one string (see `spec`). Adding an operator is one row.
`python -m spa_compiler.rules` prints all of them as Markdown: docs/operators.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from spa_compiler.errors import RuleError
from spa_compiler.nesting import DOMAIN
from spa_compiler.rules import attention, contrib, control, core, frozen, movement, quantized, recurrent
from spa_compiler.spec import Rule, rule

ONNX_DOMAINS = ("", "ai.onnx")
TABLES: dict[str, dict[str, Rule]] = {
    "": {
        **core.RULES,
        **movement.RULES,
        **recurrent.RULES,
        **quantized.RULES,
        **attention.RULES,
        **frozen.RULES,
        **control.RULES,
        "SimplifiedLayerNormalization": core.normalisation,  # onnxruntime writes it into the default domain
    },
    "com.microsoft": contrib.RULES,
    "ai.onnx.ml": frozen.ML_RULES,
    "ai.onnx.preview": frozen.PREVIEW_RULES,
    "ai.onnx.preview.training": frozen.TRAINING_RULES,
}


def read_table(domain: str, rows: Mapping[str, Rule | str]) -> dict[str, Rule]:
    """A table of rules or rule strings. Raises RuleError that names the operator and the place in its string.

    TABLES["my.domain"] = read_table("my.domain", {"Scale": "n c _..., c -> n c _..."})
    """
    return {op: _read_row(f"{domain}::{op}", row) for op, row in rows.items()}


def _read_row(operator: str, row: Rule | str) -> Rule:
    try:
        return rule(row) if isinstance(row, str) else row
    except RuleError as e:
        raise RuleError(e.rule, e.place, e.text, operator) from None


def find(domain: str, op: str) -> Rule | None:
    """The rule of an operator; None when there is none and everything it touches must be frozen."""
    table = control.MARKERS if domain == DOMAIN else TABLES.get("" if domain in ONNX_DOMAINS else domain, {})
    return table.get(op)


def describe(rule: Rule) -> str:
    """One line: the rule's string, or the first sentence that its function says about itself."""
    return " ".join((rule.__doc__ or "").strip().split("\n\n")[0].split())


def table() -> Iterator[str]:
    """All operators as lines of Markdown, by domain and name."""
    yield "# Operators"
    yield ""
    yield "Made from the code by `python -m spa_compiler.rules`; the notation is explained in `spa_compiler/spec.py`."
    for domain, rules in TABLES.items():
        yield ""
        yield f"## {domain or 'ai.onnx'}"
        yield ""
        yield "| operator | rule |"
        yield "|---|---|"
        yield from (f"| {op} | {describe(rule).replace('|', chr(92) + '|')} |" for op, rule in sorted(rules.items()))
