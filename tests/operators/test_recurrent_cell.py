"""Recurrent operators as contractions: gates from their parts, least squares on the kept states, planted redundancy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from networks import graph_of
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.compensation.lockstep import compensate, compensate_weights
from spa_compiler.compensation.options import Options
from spa_compiler.execution.session import open_session
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.operators import recurrent_cell
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.scoring.obs import obspa
from spa_compiler.statistics.moments import collect_moments
from zoo_base import Case

T, HIDDEN, INPUT = 5, 6, 3
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def case(kind: str, attrs: str = "", directions: int = 1, bias: bool = True, first: str = "a") -> Case:
    """X -> MatMul -> recurrent -> all states or (first = "") the last one -> MatMul."""
    rows, both = GATES[kind] * HIDDEN, f", {attrs}" if attrs else ""
    inputs = "e, w, r, b" if bias else "e, w, r"
    tail = "d = Transpose <perm = [0,2,1,3]> (a)  f = Reshape(d, rs)" if first else "f = Squeeze(h, sq)"
    shape = f"[{T},N,2]" if first else "[N,2]"
    inits: dict[str, Any] = {
        "wi": (INPUT, INPUT), "w": (directions, rows, INPUT), "r": (directions, rows, HIDDEN),
        "rs": [0, 0, -1], "sq": [0], "wo": (directions * HIDDEN, 2),
    }  # fmt: skip
    if bias:
        inits["b"] = (directions, 2 * rows)
    text = f"(float[{T},N,{INPUT}] x) => (float{shape} y) {{ e = MatMul(x, wi)"
    text += f"  {first or ' '}, h = {kind} <hidden_size = {HIDDEN}{both}> ({inputs})  {tail}  y = MatMul(f, wo) }}"
    return Case(text, inits, None)


CASES = {
    "lstm": case("LSTM"),
    "gru": case("GRU"),
    "gru before reset": case("GRU", "linear_before_reset = 1"),
    "rnn": case("RNN"),
    "backward": case("GRU", 'direction = "reverse"'),
    "both": case("LSTM", 'direction = "bidirectional"', 2),
    "both gru": case("GRU", 'direction = "bidirectional", linear_before_reset = 1', 2),
    "no bias": case("GRU", bias=False),
    "last state": case("LSTM", first=""),
}


def feeds(n: int = 64, chunks: int = 4, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((T, n, INPUT)).astype(np.float32)} for _ in range(chunks)]


def moderate(name: str, duplicate: bool = False) -> DependencyGraph:
    """Weights small enough for states to be far from saturation; `duplicate`: unit 5 does what unit 2 does."""
    rng, changed = np.random.default_rng(1), {}
    for n, shape in CASES[name].inits.items():
        if n in ("w", "r", "b"):
            values = 0.5 * rng.standard_normal(shape).astype(np.float32)
            split = values.reshape(shape[0], -1, HIDDEN, *shape[2:])  # a view
            split[:, :, 5] = split[:, :, 2 if duplicate else 5]
            changed[n] = values
    return graph_of(CASES[name], **changed)


def outputs(graph: DependencyGraph, model: Any, seed: int = 7) -> np.ndarray:
    session = open_session(model.proto(), model.folder)
    return np.concatenate([session.run(None, f)[0].ravel() for f in feeds(seed=seed)])


@pytest.mark.parametrize("name", CASES)
def test_states_follow_from_the_gates_of_the_parts(name: str) -> None:
    """One step from the state before, with gates that only `linear` and the functions of the operator made."""
    seen = 0
    for step in (walk := Walk(graph_of(CASES[name]).model)).run(feeds(chunks=1)):
        walk.execute(step)
        cell = recurrent_cell.find_cell(step.node)
        if not isinstance(cell, recurrent_cell.Cell):
            continue
        held = recurrent_cell.read_weights(step.node, walk.constants)
        assert held is not None and step.inputs[0] is not None and step.outputs[0] is not None
        weights, x, y = recurrent_cell.Weights.of(cell.gates, *held), step.inputs[0][0], step.outputs[0][0]
        steps = cell.steps(x, y, None, np.arange(cell.size(x)))
        made = [recurrent_cell.compute_gates(p, steps, weights) for p in cell.parts]
        gates = [g for m, p in zip(made, cell.parts, strict=True) for g in np.split(m, len(p.gates), axis=2)]
        after = y.transpose(0, 2, 1, 3).reshape(steps.h.shape)
        if cell.kind == "RNN":
            np.testing.assert_allclose(np.tanh(gates[0]), after, atol=1e-5)
        elif cell.kind == "GRU":
            z, r = recurrent_cell.sigmoid(gates[0]), recurrent_cell.sigmoid(gates[1])
            candidate = np.tanh(gates[2] + (r * gates[3] if cell.before_reset else 0))
            np.testing.assert_allclose((1 - z) * candidate + z * steps.h, after, atol=1e-5)
        else:
            i, o, f, c = gates
            memory = unrolled(
                recurrent_cell.sigmoid(i) * np.tanh(c), recurrent_cell.sigmoid(f), cell.directions, x.shape[1]
            )
            np.testing.assert_allclose(recurrent_cell.sigmoid(o) * np.tanh(memory), after, atol=1e-5)
        seen += 1
    assert seen == 1


def unrolled(new: np.ndarray, forget: np.ndarray, directions: tuple[int, ...], batch: int) -> np.ndarray:
    """c_t = f_t c_(t-1) + new_t, per direction."""
    shape = (T, batch, *new.shape[1:])
    a, f, out = new.reshape(shape), forget.reshape(shape), np.zeros(shape, np.float32)
    for k, way in enumerate(directions):
        state = np.zeros(out[0, :, k].shape, np.float32)
        for t in range(T)[::way]:
            state = out[t, :, k] = f[t, :, k] * state + a[t, :, k]
    return out.reshape(new.shape)


def masks_of(graph: DependencyGraph, keep: int) -> dict[Any, np.ndarray]:
    """The hidden group cut down to its first units."""
    group = next(g for g in graph.groups if any(m.value == "r" for m in g.members))
    mask = np.zeros(group.shape, bool)
    mask[..., :keep] = True
    return {group.dims[0]: mask}


@pytest.mark.parametrize("name", CASES)
def test_compensation_beats_cutting_and_says_that_it_was_done(name: str) -> None:
    graph = moderate(name)
    masks = masks_of(graph, 4)
    small = rewrite(graph, masks)
    better, outcome = compensate_weights(graph, masks, small, feeds(), Options())
    plain = Options(bias_only=True)
    head = compensate(graph, masks, small, feeds(), plain)
    dense = outputs(graph, graph.model)
    errors = [((outputs(graph, m) - dense) ** 2).mean() / dense.var() for m in (better, head, small)]
    assert errors[0] < errors[1] < errors[2]
    assert len(outcome.recurrent) == 1
    assert not outcome.left


def test_the_weights_are_what_least_squares_gives() -> None:
    graph = moderate("lstm")
    masks = masks_of(graph, 4)
    better = compensate(graph, masks, rewrite(graph, masks), feeds(), Options(ridge=1e-12, shrink=False))
    got = {n: better.array(t).astype(np.float64) for n, t in better.constants().items()}
    step = None
    for step in (walk := Walk(graph.model)).run(feeds()):
        walk.execute(step)
        if step.node.op_type == "LSTM":
            break
    assert step is not None and step.inputs[0] is not None and step.outputs[0] is not None
    x, y = np.concatenate(step.inputs[0], axis=1), np.concatenate(step.outputs[0], axis=2)[:, 0]
    before = np.concatenate([np.zeros_like(y[:1]), y[:-1]]).reshape(-1, HIDDEN)
    w, r, b = (walk.constants[n].astype(np.float64)[0] for n in "wrb")
    target = x.reshape(-1, INPUT) @ w.T + before @ r.T + b[:24] + b[24:]
    rows = [g * HIDDEN + k for g in range(4) for k in range(4)]
    design = np.concatenate([x.reshape(-1, INPUT), before[:, :4], np.ones((len(before), 1))], axis=1)
    expected = np.linalg.lstsq(design, target[:, rows], rcond=None)[0].T
    np.testing.assert_allclose(got["w"][0], expected[:, :INPUT], atol=5e-4)
    np.testing.assert_allclose(got["r"][0], expected[:, INPUT:-1], atol=5e-4)
    np.testing.assert_allclose(got["b"][0, :16] + got["b"][0, 16:], expected[:, -1], atol=5e-4)


def test_without_a_cut_nothing_changes() -> None:
    graph = graph_of(CASES["gru"])
    same = compensate(graph, {}, rewrite(graph, {}), feeds(), Options())
    np.testing.assert_array_equal(outputs(graph, same), outputs(graph, graph.model))


@pytest.mark.parametrize("name", ["lstm", "gru", "gru before reset", "rnn", "no bias"])
def test_a_duplicate_hidden_unit_is_cheap_but_only_once_and_costs_nothing(name: str) -> None:
    graph = moderate(name, duplicate=True)
    group = next(g for g in graph.groups if any(m.value == "r" for m in g.members))
    scores = obspa(graph, collect_moments(graph, feeds(1000)), np.random.default_rng(0))[group.label]
    assert min(scores[[2, 5]]) < 0.4 * max(scores[[2, 5]])
    masks = masks_of(graph, 5)
    better = compensate(graph, masks, rewrite(graph, masks), feeds(), Options(ridge=1e-6, shrink=False))
    np.testing.assert_allclose(outputs(graph, better), outputs(graph, graph.model), atol=2e-3)


@pytest.mark.parametrize(("functions", "solved"), [
    ('"Sigmoid","Tanh","Sigmoid","Relu"', True), ('"Tanh","Tanh","Sigmoid","Tanh"', False),
    ('"Sigmoid","Tanh","Tanh","Tanh"', False),
])  # fmt: skip
def test_the_reset_gate_of_either_direction_has_to_be_the_one_that_is_known(functions: str, solved: bool) -> None:
    both = f'direction = "bidirectional", activations = [{functions}]'
    graph = graph_of(case("GRU", both, 2))
    masks = masks_of(graph, 4)
    _, outcome = compensate_weights(graph, masks, rewrite(graph, masks), feeds(), Options())
    assert len(outcome.recurrent) == solved
    assert list(outcome.left.values()) == ([] if solved else ["GRU: its reset gate is a Tanh"])


def test_what_is_not_solved_is_named_with_its_reason() -> None:
    text = CASES["gru"].text.replace("(e, w, r, b)", "(e, w, r, b, n)").replace("N", "4")
    graph = graph_of(Case(text, {**CASES["gru"].inits, "n": np.array([3, 5, 5, 5], np.int32)}, None))
    given = [{"x": np.random.default_rng(0).standard_normal((T, 4, INPUT)).astype(np.float32)}]
    masks = masks_of(graph, 4)
    _, outcome = compensate_weights(graph, masks, rewrite(graph, masks), given, Options())
    assert not outcome.recurrent
    assert list(outcome.left.values()) == ["GRU: it has sequence lengths"]
    assert list(collect_moments(graph, given).missed.values()) == ["GRU: it has sequence lengths"]
