"""Exports by jax2onnx: flax networks, channels last; BatchNorm comes as an operator."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from jax2onnx import to_onnx

from tools.exports.clean import agree

CLASSES = 7


class Cnn(nnx.Module):
    """Convolutions with BatchNorm, a depthwise one, a shortcut, average pooling."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.one = nnx.Conv(3, 6, (3, 3), use_bias=False, rngs=rngs)
        self.two = nnx.Conv(6, 10, (1, 1), use_bias=False, rngs=rngs)
        self.deep = nnx.Conv(10, 10, (3, 3), feature_group_count=10, rngs=rngs)
        self.three, self.last = nnx.Conv(10, 6, (1, 1), rngs=rngs), nnx.Conv(6, 9, (3, 3), strides=2, rngs=rngs)
        self.a, self.b, self.c = (nnx.BatchNorm(n, use_running_average=True, rngs=rngs) for n in (6, 10, 6))
        self.head = nnx.Linear(9, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.a(self.one(x)))
        y = nnx.relu6(self.deep(nnx.relu(self.b(self.two(x)))))
        x = nnx.silu(self.last(x + self.c(self.three(y))))
        return self.head(jnp.mean(x, axis=(1, 2)))


class Attention(nnx.Module):
    """One pre-norm block with flax's MultiHeadAttention."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.entry, self.head = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, CLASSES, rngs=rngs)
        self.one, self.two, self.three = (nnx.LayerNorm(8, rngs=rngs) for _ in range(3))
        self.attention = nnx.MultiHeadAttention(2, 8, qkv_features=8, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 10, rngs=rngs), nnx.Linear(10, 8, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.entry(x)
        x = x + self.attention(self.one(x))
        x = x + self.down(nnx.gelu(self.up(self.two(x))))
        return self.head(jnp.mean(self.three(x), axis=1))


class Mlp(nnx.Module):
    """A gated MLP."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.gate, self.up, self.down = (nnx.Linear(i, o, rngs=rngs) for i, o in ((6, 10), (6, 10), (10, 8)))
        self.norm, self.head = nnx.RMSNorm(8, rngs=rngs), nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.norm(self.down(nnx.silu(self.gate(x)) * self.up(x))))


NETS = {"cnn": (Cnn, ("B", 8, 8, 3)), "attention": (Attention, (2, 5, 6)), "mlp": (Mlp, ("B", 6))}


def export(name: str) -> onnx.ModelProto:
    """One network with random constants."""
    build, shape = NETS[name]
    model, rng = build(nnx.Rngs(0)), np.random.default_rng(zlib.crc32(name.encode()))
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    moved = jax.tree.map(lambda w: w + jnp.asarray(rng.normal(0, 0.2, w.shape), w.dtype), state)
    nnx.update(model, moved)
    for norm in (m for _, m in nnx.iter_graph(model) if isinstance(m, nnx.BatchNorm)):
        norm.var.value = jnp.abs(norm.var.value) + 0.1
    model.eval()
    x = rng.standard_normal([2 if isinstance(n, str) else n for n in shape]).astype(np.float32)
    proto = to_onnx(model, [shape], model_name=name, input_names=["x"], output_names=["y"])
    agree(proto, {"x": x}, [np.asarray(model(jnp.asarray(x)))])
    return proto


def samples(folder: Path) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """(file name, what makes the model) of every sample."""
    for name in NETS:
        yield f"{name}.jax2onnx", lambda n=name: export(n)
