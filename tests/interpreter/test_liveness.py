"""Liveness: a value is kept until nobody reads it any more, and no longer."""

from __future__ import annotations

from onnx import NodeProto, helper

from spa_compiler.interpreter.liveness import Liveness


def chain() -> list[NodeProto]:
    """Nodes: a and b from x, c from both, y from c."""
    reads = {"a": ["x"], "b": ["x"], "c": ["a", "b"], "y": ["c"]}
    return [helper.make_node("Sum", names, [out]) for out, names in reads.items()]


def test_a_value_is_dead_after_its_last_reader() -> None:
    liveness = Liveness(chain(), ["y"], {})
    assert [set(liveness.list_dead(i)) for i in range(4)] == [set(), {"x"}, {"a", "b"}, {"c", "y"}]


def test_a_graph_output_has_a_reader_that_is_no_node() -> None:
    liveness = Liveness(chain(), ["y"], {})
    assert liveness.readers["y"] == [""] and liveness.readers_of["y"] == []
    assert liveness.readers["x"] == ["Sum", "Sum"] and liveness.readers_of["x"] == [0, 1]


def test_a_body_keeps_what_it_reads_until_its_control_node_is_done() -> None:
    liveness = Liveness(chain(), ["y"], {1: 3, 2: 3})
    assert [set(liveness.list_dead(i)) for i in range(4)] == [set(), set(), set(), {"x", "a", "b", "c", "y"}]


def test_a_value_may_be_kept_as_long_as_another() -> None:
    liveness = Liveness(chain(), ["y"], {})
    liveness.keep("x", "c")
    assert [set(liveness.list_dead(i)) for i in range(4)] == [set(), set(), {"a", "b"}, {"c", "x", "y"}]
    liveness.keep("c", "x")  # it is kept as long by itself
    assert set(liveness.list_dead(3)) == {"c", "x", "y"}


def test_a_further_read_is_one_of_the_node() -> None:
    liveness = Liveness(chain(), ["y"], {})
    liveness.add_read(3, "made_up")
    assert liveness.reads[3] == ["c", "made_up"]
