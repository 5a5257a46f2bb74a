"""Measure the two peer tools on models of the zoo, each used as its own documentation says.

    measure_torch_pruning("resnet50"); measure_onnxsim("resnet50.legacy.onnx")      # one dictionary each

Torch-Pruning takes the PyTorch model (`zoo_models.prepare`), onnxsim the ONNX files that `zoo.py` exported; both are
asked to remove half of the channels, without hints for the model. `coverage.py` runs each measurement in a process of
its own. Errors are results: they are recorded as text under what failed.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.coverage.zoo import brief

if TYPE_CHECKING:  # heavy, and only the measuring processes need them
    import onnx
    import torch_pruning
    from torch import Tensor, nn

RATIO = 0.5
Report = dict[str, Any]
NUMPY = {"tensor(int64)": "int64", "tensor(float16)": "float16", "tensor(bool)": "bool", "tensor(double)": "float64"}


def run_guarded(report: Report, key: str, action: Callable[[], Any]) -> Any:
    """Run `action`; store True under `key`, or the error as text. Returns what the action returned, or None."""
    try:
        value = action()
    except Exception as error:  # a peer may fail in any way, and how it failed is what is reported
        report[key] = brief(error)[:400]
        return None
    report[key] = True
    return value


def run_timed(report: Report, key: str, action: Callable[[], Any]) -> Any:
    """Run `action` and store its seconds under `key`, also where it raises."""
    start = time.perf_counter()
    try:
        return action()
    finally:
        report[key] = round(time.perf_counter() - start, 3)


def run_onnx(path: Path) -> None:
    """Load and run a file with onnxruntime on ones, symbolic sizes being 1; raises where that fails."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        feeds[value.name] = np.ones(shape, NUMPY.get(value.type, "float32"))
    session.run(None, feeds)


# Torch-Pruning -------------------------------------------------------------------------------------------------------


def final_layers(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[nn.Module]:
    """The Linear or Conv that runs last: what Torch-Pruning's examples ignore, so that the output keeps its size."""
    import torch
    from torch import nn

    kinds, ran = (nn.Linear, nn.modules.conv._ConvNd), []
    hooks = [
        module.register_forward_hook(lambda m, *_: ran.append(m))
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        model(*inputs)
    for hook in hooks:
        hook.remove()
    return ran[-1:]


HEADS = {
    "fasterrcnn": ("rpn.head.cls_logits", "rpn.head.bbox_pred", "backbone.fpn", "roi_heads"),
    "raft": ("update_block.flow_head", "mask_predictor"),
    "ssd": ("head",),
}
"""Modules that Torch-Pruning's own benchmark (benchmarks/prunability) ignores in these models."""


def ignored_parts(name: str, model: nn.Module, inputs: tuple[Tensor, ...]) -> list[nn.Module]:
    """The last Linear or Conv, or what Torch-Pruning's own benchmark says for the model."""
    paths = next((paths for start, paths in HEADS.items() if name.startswith(start)), None)
    if paths is None:
        return final_layers(model, inputs)
    return [model.get_submodule(f"model.{path}") for path in paths]


def prunable(pruner: torch_pruning.pruner.BasePruner) -> int:
    """Parameters of the modules that the pruner's groups touch, each counted once and whole."""
    from torch import nn

    touched = {}
    groups = pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types)
    for group in groups:
        for dependency, _ in group:
            module = dependency.target.module
            own = [module] if isinstance(module, nn.Parameter) else module.parameters()
            touched |= {id(parameter): parameter.numel() for parameter in own}
    return sum(touched.values())


def forward(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    """Shapes of the outputs."""
    import torch

    with torch.no_grad():
        outputs = model(*inputs)
    return [tuple(y.shape) for y in (outputs if isinstance(outputs, tuple) else (outputs,))]


def check_shapes(model: nn.Module, inputs: tuple[Tensor, ...], wanted: list[tuple[int, ...]]) -> None:
    """Raise unless the outputs still have the dense shapes."""
    found = forward(model, inputs)
    if found != wanted:
        raise ValueError(f"output shapes {found} instead of {wanted}")


def measure_torch_pruning(name: str) -> Report:
    """Seconds (graph, prune), parameters and MACs before and after, prunable parameters, whether the result runs."""
    import torch
    import torch_pruning as tp

    from tools.coverage.zoo_models import prepare

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    model, inputs = prepare(name)
    feeds = tuple(inputs.values())
    report: Report = {"version": tp.__version__}
    report["macs"], report["parameters"] = tp.utils.count_ops_and_params(model, feeds)
    shapes, ignored = forward(model, feeds), ignored_parts(name, model, feeds)
    options = {"importance": tp.importance.GroupMagnitudeImportance(p=2), "pruning_ratio": RATIO}
    build = partial(tp.pruner.BasePruner, model, feeds, global_pruning=False, ignored_layers=ignored, **options)
    pruner = run_guarded(report, "graph", partial(run_timed, report, "graph_seconds", build))
    if pruner is None:
        return report
    report["prunable_parameters"] = prunable(pruner)
    run_guarded(report, "prune", partial(run_timed, report, "prune_seconds", pruner.step))
    report["seconds"] = round(report["graph_seconds"] + report["prune_seconds"], 3)
    report["parameters_after"] = sum(p.numel() for p in model.parameters())
    run_guarded(report, "runs", lambda: check_shapes(model, feeds, shapes))
    if report["runs"] is True:
        report["macs_after"], report["parameters_after"] = tp.utils.count_ops_and_params(model, feeds)
    return report


# onnxsim -------------------------------------------------------------------------------------------------------------


def count_macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates as spa-compile counts them, so that its figures and the peer's compare.

    Call it after the peak memory was read: it needs memory of its own, which is not the peer's.
    """
    from spa_compiler.analysis.cost import CostModel
    from spa_compiler.analysis.dependency_graph import analyze
    from spa_compiler.canonicalize.pipeline import normalize
    from spa_compiler.ir.reader import from_proto

    copy = type(model).FromString(model.SerializeToString())
    return CostModel(analyze(normalize(from_proto(copy, Path("peer.onnx")))[0])).totals({})["macs"]


def parameters(model: onnx.ModelProto) -> int:
    """Elements of floating-point initializers and of Constant nodes with more than one element."""
    import onnx
    from onnx import TensorProto

    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    tensors = list(model.graph.initializer)
    tensors += [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t")]
    sizes = [onnx.numpy_helper.to_array(t).size for t in tensors if t.data_type in floats and list(t.dims)]
    return int(sum(sizes))


def load_onnx(path: str, simplify: bool, report: Report) -> onnx.ModelProto | None:
    """The model, simplified where asked for; None where that failed, with the error in the report."""
    import onnx
    import onnxsim

    model = run_guarded(report, "load", partial(onnx.load, path))
    if model is None or not simplify:
        return model
    done = run_guarded(
        report, "simplify", partial(run_timed, report, "simplify_seconds", partial(onnxsim.simplify, model))
    )
    return done and done[0]


def save_and_run(model: onnx.ModelProto) -> None:
    """Write the model to a temporary file and run that: what a user would deploy."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "pruned.onnx")
        run_onnx(Path(folder) / "pruned.onnx")


def measure_onnxsim(path: str) -> Report:
    """The better of pruning the file as it is and after `onnxsim.simplify` (which folds BatchNorm)."""
    import onnx

    reports = [prune_onnx(path, simplify) for simplify in (False, True)]
    good = [r for r in reports if r.get("runs") is True and r.get("macs_after")]
    if not good:
        return reports[0]
    best = min(good, key=lambda r: r["macs_after"])
    best["macs"] = run_guarded(best, "macs_counted", lambda: count_macs(onnx.load(path)))
    return best


def prune_onnx(path: str, simplify: bool) -> Report:
    """Seconds, parameters before and after, whether anything changed, whether onnxruntime loads and runs the result."""
    import onnx
    import onnxsim

    report: Report = {"version": onnxsim.__version__, "simplified": simplify}
    model = load_onnx(path, simplify, report)
    if model is None:
        return report
    report["parameters"] = parameters(model)
    action = partial(onnxsim.pruning.apply_structured_pruning, model, RATIO)
    pruned = run_guarded(report, "prune", partial(run_timed, report, "seconds", action))
    if pruned is None:
        return report
    report["parameters_after"] = parameters(pruned)
    report["changed"] = report["parameters_after"] != report["parameters"]
    run_guarded(report, "check", partial(onnx.checker.check_model, pruned, full_check=True))
    run_guarded(report, "runs", partial(save_and_run, pruned))
    if report["changed"] and report["runs"] is True:
        report["macs_after"] = run_guarded(report, "macs_after_counted", partial(count_macs, pruned))
    return report
