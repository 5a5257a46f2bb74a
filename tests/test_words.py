"""Words: functions say what they do, predicates ask, a constant has one value, docstrings say what a thing is."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from syntax import list_nodes, parse_file

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = sorted([*(ROOT / "spa_compiler").rglob("*.py"), *(ROOT / "passes").glob("*.py")])
SCRIPTS = sorted([*(ROOT / "tools").rglob("*.py"), *(ROOT / "tests" / "support").glob("*.py")])
TESTS = sorted(p for p in (ROOT / "tests").rglob("*.py") if p.parent.name != "support")
IRREGULAR = frozenset(
    """begun bound brought built chosen done drawn driven fed felt forgotten found given gone grown heard held hidden
    kept known laid led left lost made meant met paid proven said seen sent shaken shown shrunk spent spoilt spoken sunk
    taken taught thrown told torn understood undone won worn written""".split()
)
"""Participles that do not end in -ed. A function that is called like one does not say what it does."""
NO_PARTICIPLES = frozenset("embed feed need seed shed speed".split())
RIDDLES = frozenset(
    """alive alone along amounts apart around back before beside between cover depth doubt doubts each either enough
    escape follow greedy heeded huge idle inside meeting missing nothing once order others own peers possible riders
    room runs same si some stairs strangeness sure together top whole why with without worth""".split()
)
"""Names of functions that say nothing to who does not know the code."""
ALLOWED = {
    "expand": "ONNX's operator, like the other rules of its table",
    "tile": "ONNX's operator",
}
ACTIONS = {
    "_apply": "applies a rule; False: it has to wait",
    "_infer": "infers types; True: they follow from the node alone",
    "_reduce": "folds a graph; True: more may be known after it",
    "_rewrite_pick": "moves one selection; False: it stays",
    "_take_over": "takes a lock; False: its process may live",
    "_try_lock": "takes a lock; False: another process has it",
    "_evaluate_node": "evaluates a node; False: its inputs are not known",
    "measure": "records the sizes that Shape gives; False: another operator",
    "step": "visits a control node; False: another node",
    "take_constant": "takes over a constant; False: it is another one",
    "take_node": "takes over what a node gave; False: it is another one",
    "survive": "runs a mutated file; False: it was refused",
}
"""Functions that do something and tell whether they have."""
MODULES = {
    "inside": "values inside of a graph, beside its outputs",
    "masked": "the masked model",
    "peers": "other tools that are measured",
    "quantized": "a table of operators",
    "runs": "models that are run for many feeds",
    "unsupported": "a table of operators",
}
SHARED = {"RULES": "what every table of operators calls its rows"}
"""Constants that may have a value of their own in each module."""
WORDS = """node, value, initializer, attribute, dim, axis expression, rule, contraction, dependency graph, group,
member, frozen, reason, unit, criterion, score, calibration set, prior, moments, budget, allocation, width, plan,
compensation, masked model"""


def functions_in(path: Path) -> Iterator[ast.FunctionDef]:
    for node in list_nodes(path):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("__"):
            yield node


def is_participle(name: str) -> bool:
    return name in IRREGULAR or (name.endswith("ed") and "_" not in name and name not in NO_PARTICIPLES)


def docstrings_in(path: Path) -> Iterator[str]:
    """Docstrings of a module and of what it holds, and strings under constants."""
    for node in list_nodes(path):
        for child in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            value = child.value if isinstance(child, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def constants_in(path: Path) -> Iterator[tuple[str, str]]:
    """Names in capitals that a module gives a value, and that value as text."""
    for node in parse_file(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] * len(names)
                for k, name in enumerate(names):
                    if isinstance(name, ast.Name) and re.fullmatch(r"_?[A-Z][A-Z0-9_]+", name.id):
                        own = values[k] if isinstance(target, ast.Tuple) and len(values) == len(names) else node.value
                        yield name.id, ast.unparse(own)


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_say_what_they_do(path: Path) -> None:
    bare = {f.name: f.name.strip("_") for f in functions_in(path)}
    assert not {n for n, word in bare.items() if (is_participle(word) or word in RIDDLES) and word not in ALLOWED}


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_predicates_ask(path: Path) -> None:
    found = {f.name for f in functions_in(path) if f.returns is not None and ast.unparse(f.returns) == "bool"}
    assert not {n for n in found if not re.match(r"_?(is|has|can)_", n) and n not in ACTIONS}


def test_modules_are_no_participles() -> None:
    words = {p.stem.strip("_") for p in [*LIBRARY, *SCRIPTS]}
    assert not {w for w in words if is_participle(w) or w in RIDDLES} - MODULES.keys()


def test_a_constant_has_one_value() -> None:
    values = defaultdict(set)
    for path in LIBRARY:
        for name, value in constants_in(path):
            values[name].add(value)
    assert not {name: found for name, found in values.items() if len(found) > 1 and name not in SHARED}


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS, *TESTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_docstring_begins_with_what(path: Path) -> None:
    assert not [d for d in docstrings_in(path) if d.lstrip().startswith("What ")]


def test_the_glossary_holds_the_words() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    said = {w.strip() for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE) for w in re.split(r",", row)}
    assert not {w.strip() for w in WORDS.replace("\n", " ").split(",")} - said


def test_the_exceptions_are_needed() -> None:
    names = {f.name for path in [*LIBRARY, *SCRIPTS, *TESTS] for f in functions_in(path)}
    assert {*ALLOWED, *ACTIONS} <= names
