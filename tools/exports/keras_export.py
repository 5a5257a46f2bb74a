"""Exports by Keras' own `Model.export(format="onnx")`, on its torch back end (on TensorFlow it calls tf2onnx).

No attention: Keras 3.15 writes the shape of LayerNormalization as a list that PyTorch's legacy exporter cannot export
(SymbolicValueError). Recurrent cells are unrolled: every step reads the same weights.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx

from tools.exports.clean import agree

os.environ.setdefault("KERAS_BACKEND", "torch")

from keras import ops

from tools.exports import keras_nets as nets


def export(name: str) -> onnx.ModelProto:
    """One network."""
    model, x = nets.prepare(name)
    wanted = ops.convert_to_numpy(model(x, training=False))  # the exporter wants a model that was called
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        model.export(str(path), format="onnx", verbose=False)
        proto = onnx.load(path)
    agree(proto, {proto.graph.input[0].name: x}, [wanted])
    return proto


def samples(folder: Path) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """(file name, what makes the model) of every sample."""
    for name in ("cnn", "lstm"):
        yield f"{name}.keras", lambda n=name: export(n)
