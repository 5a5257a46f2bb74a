"""spa-compile: structured pruning of ONNX models, without data, proven against onnxruntime.

    import spa_compiler
    result = spa_compiler.compile("model.onnx", ratio=0.5, output="small.onnx")
    print(result.report["reached"])
"""

from spa_compiler.interrupts import held

with held():
    from spa_compiler.compiler import Result, compile
    from spa_compiler.graph import DependencyGraph, analyze
    from spa_compiler.model import Model, load, write
    from spa_compiler.normalize import normalize
    from spa_compiler.options import Options
    from spa_compiler.pipeline import Pass, Pipeline, State
    from spa_compiler.plan import Plan
    from spa_compiler.rewrite import rewrite
    from spa_compiler.version import VERSION as __version__

__all__ = [
    "DependencyGraph", "Model", "Options", "Pass", "Pipeline", "Plan", "Result", "State", "__version__",
    "analyze", "compile", "load", "normalize", "rewrite", "write",
]  # fmt: skip
