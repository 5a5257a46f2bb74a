"""Make the small real exports of tests/exports, one command per environment.

    python -m tools.exports.make torch           both exporters of PyTorch; needs the extra exports-torch
    python -m tools.exports.make tf              tf2onnx, also from TFLite; exports-tf
    python -m tools.exports.make keras           Keras' own Model.export on its torch back end; exports-keras
    python -m tools.exports.make jax             jax2onnx; exports-jax
    python -m tools.exports.make ort             onnxruntime: exports of PyTorch, fused and quantised; exports-torch

Weights are random, from fixed seeds, with BatchNorm statistics that differ from channel to channel: the same command
gives the same bytes, but for tf2onnx, which numbers and orders its nodes differently in every process. Every file is
stripped of doc strings and metadata; all but the quantised ones are compared with their framework first. What the files
must give is stated in tests/models/exports_table.py by reasoning about the networks, not by running this.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from tools.exports.clean import clean

MODULES = {
    "torch": "torch_export", "tf": "tf_export", "keras": "keras_export", "jax": "jax_nets", "ort": "ort_export",
}  # fmt: skip
LARGEST = 32_000  # bytes of one file


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exporter", choices=MODULES)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "tests" / "exports")
    parser.add_argument("--only", default="", help="file names that contain this")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, make in importlib.import_module(f"tools.exports.{MODULES[a.exporter]}").samples(a.out):
        if a.only not in name:
            continue
        try:
            data = clean(make())
            if len(data) > LARGEST:
                raise ValueError(f"{len(data)} bytes: choose narrower widths")
            (a.out / f"{name}.onnx").write_bytes(data)
            print(f"{name} {len(data)} bytes", flush=True)
        except Exception as error:  # an exporter may fail in any way: say so, go on with the others
            failed.append(name)
            print(f"{name} FAILED {type(error).__name__}: {str(error).strip().splitlines()[-1][:300]}", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} failed: {' '.join(failed)}")


if __name__ == "__main__":
    main()
