"""Keras networks of a few channels, channels last; `tf_export` and `keras_export` export them.

model, x = prepare("cnn")                    # x: (8, 8, 8, 3)
"""

from __future__ import annotations

import zlib

import keras
import numpy as np
from keras import layers

CLASSES = 7


def tanh_gelu(x: keras.KerasTensor) -> keras.KerasTensor:
    """GELU by tanh: tf2onnx has no Erfc."""
    return keras.activations.gelu(x, approximate=True)


def cnn() -> keras.Model:
    """Convolutions with BatchNorm, a depthwise and a separable one, a shortcut, average pooling."""
    x = entry = keras.Input((8, 8, 3), name="x")
    x = layers.BatchNormalization(name="n1")(layers.Conv2D(6, 3, padding="same", use_bias=False, name="c1")(x))
    x = trunk = layers.ReLU(name="r1")(x)
    x = layers.BatchNormalization(name="n2")(layers.Conv2D(10, 1, use_bias=False, name="c2")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="c3")(layers.ReLU(6.0, name="r2")(x))
    x = layers.ReLU(6.0, name="r3")(layers.BatchNormalization(name="n3")(x))
    x = layers.BatchNormalization(name="n4")(layers.Conv2D(6, 1, use_bias=False, name="c4")(x)) + trunk
    x = layers.Activation("swish", name="r4")(layers.SeparableConv2D(9, 3, 2, "same", name="c5")(x))
    return keras.Model(entry, layers.Dense(CLASSES, name="head")(layers.GlobalAveragePooling2D(name="p")(x)), name="m")


def attention() -> keras.Model:
    """Patches, positions, one pre-norm block with MultiHeadAttention (products by Einsum)."""
    entry = keras.Input((5, 6), name="x")
    x = layers.Dense(8, name="entry")(entry)
    y = layers.LayerNormalization(epsilon=1e-5, name="one")(x)
    x = x + layers.MultiHeadAttention(2, 3, value_dim=4, name="heads")(y, y)
    y = layers.Dense(10, activation=tanh_gelu, name="up")(layers.LayerNormalization(epsilon=1e-5, name="two")(x))
    x = x + layers.Dense(8, name="down")(y)
    x = layers.GlobalAveragePooling1D(name="mean")(layers.LayerNormalization(epsilon=1e-5, name="last")(x))
    return keras.Model(entry, layers.Dense(CLASSES, name="head")(x), name="m")


def lstm() -> keras.Model:
    """A cell that gives its sequence, one that gives its last step."""
    entry = keras.Input((2, 6), name="x")
    x = layers.LSTM(4, name="b")(layers.LSTM(5, return_sequences=True, name="a")(entry))
    return keras.Model(entry, layers.Dense(CLASSES, name="head")(x), name="m")


def gru() -> keras.Model:
    """One cell, which tf2onnx writes as a Loop."""
    entry = keras.Input((2, 6), name="x")
    return keras.Model(entry, layers.Dense(CLASSES, name="head")(layers.GRU(5, name="a")(entry)), name="m")


NETS = {"cnn": cnn, "attention": attention, "lstm": lstm, "gru": gru}


def prepare(name: str) -> tuple[keras.Model, np.ndarray]:
    """The network with random constants, and example inputs: the same at every call."""
    seed = zlib.crc32(name.encode())
    keras.utils.set_random_seed(seed % (1 << 31))
    model, rng = NETS[name](), np.random.default_rng(seed)
    for w in model.weights:
        now = np.asarray(w)
        spread = 0.1 if now.ndim > 1 else 0.3
        moved = now + rng.normal(0, spread, now.shape)
        w.assign(np.abs(moved) + 0.1 if "variance" in w.path else moved)
    shape = model.inputs[0].shape[1:]
    return model, rng.standard_normal((8, *shape)).astype(np.float32)
