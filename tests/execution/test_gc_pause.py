"""The garbage collector is out of the way during analysis, and only then."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from laws import analyze_proto
from spa_compiler.analysis.dependency_graph import analyze
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.execution import single_node
from spa_compiler.execution.gc_pause import pause_collector
from spa_compiler.ir.reader import from_proto
from zoo import CASES, build


@pytest.fixture(autouse=True)
def running() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_it_runs_again_afterwards_also_after_an_error() -> None:
    with pause_collector():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), pause_collector():
        raise KeyError
    assert gc.isenabled()


def test_what_the_caller_has_frozen_stays_frozen() -> None:
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        with pause_collector():
            pass
        assert before > 0 and gc.get_freeze_count() == before
    finally:
        gc.unfreeze()
    with pause_collector():
        kept = [[k] for k in range(10)]
    assert gc.get_freeze_count() == 0 and all(gc.is_tracked(k) for k in kept)


def test_who_turned_it_off_keeps_it_off() -> None:
    gc.disable()
    with pause_collector():
        pass
    assert not gc.isenabled()


def test_analysis_collects_at_its_ends_only() -> None:
    model = from_proto(build(CASES["shuffle_dynamic"]), Path("model.onnx"))
    collections: list[str] = []

    def seen(phase: str, info: dict[str, int]) -> None:
        collections.append(phase)

    gc.collect()
    old = gc.get_threshold()
    gc.callbacks.append(seen)
    try:
        gc.set_threshold(50)  # a thousand times as often as usual
        analyze(normalize(model)[0])
    finally:
        gc.set_threshold(*old)
        gc.callbacks.remove(seen)
    assert collections.count("start") <= 4 and gc.isenabled()


def test_arithmetic_that_is_written_down_twice_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    real = single_node._run_node

    def counted(
        node: onnx.NodeProto, versions: single_node.Versions, values: list[single_node.Array]
    ) -> list[single_node.Array] | None:
        ran.append(node.op_type)
        return real(node, versions, values)

    monkeypatch.setattr(single_node, "_run_node", counted)
    monkeypatch.setattr(single_node, "_results", {})
    once = analyze_proto(build(CASES["shuffle_dynamic"]))
    first = len(ran)
    again = analyze_proto(build(CASES["shuffle_dynamic"]))
    assert first > 0 and len(ran) == first
    assert [g.label for g in again.groups] == [g.label for g in once.groups]
