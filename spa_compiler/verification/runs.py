"""A model that is opened once and run for many feeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from spa_compiler.errors import ModelError, TimeLimitError
from spa_compiler.execution.parallel import map_parallel
from spa_compiler.execution.session import (
    add_outputs,
    describe_failed_run,
    has_chance,
    open_exact_session,
    open_quiet_session,
)
from spa_compiler.ir.control_flow import find_chains, is_marker
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import read_proto
from spa_compiler.operators.facts import CONTRACTS_INTEGERS, DRAWS

Array = NDArray[Any]
Feed = dict[str, Array]


class Side:
    """One of the models that are compared. Raises ModelError where onnxruntime cannot open or run it."""

    def __init__(self, proto: onnx.ModelProto, folder: Path, names: Iterable[str], what: str, level: int = 1) -> None:
        self.what = what
        known = {o for n in proto.graph.node for o in n.output} | {i.name for i in proto.graph.input}
        known |= {t.name for t in proto.graph.initializer}
        self.names = [n for n in dict.fromkeys(names) if n in known]
        add_outputs(proto, self.names)

        def open_anew() -> ort.InferenceSession:
            return open_exact_session(proto, folder, level, 1, what)

        self._take(open_anew(), open_anew if has_chance(proto.graph) else None)

    def _take(self, session: ort.InferenceSession, open_anew: Callable[[], ort.InferenceSession] | None = None) -> None:
        self.session, self.open_anew = session, open_anew
        self.inputs = {i.name for i in (*session.get_inputs(), *session.get_overridable_initializers())}

    @classmethod
    def of_file(cls, source: Model, names: Iterable[str]) -> Side:
        """The file that was given, with its external data from its folder; what it was made from where there is none.

        Where its outputs are all that is asked for, onnxruntime reads it on its own.
        """
        names, what = list(names), str(source.path)
        outputs = {t.name for t in source.graph.outputs}
        if not source.path.is_file():
            return cls(source.proto(), source.folder, names, what)
        if not outputs.issuperset(names) or any(n.op in CONTRACTS_INTEGERS | DRAWS for n in source.graph.nodes):
            return cls(read_proto(source.path), source.folder, names, what)
        out = cls.__new__(cls)
        out.what, out.names = what, names
        try:
            out._take(open_quiet_session(str(source.path), 1, 1))
        except Exception as e:
            raise ModelError(f"onnxruntime cannot load {what}: {' '.join(str(e).split())[:400]}") from e
        return out

    def run(self, feed: Mapping[str, Array], names: Iterable[str]) -> dict[str, Any]:
        """These of its values, as far as it has them; inputs that it does not have are left out.

        Random numbers are those of a first run, whatever was run before.
        """
        asked = [n for n in dict.fromkeys(names) if n in set(self.names)]
        given = {n: a for n, a in feed.items() if n in self.inputs}
        session = self.open_anew() if self.open_anew is not None else self.session
        try:
            return dict(zip(asked, session.run(asked, given), strict=True)) if asked else {}
        except TimeLimitError:
            raise
        except Exception as e:
            raise ModelError(describe_failed_run(self.session, e, self.what)) from e


def list_outer_values(model: Model) -> list[str]:
    """Outputs of nodes outside of bodies, in the order of the graph."""
    nodes = model.graph.nodes
    outside = [n for n, chain in zip(nodes, find_chains(nodes), strict=True) if not chain and not is_marker(n)]
    return [t.name for n in outside for t in n.outputs if t.name]


def run_outputs(model: Model, names: list[str], feeds: list[Feed], what: str, level: int = 1) -> list[list[Any]]:
    """These values of a model for every feed, several feeds at once. Raises ModelError."""
    side = Side(model.proto(), model.folder, names, what, level)

    def one(feed: Feed) -> list[Any]:
        got = side.run(feed, names)
        return [got[n] for n in names]

    return list(map_parallel(one, feeds))
