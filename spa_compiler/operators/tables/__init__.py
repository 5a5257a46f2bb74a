"""The operator tables. `find_rule(domain, op)` gives the row of an operator, or None.

A table maps an operator's name to its row: a rule, most of them one string (see `rule`), and what else is known of it
(`traits`). A rule alone is a row without traits. Adding an operator is one row.
`python -m spa_compiler.operators.tables` prints all of them as Markdown: docs/operators.md.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import onnx

from spa_compiler.ir.control_flow import DOMAIN
from spa_compiler.operators.site import Row, Rule
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
from spa_compiler.operators.traits import Norm, Traits

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
        "SimplifiedLayerNormalization": compute.RULES[
            "RMSNormalization"
        ],  # onnxruntime writes it into the default domain
    },
    "com.microsoft": microsoft.RULES,
    "ai.onnx.ml": unsupported.ML_RULES,
    "ai.onnx.preview": unsupported.PREVIEW_RULES,
    "ai.onnx.preview.training": unsupported.TRAINING_RULES,
}


NO_ROW = Traits()


def find_rule(domain: str, op: str) -> Row | None:
    """The row of an operator; None when there is none and everything it touches must be frozen."""
    table = control_flow.MARKERS if domain == DOMAIN else TABLES.get("" if domain in ONNX_DOMAINS else domain, {})
    row = table.get(op)
    return row if row is None or isinstance(row, Row) else _make_row(row)


@functools.lru_cache(maxsize=1024)
def _make_row(rule: Rule) -> Row:
    return Row(rule)


def find_traits(node: onnx.NodeProto) -> Traits:
    """The traits of a node's operator; the defaults where it has no row."""
    return find_rule(node.domain, node.op_type) or NO_ROW


def describe_rule(rule: Rule) -> str:
    """One line: the rule's string, or the first sentence that its function says about itself."""
    told = rule.rule if isinstance(rule, Row) else rule
    return " ".join((told.__doc__ or "").strip().split("\n\n")[0].split())


def describe_traits(rule: Rule) -> str:
    """The traits of a row that are not the default."""
    if not isinstance(rule, Row):
        return ""
    said = {f.name: getattr(rule, f.name) for f in dataclasses.fields(Traits)}
    usual = {f.name: getattr(NO_ROW, f.name) for f in dataclasses.fields(Traits)}
    return ", ".join(_format_trait(n, v) for n, v in said.items() if v != usual[n])


def _format_trait(name: str, value: object) -> str:
    if value is True:
        return name
    return f"{name} over {value.over}" if isinstance(value, Norm) else f"{name} `{value}`"


def list_operators() -> Iterator[str]:
    """All operators as lines of Markdown, by domain and name."""
    yield "# Operators"
    yield ""
    yield "Made from the code by `python -m spa_compiler.operators.tables`; the notation is explained in"
    yield "`spa_compiler/operators/rule.py`."
    for domain, rules in TABLES.items():
        yield ""
        yield f"## {domain or 'ai.onnx'}"
        yield ""
        yield "| operator | rule | traits |"
        yield "|---|---|---|"
        for op, row in sorted(rules.items()):
            yield f"| {op} | {describe_rule(row).replace('|', chr(92) + '|')} | {describe_traits(row)} |"
