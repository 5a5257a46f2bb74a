"""A reference for a compiled file that knows nothing of how it was made: the dense file with zeros written into it.

What a plan removes is read off the two files: an entry of a weight of the dense file that the compiled file does not
hold is gone. Those entries become zero in the dense file, in what makes a channel and in what reads it. The dense
file then computes what the compiled one has to, at any size, unless a statistic over the channels is taken (LayerNorm):
groups with one are left alone (`compile_without_statistics`). Where an entry went is not asked: a compiled file that
puts a row in another's place gives other outputs.

    inputs = {"x": Input(("N", 3, "H", "W"))}
    feeds = find_accepted(dense, inputs)                      # at sizes that the dense file takes
    compiled, result = compile_without_statistics(path, output)
    differences(dense, compiled, feeds)                  # sizes, error, and what went wrong
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

import spa_compiler
from commands import run_spa
from tools.fuzz import oracle as fuzz_oracle
from tools.fuzz.oracle import FLOATS, open_session, tensors

Array = np.ndarray[Any, Any]
Sizes = dict[str, int]
WANTED, ENOUGH = 12, 6
"""Sizes at which a model runs, and how few are enough where the dense model itself refuses more."""
TRIED = 60
NAME = re.compile(r"[A-Za-z_]\w*")
POOLS = {
    "N": (1, 2, 3, 5, 7, 9, 13),
    "H": (1, 3, 7, 17, 31, 33, 45, 50, 63, 65, 77, 97, 100, 129, 131),
    "W": (1, 5, 9, 15, 19, 33, 40, 49, 61, 71, 75, 101, 125, 129, 130),
    "T": (1, 1, 3, 7, 15, 17, 33, 49, 63, 75, 99, 101, 113, 125, 129, 150),
    "L": (1, 25, 99, 161, 333, 401, 640, 777, 1001, 1601, 2049, 3001),
    "S": (400, 721, 1601, 3333, 5001, 8001, 9999, 16001),
    "P": (1, 1, 3, 9, 15, 33, 63, 101, 127, 140),
    "E": (0, 1, 3, 9, 15, 33, 63, 101, 127, 140),
    "n": (1, 3, 5, 9, 15, 17, 33, 63, 101),
}
"""Pools for sizes of a free axis, by the first letter of its name: the batch, a picture's sides, tokens,
a wave (`S`: one of many samples a frame), a past, the nodes of a graph. 1 and odd numbers are among them, and few that
an analysis would choose."""
MORE = (11, 19, 21, 23, 35, 39, 57, 71, 85)
"""For a model with one free size only."""


@dataclass(frozen=True)
class Input:
    """One input: its axes, each a number or an expression of names ("P + 1"); integers are drawn below `below`.

    `value` is an expression, too: the input is that number, as int64 of this shape.
    """

    axes: tuple[int | str, ...]
    below: int = 0
    value: str = ""

    def draw(self, sizes: Sizes, rng: np.random.Generator) -> Array:
        shape = [compute(a, sizes) for a in self.axes]
        if self.value:
            return np.full(shape, compute(self.value, sizes), np.int64)
        if self.below == 2:  # a mask hides something, and never all
            return np.maximum(rng.integers(0, 2, shape), np.arange(shape[-1]) == 0).astype(np.int64)
        if self.below:
            return rng.integers(0, self.below, shape)
        return rng.normal(size=shape).astype(np.float32)

    def names(self) -> set[str]:
        """Names of the free sizes."""
        return {n for a in (*self.axes, self.value) if isinstance(a, str) for n in NAME.findall(a)}


def compute(axis: int | str, sizes: Sizes) -> int:
    """The size that an axis has: a number, or an expression of names."""
    return axis if isinstance(axis, int) else int(eval(axis, {"__builtins__": {}}, dict(sizes)))


def read_inputs(path: Path) -> dict[str, dict[str, Input]]:
    """The inputs of every network in a folder of exports, by the network's name."""
    told = json.loads((path / "inputs.json").read_text())
    return {n: {k: Input(tuple(v["axes"]), v["below"]) for k, v in i.items()} for n, i in told.items()}


# what is gone --------------------------------------------------------------------------------------------------------


def zero_removed(dense: onnx.ModelProto, compiled: onnx.ModelProto) -> onnx.ModelProto:
    """The dense model with zeros in place of every entry that the compiled one does not hold.

    An entry is looked for in the constant of that name and its copies (`NAME.use1`), or in all where there is none. A
    constant of which nothing is left was folded into others, not cut, and stays. So does one that repeats a number that
    is left; that is right, as what reads its channels is zero.
    """
    return fuzz_oracle.zero_removed(dense, compiled)[0]


def find_removed(masked: onnx.ModelProto, dense: onnx.ModelProto) -> dict[str, tuple[Array, Array]]:
    """(what is zero now, the constant) of every constant that lost something."""
    was = {n: numpy_helper.to_array(t) for n, t in tensors(dense.graph)}
    found = {n: numpy_helper.to_array(t) for n, t in tensors(masked.graph) if t.data_type in FLOATS}
    return {n: ((a == 0) & (was[n] != 0), was[n]) for n, a in found.items() if ((a == 0) & (was[n] != 0)).any()}


def check_plan(plan: Mapping[str, Any], dense: onnx.ModelProto, masked: onnx.ModelProto) -> int:
    """Compare what is zero with what the plan says, and give the number of groups that could be compared.

    A label is `weight:axis`; it can be compared where the group is that whole axis.
    """
    gone, compared = find_removed(masked, dense), 0
    for label, group in plan["groups"].items():
        name, _, axis = label.partition("#")[0].rpartition(":")
        if name not in gone or "#" in label or (group["keep"] and isinstance(group["keep"][0], list)):
            continue
        zeros, array = gone[name]
        if array.shape[int(axis)] != group["size"] or f"{label}#2" in plan["groups"]:
            continue
        whole = np.moveaxis(zeros | (array == 0), int(axis), 0).reshape(group["size"], -1).all(1)
        assert np.flatnonzero(~whole).tolist() == group["keep"], f"the compiled file keeps other channels of {label}"
        compared += 1
    return compared


# what comes out ------------------------------------------------------------------------------------------------------


def compile_without_statistics(
    path: Path, output: Path, ratio: float = 0.5, **options: Any
) -> tuple[onnx.ModelProto, spa_compiler.Result]:
    """Compile a file by magnitude; groups over which a statistic is taken are left alone."""
    listed = run_spa("inspect", path, "--json")
    assert listed.exit_code == 0, f"spa inspect: exit {listed.exit_code}: {listed.output[-400:]}"
    labels = [g["label"] for g in json.loads(listed.stdout)["groups"] if g["statistic"]]
    exclude = tuple(re.sub(r"([*?[])", r"[\1]", n) for n in labels)
    return compile_plainly(path, output, ratio, exclude=exclude, **options)


def compile_plainly(
    path: Path, output: Path, ratio: float = 0.5, **options: Any
) -> tuple[onnx.ModelProto, spa_compiler.Result]:
    """Compile a file by magnitude, so that what stays of a weight has the bits that it had."""
    settings = {"of": "channels", "criterion": "l2", "latency": False, "threads": 1} | options
    result = spa_compiler.compile(path, ratio=ratio, output=output, **settings)
    return onnx.load(output), result


def choices(names: Sequence[str], seed: int) -> Iterator[Sizes]:
    """Sizes of the free axes: all of them at their smallest, then drawn from their pools, none of them twice."""
    rng = np.random.default_rng(seed)
    pools = {n: POOLS[n[0]] + (MORE if len(names) == 1 else ()) for n in names}
    seen = set()
    for k in range(10 * TRIED):
        one = {n: int(rng.choice(pools[n]) if k else pools[n][0]) for n in names}
        if tuple(one.values()) not in seen:
            seen.add(tuple(one.values()))
            yield one
        if len(seen) == TRIED:
            return


def run(model: onnxruntime.InferenceSession, feed: Mapping[str, Array]) -> list[Array]:
    """The outputs; an input that the model does not have is left out."""
    taken = {v.name for v in (*model.get_inputs(), *model.get_overridable_initializers())}
    return [np.asarray(a) for a in model.run(None, {k: v for k, v in feed.items() if k in taken})]


def distance(wanted: Sequence[Array], found: Sequence[Array]) -> float:
    """The largest difference of any output as a share of its scale; infinite where shapes differ or for NaN."""
    worst = 0.0
    for a, b in zip(wanted, found, strict=True):
        if a.shape != b.shape:
            return np.inf
        if a.size:
            x, y = a.astype(np.float64), b.astype(np.float64)
            error = float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-6))
            worst = max(worst, error) if error == error else np.inf
    return worst


@dataclass(frozen=True)
class Found:
    """One run at sizes that the dense model takes: error of the compiled model against the masked one, and what went
    wrong; `effect` is the masked model against the dense one.
    """

    sizes: Sizes
    error: float
    effect: float
    message: str = ""


def find_accepted(dense: onnx.ModelProto, inputs: Mapping[str, Input]) -> list[tuple[Sizes, dict[str, Array]]]:
    """Up to WANTED sizes at which the dense model runs and gives numbers, each with a feed."""
    model = open_session(dense)
    names = sorted({n for i in inputs.values() for n in i.names()})
    seed = zlib.crc32(repr(sorted(inputs)).encode())
    rng = np.random.default_rng(seed)
    out: list[tuple[Sizes, dict[str, Array]]] = []
    for sizes in choices(names, seed):
        feed = {k: i.draw(sizes, rng) for k, i in inputs.items()}
        try:
            found = run(model, feed)
        except Exception:  # onnxruntime has no class of its own for a model that does not take a size
            continue
        if all(np.isfinite(a).all() for a in found if a.dtype.kind == "f"):
            out.append((sizes, feed))
        if len(out) == WANTED:
            break
    return out


def differences(
    dense: onnx.ModelProto, compiled: onnx.ModelProto, feeds: Sequence[tuple[Sizes, dict[str, Array]]]
) -> list[Found]:
    """Compare the compiled model with the dense one in which what is gone is zero."""
    plain, masked, small = (open_session(m) for m in (dense, zero_removed(dense, compiled), compiled))
    out = []
    for sizes, feed in feeds:
        wanted = run(masked, feed)
        effect = distance(run(plain, feed), wanted)
        try:
            got = run(small, feed)
            shapes = [(a.shape, b.shape) for a, b in zip(wanted, got, strict=True) if a.shape != b.shape]
            told = "" if not shapes else f"gives {shapes[0][1]} for {shapes[0][0]}"
            out.append(Found(sizes, distance(wanted, got), effect, told))
        except Exception as error:  # nor for one that fails
            out.append(Found(sizes, np.inf, effect, f"does not run: {' '.join(str(error).split())[:160]}"))
    return out
