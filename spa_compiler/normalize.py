"""From a file to a graph that the algebra can read: fold, untie, permutations, selection first, shapes of everything.

    model, changes = normalize(load("m.onnx"))
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort

from spa_compiler import canonical, folding, shapes
from spa_compiler.bound import settle
from spa_compiler.collector import paused
from spa_compiler.errors import ModelError
from spa_compiler.facts import Facts
from spa_compiler.inlining import inline
from spa_compiler.model import Model
from spa_compiler.runtime import open_session, random_inputs, run, with_outputs
from spa_compiler.sequences import unpack
from spa_compiler.strides import identity_gathers, whole_axes, written_pieces


@paused()
def normalize(model: Model, sizes: dict[str, int] | None = None) -> tuple[Model, dict[str, int]]:
    """The same function of the inputs as `model`, with shape arithmetic folded and shapes recorded.

    `sizes` gives symbols a size. Returns the new model and how much each step changed. Raises ModelError when no
    sizes of the symbols fit.
    """
    last: ModelError | None = None
    for first, second, bound in settle(model, sizes or {}):
        try:
            return _normalize(model.copy(), first, second, bound)
        except ModelError as e:  # the next pair of bindings may run
            last = e
    raise last or ModelError(f"{model.path}: no sizes of the symbolic axes fit; give --input-shape")


def _normalize(
    model: Model, first: Facts, second: Facts, bound: dict[str, tuple[int, int]]
) -> tuple[Model, dict[str, int]]:
    one, two = _sides(bound)
    changes = dict.fromkeys(("inlined", "folded", "bypassed", "empty", "unpacked"), 0)
    while _reduce(model, first, second, changes):  # what came out of a sequence has sizes, and may decide branches
        first, second = shapes.evaluate(model, one, first), shapes.evaluate(model, two, second)
    changes["statistics"] = folding.fold_statistics(model)
    changes["dead"] = canonical.drop_dead(model)
    changes["untied"] = canonical.untie(model)
    first, second = _complete(model, first, second, bound)
    found = shapes.recorded(model, first, second, bound)
    changes["strides"] = sum(step(model, first, second) for step in (identity_gathers, written_pieces, whole_axes))
    changes["permutations"] = canonical.permutations(model, first, second)
    changes["selections"] = canonical.selection_first(model, found.shape, found.dynamic)
    if changes["strides"] or changes["permutations"] or changes["selections"]:
        changes["dead"] += canonical.drop_dead(model)
        first, second = shapes.evaluate(model, one, first), shapes.evaluate(model, two, second)
        first, second = _complete(model, first, second, bound)
        found = shapes.recorded(model, first, second, bound)
    model.shapes = found
    return model, changes


def _reduce(model: Model, first: Facts, second: Facts, changes: dict[str, int]) -> bool:
    """Fold what is known, and take tensors out of sequences; True where some were found."""
    changes["inlined"] += inline(model, first, second)
    changes["folded"] += folding.fold(model, first, second)
    changes["bypassed"] += canonical.bypass(model)
    changes["empty"] += folding.skip_empty(model, first, second)
    found = unpack(model)
    changes["unpacked"] += found
    return found > 0


def _sides(bound: dict[str, tuple[int, int]]) -> tuple[dict[str, int], dict[str, int]]:
    return {n: a for n, (a, _) in bound.items()}, {n: b for n, (_, b) in bound.items()}


def _complete(model: Model, first: Facts, second: Facts, bound: dict[str, tuple[int, int]]) -> tuple[Facts, Facts]:
    """What neither onnx's inference nor a run of one node tells (subgraphs) is read off a run of the model.

    The inputs of the two runs differ: a size that depends on data (detections) is dynamic, too.
    """
    asked: list[str] = []
    session: ort.InferenceSession | None = None
    out: list[Facts] = []
    for seed, (facts, sizes) in enumerate(zip((first, second), _sides(bound), strict=True)):
        names = shapes.missing(model, facts)
        if names and names != asked:  # mostly the same on both sides
            asked, session = names, _session(model, names)
        observed = observe(model, session, sizes, names, seed) if names and session is not None else {}
        out.append(shapes.completed(facts, observed))
    return out[0], out[1]


def _session(model: Model, names: list[str]) -> ort.InferenceSession | None:
    """A session that gives these values, too; None for another runtime's operators: what they touch is frozen."""
    try:
        return open_session(with_outputs(model.proto(), names), model.folder, what=str(model.path))
    except ModelError as e:
        if "is not a registered function/op" in str(e):
            return None
        raise


def observe(
    model: Model, session: ort.InferenceSession, sizes: dict[str, int], names: list[str], seed: int
) -> dict[str, Any]:
    """Values of one run on random inputs, by name; sequences and maps are left out."""
    got = run(session, random_inputs(model, sizes, np.random.default_rng(seed)), str(model.path))
    found = dict(zip([o.name for o in session.get_outputs()], got, strict=True))
    return {n: found[n] for n in names if isinstance(found.get(n), np.ndarray) and found[n].dtype.kind in "biuf"}
