"""Laws of the library on random models: nothing is lost, prune equals mask, the order of nodes does not matter.

    python -m tools.fuzz.orders --cases 10000

    graphs   every weight axis has a group or a reason, a random plan prunes as it masks
    orders   analysed in another node order: the same groups, or else others that prune as they mask

The command shows nothing of these (`tests/` has the same as quick tests). Chunks of cases run in processes of their
own with limits of time and memory. The first line of a failure names kind and seed:
`--kind orders --seed 17 --cases 250` runs that chunk again.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tools import isolation

TESTS = Path(__file__).resolve().parents[2] / "tests"
KINDS = ("graphs", "orders")
CHUNK, SECONDS, MEMORY = 250, 1800.0, 6 << 30
TOLERANCE = 1e-4


def from_tests(name: str) -> Any:
    """A module of tests/, also where a module of tools/ has its name."""
    for folder in ("support", "models"):
        if str(TESTS / folder) not in sys.path:
            sys.path.insert(0, str(TESTS / folder))
    path = next(TESTS.rglob(f"{name}.py"))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chunk(kind: str, seed: int, cases: int) -> dict[str, Any]:
    """Run `cases` cases of one kind: how many gave a result, how many were refused, and what went wrong."""
    from_tests("zoo")
    run = Cases(kind, seed)
    run.run_drawn(cases)
    return {"counts": dict(run.counts), "failures": run.failures}


class Cases:
    """The cases of one chunk."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.laws = from_tests("test_laws")

    def run_drawn(self, cases: int) -> None:
        """Cases that start from a random model."""
        import hypothesis
        from hypothesis import strategies as st

        graphs = from_tests("random_graphs").graphs

        @hypothesis.seed(self.seed)
        @hypothesis.settings(
            max_examples=cases, deadline=None, database=None, phases=[hypothesis.Phase.generate], derandomize=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(graphs(), st.integers(0, 1 << 30))
        def go(model: Any, number: int) -> None:
            self.attempt(random.Random(number), model)

        go()

    def attempt(self, rng: random.Random, model: Any) -> None:
        """One case; what is not one of our errors is kept."""
        try:
            self.counts[getattr(self, self.kind)(rng, model)] += 1
        except Exception as error:
            self.counts["failed"] += 1
            self.failures.append(f"{type(error).__name__}: {str(error)[:300]}")

    def graphs(self, rng: random.Random, model: Any) -> str:
        import numpy as np

        graph = self.laws.analyze_proto(model)
        self.laws.assert_nothing_is_lost(graph)
        masks = self.laws.random_masks(graph, np.random.default_rng(rng.randrange(1 << 30)))
        error = self.laws.compare(graph, masks, rng.randrange(1 << 30))[0]
        assert error < TOLERANCE, f"prune differs from mask by {error:.1e}"
        return "result"

    def orders(self, rng: random.Random, model: Any) -> str:
        import numpy as np

        graph = self.laws.analyze_proto(model)
        order = list(range(len(graph.sites)))
        rng.shuffle(order)
        other = self.laws.analyze(graph.model, order)
        if self.laws.shape_of_groups(other) == self.laws.shape_of_groups(graph):
            return "result"
        masks = self.laws.random_masks(other, np.random.default_rng(0))
        assert self.laws.compare(other, masks)[0] < TOLERANCE, "prune differs from mask in another order"
        return "other groups, but prune equals mask"


def main() -> None:
    """Run all chunks and print the counts; exit code 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--seed", type=int, default=0, help="of the first chunk")
    a = parser.parse_args()
    isolation.preload("hypothesis", "pytest", "spa_compiler", "spa_compiler.rewriting.masked_model")
    kinds = [a.kind] if a.kind else KINDS
    counts, failures, start = {kind: Counter[str]() for kind in kinds}, 0, time.perf_counter()
    for k in range(-(-a.cases // (CHUNK * len(kinds)))):
        for kind in kinds:
            found = isolation.run(chunk, (kind, a.seed + k, CHUNK), SECONDS, MEMORY)
            counts[kind].update(found.get("counts", {"crashed": CHUNK}))
            wrong = [found["error"]] if "error" in found else found["failures"]
            failures += len(wrong)
            for text in wrong:
                print(f"--kind {kind} --seed {a.seed + k}: {text}", flush=True)
        done = ", ".join(f"{kind} {dict(found)}" for kind, found in counts.items())
        total = sum(map(Counter.total, counts.values()))
        print(f"{total} cases, {failures} failures, {time.perf_counter() - start:.0f} s: {done}", flush=True)
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
