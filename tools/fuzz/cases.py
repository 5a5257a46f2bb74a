"""A case is made from its kind and its seed, and from nothing else.

case = make_case("tokens", 17)
case.files["model.onnx"], case.argv
"""

from __future__ import annotations

import importlib
import io
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tools.fuzz import arguments, dress
from tools.fuzz.child import Limits
from tools.fuzz.classic import draw_picture_classifier, draw_pipeline
from tools.fuzz.damage import damage_bytes, damage_fields
from tools.fuzz.draft import Draft, Input, Value
from tools.fuzz.hostile import HOSTILE, collide_names
from tools.fuzz.images import IMAGES, conv
from tools.fuzz.tokens import TOKENS, linear
from tools.fuzz.vectors import (
    ENDS,
    VECTORS,
    begin_decoder,
    begin_ids,
    begin_nodes,
    begin_offsets,
    begin_optional,
    end_plain,
    flatten_image,
    flatten_tokens,
    image_to_tokens,
    make_masked_pool,
)
from tools.fuzz.waves import WAVES

MODEL, OUTPUT, PLAN = "model.onnx", "out.onnx", "plan.out"
ZOO = Path(__file__).resolve().parents[2] / "tests" / "models"
HOSTILE_SECONDS = 4
"""The limit of time that hostile files are given; a node that makes a gigabyte is not interrupted, and takes longer."""
DEFAULT = 0.02
"""Share of the ordinary cases that run the default pipeline, which takes ten times as long."""


@dataclass
class Case:
    """Files, and the arguments behind `spa-compile model.onnx`."""

    kind: str
    seed: int
    files: dict[str, bytes]
    argv: list[str]
    inputs: dict[str, Input] = field(default_factory=dict)
    ordinary: bool = False
    """The model is right: a refusal is a finding."""
    exact: bool = False
    """The file that is written equals the dense one with removed weights zeroed; else it only has the same shapes."""
    half: bool = False
    tags: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}"


def make_case(kind: str, seed: int) -> Case:
    """The case of this kind and seed."""
    return MAKERS[kind](kind, seed)


# ordinary models ---


def draw_images(d: Draft) -> None:
    n = d.draw_size("N", 2)
    sides = (
        (d.draw_size("H", 16), d.draw_size("W", 16)) if d.chance(0.6) else (16, 16)
    )  # large ones cost most of the time
    x = d.add_input("x", (n, 3, *sides))
    y = d.apply(IMAGES, conv(d, x, d.draw_width(), d.pick([1, 3])), 2)
    if d.chance(0.2):  # a picture again
        d.add_output(conv(d, y, 3, d.pick([1, 3])))
    elif d.chance(0.3):
        d.pick(ENDS)(d, flatten_tokens(d, d.apply(TOKENS, image_to_tokens(d, y), 2)))
    else:
        d.pick(ENDS)(d, flatten_image(d, y))


def draw_tokens(d: Draft) -> None:
    if d.chance(0.5):
        x = begin_ids(d)
    else:
        source = d.add_input("x", (d.draw_size("N", 2), d.draw_size("T", 7), 8))
        x = linear(d, source, d.draw_width())
    y = d.apply(TOKENS, x, 3)
    flatten = d.pick([None, flatten_tokens, make_masked_pool])
    d.pick(ENDS)(d, flatten(d, y) if flatten is not None else y)


def draw_waves(d: Draft) -> None:
    channels = d.pick([1, 4, 8])
    x = d.add_input("x", (d.draw_size("N", 2), channels, d.draw_size("L", 96)))
    y = d.apply(WAVES, Value(d.op("Conv", x, d.weight(8, channels, 3), pads=[1, 1]), (x.axes[0], 8, x.axes[2])), 3)
    tokens = d.transpose(y, 0, 2, 1)
    if d.chance(0.4):
        tokens = d.apply(TOKENS, tokens, 2)
    d.pick(ENDS)(d, flatten_tokens(d, tokens) if d.chance(0.6) else tokens)


def draw_vectors(d: Draft) -> None:
    begin = d.pick(["plain", "plain", "offsets", "nodes", "decoder", "optional"])
    d.tags.append(begin)
    if begin == "plain":
        x = d.add_input("x", (d.draw_size("N", 2), 8))
    elif begin == "nodes":
        x = begin_nodes(d)
    elif begin == "optional":
        x = begin_optional(d)
    else:
        x = flatten_tokens(d, begin_offsets(d) if begin == "offsets" else begin_decoder(d))
    d.pick(ENDS)(d, d.apply(VECTORS, linear(d, x, d.draw_width()), 3))


def draw_classic(d: Draft) -> None:
    d.pick([draw_picture_classifier, draw_pipeline])(d)


DRAWN: dict[str, Callable[[Draft], None]] = {
    "classic": draw_classic,
    "images": draw_images, "tokens": draw_tokens, "waves": draw_waves, "vectors": draw_vectors,
}  # fmt: skip


def draw_model(kind: str, seed: int, half: bool = False) -> tuple[Draft, onnx.ModelProto]:
    """A drawn model of a kind."""
    d = Draft(f"{kind}.{seed}", half)
    DRAWN[kind](d)
    return d, d.model()


def make_ordinary(kind: str, seed: int) -> Case:
    """A drawn model, in plain clothes or others."""
    d, model = draw_model(kind, seed, half=kind != "classic" and random.Random(seed).random() < 0.05)
    files: dict[str, bytes] = {}
    if kind == "images" and not d.half and d.chance(0.08):
        dress.quantize(d, model)
        d.tags.append("quantize")
        d.exact = False
    if d.chance(0.35):
        clothes = d.pick(dress.DRESSES)
        d.tags.append(clothes.__name__)
        clothes(d, model)
    if d.chance(0.05):
        files = dress.store_outside(d, model)
    argv = arguments.draw_plain(d.rng)
    default = d.chance(DEFAULT)
    argv += ["--samples", "64"] if default else arguments.draw_quick(d.rng)
    runs = "insert_unknown" not in d.tags or bool(model.functions)
    return Case(
        kind, seed, {MODEL: model.SerializeToString(), **files}, finish(argv), d.inputs, ordinary=runs,
        exact=d.exact and not default, half=d.half, tags=tuple(d.tags), limits=Limits(60.0 if default else 15.0),
    )  # fmt: skip


def finish(argv: list[str]) -> list[str]:
    """Where to write, and what every case says."""
    out = [] if "-o" in argv else ["-o", OUTPUT]
    plan = [] if "--save-plan" in argv else ["--save-plan", PLAN]
    threads = [] if "--threads" in argv else ["--threads", "1"]
    return [*argv, *out, *plan, *threads, "--allow-unproven", "-v"]


def make_zoo(kind: str, seed: int) -> Case:
    """A hand-written test model, which covers every operator."""
    zoo, rng = load_zoo(), random.Random(f"zoo.{seed}")
    model = zoo.build(zoo.CASES[rng.choice(sorted(zoo.CASES))])
    inputs = {}
    for i in model.graph.input:
        t = i.type.tensor_type
        if not i.type.HasField("tensor_type") or t.elem_type not in (1, 10):
            inputs = {}
            break
        inputs[i.name] = Input(
            tuple(d.dim_value or d.dim_param or 1 for d in t.shape.dim), "float32" if t.elem_type == 1 else "float16"
        )
    argv = arguments.draw_plain(rng) + arguments.draw_quick(rng)
    return Case(kind, seed, {MODEL: model.SerializeToString()}, finish(argv), inputs)


def load_zoo() -> Any:
    """The test models of tests/models."""
    if str(ZOO) not in sys.path:
        sys.path.insert(0, str(ZOO))
    return importlib.import_module("zoo")


# what is wrong with a file or with the options ---


def make_hostile(kind: str, seed: int) -> Case:
    """A file that asks for too much, or lies."""
    d = Draft(f"{kind}.{seed}")
    d.opset = d.pick([13, 17, 18])
    maker = d.pick(HOSTILE)
    d.tags.insert(0, maker.__name__)
    files = maker(d)
    argv = ["--ratio", "0.3", "--of", "channels", "--align", "1"]
    argv += ["--samples", "32"] if d.chance(0.1) else list(arguments.QUICK)
    argv += ["--time-limit", str(HOSTILE_SECONDS)]
    return Case(kind, seed, files, finish(argv), tags=tuple(d.tags), limits=Limits(5.0 * HOSTILE_SECONDS))


def make_names(kind: str, seed: int) -> Case:
    """A right model with names that are taken."""
    d = Draft(f"{kind}.{seed}")
    files = collide_names(d)
    argv = ["--ratio", "0.3", "--of", "channels", "--align", "1", *arguments.QUICK]
    return Case(kind, seed, files, finish(argv), d.inputs, ordinary=True, exact=True, tags=("collide_names",))


def make_damaged(kind: str, seed: int) -> Case:
    """A drawn model or one of the zoo, with bytes or a field changed."""
    rng = random.Random(f"{kind}.{seed}")
    if rng.random() < 0.5:
        zoo = load_zoo()
        model = zoo.build(zoo.CASES[rng.choice(sorted(zoo.CASES))])
    else:
        model = draw_model(rng.choice(sorted(DRAWN)), seed)[1]
    if kind == "fields":
        for _ in range(rng.choice([1, 1, 2])):
            if model.graph.node:
                damage_fields(model, rng)
    data = model.SerializeToString()
    data = damage_bytes(data, rng) if kind == "bytes" else data
    argv = ["--ratio", "0.3", "--of", "channels", "--align", "1", *arguments.QUICK]
    return Case(kind, seed, {MODEL: data}, finish(argv))


def make_options(kind: str, seed: int) -> Case:
    """A drawn model under options of which some make no sense, with data, plans and masks of all sorts beside it."""
    rng = random.Random(f"{kind}.{seed}")
    d, model = draw_model(rng.choice(sorted(DRAWN)), seed)
    wild = arguments.draw_wild(rng)
    argv = [*([] if "--ratio" in wild or "--target" in wild else ["--ratio", "0.3"]), *wild]
    quick = [w for w in ("--no-latency", "--no-quality") if rng.random() < 0.9]
    calibrates = "--calib" in wild or "--criterion" in wild
    argv += [
        *quick,
        *([] if calibrates else ["--criterion", "l2"]),
        *(["--samples", "32"] if calibrates and "--samples" not in wild else []),
    ]
    files = {MODEL: model.SerializeToString(), **draw_beside(d, rng, wild)}
    return Case(kind, seed, files, finish(argv), d.inputs, tags=tuple(wild), limits=Limits(40.0))


def draw_beside(d: Draft, rng: random.Random, argv: list[str]) -> dict[str, bytes]:
    """The files that options name: plans, masks, scores and data, right or wrong."""
    out: dict[str, bytes] = {}
    weights = [t for t in d.constants if len(t.dims) > 1] or d.constants[:1]
    label = f"{rng.choice(weights).name}:{rng.choice([0, 1])}" if weights else "w:0"
    size = rng.choice([0, 1, 4, 8, 16])
    if "plan.json" in argv:
        groups: Any = rng.choice(
            [
                {label: {"size": 8, "keep": [0, 1]}},
                {label: {"size": size, "keep": [[0], [1]]}},
                {},
                [],
                {label: 3},
                {label: {"size": 1e400, "keep": [0.5]}},
                None,
            ]
        )
        document = {"format": "spa-compile plan", "version": rng.choice([1, 1, 2, "1"]), "groups": groups}
        deep = b"[" * 100_000
        out["plan.json"] = rng.choice([json.dumps(document).encode()] * 4 + [deep, b"", b"\xff\xfe", b"{"])
    arrays: list[Any] = [
        np.ones(size, bool), np.zeros(size, bool), np.arange(size), np.ones((2, size)), np.array(["a", "b"]),
        np.full(size, np.nan), np.array(1.0),
    ]  # fmt: skip
    for name in ("mask.npz", "scores.npz"):
        if name in argv:
            out[name] = save_arrays({label: rng.choice(arrays)}) if rng.random() < 0.8 else b"no zip"
    if "data.npz" in argv:
        out["data.npz"] = save_arrays(draw_data(d, rng)) if rng.random() < 0.9 else b"PK\x03\x04"
    return out


def draw_data(d: Draft, rng: random.Random) -> dict[str, Any]:
    """Rows for the inputs, right or with a wrong type, order, number, or values that are none."""
    sizes = {
        s: 9 for i in d.inputs.values() for a in i.axes if isinstance(a, str) for s in a.split(" + ") if not s.isdigit()
    }
    sizes["N"] = rng.choice([1, 6, 20])
    out: dict[str, Any] = {n: i.draw(sizes, d.numbers) for n, i in d.inputs.items()}
    for n, a in out.items():
        how = rng.choice(["right", "right", "turned", "flat", "text", "nan", "double", "empty"])
        out[n] = {
            "turned": a.T,
            "flat": a.ravel(),
            "text": a.astype(str),
            "double": a.astype(float),
            "empty": a[:0],
        }.get(how, a)
        if how == "nan" and a.dtype.kind == "f":
            out[n] = np.full_like(a, np.inf)
    if rng.random() < 0.5:
        out["y"] = rng.choice(
            [np.zeros(sizes["N"], int), np.full(sizes["N"], 99), np.zeros(3), np.full(sizes["N"], -1)]
        )
    return out


def save_arrays(arrays: dict[str, Any]) -> bytes:
    """An .npz."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


MAKERS: dict[str, Callable[[str, int], Case]] = {
    **dict.fromkeys(DRAWN, make_ordinary), "zoo": make_zoo, "names": make_names, "hostile": make_hostile,
    "bytes": make_damaged, "fields": make_damaged, "options": make_options,
}  # fmt: skip
KINDS = tuple(MAKERS)
SHARES = {
    "images": 5,
    "tokens": 5,
    "waves": 2,
    "vectors": 3,
    "classic": 1,
    "zoo": 1,
    "names": 1,
    "hostile": 3,
    "bytes": 2,
    "fields": 3,
    "options": 3,
}
"""How often each kind comes."""


def list_cases(seed: int, cases: int, kinds: tuple[str, ...] = ()) -> list[tuple[str, int]]:
    """Kind and seed of so many cases from a seed on: a case has the kind that its seed gives."""
    shares = {k: SHARES[k] for k in kinds or KINDS}
    order = [k for k, n in shares.items() for _ in range(n)]
    random.Random(0).shuffle(order)
    return [(order[s % len(order)], s) for s in range(seed, seed + cases)]


__all__ = ["Case", "end_plain", "list_cases", "make_case"]
