"""spa-compile: structured pruning of ONNX models, without data, proven against onnxruntime.

import spa_compiler
result = spa_compiler.compile("model.onnx", ratio=0.5, output="small.onnx")
print(result.report["reached"])

What is named here is imported when it is first asked for: a version or a help text needs no onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from spa_compiler.execution.address_space import import_in_little_memory
from spa_compiler.execution.interrupts import hold_signals

with hold_signals(), import_in_little_memory():
    import numpy as _numpy  # noqa: F401  (its BLAS is what hangs)

if TYPE_CHECKING:
    from spa_compiler.analysis.dependency_graph import DependencyGraph, analyze
    from spa_compiler.canonicalize.pipeline import normalize
    from spa_compiler.compiler import Result, compile
    from spa_compiler.errors import SpaError
    from spa_compiler.ir.model import Model
    from spa_compiler.ir.reader import load
    from spa_compiler.ir.writer import write
    from spa_compiler.pipeline.options import Options
    from spa_compiler.pipeline.passes import Pipeline
    from spa_compiler.pipeline.state import Pass, State
    from spa_compiler.planning.plan import Plan
    from spa_compiler.rewriting.prune import rewrite
    from spa_compiler.sweeps import sweep
    from spa_compiler.version import VERSION as __version__

__all__ = [
    "DependencyGraph", "Model", "Options", "Pass", "Pipeline", "Plan", "Result", "SpaError", "State", "__version__",
    "analyze", "compile", "load", "normalize", "rewrite", "sweep", "write",
]  # fmt: skip
_PLACES = {
    "DependencyGraph": "analysis.dependency_graph", "Model": "ir.model", "Options": "pipeline.options",
    "Pass": "pipeline.state", "Pipeline": "pipeline.passes", "Plan": "planning.plan", "Result": "compiler",
    "SpaError": "errors", "State": "pipeline.state", "analyze": "analysis.dependency_graph", "compile": "compiler",
    "load": "ir.reader", "normalize": "canonicalize.pipeline", "rewrite": "rewriting.prune", "sweep": "sweeps",
    "write": "ir.writer", "__version__": "version:VERSION",
}  # fmt: skip


def __getattr__(name: str) -> object:
    module, _, own = _PLACES.get(name, name).partition(":")
    try:
        with hold_signals(), import_in_little_memory():
            found: object = importlib.import_module(f"spa_compiler.{module}")
    except ModuleNotFoundError as e:
        if e.name != f"spa_compiler.{module}":
            raise
        raise AttributeError(f"module 'spa_compiler' has no attribute '{name}'") from None
    if name in _PLACES:
        globals()[name] = found = getattr(found, own or name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
