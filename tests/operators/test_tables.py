"""Every operator has a rule or a deliberate freeze; the table in the documentation is the code's."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from spa_compiler.operators import tables

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operators.md"
OPERATORS = sorted({(s.domain, s.name) for s in onnx.defs.get_all_schemas_with_history()})


@pytest.mark.parametrize("domain", sorted({d for d, _ in OPERATORS}))
def test_every_operator_of_onnx_is_in_a_table(domain: str) -> None:
    missing = [op for d, op in OPERATORS if d == domain and tables.find_rule(domain, op) is None]
    assert not missing, f"no rule and no deliberate freeze for {missing}"


def test_every_rule_says_what_it_does() -> None:
    silent = [op for table in tables.TABLES.values() for op, rule in table.items() if not tables.describe_rule(rule)]
    assert not silent


def test_the_document_is_made_from_the_code() -> None:
    text = "\n".join(tables.list_operators()) + "\n"
    assert DOCUMENT.read_text() == text, "run: python -m spa_compiler.operators.tables > docs/operators.md"


def test_domains_have_tables_of_their_own() -> None:
    assert tables.find_rule("ai.onnx", "Conv") is tables.find_rule("", "Conv")
    assert tables.find_rule("com.microsoft", "Conv") is None
    assert tables.find_rule("nobody", "Conv") is None
