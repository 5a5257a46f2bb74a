"""One program with one model, for `tools.measure.edge`; prints what came of it as JSON. Needs that program and numpy.

    python -m tools.measure.edge_steps NAME MODEL.onnx DATA WORK

Programs that want sizes that are known (`FIXED`) get the model with a batch of one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Run = Callable[[Floats], Floats]
SECONDS, LEAST_RUNS = 1.0, 50
ROWS = 540


def load_onnxruntime(model: Path) -> Run:
    """The model in onnxruntime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def fix_batch(model: Path, work: Path) -> Path:
    """The model with a batch of one."""
    import onnx
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_input_shape_fixed

    proto = onnx.load(model)
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    make_input_shape_fixed(proto.graph, proto.graph.input[0].name, [1, *(d.dim_value for d in dims[1:])])
    fix_output_shapes(proto)
    onnx.save(proto, work / "fixed.onnx")
    return work / "fixed.onnx"


def simplify(model: Path, data: Path, work: Path) -> Run:
    """Onnxsim, then onnxruntime."""
    import onnx
    import onnxsim

    found, is_right = onnxsim.simplify(onnx.load(model))
    if not is_right:
        raise RuntimeError("onnxsim finds its result to differ")
    onnx.save(found, work / "simple.onnx")
    return load_onnxruntime(work / "simple.onnx")


def slim(model: Path, data: Path, work: Path) -> Run:
    """Onnxslim, then onnxruntime."""
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(model)), work / "slim.onnx")
    return load_onnxruntime(work / "slim.onnx")


def quantise(model: Path, data: Path, work: Path) -> Run:
    """The static int8 quantiser of onnxruntime, calibrated on 128 digits, then onnxruntime."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter(np.load(data / "digits_calib.npz")["x"])

        def get_next(self) -> dict[str, Floats] | None:
            return next(({"x": row[None]} for row in self.rows), None)

    quant_pre_process(str(model), str(work / "ready.onnx"))
    quantize_static(str(work / "ready.onnx"), str(work / "int8.onnx"), Rows(), per_channel=True)
    return load_onnxruntime(work / "int8.onnx")


def load_openvino(model: Path, data: Path, work: Path) -> Run:
    """The model in OpenVINO, on one thread of the CPU."""
    import openvino

    exact = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(model), "CPU", exact)
    return lambda x: compiled([x])[0]


def load_mnn(model: Path, data: Path, work: Path) -> Run:
    """The model, converted, in MNN."""
    import MNN

    fixed, target = fix_batch(model, work), work / "m.mnn"
    command = ["-f", "ONNX", "--modelFile", fixed, "--MNNModel", target, "--bizCode", "digits"]
    converter = Path(sys.executable).with_name("mnnconvert")
    done = subprocess.run([converter, *command], capture_output=True, text=True)
    if not target.exists():
        raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])
    net = MNN.nn.load_module_from_file(str(target), ["x"], ["logits"], backend=MNN.expr.Backend.CPU, thread_mode=1)

    def run(x: Floats) -> Floats:
        given = MNN.expr.placeholder(x.shape, MNN.expr.NCHW)
        given.write(np.ascontiguousarray(x))
        return np.array(MNN.expr.convert(net.forward([given])[0], MNN.expr.NCHW).read())

    return run


def load_litert(model: Path, data: Path, work: Path) -> Run:
    """The model, converted by onnx2tf, in LiteRT."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import onnx2tf
    import tensorflow as tf

    onnx2tf.convert(str(fix_batch(model, work)), output_folder_path=str(work / "tf"), non_verbose=True)
    (target,) = (work / "tf").glob("*_float32.tflite")
    net = tf.lite.Interpreter(str(target), num_threads=1)
    net.allocate_tensors()
    given, found = net.get_input_details()[0], net.get_output_details()[0]
    is_last = tuple(given["shape"]) == (1, 8, 8, 1)

    def run(x: Floats) -> Floats:
        net.set_tensor(given["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1) if is_last else x))
        net.invoke()
        return np.array(net.get_tensor(found["index"]))

    return run


STEPS: dict[str, Callable[[Path, Path, Path], Run]] = {
    "onnxruntime": lambda model, data, work: load_onnxruntime(model),
    "onnxsim": simplify,
    "onnxslim": slim,
    "int8": quantise,
    "openvino": load_openvino,
    "mnn": load_mnn,
    "litert": load_litert,
}
INEXACT = {"int8"}
"""Programs that change numbers on purpose."""


def measure(run: Run, x: Floats) -> float:
    """Milliseconds of the fastest run on one input."""
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < LEAST_RUNS:
        begin = time.perf_counter()
        run(x[:1])
        times.append(time.perf_counter() - begin)
    return min(times) * 1e3


def main() -> None:
    """Take the step."""
    name, model, data, work = sys.argv[1], *map(Path, sys.argv[2:5])
    test = np.load(data / "digits_test.npz")
    x, y = test["x"][:ROWS], test["y"][:ROWS]
    run = STEPS[name](model, data, work)
    plain = load_onnxruntime(model)
    wanted = np.concatenate([plain(row[None]) for row in x])
    found = np.concatenate([run(row[None]) for row in x]).reshape(wanted.shape)
    result = {
        "difference": float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted))),
        "exact": name not in INEXACT,
        "top1": float(np.mean(found.argmax(1) == y)) * 100,
        "ms": measure(run, x),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
