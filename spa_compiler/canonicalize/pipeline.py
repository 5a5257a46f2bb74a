"""All rewrites in order, from a file to a graph that the algebra can read, with the shapes of all values.

model, changes = normalize(load("m.onnx"))
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort

from spa_compiler.canonicalize import channel_shuffle, constant_folding, constant_sharing, hoist_selection
from spa_compiler.canonicalize.counted_positions import (
    drop_whole_axes,
    replace_identity_gathers,
    replace_written_pieces,
)
from spa_compiler.canonicalize.filled_sequences import stack_filled_sequences
from spa_compiler.canonicalize.impossible_branches import find_untaken
from spa_compiler.canonicalize.inline_control_flow import inline
from spa_compiler.canonicalize.sequences import unpack_sequences
from spa_compiler.errors import ModelError, TimeLimitError
from spa_compiler.execution.gc_pause import pause_collector
from spa_compiler.execution.inputs import draw_random_inputs
from spa_compiler.execution.session import add_outputs, open_session, run_session
from spa_compiler.ir import editing
from spa_compiler.ir.model import Model
from spa_compiler.ir.symbols import check_inputs
from spa_compiler.operators.facts import is_fill
from spa_compiler.shape_inference import evaluator
from spa_compiler.shape_inference.bindings import Binding, BindingSearch
from spa_compiler.shape_inference.environment import Facts
from spa_compiler.shape_inference.every_binding import General


@pause_collector()
def normalize(model: Model, sizes: dict[str, int] | None = None) -> tuple[Model, dict[str, int]]:
    """The same function of the inputs as `model`, with shape arithmetic folded and shapes recorded.

    `sizes` gives symbols a size. Returns the new model and how much each step changed. Raises ModelError when no
    sizes of the symbols fit.
    """
    check_inputs(model)
    source, copies = model, 0
    if any(is_fill(n) and len(n.outputs[0].outputs) > 1 for n in model.graph.nodes):
        model = model.copy()
        copies = constant_sharing.untie_zeros(model)
    settling = BindingSearch(model, sizes or {})
    # a dead node is gone from what is analysed, and runs in the file
    trial = Trial(source) if any(not s.batch for s in settling.found) or editing.has_dead(source) else None
    is_batch_only = trial is None and bool(settling.found)
    for binding in settling.find_bindings():
        try:
            found, changes = _normalize(model.copy(), binding)
            if is_batch_only and binding.is_doubtful:
                trial = trial or Trial(source)
            if trial is not None:
                trial.run(binding, found)
        except TimeLimitError:
            raise
        except ModelError as e:  # the next pair of bindings may run
            settling.refused.append(str(e))
            continue
        found.notes += _describe_sizes(binding, settling)
        changes["untied"] += copies
        return found, changes
    raise settling.make_error()


def _describe_sizes(binding: Binding, settling: BindingSearch) -> list[str]:
    """A note about the sizes that were used where more general ones were refused."""
    if not settling.refused:
        return []
    sizes = ", ".join(f"{n}={a} and {b}" for n, (a, b) in binding.sizes.items())
    return [f"analysed at {sizes}; other sizes were refused, first because: {settling.refused[0]}"]


class Trial:
    """Runs the dense model at the sizes of a binding: inference accepts more than a runtime does."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.session = open_session(model.proto(), model.folder, level=0, what=str(model.path))

    def run(self, binding: Binding, analysed: Model) -> None:
        """Raises ModelError where it does not run at one of the two; `analysed` tells what inputs may be."""
        for k in (0, 1):
            feed = draw_random_inputs(analysed, binding.side(k), np.random.default_rng(k))
            run_session(self.session, feed, f"{self.model.path} at {binding.side(k)}")


def _normalize(model: Model, binding: Binding) -> tuple[Model, dict[str, int]]:
    first, second, bound = binding.first, binding.second, binding.sizes
    one, two = binding.side(0), binding.side(1)
    changes = dict.fromkeys(("inlined", "folded", "bypassed", "empty", "unpacked"), 0)
    general = evaluator.generalize(model, first, one)
    while _reduce(model, general, (first, second), changes):  # there are more facts, which may decide branches
        first, second = evaluator.evaluate(model, one, first), evaluator.evaluate(model, two, second)
        general = evaluator.generalize(model, first, one)
    changes["statistics"] = constant_folding.fold_statistics(model)
    changes["dead"] = editing.drop_dead(model)
    changes["untied"] = constant_sharing.untie_constants(model)
    first, second = _complete(model, (first, second), (one, two))
    found = evaluator.record_shapes(model, first, second, general, bound)
    changes["strides"] = sum(
        step(model, general) for step in (replace_identity_gathers, replace_written_pieces, drop_whole_axes)
    )
    changes["permutations"] = channel_shuffle.replace_permutations(model, general)
    changes["selections"] = hoist_selection.hoist_selections(model, found.axes)
    if changes["strides"] or changes["permutations"] or changes["selections"]:
        changes["dead"] += editing.drop_dead(model)
        first, second = evaluator.evaluate(model, one, first), evaluator.evaluate(model, two, second)
        general = evaluator.generalize(model, first, one)
        first, second = _complete(model, (first, second), (one, two))
        found = evaluator.record_shapes(model, first, second, general, bound)
    model.shapes = replace(found, ties=binding.ties)
    return model, changes


def _reduce(model: Model, general: General, sides: tuple[Facts, Facts], changes: dict[str, int]) -> bool:
    """Fold what is known, and take tensors out of sequences; True where more may be known after it."""
    changes["inlined"] += inline(model, general)
    untaken = find_untaken(model, general, sides)
    changes["inlined"] += inline(model, general, untaken) if untaken else 0
    changes["folded"] += constant_folding.fold_constants(model, general)
    changes["bypassed"] += constant_sharing.bypass(model)
    changes["empty"] += constant_folding.skip_empty(model, general)
    found = unpack_sequences(model) + stack_filled_sequences(model, general)
    changes["unpacked"] += found
    return found > 0 or bool(untaken)


def _complete(
    model: Model, sides: tuple[Facts, Facts], sizes: tuple[dict[str, int], dict[str, int]]
) -> tuple[Facts, Facts]:
    """Facts with shapes from a run of the model, where neither inference nor a run of one node gives them.

    The inputs of the two runs differ: a size that depends on data (detections) is dynamic, too.
    """
    asked: list[str] = []
    session: ort.InferenceSession | None = None
    out: list[Facts] = []
    for seed, (facts, bound) in enumerate(zip(sides, sizes, strict=True)):
        names = evaluator.find_missing(model, facts)
        if names and names != asked:  # mostly the same on both sides
            asked, session = names, _open_session(model, names)
        observed = observe(model, session, bound, names, seed) if names and session is not None else {}
        out.append(evaluator.complete_facts(facts, observed))
    return out[0], out[1]


def _open_session(model: Model, names: list[str]) -> ort.InferenceSession | None:
    """A session that gives these values, too; None for another runtime's operators: what they touch is frozen."""
    try:
        return open_session(add_outputs(model.proto(), names), model.folder, what=str(model.path))
    except ModelError as e:
        if "is not a registered function/op" in str(e):
            return None
        raise


def observe(
    model: Model, session: ort.InferenceSession, sizes: dict[str, int], names: list[str], seed: int
) -> dict[str, Any]:
    """Values of one run on random inputs, by name; sequences, maps and optionals are left out."""
    got = run_session(session, draw_random_inputs(model, sizes, np.random.default_rng(seed)), str(model.path))
    pairs = zip(session.get_outputs(), got, strict=True)
    found = {
        o.name: a for o, a in pairs if o.type.startswith("tensor")
    }  # an optional tensor comes out as an array, too
    return {n: found[n] for n in names if isinstance(found.get(n), np.ndarray) and found[n].dtype.kind in "biuf"}
