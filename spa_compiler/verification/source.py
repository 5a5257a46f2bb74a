"""The comparison of the given file with the normalised graph, which shows errors of the normalisation.

    pair = SourcePair(graph, source, dense, limit)
    pair.compare(feed, " at N=2")     # 3e-07; None where the file itself does not run

An error above the tolerance counts by what rounding does to the graph's own values (`rounding`). Both are run on the
same inputs, at the sizes of the analysis and at others. What the file itself refuses to run is not asked of the
normalised graph.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import ModelError, VerificationError
from spa_compiler.ir.model import Model, describe_node, find_element_type, make_constant
from spa_compiler.verification.comparison import measure_difference
from spa_compiler.verification.inside import MOST_BYTES
from spa_compiler.verification.replay import list_compared, list_decisions, list_taps, replay_decisions
from spa_compiler.verification.rounding import discount_noise, is_noise_possible, shake
from spa_compiler.verification.runs import Feed, Side, list_outer_values

FRACTIONS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
"""Types of weights that may be off by an ulp."""
NO_WAY_OUT = "no --exclude avoids it, because it does not come from what is removed"


class SourcePair:
    """The file and the normalised graph, opened once."""

    def __init__(self, graph: DependencyGraph, source: Model, dense: Side, limit: float) -> None:
        self.graph, self.source, self.dense, self.limit = graph, source, dense, limit
        outputs = [t.name for t in graph.model.graph.outputs]
        self.names = list(dict.fromkeys([*outputs, *list_taps(graph.model)]))
        self.given: dict[str, Any] = {}  # what the file gave last
        self.file = Side.of_file(source, self.names)

    def compare(self, feed: Feed, where: str) -> float | None:
        """The largest difference on a feed; None where the file refuses it. Raises VerificationError with a value.

        Values that the file gives otherwise each time (random numbers in the graph) tell nothing.
        """
        try:
            self.given = given = self.file.run(feed, self.names)
        except ModelError:
            return None
        try:
            found = self.dense.run(feed, self.names)
        except ModelError as e:
            raise VerificationError(self._write_message(where, f"it does not run: {e}")) from e
        errors = self._measure_errors(found, given)
        if any(e > self.limit for e in errors.values()):
            again = self._measure_errors(self.file.run(feed, self.names), given)
            errors = {n: e for n, e in errors.items() if again[n] <= self.limit}
        if is_noise_possible(max(errors.values(), default=0.0), self.limit):
            errors = discount_noise(errors, self._measure_noise(feed, found), self.limit)
        worst = max(errors.values(), default=0.0)
        if not errors or worst <= self.limit:
            return worst
        if list_decisions(self.graph) and (error := self._replay(feed)) <= self.limit:
            return error
        raise VerificationError(self._write_message(where, self._find_first(feed, errors)))

    def _measure_noise(self, feed: Feed, found: dict[str, Any]) -> dict[str, float]:
        """How far the values of the graph move when every number that is fed, and every weight, is off by an ulp or so.

        Of ids alone nothing can be off.
        """
        rng, model = np.random.default_rng(1), self.graph.model.copy()
        noisy = {n: shake(a, rng) if a.dtype.kind == "f" else a for n, a in feed.items()}
        for name, tensor in model.constants().items():
            if find_element_type(tensor) in FRACTIONS and math.prod(tensor.shape) > 1:
                tensor._values = make_constant(name, shake(model.array(tensor), rng))._values
        side = Side(model.proto(), model.folder, self.names, "the graph with weights off by an ulp")
        return self._measure_errors(side.run(noisy, self.names), found)

    @staticmethod
    def _measure_errors(found: dict[str, Any], given: dict[str, Any]) -> dict[str, float]:
        return {n: measure_difference(found[n], given[n]).error for n in given if n in found}

    def _write_message(self, where: str, what: str) -> str:
        return (
            f"{self.source.path}: the graph as spa-compile reads it is not what the file computes{where}: {what}; "
            f"nothing was written. {NO_WAY_OUT[0].upper()}{NO_WAY_OUT[1:]}"
        )

    def _replay(self, feed: Feed) -> float:
        """The difference where both take the decisions of the file; infinite where it has not all of them."""
        made, names = list_decisions(self.graph), list_compared(self.graph, later=True)
        if not {*made, *names} <= {*list_outer_values(self.source), *(t.name for t in self.source.graph.outputs)}:
            return math.inf
        given = Side.of_file(self.source, [*names, *made]).run(feed, [*names, *made])
        model = self.graph.model
        proto = replay_decisions(model.proto(), {n: given[n] for n in made})
        follower = Side(proto, model.folder, names, "the normalised model")
        found = follower.run(feed | {n: given[n] for n in made}, names)
        return max(measure_difference(found[n], given[n]).error for n in names)

    def _find_first(self, feed: Feed, errors: dict[str, float]) -> str:
        """The first value in the order of the graph that differs, among those that both have."""
        model = self.graph.model
        here = set(list_outer_values(self.source))
        names = [n for n in list_outer_values(model) if n in here]
        while names:
            step = max(1, math.ceil(self._count_bytes(names) / MOST_BYTES))
            tried = names[step - 1 :: step]
            bad = self._find_differing(feed, tried)
            if bad is None or step == 1:
                first = bad
                break
            at = names.index(bad)
            names = names[max(0, at - step + 1) : at + 1]
        else:
            first = None
        first = first or max(errors, key=lambda n: errors[n])
        node = next((n for n in model.graph.nodes if any(t.name == first for t in n.outputs)), None)
        of = f" of {node.op} '{describe_node(node)}'" if node is not None else ""
        return f"value '{first}'{of} is the first that differs (tolerance {self.limit:.0e})"

    def _count_bytes(self, names: list[str]) -> int:
        values = self.graph.values
        return sum(4 * math.prod(values[n].shape) for n in names if n in values)

    def _find_differing(self, feed: Feed, names: list[str]) -> str | None:
        try:
            model = self.graph.model
            file = Side.of_file(self.source, names)
            a, again = file.run(feed, names), file.run(feed, names)
            b = Side(model.proto(), model.folder, names, "the normalised model").run(feed, names)
        except ModelError:
            return None
        both = [n for n in names if n in a and n in b and measure_difference(again[n], a[n]).error <= self.limit]
        return next((n for n in both if measure_difference(b[n], a[n]).error > self.limit), None)
