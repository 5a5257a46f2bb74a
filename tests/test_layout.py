"""The shape of the repository: who imports whom, what is found through entry points, and words that are not used."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = sorted((ROOT / "spa_compiler").rglob("*.py"))
PASSES = sorted((ROOT / "passes").glob("*.py"))
MODULES = [*LIBRARY, *PASSES]
ORDER = """
    version errors finite interrupts collector kernels target plugins
    sizes subgraphs names nesting facts flow expr dims axes spec blocks rules
    tensors external checks snapshots initializers model symbols shape_reads node_runs size_tables size_formulas general
    shapes bound digits index_arithmetic canonical sequences strides input_ranges lookups runtime
    graph threads rewrite reference folding untaken inlining normalize
    cost criteria ownership lossless plan stairs allocate
    images sources data gram linear inside recurrent lockstep adjust routed residual moments updates merge scales
    amounts tape derivatives inversion tokens calibration obs doubt compensation verification pipeline
    options latency report output places compiler
    __init__ inspection cli
""".split()
"""Each module imports only from those before it (docs/architecture.md)."""
SLOW = {"sympy"}
"""Half a second to import, and many models have no expression of sizes: imported where the first one is made."""
FORBIDDEN = re.compile(r"(?i)(?:^|_)(layer|filter|handler|manager|util|helper)s?(?:_|$)")
FOREIGN = {"filter", "helper", "numpy_helper", "external_data_helper"}
"""Names of Python and onnx that are used under their own name."""


def name_of(path: Path) -> str:
    """`rules` for a file in rules/, else the module."""
    inner = path.relative_to(ROOT / "spa_compiler")
    return inner.parts[0] if len(inner.parts) > 1 else inner.stem


def imported(path: Path) -> Iterator[str]:
    """Modules of spa_compiler that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "spa_compiler":
            below = node.module.split(".")[1:]
            yield from below[:1] or [a.name for a in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("spa_compiler."))


def test_the_order_names_every_module_once() -> None:
    assert sorted(ORDER) == sorted({name_of(p) for p in LIBRARY})


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_import_only_from_those_before_them(path: Path) -> None:
    name = name_of(path)
    late = [m for m in imported(path) if m != name and (m not in ORDER or ORDER.index(m) > ORDER.index(name))]
    assert not late, f"{name} comes before {late}"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_in_the_library_imports_a_pass(path: Path) -> None:
    assert "passes" not in imported(path)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_stand_at_the_top(path: Path) -> None:
    tree = ast.parse(path.read_text())
    optional = {n for t in ast.walk(tree) if isinstance(t, ast.Try) for n in ast.walk(t)}
    inner = [n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)]
    local = [n for n in inner if isinstance(n, ast.Import | ast.ImportFrom) and n not in optional]
    assert {a.name for n in local for a in n.names} <= SLOW


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def identifiers(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
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
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith("spa_compiler.passes")
