"""Files of a kilobyte that ask for gigabytes are refused by their shapes, before memory is taken."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from commands import QUICK, run, run_spa
from laws import analyze_proto
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.errors import ModelError, UsageError
from spa_compiler.ir.memory import HELD_VALUES, format_bytes, parse_bytes
from spa_compiler.ir.reader import load
from spa_compiler.verification.sizes import has_room, list_analysis_sizes, list_proof_sizes

LARGE = 1 << 17
Weights = dict[str, np.ndarray]


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def shape_of(side: int) -> Weights:
    return {"s": numbers(side, side)}


OPERATORS: dict[str, tuple[str, Weights, int]] = {
    "ConstantOfShape": ("k = ConstantOfShape(s)", shape_of(LARGE), 18),
    "Expand": ("k = Expand(x, s)", {"s": numbers(1 << 30, 2, 8)}, 18),
    "Tile": ("k = Tile(x, s)", shape_of(1 << 16), 18),
    "Pad": ("k = Pad(x, s)", {"s": numbers(*[1 << 16] * 4)}, 18),
    "Resize": ("k = Resize(o, , , s)", {"o": np.ones((1, 1, 1, 1), np.float32), "s": numbers(1, 1, LARGE, LARGE)}, 18),
    "Resize by scales": (
        "k = Resize(o, , by)",
        {"o": np.ones((1, 1, 1, 1), np.float32), "by": np.array([1, 1, 1e5, 1e5], np.float32)},
        18,
    ),
    "Upsample": (
        "k = Upsample(o, by)",
        {"o": np.ones((1, 1, 1, 1), np.float32), "by": np.array([1, 1, 1e5, 1e5], np.float32)},
        9,
    ),
    "Range": ("k = Range(z, s, o)", {"z": np.array(0), "s": np.array(1 << 34), "o": np.array(1)}, 18),
    "EyeLike": ("e = ConstantOfShape(s)  k = EyeLike(e)", shape_of(LARGE), 18),
    **{
        f"{kind}Window": (f"k = {kind}Window(s)", {"s": np.array(1 << 34)}, 18)
        for kind in ("Hann", "Hamming", "Blackman")
    },
    "RandomNormal": (f"k = RandomNormal <shape = [{LARGE}, {LARGE}]> ()", {}, 18),
    "RandomUniformLike": ("e = ConstantOfShape(s)  k = RandomUniformLike(e)", shape_of(LARGE), 18),
    "OneHot": (
        "k = OneHot(s, d, o)",
        {"s": numbers(1, 2), "d": np.array(1 << 34), "o": np.array([0, 1], np.float32)},
        18,
    ),
    "outer sum": ("k = Add(u, v)", {"u": np.ones((1, LARGE), np.float32), "v": np.ones((LARGE, 1), np.float32)}, 18),
    "outer product": (
        "k = MatMul(u, v)",
        {"u": np.ones((LARGE, 1), np.float32), "v": np.ones((1, LARGE), np.float32)},
        18,
    ),
    "MaxUnpool": (
        "k = MaxUnpool <kernel_shape = [1, 1]> (o, i, s)",
        {
            "o": np.ones((1, 1, 1, 1), np.float32),
            "i": np.zeros((1, 1, 1, 1), np.int64),
            "s": numbers(1, 1, LARGE, LARGE),
        },
        18,
    ),
    "Loop": (
        f"""k = Loop(n, t) <body = b (int64 i, bool c) => (bool d, float[{LARGE}] r) {{
        d = Identity(c)  f = Constant <value = int64[1] {{{LARGE}}}> ()  r = ConstantOfShape(f) }}>""",
        {"n": np.array(LARGE), "t": np.array(True)},
        18,
    ),
    "Concat": (
        "  ".join(f"v{k + 1} = Concat <axis = 0> (v{k}, v{k})" for k in range(40)) + "  k = Identity(v40)",
        {"v0": numbers(1, 2)},
        18,
    ),
}


def make_model(nodes: str, weights: Weights, opset: int = 18, inputs: str = "float[2,8] x") -> onnx.ModelProto:
    """A network of two matrices, and nodes that it does not need."""
    text = f"({inputs}) => (float[2,4] y, q) {{ a = MatMul(x, w1)  b = Relu(a)  y = MatMul(b, w2)  {nodes}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text} q = Shape(k) }}')
    drawn = np.random.default_rng(0)
    every = weights | {"w1": drawn.normal(size=(8, 16)), "w2": drawn.normal(size=(16, 4))}
    for name, value in every.items():
        value = value.astype(np.float32) if name in ("w1", "w2") else value
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    model.graph.output[1].CopyFrom(helper.make_tensor_value_info("q", TensorProto.INT64, [None]))
    return model


def save(model: onnx.ModelProto, folder: Path) -> Path:
    file = folder / "m.onnx"
    onnx.save(model, file)
    return file


@pytest.mark.parametrize("name", OPERATORS)
def test_a_value_that_is_too_large_is_refused_before_it_is_made(name: str, tmp_path: Path) -> None:
    file, before = save(make_model(*OPERATORS[name]), tmp_path), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError) as caught:
        normalize(load(file))
    text = str(caught.value)
    assert "m.onnx" in text and "of shape [" in text and "--memory 2GB" in text and "GB: more" in text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_the_message_names_node_value_shape_and_bytes(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Expand 'k' makes 'k' of shape \[1073741824, 2, 8\], which takes 68\.7GB"):
        normalize(load(save(make_model(*OPERATORS["Expand"]), tmp_path)))


@pytest.mark.parametrize(("kind", "taken"), [("float", "8.59GB"), ("int8", "2.15GB")])
def test_an_input_that_is_too_large_is_refused(kind: str, taken: str, tmp_path: Path) -> None:
    model = make_model("k = Identity(z)", {}, inputs=f"float[2,8] x, {kind}[1,2147483648] z")
    with pytest.raises(ModelError, match=rf"input 'z' of shape \[1, 2147483648\], which takes {taken}"):
        normalize(load(save(model, tmp_path)))


def test_the_limit_is_memory(tmp_path: Path) -> None:
    file = save(make_model("k = Expand(x, s)", {"s": numbers(1 << 10, 2, 8)}), tmp_path)  # 64 kB
    assert normalize(load(file))
    with pytest.raises(ModelError, match=r"65\.5KB: more than --memory 10KB"):
        normalize(load(file, memory=10_000))
    arguments = [file, "--ratio", "0.3", *QUICK, "--dry-run"]
    assert run(*arguments).exit_code == 0
    assert run(*arguments, "--memory", "10KB").exit_code == 3
    assert run(*arguments, "--memory", "much").exit_code == 2


@pytest.mark.parametrize("command", ["inspect", "compare", "verify"])
def test_no_command_gives_such_a_file_to_onnxruntime(command: str, tmp_path: Path) -> None:
    file = save(make_model(*OPERATORS["ConstantOfShape"]), tmp_path)
    got = run_spa(command, file, *([] if command == "inspect" else [file]))
    assert got.exit_code == 3 and "--memory 2GB" in got.output


def test_smaller_sizes_of_symbols_are_tried(tmp_path: Path) -> None:
    """A value as large as the square of a picture: it fits at small sides."""
    nodes = "f = Reshape(p, r)  g = Reshape(p, c)  k = Add(f, g)"
    weights = {"r": numbers(1, -1), "c": numbers(-1, 1)}
    file = save(make_model(nodes, weights, inputs="float[2,8] x, float[1,3,H,W] p"), tmp_path)
    model, _ = normalize(load(file, memory=50_000_000))
    assert model.shapes is not None and max(model.shapes.sizes["H"]) < 64
    assert has_room(model, {"H": 16, "W": 16}) and not has_room(model, {"H": 512, "W": 512})


def test_a_proof_holds_several_of_the_largest_values(tmp_path: Path) -> None:
    """As attention over all places of a picture: two models give it, and their sessions keep more."""
    nodes = "f = Reshape(p, r)  g = Reshape(p, c)  k = Add(f, g)"
    weights = {"r": numbers(1, -1), "c": numbers(-1, 1)}
    file = save(make_model(nodes, weights, inputs="float[2,8] x, float[1,3,H,W] p"), tmp_path)
    model, _ = normalize(load(file))
    tried = [*list_analysis_sizes(model), *list_proof_sizes(model, 1e6)]
    assert len(tried) > 3
    for sizes in tried:
        assert HELD_VALUES * 4 * (3 * sizes["H"] * sizes["W"]) ** 2 <= model.memory


def test_a_sparse_initializer_is_not_made_dense(tmp_path: Path) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("places", TensorProto.INT64, [1], [5])
    model = make_model("k = Identity(s)", {})
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [1 << 30, 1]))
    file = save(model, tmp_path)
    with pytest.raises(ModelError, match=r"sparse initializer 's' of shape \[1073741824, 1\].*4,294,967,296 bytes"):
        load(file, memory=1 << 40)
    model.graph.sparse_initializer[0].dims[:] = [1 << 20, 1]
    file = save(model, tmp_path)
    assert load(file)
    with pytest.raises(ModelError, match="--memory allows 1,000,000"):
        load(file, memory=1_000_000)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_value_joined_with_itself_is_followed_as_long_as_it_is_cheap(axis: int) -> None:
    text = "(float[2,8] x) => (float[2,4] y) { v0 = MatMul(x, w1)  "
    text += "  ".join(f"v{k + 1} = Concat <axis = {axis}> (v{k}, v{k})" for k in range(20))
    text += "  r = ReduceMean <keepdims = 0> (v20)  y = Add(w2, r) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]> g {text}')
    for name, shape in (("w1", (8, 4)), ("w2", (2, 4))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    graph = analyze_proto(model)
    assert any("pieces in one axis" in reason.text for reason in graph.find_reasons(("v15", axis)))


def test_bytes_are_written_as_they_are_read() -> None:
    for text in ("2GB", "500MB", "1.5KB", "12B"):
        assert format_bytes(parse_bytes("--memory", text)) == text
    for text in ("", "0", "-1GB", "much", "1e400GB", "nan"):
        with pytest.raises(UsageError, match="--memory"):
            parse_bytes("--memory", text)
