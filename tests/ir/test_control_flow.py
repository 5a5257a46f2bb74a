"""Bodies open and closed again: the same model, weights where they were, names that two bodies share told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from laws import analyze_proto, outputs, random_masks
from spa_compiler.analysis.cost import CostModel
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.canonicalize import inline_control_flow
from spa_compiler.compensation.lockstep import compensate
from spa_compiler.compiler import compile as compile_model
from spa_compiler.errors import VerificationError
from spa_compiler.execution.session import open_quiet_session
from spa_compiler.interpreter import body_recorder
from spa_compiler.interpreter.interpreter import Walk
from spa_compiler.ir.control_flow import find_chains, is_control
from spa_compiler.ir.model import make_constant
from spa_compiler.ir.reader import from_proto
from spa_compiler.ir.subgraphs import list_subgraphs
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.statistics.moments import collect_moments
from spa_compiler.verification.branches import find_reached, force_branches, list_choices
from spa_compiler.verification.proof import prove_rewrite
from zoo import CASES, Case, build, feeds
from zoo_base import body
from zoo_control import CASES as CONTROL

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "models"
OPEN = sorted(set(CONTROL) - {"scan_of_opset_8"})


def read(name: str) -> onnx.ModelProto:
    """A model of the zoo, read and written without any change."""
    return from_proto(build(CASES[name]), Path("model.onnx")).proto()


def bodies(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph and everything inside it, outermost first."""
    return [graph, *(g for n in graph.node for b in list_subgraphs(n) for g in bodies(b))]


@pytest.mark.parametrize("name", OPEN)
def test_a_model_that_is_read_and_written_holds_and_computes_the_same(name: str) -> None:
    before, after = build(CASES[name]), read(name)
    onnx.checker.check_model(after, full_check=True)
    pairs = list(zip(bodies(before.graph), bodies(after.graph), strict=True))
    for old, new in pairs:
        assert {t.name.rsplit("/", 1)[-1] for t in new.initializer} == {t.name for t in old.initializer}
        assert [n.op_type for n in new.node] == [n.op_type for n in old.node]
    sessions = [open_quiet_session(p.SerializeToString(), 0) for p in (before, after)]
    for seed in range(3):
        old, new = (s.run(None, feeds(before, seed)) for s in sessions)
        assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))


def test_weights_stay_in_their_body_and_are_cut_there() -> None:
    graph = analyze_proto(build(CASES["if_own_weights"]))
    small = rewrite(graph, random_masks(graph, np.random.default_rng(0), share=1.0)).proto()
    for path in ("c/then_branch", "c/else_branch"):
        held = {t.name: list(t.dims) for t in body(small.graph, path).initializer}
        assert set(held) == ({"v1", "v2"} if "then" in path else {"v3", "v4"})
        first, second = held.values()
        assert first[1] == second[0] < (5 if "then" in path else 6)


def test_recorded_types_of_a_body_follow_the_plan() -> None:
    graph = analyze_proto(build(CASES["scan"]))
    (group,) = (g for g in graph.groups if g.size == 6)
    masks = {group.dims[0]: np.array([True, False] * 3)}
    inner = body(rewrite(graph, masks).proto().graph, "last/body")
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*inner.input, *inner.output)}
    assert sizes == {"h": [1, 3], "t": [1, 4], "g": [1, 3], "o": [1, 3]}


def test_names_that_two_bodies_share_carry_the_path() -> None:
    graph = analyze_proto(build(CASES["if_own_weights"]))
    assert {"a", "c/else_branch/a"} <= set(graph.values)
    names = {s.name for s in graph.sites if s.op == "MatMul"}
    assert {"c/then_branch/a", "c/else_branch/a", "y"} <= names


def test_nodes_inside_are_called_by_their_body() -> None:
    proto = build(CASES["scan"])
    next(n for n in proto.graph.node if n.op_type == "Scan").name = "scan_node"
    next(n for n in body(proto.graph, "last/body").node if n.op_type == "MatMul").name = "MatMul_3"
    graph = analyze_proto(proto)
    assert any(s.name == "scan_node/body/MatMul_3" for s in graph.sites)
    steps = graph.explain(("ws", 1), ("wo", 0))
    assert any("scan_node" in node for _, node, _ in steps)
    inner = body(rewrite(graph, {}).proto().graph, "last/body")
    assert inner.node[0].name == "MatMul_3"


def test_an_old_file_holds_all_weights_outside() -> None:
    proto = build(CASES["if_own_weights"])
    proto.ir_version = 3
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in proto.graph.initializer
    )
    for path in ("c/then_branch", "c/else_branch"):
        inner = body(proto.graph, path)
        inner.input.extend(onnx.helper.make_tensor_value_info(t.name, 1, t.dims) for t in inner.initializer)
    written = from_proto(proto, Path("model.onnx")).proto()
    assert {t.name for t in written.graph.initializer} == {"v1", "v2", "v3", "v4", "w"}
    assert {"v1", "v4", "w"} <= {v.name for v in written.graph.input}
    assert not body(written.graph, "c/then_branch").input


@pytest.mark.parametrize(("name", "macs"), [
    ("scan", 5 * (3 * 5 + 5 * 4) + 5 * (4 * 6 + 6 * 6) + 5 * 6 * 2),
    ("loop", 2 * 3 * 6 + 3 * 2 * (6 * 6 + 6 * 7) + 3 * 2 * 7 * 2),
    ("if_own_weights", 2 * ((3 * 5 + 5 * 7) + (3 * 6 + 6 * 7)) / 2 + 2 * 7 * 4),
    ("loop_of_unknown_length", 2 * 3 * 6 + 2 * (6 * 7 + 7 * 6) + 2 * 6 * 2),
    ("scan_over_weights", 2 * 3 * 6 + 4 * 2 * (6 * 7 + 7 * 6) + 2 * 6 * 2),
])  # fmt: skip
def test_what_a_body_costs_counts_as_often_as_it_runs(name: str, macs: float) -> None:
    assert CostModel(analyze_proto(build(CASES[name]))).total("macs", {}) == macs


@pytest.mark.parametrize("name", ["if_decided", "loop_once"])
def test_what_decides_nothing_is_gone(name: str) -> None:
    graph = analyze_proto(build(CASES[name])).model.graph
    assert not any(is_control(n) for n in graph.nodes) and set(find_chains(graph.nodes)) == {()}


def test_branches_that_are_always_taken_are_put_in_place_level_by_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look at the graph for all of a level; an If with a free condition inside keeps a name of its own."""
    steps = "  ".join(
        f"""y{k} = If (yes) <
            then_branch = t{k} () => (m{k}) {{
                u{k} = If (yes) <then_branch = v{k} () => (w{k}) {{ w{k} = Relu(y{k - 1}) }},
                                 else_branch = n{k} () => (z{k}) {{ z{k} = Neg(y{k - 1}) }}>
                m{k} = If (cond) <then_branch = p{k} () => (q{k}) {{ q{k} = Relu(u{k}) }},
                                  else_branch = r{k} () => (s{k}) {{ s{k} = Neg(u{k}) }}> }},
            else_branch = e{k} () => (o{k}) {{ o{k} = Neg(y{k - 1}) }}>"""
        for k in range(1, 31)
    )
    text = f"(float[2,3] x, bool cond) => (float[2,3] y) {{ y0 = Identity(x)  {steps}  y = Identity(y30) }}"
    case = Case(text, {"yes": np.array(True)}, None)
    looks: list[int] = []
    look = inline_control_flow._find_decided

    def counted(*args: Any) -> list[Any]:
        looks.append(1)
        return look(*args)

    monkeypatch.setattr(inline_control_flow, "_find_decided", counted)
    model, before = analyze_proto(build(case)).model, from_proto(build(case), Path("m.onnx"))
    assert len(looks) == 3  # the outer ones, what was in them, and nothing
    controls = [n for n in model.graph.nodes if is_control(n)]
    assert len(controls) == 30
    assert controls[4].attrs["paths"] == ["m5/then_branch", "m5/else_branch"]
    onnx.checker.check_model(model.proto(), full_check=True)
    for seed, cond in enumerate((True, False)):
        feed = {**feeds(build(case), seed), "cond": np.array(cond)}
        assert np.array_equal(outputs(model, feed)[0], outputs(before, feed)[0])


def test_every_branch_is_reached_by_few_choices() -> None:
    model = analyze_proto(build(CASES["if_nested"])).model
    found = list_choices(model)
    branches = {"c/then_branch", "c/else_branch", "c/then_branch/u/then_branch", "c/then_branch/u/else_branch"}
    assert len(found) == 3 and set().union(*(find_reached(model, c) for c in found)) == branches
    feed = feeds(build(CASES["if_nested"]))
    results = [outputs(force_branches(model, c), feed)[0] for c in found]
    assert not any(np.allclose(a, b) for k, a in enumerate(results) for b in results[:k])


def test_proof_runs_in_every_branch() -> None:
    graph = analyze_proto(build(CASES["if_nested"]))
    masks = random_masks(graph, np.random.default_rng(1), share=1.0)
    found = prove_rewrite(graph, masks, rewrite(graph, masks))
    assert found.branches == 3 and found.unproven == () and found.error <= found.tolerance


def test_a_wrong_branch_is_found_whatever_the_inputs_choose() -> None:
    graph = analyze_proto(build(CASES["if_own_weights"]))
    masks = random_masks(graph, np.random.default_rng(1), share=1.0)
    for wrong in ("v1", "v3"):
        small = rewrite(graph, masks)
        tensor = small.constants()[wrong]
        tensor._values = make_constant(wrong, small.array(tensor) + np.float32(1))._values
        with pytest.raises(VerificationError, match="prune does not equal mask"):
            prove_rewrite(graph, masks, small)


@pytest.mark.parametrize("name", ["scan_gru", "if_own_weights", "if_nested", "loop", "scan_over_weights"])
def test_the_default_calibrates_inside_bodies(name: str, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(build(CASES[name]), source)
    result = compile_model(source, ratio=0.3, samples=16, latency=False, quality=False)
    assert result.report["reached"]["macs"] > 0.2
    sites = result.state.require_graph().sites
    assert any(sites[k].path for k in result.state.moments.of) == (name != "scan_over_weights")
    assert any("inside bodies" in note for note in result.report["notes"]) == (name == "scan_over_weights")


def test_what_is_not_calibrated_is_said(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(build(CASES["scan_if"]), source)
    result = compile_model(source, ratio=0.3, samples=16, latency=False, quality=False)
    assert any("inside bodies (last/body/r/else_branch/p)" in note for note in result.report["notes"])


def recorded(graph: DependencyGraph, feed: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Inputs and outputs of every contraction inside a body, by the name of its output."""
    walk, out = Walk(graph.model), {}
    for step in walk.run([feed]):
        known = walk.bodies.records.get(step.index)
        if known is not None:
            (given,) = known.inputs.values()
            out[step.node.output[0]] = np.concatenate(given), np.concatenate(known.output)
    return out


def test_a_scan_is_recorded_round_by_round() -> None:
    graph = analyze_proto(build(CASES["scan"]))
    feed = feeds(build(CASES["scan"]))
    weights = {n: graph.model.array(t) for n, t in graph.model.constants().items()}
    h, rounds = weights["h0"], []
    for t in feed["x"] @ weights["w0"] @ weights["wi"]:
        rounds.append((t, h))
        h = np.tanh(t @ weights["ws"] + h @ weights["wr"])
    found = recorded(graph, feed)
    for name, slot, weight in (("p", 0, "ws"), ("q", 1, "wr")):
        x = np.concatenate([r[slot] for r in rounds])
        np.testing.assert_allclose(found[name][0], x, atol=1e-5)
        np.testing.assert_allclose(found[name][1], x @ weights[weight], atol=1e-5)


def test_both_branches_are_recorded() -> None:
    graph = analyze_proto(build(CASES["if_nested"]))
    feed = feeds(build(CASES["if_nested"]))
    walk, seen = Walk(graph.model), set()
    for step in walk.run([{**feed, "q": np.array(k % 4 > 1)} for k in range(8)]):
        if step.index in walk.bodies.records:
            seen.add(step.node.output[0])
            assert len(walk.bodies.records[step.index].runs) == len(walk.bodies.records[step.index].output)
    assert seen == {"g", "s", "k", "v"}


def test_each_branch_has_moments_of_the_runs_that_take_it() -> None:
    """Both read the same value from outside, which is twice as large where the other one is taken."""
    text = """(float[4,5] x, bool cond) => (float[4,4] y) { a = MatMul(x, w0)  r = Relu(a)
        y = If (cond) <then_branch = t () => (u) { u = MatMul(r, w1) },
                       else_branch = e () => (v) { v = MatMul(r, w2) }> }"""
    graph, rng = (
        analyze_proto(build(Case(text, {"w0": (5, 7), "w1": (7, 4), "w2": (7, 4)}, None))),
        np.random.default_rng(0),
    )
    runs = [
        {"x": rng.standard_normal((4, 5)).astype(np.float32) * (1 + k % 2), "cond": np.array(k % 2 == 0)}
        for k in range(200)
    ]
    found = {graph.sites[k].inputs[1].name: m for k, m in collect_moments(graph, runs).of.items()}
    w0 = graph.model.array(graph.model.constants()["w0"]).astype(np.float64)
    for weight, rest in (("w1", 0), ("w2", 1)):
        rows = np.maximum(np.concatenate([r["x"] for r in runs[rest::2]]) @ w0, 0)
        np.testing.assert_allclose(found[weight].mean[0], rows.mean(0), rtol=1e-4)
        np.testing.assert_allclose(found[weight].covariance[0], np.cov(rows.T, bias=True), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("room", [1 << 27, 4096])
def test_compensation_inside_bodies_brings_outputs_closer(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden channels of both branches go; the second weight of each is solved for what it gave before."""
    monkeypatch.setattr(body_recorder, "TAP_BYTES", room)  # the second one holds some of the runs only
    graph, rng = analyze_proto(build(CASES["if_own_weights"])), np.random.default_rng(0)
    masks = {g.dims[0]: np.arange(g.size) > 1 for g in graph.groups if g.size < 7}
    runs = [{"x": rng.standard_normal((2, 3)).astype(np.float32), "cond": np.array(k % 2 > 0)} for k in range(300)]
    small = rewrite(graph, masks)
    better = compensate(graph, masks, small, runs[:200])
    for path, weight in (("c/then_branch", "v2"), ("c/else_branch", "v4")):
        assert weight in {t.name for t in body(better.proto().graph, path).initializer}
        assert not np.allclose(*(m.array(m.constants()[weight]) for m in (small, better)))
    for branch in (False, True):
        some = [r for r in runs[200:] if r["cond"] == branch]
        dense, plain, solved = (np.concatenate([outputs(m, r)[0] for r in some]) for m in (graph.model, small, better))
        assert np.square(solved - dense).mean() < 0.6 * np.square(plain - dense).mean()


def test_what_no_plan_touches_is_not_solved_again() -> None:
    graph = analyze_proto(build(CASES["scan"]))
    (group,) = (g for g in graph.groups if g.size == 5)  # before the Scan: what it reads changes
    runs = [{"x": np.random.default_rng(k).standard_normal((5, 1, 3)).astype(np.float32)} for k in range(20)]
    dead = {group.dims[0]: np.ones(5, bool)}
    same = compensate(graph, dead, rewrite(graph, dead), runs)
    for name, tensor in rewrite(graph, dead).constants().items():
        assert np.array_equal(same.array(same.constants()[name]), graph.model.array(tensor)), name


def test_values_are_forgotten_when_the_control_node_is_done() -> None:
    graph = analyze_proto(build(CASES["scan_gru"]))
    walk = Walk(graph.model)
    for _ in walk.run([feeds(build(CASES["scan_gru"]))]):
        pass
    assert not walk.bodies.records and not walk.values


def test_a_batch_that_is_written_into_the_graph_is_kept_when_inputs_are_drawn(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]> m (float[N,12] x) => (float[1,3] y) {
            a = Reshape(x, s)  b = MatMul(a, w1)  c = Relu(b)  d = ReduceSum<keepdims=0>(c, z)  y = MatMul(d, w2) }"""
    )
    values = {"s": [4, 1, 3], "z": [0], "w1": np.ones((3, 8), np.float32), "w2": np.ones((8, 3), np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in values.items())
    onnx.save(model, tmp_path / "model.onnx")
    result = compile_model(tmp_path / "model.onnx", ratio=0.3, samples=8, latency=False, quality=False)
    assert result.report["calibration"]["samples"] == 8


@pytest.mark.parametrize("name", ["kws_mcu_GRU_S", "silero_vad_v5"])
def test_trained_models_whose_weights_lie_in_bodies(name: str) -> None:
    source = DATA / f"{name}.onnx"
    if not source.is_file():
        pytest.skip(f"{source} is not here: it is not part of the repository")
    result = compile_model(source, ratio=0.3, criterion="l2", latency=False, quality=False)
    proof = result.report["verification"]["prune_equals_mask"]
    assert result.report["reached"]["macs"] >= 0.3 and not proof["silent"] and not proof["unproven"]
    assert result.model.opset_import == onnx.load(source).opset_import
