"""Matrices that are products of two smaller ones become these two; nothing changes but what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import spa_compiler
from spa_compiler.errors import UsageError
from spa_compiler.rewriting.factored_products import find_monarch, project_monarch

RNG = np.random.default_rng(3)


def make_monarch(k: int, n: int, m: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Block-diagonal, permutation, block-diagonal, permutation, written out as matrices."""
    first = np.zeros((k, m * m))
    second = np.zeros((m * m, n))
    for b in range(m):
        first[b * k // m : (b + 1) * k // m, b * m : (b + 1) * m] = rng.standard_normal((k // m, m))
        second[b * m : (b + 1) * m, b * n // m : (b + 1) * n // m] = rng.standard_normal((m, n // m))
    swap = np.arange(m * m).reshape(m, m).T.ravel()
    out = np.arange(n).reshape(m, n // m).T.ravel()
    return (first[:, swap] @ second)[:, out]


def save(file: Path, w: np.ndarray[Any, Any], form: str, more: float = 1.0) -> Path:
    """Two products with a Relu between them; the first is by this matrix."""
    k, n = w.shape
    lead = ["N"] if form.startswith("Gemm") else ["N", "T"][: 1 + ("T" in form)]
    arrays = {"w": w.T if form == "GemmT" else w, "b": RNG.standard_normal(n), "v": RNG.standard_normal((n, 4))}
    tensors = [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()]
    if form.startswith("Gemm"):
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], "fc", transB=int(form == "GemmT"), alpha=more)]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["p"], "fc"), helper.make_node("Add", ["p", "b"], ["h"])]
    nodes += [helper.make_node("Relu", ["h"], ["r"]), helper.make_node("MatMul", ["r", "v"], ["y"])]
    io = [helper.make_tensor_value_info(s, 1, [*lead, c]) for s, c in (("x", k), ("y", 4))]
    graph = helper.make_graph(nodes, "g", io[:1], io[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


def compile_with(file: Path, step: str, ratio: float = 0.0) -> Any:
    return spa_compiler.compile(file, ratio, with_passes=[step], latency=False, quality=False)


def run_both(file: Path, found: Any) -> float:
    """Largest difference as a share of the largest number, at a size that the analysis has not seen."""
    shape = [7 if isinstance(s, str) else s for s in onnxruntime.InferenceSession(file).get_inputs()[0].shape]
    feed = {"x": np.random.default_rng(5).standard_normal(shape).astype(np.float32)}
    dense = onnxruntime.InferenceSession(file).run(None, feed)[0]
    small = onnxruntime.InferenceSession(found.model.SerializeToString()).run(None, feed)[0]
    return float(np.abs(dense - small).max() / np.abs(dense).max())


def count_numbers(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == 1)


@pytest.mark.parametrize("form", ["Gemm", "GemmT", "MatMul", "MatMulT"])
def test_a_monarch_matrix_is_recovered(tmp_path: Path, form: str) -> None:
    for k, n, m in ((16, 16, 4), (24, 36, 3)):
        file = save(tmp_path / f"{k}.onnx", make_monarch(k, n, m, RNG), form)
        found = compile_with(file, "factor{kind=monarch}")
        assert run_both(file, found) <= 1e-5
        before = count_numbers(onnx.load(file))
        assert count_numbers(found.model) == before - k * n + m * (k + n)
        assert any(f"blocks {m}" in note for note in found.report["notes"])


@pytest.mark.parametrize("form", ["Gemm", "GemmT", "MatMul", "MatMulT"])
def test_a_matrix_of_low_rank_is_two(tmp_path: Path, form: str) -> None:
    w = RNG.standard_normal((20, 3)) @ RNG.standard_normal((3, 30))
    file = save(tmp_path / "m.onnx", w, form)
    found = compile_with(file, "factor{kind=svd}")
    assert run_both(file, found) <= 1e-5
    assert count_numbers(found.model) == count_numbers(onnx.load(file)) - 20 * 30 + 3 * (20 + 30)
    assert found.report["compiled"]["macs"] < found.report["dense"]["macs"]


@pytest.mark.parametrize("kind", ["svd", "monarch"])
def test_other_matrices_stay_and_the_distance_is_said(tmp_path: Path, kind: str) -> None:
    file = save(tmp_path / "m.onnx", RNG.standard_normal((16, 16)), "MatMul")
    found = compile_with(file, f"factor{{kind={kind},include=w}}")
    assert found.model.SerializeToString() == file.read_bytes()
    assert any("are no such product" in note and "'w'" in note for note in found.report["notes"])


def test_what_scales_the_product_keeps_it_whole(tmp_path: Path) -> None:
    file = save(tmp_path / "m.onnx", make_monarch(16, 16, 4, RNG), "Gemm", more=2.0)
    assert compile_with(file, "factor{kind=monarch}").model.SerializeToString() == file.read_bytes()


def test_patterns_choose_matrices(tmp_path: Path) -> None:
    file = save(tmp_path / "m.onnx", make_monarch(16, 16, 4, RNG), "MatMul")
    for step in ("factor{kind=monarch,exclude=w}", "factor{kind=monarch,include=v}"):
        assert compile_with(file, step).model.SerializeToString() == file.read_bytes()
    assert compile_with(file, "factor{kind=monarch,include=fc}").model.SerializeToString() != file.read_bytes()


def test_a_rank_is_pruned_with_the_channels(tmp_path: Path) -> None:
    """A matrix that is nearly of rank 2 gets a dim of rank, of which all but a few channels go."""
    w = RNG.standard_normal((32, 2)) @ RNG.standard_normal((2, 32)) + 1e-3 * RNG.standard_normal((32, 32))
    file = save(tmp_path / "m.onnx", w, "MatMulT")
    found = spa_compiler.compile(
        file, 0.6, with_passes=["factor{growth=2,include=w}"], align=1, latency=False, quality=False, device="avx2",
    )  # fmt: skip
    kept = {g["label"]: g["kept"] for g in found.report["groups"]}
    rank = next(n for label, n in kept.items() if "w.first" in label or "w.second" in label)
    assert rank <= 8
    assert found.report["reached"]["macs"] >= 0.59
    assert run_both(file, found) <= 0.02


def test_the_nearest_product_is_that_of_the_first_singular_vectors() -> None:
    """Nothing that is drawn near it is nearer, and noise of a share s is found as about s."""
    w = make_monarch(16, 16, 4, RNG)
    noise = RNG.standard_normal(w.shape)
    noise *= 0.05 * np.linalg.norm(w) / np.linalg.norm(noise)
    pair = project_monarch(w + noise, 4)
    assert 0.02 < pair.distance < 0.06
    whole = np.einsum("ijt,tis->ijst", pair.first, pair.second).reshape(w.shape)
    assert np.linalg.norm(whole - w - noise) / np.linalg.norm(w + noise) == pytest.approx(pair.distance, rel=1e-6)
    for _ in range(20):
        near = pair.first + 0.01 * RNG.standard_normal(pair.first.shape)
        other = np.einsum("ijt,tis->ijst", near, pair.second).reshape(w.shape)
        assert np.linalg.norm(other - w - noise) > np.linalg.norm(whole - w - noise)
    assert find_monarch(RNG.standard_normal((5, 7)), 1e-5, 1.0) is None


@pytest.mark.parametrize("step", ["factor{kind=lu}", "factor{tol=2}", "factor{growth=3}"])
def test_values_that_mean_nothing_are_refused(tmp_path: Path, step: str) -> None:
    with pytest.raises(UsageError, match="factor"):
        compile_with(save(tmp_path / "m.onnx", RNG.standard_normal((8, 8)), "MatMul"), step)
