"""protect: a plan is made again while that helps, the best is kept and proven, and hopeless rounds are not run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from spa_compiler.passes.protect import Protect
from spa_compiler.passes.verify import Verify

import spa_compiler
from spa_compiler.pipeline.state import State

TEXT = (
    "normalize,analyze,erase,calibrate{{samples=16}},score,protect{{floor={floor},rounds={rounds}}}"
    "(allocate{{ratio=0.5}},remove,verify,compensate)"
)


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """States that were proven, as they come."""
    found: list[State] = []
    run = Verify.run

    def note(self: Verify, state: State) -> State:
        found.append(state)
        return run(self, state)

    monkeypatch.setattr(Verify, "run", note)
    return found


def compile_with(source: Path, floor: float, rounds: int = 4) -> Any:
    text = TEXT.format(floor=floor, rounds=rounds)
    return spa_compiler.compile(source, pipeline=text, latency=False, quality=False)


def answer(monkeypatch: pytest.MonkeyPatch, values: Sequence[float]) -> None:
    """Let the plans explain these shares, one after the other."""
    left = list(values)
    monkeypatch.setattr(Protect, "measure_variance", lambda *_: left.pop(0))


@pytest.mark.parametrize(("values", "tried"), [
    ([0.9], 1),  # above the floor
    ([0.3, 0.2, 0.9], 2),  # worse: the next ones start from it
    ([0.3, 0.3, 0.9], 2),  # no better
    ([0.1, 0.12, 0.9], 2),  # 0.12 + 3 times 0.02 is below the floor
    ([0.1, 0.3, 0.45, 0.6], 4),  # it goes on while it gets there
    ([0.1, 0.3, 0.2, 0.9], 3),
])  # fmt: skip
def test_a_plan_is_made_again_while_that_may_help(
    source: Path, proofs: list[State], monkeypatch: pytest.MonkeyPatch, values: list[float], tried: int
) -> None:
    answer(monkeypatch, values)
    result = compile_with(source, 0.5)
    found = values[:tried]
    assert result.report["protection"] == {"explained_variance": found, "floor": 0.5}
    assert len(proofs) == 1 + (found.index(max(found)) > 0)
    assert proofs[-1].plan.digest() == result.plan.digest() == result.report["plan_sha256"]
    assert result.report["verification"]["prune_equals_mask"] is not None


def test_what_is_kept_is_the_best(source: Path) -> None:
    for floor in (0.0, 1.0):
        found = compile_with(source, floor).report["protection"]["explained_variance"]
        assert len(found) == 1 if floor == 0.0 else len(found) >= 2
