"""The shape of the repository: who imports whom, what is found through entry points, and words that are not used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import networkx as nx
import onnx.defs
import pytest

from spa_compiler.analysis.cost_kinds import Cost
from spa_compiler.analysis.cost_registry import find_costs
from spa_compiler.operators.tables import TABLES
from spa_compiler.planning import costs
from syntax import list_nodes, parse_file

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = sorted((ROOT / "spa_compiler").rglob("*.py"))
PASSES = sorted((ROOT / "passes").glob("*.py"))
MODULES = [*LIBRARY, *PASSES]
ORDER = """
    exit_codes errors plugins version settings times algebra ir operators execution shape_inference canonicalize
    analysis rewriting datasets verification planning interpreter autodiff calibration statistics scoring compensation
    quality output pipeline report compiler sweeps __init__ cli olive __main__
""".split()
"""Packages, and modules beside them: each imports only from those before it (docs/architecture.md)."""
SLOW = {"sympy", "matplotlib", "jinja2"}
"""Half a second to import each: where the first expression of sizes is made, and where a page has a picture."""
FORBIDDEN = re.compile(r"(?i)(?:^|_)(layer|filter|handler|manager|util|helper)s?(?:_|$)")
FOREIGN = {"filter", "helper", "numpy_helper", "external_data_helper", "layer_ratio", "ONNXModelHandler"}
"""Names of Python, onnx and Olive that are used under their own name, and an option of layers as papers call them."""


SAID_EVERYWHERE = {"If", "Loop", "Scan", "Constant", "Shape", "Size", "Sum", "Max", "Min", "Mean"}
"""Operators that are concepts of control flow, of constants and of sizes, or words of another meaning."""
OPERATORS = {s.name for s in onnx.defs.get_all_schemas()}.union(*TABLES.values()) - SAID_EVERYWHERE
NAMES_OPERATORS = {
    "ir.control_flow": "a body gives what lies outside through an Identity; ir stands before operators",
    "ir.validation": "faults of onnxruntime's own schemas, before any file is read; ir stands before operators",
    "interpreter.body_taps": "adds nodes to bodies as protobuf, where no builder of graph nodes serves",
    "verification.inside": "adds pushes to a model as protobuf, where no builder of graph nodes serves",
    "times": "is copied alone to a target, where nothing of spa-compile is",
    "rewriting.prune": "patches what these nodes read: the operands that say a size in an operator's own way",
}
"""Modules outside operators/ that hold names of operators, and why; all others ask operators/ (facts, movement ...)."""


def module_of(path: Path) -> str:
    """`ir.model` for spa_compiler/ir/model.py, `ir` for its __init__, "" for that of all."""
    parts = path.relative_to(ROOT / "spa_compiler").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


ALL = {module_of(p): p for p in LIBRARY}


def package_of(module: str) -> str:
    return module.split(".")[0] or "__init__"


def imported(path: Path) -> Iterator[str]:
    """Modules of spa_compiler that a file imports, anywhere in it."""
    for node in list_nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "spa_compiler":
            below = ".".join(node.module.split(".")[1:])
            yield from {inner if (inner := f"{below}.{a.name}".strip(".")) in ALL else below for a in node.names}
        elif isinstance(node, ast.Import):
            yield from (a.name.partition(".")[2] for a in node.names if a.name.split(".")[0] == "spa_compiler")


def test_the_order_names_every_package_once() -> None:
    assert sorted(ORDER) == sorted({package_of(m) for m in ALL})


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_import_only_from_those_before_them(path: Path) -> None:
    own = package_of(module_of(path))
    late = [m for m in imported(path) if ORDER.index(package_of(m)) > ORDER.index(own)]
    assert not late, f"{own} comes before {late}"


def test_no_module_is_part_of_a_cycle() -> None:
    graph = nx.DiGraph((m, other) for m, path in ALL.items() for other in imported(path) if other != m)
    assert not list(nx.simple_cycles(graph))


def test_no_module_is_shadowed_by_a_name_of_its_package() -> None:
    for module, path in ALL.items():
        if path.stem == "__init__":
            inner = {m.rpartition(".")[2] for m in ALL if m and m.rpartition(".")[0] == module}
            given = [n for n in list_nodes(path) if isinstance(n, ast.ImportFrom) and n.module]
            names = {a.asname or a.name for n in given for a in n.names if n.module != f"spa_compiler.{module}"}
            assert not inner & names, f"{module}: a name hides a module"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_in_the_library_imports_a_pass(path: Path) -> None:
    assert not any(package_of(m) == "passes" for m in imported(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_stand_at_the_top(path: Path) -> None:
    optional = {n for t in list_nodes(path) if isinstance(t, ast.Try) for n in ast.walk(t)}
    inner = [n for f in list_nodes(path) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)]
    local = [n for n in inner if isinstance(n, ast.Import | ast.ImportFrom) and n not in optional]
    assert {a.name.partition(".")[0] for n in local for a in n.names} <= SLOW


def test_the_commands_start_without_what_is_slow_to_import() -> None:
    code = "import sys, spa_compiler.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "spa_compiler.cli.main" in loaded
    assert not {"sympy", "scipy.linalg", "scipy.fft", "scipy.special"} & set(loaded)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(parse_file(path))


def texts(path: Path) -> Iterator[str]:
    """String literals of a file that are no docstrings."""
    bodies = [body for n in list_nodes(path) if isinstance(body := getattr(n, "body", None), list)]
    docs = {id(n.value) for body in bodies for n in body if isinstance(n, ast.Expr)}
    for node in list_nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def operators_named(text: str) -> set[str]:
    """Operators that a text is the name of, or a row of names; a sentence about some is none."""
    words = text.split()
    return OPERATORS & set(words) if all(w in OPERATORS or w[0].isupper() for w in words) else set()


def test_operators_are_named_in_their_package_only() -> None:
    """Who needs to know something of an operator asks a rule, a trait or a fact of it: one row per operator."""
    outside = [p for p in MODULES if "operators" not in p.parts]
    hits = {p: set().union(*map(operators_named, texts(p))) for p in outside}
    assert {module_of(p) if p in LIBRARY else f"passes.{p.stem}" for p, names in hits.items() if names} == set(
        NAMES_OPERATORS
    )


def test_few_modules_name_operators() -> None:
    assert len(NAMES_OPERATORS) <= 10


COSTS = {word for c in find_costs().values() for word in (c.name, c.unit, c.title, c.suffix) if word} - {
    "size",
    "channels",
}
"""How the costs of this distribution are called, in options, reports and targets; a group has both, too."""


def rows_of_texts(path: Path) -> Iterator[set[str]]:
    """String literals that stand side by side: the entries or keys of a list, a tuple, a set or a dictionary."""
    for node in list_nodes(path):
        parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        yield {p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_lists_the_costs(path: Path) -> None:
    """A cost is registered in one place; tables, gates, options and budgets ask the registry."""
    assert all(len(row & COSTS) <= 1 for row in rows_of_texts(path))


def test_every_cost_of_the_table_is_an_entry_point() -> None:
    points: dict[str, str] = project()["project"]["entry-points"]["spa_compiler.costs"]  # type: ignore[index]
    made = {name for name, value in vars(costs).items() if isinstance(value, Cost)}
    assert points == {name: f"spa_compiler.planning.costs:{name}" for name in made}


def identifiers(path: Path) -> Iterator[str]:
    for node in list_nodes(path):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name):
            yield node.id


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_words_that_say_nothing_are_not_used(path: Path) -> None:
    found = {n for n in identifiers(path) if FORBIDDEN.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", n))}
    assert not found - FOREIGN


def project() -> dict[str, dict[str, object]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_pass_is_a_file_an_entry_point_and_installed() -> None:
    files = {p.stem for p in PASSES} - {"__init__"}
    points: dict[str, str] = project()["project"]["entry-points"]["spa_compiler.passes"]  # type: ignore[index]
    assert set(points) == files
    assert all(value.startswith(f"spa_compiler.passes.{name}:") for name, value in points.items())
    installed = {p.name: p.value for p in entry_points(group="spa_compiler.passes")}
    assert points.items() <= installed.items(), "run `pip install -e .` again"


def test_every_folder_of_code_is_in_the_package_list() -> None:
    folders = {"spa_compiler.passes", *(".".join(p.parent.relative_to(ROOT).parts) for p in LIBRARY)}
    tools: dict[str, dict[str, object]] = project()["tool"]["setuptools"]  # type: ignore[index]
    assert set(tools["packages"]) == folders
    assert tools["package-dir"]["spa_compiler.passes"] == "passes"


def test_passes_import_each_other_relatively_and_the_library_by_name() -> None:
    for path in PASSES:
        for node in list_nodes(path):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith("spa_compiler.passes")


def test_tests_do_not_import_tests() -> None:
    """Code that several tests need is in tests/support and tests/models."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in list_nodes(path):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith("test_"), f"{path.name} imports {node.module}"
