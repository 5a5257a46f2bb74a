"""Absolute budgets: `--target 1.2GMACs`, `20MB`, `8Mparams` or `15ms`."""

from __future__ import annotations

import re

from spa_compiler.errors import UsageError

SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
KINDS = {"macs": "macs", "params": "params", "b": "size"}
TARGET = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)\s*(macs|params|b)\s*\Z", re.IGNORECASE)
TIME = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*ms\s*\Z", re.IGNORECASE)


def parse_target(text: str) -> tuple[str, float]:
    """What is limited and to how much: MACs, parameters, bytes or milliseconds. Raises UsageError for another form.

    >>> parse_target("1.2GMACs"), parse_target("20 MB"), parse_target("15ms")
    (('macs', 1200000000.0), ('size', 20000000.0), ('latency', 15.0))
    """
    if found := TIME.match(text):
        return "latency", float(found[1])
    found = TARGET.match(text)
    if found is None:
        raise UsageError(
            f"--target {text}: expected a number with MACs, params, B or ms, like 1.2GMACs, 8Mparams, 20MB or 15ms"
        )
    return KINDS[found[3].lower()], float(found[1]) * SCALES[found[2].lower()]
