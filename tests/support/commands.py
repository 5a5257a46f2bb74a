"""The commands as tests call them, and what they look at afterwards."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from spa_compiler.cli.main import compile_command, spa

NUMBER = r"[-+]?\d[\d.]*(e[-+]\d+)?"
LAST_LINE = re.compile(
    r"(VERIFIED|UNPROVEN \(\d+ of \d+ groups\))"
    rf" \| quality (GOOD|FAIR|POOR|UNKNOWN) \(((estimated|measured) drop {NUMBER} points|[-a-z, ]+)\)"
    rf" \| MACs {NUMBER}% \(\S+ -> \S+\) \| params {NUMBER}%( \| latency {NUMBER} -> {NUMBER} ms( \(SLOWER\))?)?"
    rf"( \| accuracy {NUMBER}% -> {NUMBER}%)? \| cosine {NUMBER} \| prune==mask {NUMBER} \| {NUMBER} s"
)
QUICK = ["--criterion", "l2", "--no-latency", "--no-quality"]


def run(*args: object) -> Result:
    return CliRunner().invoke(compile_command, [*map(str, args)])


def run_spa(*args: object) -> Result:
    return CliRunner().invoke(spa, [*map(str, args)])


def check_report(document: Any) -> None:
    """A report follows its schema."""
    schema = json.loads((Path(__file__).parents[2] / "spa_compiler" / "report" / "schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert not [e.message for e in Draft202012Validator(schema).iter_errors(document)]


def last(result: Result) -> str:
    return result.stdout.strip().splitlines()[-1]


def folder(path: Path) -> dict[str, str]:
    """Names and hashes of what is in a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(path.iterdir())}
