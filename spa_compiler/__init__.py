"""spa-compile: structured pruning of ONNX models, without data, proven against onnxruntime.

import spa_compiler
result = spa_compiler.compile("model.onnx", ratio=0.5, output="small.onnx")
print(result.report["reached"])
"""

from spa_compiler.execution.address_space import import_in_little_memory
from spa_compiler.execution.interrupts import hold_signals

with hold_signals(), import_in_little_memory():
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
