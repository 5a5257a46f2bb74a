"""Values at hand, chunk by chunk, and inputs that wait."""

from __future__ import annotations

import numpy as np

from spa_compiler.interpreter.deferred_inputs import DeferredInputs, Late
from spa_compiler.interpreter.values import Values

ONE, TWO = np.ones(1), np.full(1, 2.0)


def test_a_constant_is_the_same_in_all_chunks() -> None:
    values = Values({"w": ONE}, 2)
    values["x"] = [ONE, TWO]
    assert values.list_rows(["x", "w"]) == [{"x": ONE, "w": ONE}, {"x": TWO, "w": ONE}]
    assert values.find_constants(["x", "w"]) == {"w"}


def test_what_could_not_be_computed_leaves_no_rows() -> None:
    values = Values({"w": ONE}, 1)
    assert values.list_rows(["w", "z"]) is None and values.find_unknown(["w", "z"]) == "z"
    assert values.find_unknown(["w"]) is None


def test_chunks_are_appended_to_what_both_know() -> None:
    first, more = Values({}, 1), Values({}, 1)
    first |= {"x": [ONE], "y": [ONE]}
    before = first["x"]
    more |= {"x": [TWO]}
    first.append(more)
    assert dict(first) == {"x": [ONE, TWO]} and first.count == 2
    assert before == [ONE]  # somebody else may hold these


def test_inputs_wait_until_they_are_taken() -> None:
    deferred = DeferredInputs()
    feeds = [{"x": np.full(1, k)} for k in range(5)]
    assert deferred.split(feeds, Late(2, 1)) == feeds[:2]
    deferred.note_change(0, None, ONE)
    assert list(deferred.take_batches(2)) == [feeds[2:4], feeds[4:]] and not deferred.waiting
    assert deferred.list_changes() == [(0, (None, ONE))]
    assert list(deferred.take_batches(2)) == []
