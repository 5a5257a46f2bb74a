"""Models that take pictures, sounds and texts, and files for them."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

from spa_compiler.analysis.dependency_graph import DependencyGraph, analyze
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import from_proto

CLASSES = 5


def make_classifier(
    shape: Sequence[int | str], name: str = "x", kind: int = onnx.TensorProto.FLOAT, classes: int = CLASSES
) -> onnx.ModelProto:
    """A Relu network on flattened rows of this shape; the first axis is that of the rows."""
    size = int(np.prod([s for s in shape[1:] if isinstance(s, int)]))
    rng = np.random.default_rng(0)
    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", [name], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Flatten", ["f"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    weights = {"w1": rng.standard_normal((size, 8)) / size**0.5, "w2": rng.standard_normal((8, classes))}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, list(shape))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [shape[0], classes])],
        [onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def load_classifier(shape: Sequence[int | str], folder: Path = Path(), **given: Any) -> Model:
    """The network as a model with shapes."""
    return normalize(from_proto(make_classifier(shape, **given), folder / "m.onnx"))[0]


def graph_of_classifier(shape: Sequence[int | str], **given: Any) -> DependencyGraph:
    return analyze(load_classifier(shape, **given))


def save_picture(path: Path, height: int = 40, width: int = 60, mode: str = "RGB", seed: int = 0, **how: Any) -> Path:
    """A picture of noise in a mode of Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path, **how)
    else:
        Image.fromarray(pixels, "RGBA" if pixels.shape[2] == 4 else None).convert(mode).save(path, **how)
    return path


def save_sound(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """A WAV of 16 bits; samples (frames, channels) in -1..1."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path
