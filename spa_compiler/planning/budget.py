"""Absolute budgets: `--target 1.2GMACs`, `20MB`, `8Mparams` or `15ms`."""

from __future__ import annotations

import re

from spa_compiler.errors import UsageError

TARGET_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
TARGET_KINDS = {"macs": "macs", "params": "params", "b": "size"}
TARGET_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)\s*(macs|params|b)\s*\Z", re.IGNORECASE)
TIME_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*ms\s*\Z", re.IGNORECASE)


def parse_target(text: str) -> tuple[str, float]:
    """The unit and limit of a target: MACs, parameters, bytes or milliseconds. Raises UsageError for other forms.

    >>> parse_target("1.2GMACs"), parse_target("20 MB"), parse_target("15ms")
    (('macs', 1200000000.0), ('size', 20000000.0), ('latency', 15.0))
    """
    if found := TIME_PATTERN.match(text):
        return "latency", float(found[1])
    found = TARGET_PATTERN.match(text)
    if found is None:
        raise UsageError(
            f"--target {text}: expected a number with MACs, params, B or ms, like 1.2GMACs, 8Mparams, 20MB or 15ms"
        )
    return TARGET_KINDS[found[3].lower()], float(found[1]) * TARGET_SCALES[found[2].lower()]
