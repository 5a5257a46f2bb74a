"""Nothing that loads may crash: mutated files and fields give a result or one of our errors."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws import random_masks
from spa_compiler.analysis.dependency_graph import analyze
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.errors import ModelError, SpaError
from spa_compiler.ir.reader import load
from spa_compiler.rewriting.masked_model import make_masked_model
from spa_compiler.rewriting.prune import rewrite
from zoo import CASES, build

SMALL = ("residual", "grouped_conv", "multi_head_attention", "shuffle", "if_captured", "qlinear_conv")
SHIPPED = ("digits_gru", "digits_mobilenet", "digits_vit")


def survive(data: bytes, folder: Path) -> bool:
    """Read, analyse and rewrite bytes as a model file. True: it worked, False: it was refused with an error of ours."""
    path = folder / "model.onnx"
    path.write_bytes(data)
    try:
        model, _ = normalize(load(path))
        graph = analyze(model)
        masks = random_masks(graph, np.random.default_rng(0))
        rewrite(graph, masks).proto()
        make_masked_model(graph, masks).proto()
    except SpaError as e:
        assert str(e)
        return False
    return True


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, dropped, repeated, or the end cut off."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out))
        kind = rng.choice(["set", "flip", "drop", "repeat", "cut"])
        if kind == "set":
            out[at] = rng.randrange(256)
        elif kind == "flip":
            out[at] ^= 1 << rng.randrange(8)
        elif kind == "drop":
            del out[at : at + rng.randint(1, 8)]
        elif kind == "repeat":
            out[at:at] = out[at : at + rng.randint(1, 8)]
        elif rng.random() < 0.2:
            del out[at:]
        if not out:
            break
    return bytes(out)


def mutate_fields(model: onnx.ModelProto, rng: random.Random) -> None:  # noqa: C901 - a table of mutations
    """One field of one node, initializer, input or output changed."""
    graph = model.graph
    names = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output] + ["", "nowhere"]
    ops = [n.op_type for n in graph.node] + ["Reshape", "Transpose", "Slice", "Loop", "MatMul", "Unknown"]
    node = rng.choice(graph.node)
    kind = rng.randrange(10)
    if kind == 0 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif kind == 1:
        node.op_type = rng.choice(ops)
    elif kind == 2 and node.attribute:
        _mutate_attribute(rng.choice(node.attribute), rng)
    elif kind == 3 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([0, 1, 2, 3, 7, -1, 1 << 40])
    elif kind == 4 and graph.initializer:
        rng.choice(graph.initializer).data_type = rng.randrange(25)
    elif kind == 5:
        graph.node.remove(node)
    elif kind == 6 and node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(names)
    elif kind == 7:
        shape = rng.choice([*graph.input, *graph.output]).type.tensor_type.shape
        if shape.dim:
            rng.choice(shape.dim).dim_value = rng.choice([0, 1, 2, 5, -3, 1 << 33])
    elif kind == 8:
        model.opset_import[0].version = rng.choice([1, 6, 7, 9, 11, 13, 18, 22, 99])
    else:
        del node.input[rng.randrange(len(node.input) + 1) :]


def _mutate_attribute(a: onnx.AttributeProto, rng: random.Random) -> None:
    if a.type == onnx.AttributeProto.INT:
        a.i = rng.choice([-9, -1, 0, 1, 2, 5, 1 << 40])
    elif a.ints:
        a.ints[rng.randrange(len(a.ints))] = rng.choice([-9, -1, 0, 1, 3, 1 << 40])
    elif a.type == onnx.AttributeProto.FLOAT:
        a.f = rng.choice([0.0, -1.0, float("nan"), float("inf")])
    elif a.s:
        a.s = rng.choice([b"", b"SAME_UPPER", b"reverse", b"\xff"])
    else:
        a.name = "unknown"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all mutated files: each overwrites the last."""
    return tmp_path_factory.mktemp("mutated")


@settings(max_examples=250)
@given(st.sampled_from(SMALL), st.integers(0, 1 << 30))
def test_mutated_bytes(folder: Path, name: str, seed: int) -> None:
    survive(mutated_bytes(build(CASES[name]).SerializeToString(), random.Random(seed)), folder)


@settings(max_examples=350)
@given(st.sampled_from(SMALL), st.integers(0, 1 << 30))
def test_mutated_fields(folder: Path, name: str, seed: int) -> None:
    model = build(CASES[name])
    mutate_fields(model, random.Random(seed))
    survive(model.SerializeToString(), folder)


@settings(max_examples=25)
@given(st.sampled_from(SHIPPED), st.booleans(), st.integers(0, 1 << 30))
def test_mutated_files(folder: Path, models: Path, name: str, fields: bool, seed: int) -> None:
    data = (models / f"{name}.onnx").read_bytes()
    if fields:
        model = onnx.ModelProto.FromString(data)
        mutate_fields(model, random.Random(seed))
        data = model.SerializeToString()
    else:
        data = mutated_bytes(data, random.Random(seed))
    survive(data, folder)


@pytest.mark.parametrize("name", SMALL)
def test_what_is_not_mutated_survives(folder: Path, name: str) -> None:
    assert survive(build(CASES[name]).SerializeToString(), folder)


BROKEN_PLACES = {
    b"Conv": r"graph\.node\[0\]\.op_type",
    b"w1": r"graph\.node\[0\]\.input\[1\]",
    b"group": r"graph\.node\[\d+\]\.attribute\[0\]\.name",
    b"pytorch": "producer_name",
}


@pytest.mark.parametrize("text", BROKEN_PLACES)
def test_text_that_is_not_utf_8_is_refused_with_its_place(text: bytes, tmp_path: Path) -> None:
    model = build(CASES["grouped_conv"])
    model.producer_name = "pytorch"
    data = model.SerializeToString()
    assert text in data
    (tmp_path / "model.onnx").write_bytes(data.replace(text, text[:-1] + b"\xb7"))
    with pytest.raises(ModelError, match=rf"model\.onnx: .*'{BROKEN_PLACES[text]}' is not UTF-8"):
        load(tmp_path / "model.onnx")
