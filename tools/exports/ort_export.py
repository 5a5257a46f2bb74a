"""The other exports rewritten by onnxruntime: fused (ORT_ENABLE_EXTENDED, transformers.optimizer) and quantised."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from tools.exports.clean import agree
from tools.exports.torch_export import export, legacy


def feed(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs; free axes have length 2."""
    rng, out = np.random.default_rng(seed), {}
    for value in model.graph.input:
        shape = [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            out[value.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            out[value.name] = rng.integers(0, 2, shape)
    return out


def outputs(model: onnx.ModelProto) -> list[np.ndarray]:
    """The outputs of the model on `feed`, without optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed(model))


def fuse_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that a session saves."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "m.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        made = onnx.load(Path(folder) / "m.onnx")
    agree(made, feed(model), outputs(model))
    return made


def fuse_attention(model: onnx.ModelProto, kind: str, heads: int, width: int) -> onnx.ModelProto:
    """The fusions of onnxruntime.transformers.optimizer, for a kind of network that it knows."""
    options = FusionOptions(kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        onnx.save(model, path)
        optimize_model(str(path), kind, heads, width, options, opt_level=0).save_model_to_file(str(path))
        made = onnx.load(path)
    agree(made, feed(model), outputs(model))
    return made


class Calibration(CalibrationDataReader):
    """Eight random inputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.feeds = iter([feed(model, seed) for seed in range(8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def quantise_model(model: onnx.ModelProto, form: QuantFormat) -> onnx.ModelProto:
    """Static quantisation, one scale per output channel."""
    with tempfile.TemporaryDirectory() as folder:
        path, where = Path(folder) / "m.onnx", Path(folder) / "q.onnx"
        onnx.save(model, path)
        options = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QUInt8}
        quantize_static(str(path), str(where), Calibration(model), form, per_channel=True, **options)
        return onnx.load(where)


def samples(folder: Path) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """(file name, what makes the model) of every sample, from exports by PyTorch."""
    logging.disable(logging.WARNING)
    resnet, vit = (lambda n=n: export(n, legacy(17)) for n in ("resnet", "vit"))
    yield "resnet.legacy17.ort", lambda: fuse_model(resnet())
    yield "resnet.legacy17.qdq", lambda: quantise_model(resnet(), QuantFormat.QDQ)
    yield "resnet.legacy17.qop", lambda: quantise_model(resnet(), QuantFormat.QOperator)
    yield "vit.legacy17.ort", lambda: fuse_attention(vit(), "vit", 2, 8)
    yield "bert.legacy14.ort", lambda: fuse_attention(export("bert_eager", legacy(14, "")), "bert", 2, 8)
