"""Absolute budgets: `--target 1.2GMACs`, `20MB`, `8Mparams` or `15ms`, and those of every cost that has a suffix."""

from __future__ import annotations

import re

from spa_compiler.analysis.cost_kinds import Cost
from spa_compiler.analysis.cost_registry import find_costs
from spa_compiler.errors import UsageError


def parse_target(text: str) -> tuple[str, float]:
    """The name of the cost and the limit that a target states. Raises UsageError for other forms.

    >>> parse_target("1.2GMACs"), parse_target("20 MB"), parse_target("15ms")
    (('macs', 1200000000.0), ('size', 20000000.0), ('latency', 15.0))
    """
    costs = [c for c in find_costs().values() if c.suffix]
    found = [(c.name, limit) for c in costs if (limit := _read_limit(text, c)) is not None]
    if not found:
        suffixes, examples = _join([c.suffix for c in costs]), _join([c.example for c in costs if c.example])
        raise UsageError(f"--target {text}: expected a number with {suffixes}, like {examples}")
    if len(found) > 1:
        raise UsageError(f"--target {text}: may be {_join([n for n, _ in found])}; state one with --of and --ratio")
    return found[0]


def _read_limit(text: str, cost: Cost) -> float | None:
    """The number of a target, in the unit of a cost; None where it does not state this cost."""
    scales = {prefix.lower(): scale for prefix, scale in cost.scales.items()}
    prefixes = "|".join(map(re.escape, scales))
    pattern = rf"\s*([0-9]*\.?[0-9]+)\s*({prefixes})\s*{re.escape(cost.suffix)}\s*"
    found = re.fullmatch(pattern, text, re.IGNORECASE)
    return float(found[1]) * scales[found[2].lower()] if found else None


def parse_ratio(flag: str, entry: str) -> tuple[str, float]:
    """The pattern and the share of an entry PATTERN=R. Raises UsageError for other forms."""
    pattern, _, ratio = entry.rpartition("=")
    try:
        value = float(ratio.removesuffix("%")) / (100 if ratio.endswith("%") else 1)
    except ValueError as e:
        raise UsageError(f"{flag} {entry}: expected PATTERN=0.5") from e
    if not pattern or not 0 <= value < 1:
        raise UsageError(f"{flag} {entry}: expected PATTERN=0.5, with a share in 0..1")
    return pattern, value


def _join(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
