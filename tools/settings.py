"""List every setting with its evidence: `python -m tools.settings > docs/settings.md`.

Settings are found where they live, in the modules called `settings` (`spa_compiler.settings`).
"""

from __future__ import annotations

import importlib
import pkgutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import spa_compiler
from spa_compiler.settings import UNRECORDED, Evidence, list_settings

HEAD = """# Settings

Constants that were tuned, as the program has them: `python -m tools.settings > docs/settings.md` makes this page, and a
test holds it to the code and to [experiments.md](experiments.md), whose rows (E1, E2, ...) record the choices. *Source*
is by what a value was chosen, *chosen on* are the models that decided, *confirmed on* those that were looked at
afterwards; "-" where nobody recorded any. How a setting is made: `spa_compiler.settings`.
"""
COLUMNS = ("name", "value", "unit", "what it is", "source", "chosen on", "confirmed on", "rows")


def find_settings() -> dict[str, Any]:
    """The instances of all packages by their names in capitals, in the order of the modules' names."""
    modules = (m.name for m in pkgutil.walk_packages(spa_compiler.__path__, "spa_compiler."))
    held = (vars(importlib.import_module(m)) for m in modules if m.count(".") > 1 and m.endswith(".settings"))
    return {name: v for names in held for name, v in names.items() if name.isupper() and is_dataclass(v)}


def make_row(name: str, value: Any, evidence: Evidence) -> str:
    """One setting as a row of the table."""
    models = (", ".join(m) or "-" for m in (evidence.chosen_on, evidence.confirmed_on))
    cells = (f"`{name}`", f"{value}", evidence.unit, evidence.about, evidence.source, *models, ", ".join(evidence.rows))
    return f"| {' | '.join(cells)} |"


def count_evidence(found: Mapping[str, tuple[Any, Evidence]]) -> str:
    """A sentence that says how many settings rest on what."""
    every = [e for _, e in found.values()]
    confirmed = sum(bool(e.confirmed_on) for e in every)
    together = sum(bool(e.confirmed_on) and "as a whole" in e.source for e in every)
    alone = sum(bool(e.chosen_on) and not e.confirmed_on for e in every)
    unknown = sum(e.source == UNRECORDED for e in every)
    published = len(every) - confirmed - alone - unknown
    return (
        f"Of {len(every)} settings {confirmed} have been looked at on models that did not choose them ({together} of "
        f"these as a whole only), {alone} rest on the models that chose them, {published} on a publication, and of "
        f"{unknown} nothing is recorded."
    )


def write_page() -> Iterator[str]:
    """The lines of the page."""
    every = {n: list_settings(v) for n, v in find_settings().items()}
    flat = {f"{group}.{n}": pair for group, found in every.items() for n, pair in found.items()}
    yield from HEAD.splitlines()
    yield from ("", *textwrap.wrap(count_evidence(flat), 120))
    for group, found in every.items():
        yield from ("", f"## {group}", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|")
        yield from (make_row(n, *pair) for n, pair in found.items())


if __name__ == "__main__":
    print("\n".join(write_page()))
