"""A model that is opened once and run for many feeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spa_compiler.errors import ModelError
from spa_compiler.model import Model, read
from spa_compiler.nesting import chains, is_marker
from spa_compiler.runtime import exact_session, with_outputs
from spa_compiler.threads import each

Array = NDArray[Any]
Feed = dict[str, Array]


class Side:
    """One of the models that are compared. Raises ModelError where onnxruntime cannot open or run it."""

    def __init__(self, proto: onnx.ModelProto, folder: Path, names: Iterable[str], what: str, level: int = 1) -> None:
        self.what = what
        known = {o for n in proto.graph.node for o in n.output} | {i.name for i in proto.graph.input}
        known |= {t.name for t in proto.graph.initializer}
        self.names = [n for n in dict.fromkeys(names) if n in known]
        self.session = exact_session(with_outputs(proto, self.names), folder, level, 1, what)
        self.inputs = {i.name for i in self.session.get_inputs()}

    def run(self, feed: Mapping[str, Array], names: Iterable[str]) -> dict[str, Any]:
        """These of its values, as far as it has them; inputs that it does not have are left out."""
        asked = [n for n in dict.fromkeys(names) if n in set(self.names)]
        given = {n: a for n, a in feed.items() if n in self.inputs}
        try:
            return dict(zip(asked, self.session.run(asked, given), strict=True)) if asked else {}
        except Exception as e:
            raise ModelError(f"onnxruntime cannot run {self.what}: {' '.join(str(e).split())[:400]}") from e


def source_proto(source: Model) -> onnx.ModelProto:
    """The file as it is, or what it was made from where there is none."""
    return read(source.path) if source.path.is_file() else source.proto()


def outer_values(model: Model) -> list[str]:
    """What nodes outside of bodies give, in the order of the graph."""
    nodes = model.graph.nodes
    outside = [n for n, chain in zip(nodes, chains(nodes), strict=True) if not chain and not is_marker(n)]
    return [t.name for n in outside for t in n.outputs if t.name]


def outputs(model: Model, names: list[str], feeds: list[Feed], what: str, level: int = 1) -> list[list[Any]]:
    """These values of a model for every feed, several feeds at once. Raises ModelError."""
    side = Side(model.proto(), model.folder, names, what, level)

    def one(feed: Feed) -> list[Any]:
        got = side.run(feed, names)
        return [got[n] for n in names]

    return list(each(one, feeds))


def same_feed(feed: Feed) -> str:
    """The shapes of a feed, for messages."""
    return ", ".join(f"{n} {list(np.shape(a))}" for n, a in feed.items())


