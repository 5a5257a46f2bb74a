"""Exports by tf2onnx: Keras functions traced by TensorFlow, channels last, and a quantised TFLite file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx

from tools.exports.clean import agree

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
import tf2onnx

from tools.exports import keras_nets as nets

OPSET = 18


def export(name: str, batch: int | None = None) -> onnx.ModelProto:
    """One Keras network through `from_function`."""
    model, x = nets.prepare(name)
    shape = (batch, *x.shape[1:])
    call = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec(shape, tf.float32, name="x")])
    proto, _ = tf2onnx.convert.from_function(call, input_signature=call.input_signature, opset=OPSET)
    agree(proto, {proto.graph.input[0].name: x[:batch]}, [np.asarray(model(x[:batch], training=False))])
    return proto


def tflite() -> onnx.ModelProto:
    """The convolutional network, quantised to eight bits by TFLite on random inputs."""
    model, x = nets.prepare("cnn")
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([x[i : i + 1]] for i in range(len(x)))
        path = Path(folder) / "m.tflite"
        path.write_bytes(converter.convert())
        return tf2onnx.convert.from_tflite(str(path), opset=OPSET)[0]


def samples(folder: Path) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """(file name, what makes the model) of every sample."""
    yield "cnn.tf2onnx", lambda: export("cnn")
    yield "attention.tf2onnx", lambda: export("attention", 2)
    yield "lstm.tf2onnx", lambda: export("lstm")
    yield "gru.tf2onnx", lambda: export("gru", 2)
    yield "cnn.tflite", tflite


__all__ = ["keras", "samples"]
