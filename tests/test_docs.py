"""Documents name what there is: every module, every path and every link in them exists, every package has a section."""

from __future__ import annotations

import ast
import functools
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spa_compiler.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "spa_compiler"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
DOTTED = re.compile(r"\bspa_compiler(?:\.\w+)+|(?<=`)[a-z_]+(?:\.\w+)+(?=`)")
PATH = re.compile(r"(?<![\w/.-])(?:docs|models|passes|spa_compiler|tests|tools)/[\w.*/-]*\w")
COMMAND = re.compile(r"-m (tools(?:\.\w+)+)")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b|\.pruned\.onnx$")
"""A part of a path that the reader fills in (NAME), and what a command in a document writes."""
ABSENT = re.compile(r"(?<!\()\.\./|design\.md|figures of the plan|the first design")
"""Places outside of the repository (a link from docs/ to its root is none), and plans that are not in it."""


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def packages() -> frozenset[str]:
    """Packages of the library, and modules beside them."""
    parts = (p.relative_to(LIBRARY).with_suffix("").parts[0] for p in LIBRARY.rglob("*.py"))
    return frozenset(parts) - {"__init__"} | {"passes"}


def file_of(module: list[str]) -> Path | None:
    """The file of a module, passes among them; None where there is none."""
    base = ROOT if module[:1] == ["passes"] else LIBRARY
    path = base.joinpath(*module)
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if module and p.exists()), None)


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    """Names that a module defines or imports at its top, and those inside of its classes."""
    tree = ast.parse(path.read_text())
    inner = [n for c in tree.body if isinstance(c, ast.ClassDef) for n in c.body]
    blocks = [n for w in tree.body if isinstance(w, ast.With | ast.If) for n in w.body]
    return frozenset(name for node in [*tree.body, *inner, *blocks] for name in _bound(node))


def _bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (a.asname or a.name for a in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))


@functools.cache
def entry_point_groups() -> frozenset[str]:
    return frozenset(tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["entry-points"])


def fields_of(schema: Any, prefix: str = "") -> Iterator[str]:
    """Fields of the report by their dotted names."""
    if isinstance(schema, dict):
        for key, below in schema.get("properties", {}).items():
            yield f"{prefix}{key}"
            yield from fields_of(below, f"{prefix}{key}.")
        for key in ("anyOf", "oneOf", "items"):
            parts = schema.get(key, [])
            for part in parts if isinstance(parts, list) else [parts]:
                yield from fields_of(part, prefix)


@functools.cache
def report_fields() -> frozenset[str]:
    return frozenset(fields_of(json.loads(text_of(LIBRARY / "report" / "schema.json"))))


def exists(dotted: str) -> bool:
    """Is this a module, a name in one, a field of the report or a group of entry points?"""
    if dotted in entry_point_groups() or dotted in report_fields():
        return True
    parts = dotted.removeprefix("spa_compiler.").split(".")
    for k in range(len(parts), -1, -1):
        path = LIBRARY / "__init__.py" if k == 0 else file_of(parts[:k])
        if path is not None:
            return set(parts[k:]) <= names_in(path)
    return False


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_module_in_a_document_exists(path: Path) -> None:
    named = {n for n in DOTTED.findall(text_of(path)) if n.startswith("spa_compiler.") or n.split(".")[0] in packages()}
    assert not {n for n in named if not n.endswith((".py", ".md")) and not exists(n)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_path_in_a_document_exists(path: Path) -> None:
    modules = {n.replace(".", "/") for n in COMMAND.findall(text_of(path))}
    run = {f"{n}/__main__.py" if (ROOT / n).is_dir() else f"{n}.py" for n in modules}
    named = {n for n in PATH.findall(text_of(path)) if not PLACEHOLDER.search(n)} | run
    assert not {n for n in named if not any(ROOT.glob(n))}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    assert not {n for n in LINK.findall(text_of(path)) if not (path.parent / n).exists()}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_a_document_mentions_nothing_outside_of_the_repository(path: Path) -> None:
    assert not ABSENT.findall(text_of(path))


def test_the_architecture_has_a_section_for_every_package() -> None:
    headings = re.findall(r"^### `(\w+)`", text_of(ROOT / "docs" / "architecture.md"), re.MULTILINE)
    folders = {p.parent.name for p in [*LIBRARY.glob("*/__init__.py"), *ROOT.glob("passes/__init__.py")]}
    assert folders <= set(headings) <= packages()
    assert len(headings) == len(set(headings))


def test_the_readme_shows_every_package() -> None:
    text = text_of(ROOT / "README.md")
    assert not {p for p in packages() if (LIBRARY / p).is_dir() and not re.search(rf"\b{p}\b", text)}


def test_the_readme_lists_every_exit_code() -> None:
    table = re.findall(r"(?m)^\| (\d+) \| \S", text_of(ROOT / "README.md"))
    assert [int(code) for code in table] == list(ExitCode)


def quotes(text: str) -> Iterator[tuple[str, list[str]]]:
    """Files that a document quotes (`In `path`:` before a fenced block), and the lines of each quotation."""
    for path, block in re.findall(r"[Ii]n `([^`\n]+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL):
        yield path, [line.strip() for line in block.splitlines()]


def test_worked_examples_are_what_the_files_hold() -> None:
    found = list(quotes(text_of(ROOT / "CONTRIBUTING.md")))
    assert found
    for path, quoted in found:
        lines = [line.strip() for line in text_of(ROOT / path).splitlines()]
        assert any(lines[k : k + len(quoted)] == quoted for k in range(len(lines))), f"{path} has changed: {quoted[0]}"
