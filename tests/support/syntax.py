"""Syntax trees of the project's files, each parsed once."""

from __future__ import annotations

import ast
import functools
from pathlib import Path


@functools.cache
def parse_file(path: Path) -> ast.Module:
    """The tree of a file, not to be changed."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def list_nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's tree."""
    return tuple(ast.walk(parse_file(path)))
