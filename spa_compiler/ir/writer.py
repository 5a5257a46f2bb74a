"""Writing a model file: external data and sparse initializers as the source has them."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner

from spa_compiler.ir.external_data import PROTOBUF_LIMIT, externalize, find_locations
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import densify_sparse


def restore_sparse(proto: onnx.ModelProto, source: Model) -> list[str]:
    """Write what `source` holds sparse and nothing changed sparse again (in place); notes on the others."""
    held, left = {t.name: t for t in proto.graph.initializer}, []
    for s in source.sparse:
        was, now = densify_sparse(s, source.path), held.get(s.values.name)
        if now is not None and now.dims == was.dims and now.raw_data == was.raw_data:
            proto.graph.initializer.remove(now)
            proto.graph.sparse_initializer.append(s)
        else:
            left.append(f"sparse initializer '{s.values.name}' is written dense: it was changed or moved")
    return left


def write(proto: onnx.ModelProto, source: Path, target: Path, external: bool | None = None) -> None:
    """Write protobuf to `target` and, where the model is large or was external, its weights to a file beside it.

    That file is named after what it holds (`data_name`), so that a model never finds the data of another one. `source`
    is the folder that external tensors point into. The caller chooses a temporary folder for `target`: see `output`.
    """
    if external is None:
        external = bool(find_locations(proto)) or proto.ByteSize() > PROTOBUF_LIMIT
    if external:
        proto = externalize(proto, source, target)
    target.write_bytes(proto.SerializeToString(deterministic=True))
