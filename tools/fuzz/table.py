"""The result of a run: counts by kind and outcome, and the kinds of faults and refusals, as Markdown and JSON."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Table:
    """Counts so far."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    times: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds of CPU by kind."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")
    cases: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """One case."""
        self.cases += 1
        self.counts[row["kind"]][row["outcome"]] += 1
        self.times[row["kind"]] += row["cpu"]
        self.slowest = max(self.slowest, (row["cpu"], row["case"]))
        self.largest = max(self.largest, (row["memory"], row["case"]))
        if row["level"]:
            self.found[row["level"], row["signature"]].append(row)

    @property
    def faults(self) -> int:
        return sum(len(rows) for (level, _), rows in self.found.items() if level == "fault")

    def summarise(self) -> str:
        """One line."""
        kinds = Counter(level for level, _ in self.found)
        return (
            f"{self.cases} cases, {self.faults} faults of {kinds['fault']} kinds, {kinds['refusal']} kinds of refusal; "
            f"{sum(self.times.values()):.0f} s of CPU in runs; slowest {self.slowest[1]} {self.slowest[0]:.1f} s, "
            f"largest {self.largest[1]} {self.largest[0] >> 20} MB"
        )

    def write(self, seconds: float) -> Iterable[str]:
        """The lines of a Markdown document."""
        yield f"{self.summarise()}; {seconds:.0f} s by the clock"
        yield ""
        outcomes = sorted({o for c in self.counts.values() for o in c})
        yield "| kind | " + " | ".join(outcomes) + " | CPU a case |"
        yield "|---" * (len(outcomes) + 2) + "|"
        for kind, counts in sorted(self.counts.items()):
            mean = self.times[kind] / counts.total()
            yield f"| {kind} | " + " | ".join(str(counts[o] or "") for o in outcomes) + f" | {mean:.2f} s |"
        for level in ("fault", "refusal"):
            rows = sorted(((s, r) for (v, s), r in self.found.items() if v == level), key=lambda x: -len(x[1]))
            yield ""
            yield f"| {level} | cases | first | operators of a small one |"
            yield "|---|---|---|---|"
            for signature, found in rows:
                small = next((r["operators"] for r in found if r.get("operators")), "")
                yield f"| {signature.replace('|', '/')} | {len(found)} | {found[0]['case']} | {small} |"

    def save(self, folder: Path, seconds: float) -> None:
        """Write found.md and found.json."""
        (folder / "found.md").write_text("\n".join(self.write(seconds)) + "\n")
        rows = [{"level": level, "signature": s, "cases": r} for (level, s), r in self.found.items()]
        document = {"counts": {k: dict(c) for k, c in self.counts.items()}, "cases": self.cases, "found": rows}
        (folder / "found.json").write_text(json.dumps(document, indent=1) + "\n")
