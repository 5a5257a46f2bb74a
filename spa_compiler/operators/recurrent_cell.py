"""LSTM, GRU and RNN as contractions: the values that the gates read, and the gates before their functions.

    cell = find_cell(node)                                  # or the reason why not, as text
    steps = cell.steps(x, y, h0)                       # inputs and states before each step
    for part in cell.parts:                            # gates that read the same values
        part.design(steps, weights)                    # (rows, directions, d)
        compute_gates(part, steps, weights)                   # (rows, directions, gates * hidden)

Given the states before every step (the output moved by one), everything before the gates' functions is linear in
[x, h], so that a recurrent operator is solved like any contraction. Only in the GRU with linear_before_reset = 0 the
candidate reads r * h, where r is worked out from the weights at hand.
Order of gates and equations: operator documentation of ONNX, GRU, LSTM and RNN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.ir.names import Names
from spa_compiler.operators.contraction import read_attributes

Array = NDArray[Any]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
X, W, R, B, SEQUENCE_LENS, H0 = range(6)
"""Input slots; an LSTM has C0 and peepholes behind them, which nothing here needs: peepholes are no contraction."""
STATES = slice(H0, H0 + 2)
"""Input slots of the initial states."""


FUNCTIONS_OF_CELLS = frozenset(("tanh", "relu", "leakyrelu", "thresholdedrelu", "elu", "softsign", "scaledtanh"))
"""Functions of a cell that give 0 at 0, in lower case: names are read so by their specification."""


def find_zero_units(w: Array, r: Array, b: Array | None, activations: Sequence[str | bytes]) -> Array:
    """Hidden units that stay zero when they start so: their candidate gate, the last one, is zero in all directions.

    Then LSTM's cell is f * 0 + i * g(0), GRU's state z * 0 + (1 - z) * g(0) and RNN's state f(0), whatever comes in.
    """
    (directions, rows, _), hidden = w.shape, r.shape[-1]
    gates = rows // hidden
    names = [a.decode() if isinstance(a, bytes) else a for a in activations]
    each = names[: len(names) // directions] if names else []
    zeroed = all(n.lower() in FUNCTIONS_OF_CELLS for i, n in enumerate(names) if gates == 1 or i % len(each))
    both = np.zeros((directions, 2 * rows)) if b is None else np.asarray(b)
    bias = both.reshape(directions, 2, rows)[:, :, rows - hidden :]
    filled = (w[:, rows - hidden :] != 0).any(axis=(0, 2)) | (r[:, rows - hidden :] != 0).any(axis=(0, 2))
    units: Array = ~(filled | (bias != 0).any(axis=(0, 1))) & zeroed
    return units


@dataclass(frozen=True)
class Weights:
    """W (directions, gates, hidden, input), R (directions, gates, hidden, hidden), Wb and Rb without the last axis."""

    w: Array
    r: Array
    wb: Array
    rb: Array

    @classmethod
    def of(cls, gates: int, w: Array, r: Array, b: Array | None) -> Weights:
        """From the operator's inputs; float64."""
        directions, rows, width = w.shape
        hidden = rows // gates
        both = np.zeros((directions, 2, gates, hidden)) if b is None else np.asarray(b, np.float64)
        both = both.reshape(directions, 2, gates, hidden)
        return cls(
            np.asarray(w, np.float64).reshape(directions, gates, hidden, width),
            np.asarray(r, np.float64).reshape(directions, gates, hidden, hidden),
            both[:, 0].copy(), both[:, 1].copy(),
        )  # fmt: skip

    def to_operator_form(self, dtype: Any) -> tuple[Array, Array, Array]:
        """W, R and B as the operator has them."""
        d = len(self.w)
        b = np.concatenate([self.wb.reshape(d, -1), self.rb.reshape(d, -1)], axis=1)
        w, r = (a.reshape(d, -1, a.shape[-1]) for a in (self.w, self.r))
        return w.astype(dtype), r.astype(dtype), b.astype(dtype)


@dataclass(frozen=True)
class Steps:
    """Values a cell reads at every step: x (rows, directions, input), the state before (rows, directions, hidden)."""

    x: Array
    h: Array


@dataclass(frozen=True)
class Part:
    """Gates that read the same values: the input, the state, the state times the reset gate, or input and state."""

    gates: tuple[int, ...]
    x: bool
    h: bool
    reset: bool = False

    def design(self, steps: Steps, weights: Weights) -> Array:
        """(rows, directions, d) float32"""
        read = [steps.x] if self.x else []
        if self.h:
            read.append(steps.h * compute_reset(steps, weights) if self.reset else steps.h)
        return np.concatenate(read, axis=2, dtype=np.float32)

    def weights(self, all_: Weights) -> Array:
        """(directions, gates * hidden, d)"""
        gates = list(self.gates)
        read = ([all_.w[:, gates]] if self.x else []) + ([all_.r[:, gates]] if self.h else [])
        both = np.concatenate(read, axis=3)
        return both.reshape(len(both), -1, both.shape[-1])

    def columns(self, all_: Weights) -> Array:
        """(directions, d): where each column stands in all inputs, then the states of all directions."""
        directions, _, hidden, width = all_.w.shape
        x = np.broadcast_to(np.arange(width), (directions, width))
        h = width + np.arange(directions * hidden).reshape(directions, hidden)
        return np.concatenate(([x] if self.x else []) + ([h] if self.h else []), axis=1)

    def bias(self, all_: Weights) -> Array:
        """(directions, gates * hidden)"""
        gates = list(self.gates)
        both = all_.wb[:, gates] * self.x + all_.rb[:, gates] * self.h
        return np.asarray(both.reshape(len(both), -1))

    def replace_weights(self, all_: Weights, solved: Array, bias: Array) -> Weights:
        """The weights with these (directions, gates * hidden, d), and this bias, in the place of this part's."""
        gates = list(self.gates)
        w, r, wb, rb = all_.w.copy(), all_.r.copy(), all_.wb.copy(), all_.rb.copy()
        d, _, hidden, width = w.shape
        shaped = solved.reshape(d, len(gates), hidden, -1)
        more = (bias - self.bias(all_)).reshape(d, len(gates), hidden)
        if self.x:
            w[:, gates] = shaped[..., :width]
            wb[:, gates] += more
        else:
            rb[:, gates] += more
        if self.h:
            r[:, gates] = shaped[..., width if self.x else 0 :]
        return Weights(w, r, wb, rb)


@dataclass(frozen=True)
class Cell:
    """One recurrent operator."""

    kind: str
    directions: tuple[int, ...]  # 1 forward, -1 backward
    batch_first: bool
    before_reset: bool  # GRU: the reset gate multiplies R h + Rb

    @property
    def gates(self) -> int:
        return GATES[self.kind]

    @property
    def parts(self) -> list[Part]:
        """In an order in which each can be solved after those before."""
        if self.kind != "GRU":
            return [Part(tuple(range(self.gates)), True, True)]
        if self.before_reset:
            return [Part((0, 1), True, True), Part((2,), True, False), Part((2,), False, True)]
        return [Part((0, 1), True, True), Part((2,), True, True, reset=True)]

    def size(self, x: Array) -> int:
        """Rows: steps times batch."""
        return int(x.shape[0] * x.shape[1])

    def batch(self, x: Array) -> int:
        """Sequences."""
        return int(x.shape[0 if self.batch_first else 1])

    def steps(self, x: Array, y: Array, h0: Array | None, rows: Array) -> Steps:
        """Inputs and states before each step, at these rows of (step, batch).

        x is (T, b, i) or (b, T, i), y the operator's first output, h0 its initial state or None.
        """
        if self.batch_first:
            y = y.transpose(1, 2, 0, 3)
            h0 = None if h0 is None else h0.swapaxes(0, 1)
        before = np.empty(y.shape, np.float32)
        start = np.zeros(y.shape[1:], np.float32) if h0 is None else h0
        for k, way in enumerate(self.directions):
            before[:, k] = np.concatenate([start[None, k], y[:-1, k]] if way > 0 else [y[1:, k], start[None, k]])
        states = before.transpose(0, 2, 1, 3).reshape(-1, *y.shape[1:2], y.shape[3])[rows]
        return Steps(self.inputs(x, rows), states)

    def inputs(self, x: Array, rows: Array) -> Array:
        """(rows, directions, input)"""
        x = x.swapaxes(0, 1) if self.batch_first else x
        flat = x.reshape(-1, x.shape[-1])[rows].astype(np.float32)
        return np.repeat(flat[:, None], len(self.directions), axis=1)


def add_step_outputs(node: onnx.NodeProto, names: Names) -> onnx.NodeProto:
    """A recurrent operator gives its states of all steps, whoever reads them."""
    if node.op_type not in GATES or (len(node.output) and node.output[0]):
        return node
    out = onnx.NodeProto()
    out.CopyFrom(node)
    out.output[0] = names.value(f"{next(n for n in node.output if n)}.steps")
    return out


def find_cell(node: onnx.NodeProto) -> Cell | str | None:
    """The cell of a recurrent operator, why it is not one that can be solved, or None for another operator."""
    if node.op_type not in GATES or node.domain not in ("", "ai.onnx"):
        return None
    attrs = read_attributes(node)
    if len(node.input) > SEQUENCE_LENS and node.input[SEQUENCE_LENS]:
        return "it has sequence lengths"
    before_reset = bool(attrs.get("linear_before_reset", 0))
    functions = [f.decode() for f in attrs.get("activations", [])]  # of each direction: gates, candidate
    other = [f for f in functions[::2] if f != "Sigmoid"]
    if node.op_type == "GRU" and not before_reset and other:
        return f"its reset gate is a {other[0]}"
    way = attrs.get("direction", b"forward").decode()
    directions = {"forward": (1,), "reverse": (-1,), "bidirectional": (1, -1)}[way]
    return Cell(node.op_type, directions, bool(attrs.get("layout", 0)), before_reset)


def read_weights(node: onnx.NodeProto, constants: Mapping[str, Array]) -> tuple[Array, Array, Array | None] | None:
    """W, R and B (None: absent) where they are constants."""
    names = [*node.input[W : B + 1], ""][:3]
    if any(n and n not in constants for n in names):
        return None
    return constants[names[0]], constants[names[1]], constants[names[2]] if names[2] else None


def find_initial_state(inputs: Sequence[Any]) -> Any:
    """Chunks of the initial state among an operator's inputs, or None."""
    return inputs[H0] if len(inputs) > H0 else None


def compute_reset(steps: Steps, weights: Weights) -> Array:
    """The reset gate of a GRU: (rows, directions, hidden)."""
    part = Part((1,), True, True)
    return sigmoid(compute_gates(part, steps, weights))


def compute_gates(part: Part, steps: Steps, weights: Weights) -> Array:
    """The gates of a part before their functions: (rows, directions, gates * hidden) float32."""
    w, b = part.weights(weights).astype(np.float32), part.bias(weights).astype(np.float32)
    design = part.design(steps, weights)
    return np.asarray(np.matmul(design.transpose(1, 0, 2), w.transpose(0, 2, 1)).transpose(1, 0, 2) + b)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))"""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))
