"""Accuracy after pruning, without fine-tuning: models x ratios x methods, in one table.

    python -m tools.measure.accuracy --data DIR --evaluate SCRIPT [--models NAME,...] [--seeds 0,1,2]

The folder holds `manifest.json`, `models/` and the data; the script gives `load(task, dir)`, `run(session, x)`,
`evaluate(model, task, dir)` and `calibration(task, dir, n)`. Every compile is a process of its own, so that seconds and
peak memory are its own. Real calibration inputs are never among those that are measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort

REAL_IMAGENET = 64
REAL = 256
CUT = "allocate{ratio=RATIO},remove,verify"
BLOCK_OBS = "score{criterion=obspa}," + CUT + ",compensate"
METHODS = {
    "magnitude": "score{criterion=l2}," + CUT,
    "OBSPA, white noise": "calibrate{source=white,stored=true,seed=SEED},"
    + BLOCK_OBS.replace("RATIO", "RATIO,scope=uniform"),
    "FLAP": "calibrate{seed=SEED},score{criterion=flap}," + CUT + ",compensate{method=bias}",
    "merge": "score{criterion=l2}," + CUT + ",compensate{method=merge}",
    "data-free (default)": "calibrate{seed=SEED}," + BLOCK_OBS,
    "real inputs": "calibrate{source=REAL,seed=SEED}," + BLOCK_OBS,
}
"""Pipelines by the name in the table; REAL is a file of real inputs. The seed draws inputs and samples positions."""
HEAD = ["model", "data", "dense", "MACs removed", *METHODS, "s (default)", "peak MB (default)"]


def module(path: Path) -> ModuleType:
    """The metric as a module."""
    spec = importlib.util.spec_from_file_location("evaluate", path)
    assert spec is not None and spec.loader is not None, path
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def compile_model(source: Path, text: str, target: Path) -> dict[str, Any]:
    """Compile with a pipeline in a process of its own: the report, or the error."""
    report = target.with_suffix(".json")
    command = [sys.executable, "-c", "from spa_compiler.cli.main import compile_command; compile_command()"]
    command += [str(source), "-o", str(target), "--pipeline", text, "--report", str(report), "-q", "--no-latency"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["failed"])[0], "exit": done.returncode}
    return {**json.loads(report.read_text()), "wall": time.perf_counter() - start}


class Measured:
    """One model's metric and, where there are any, real inputs that the metric does not see."""

    def __init__(self, metric: ModuleType, task: dict[str, Any], data: Path) -> None:
        self.metric, self.task, self.data = metric, task, data
        self.real: np.ndarray[Any, Any] | None = None
        self.rows: tuple[Any, Any] | None = None
        if task["data"] == "imagenet":
            x, y = metric.load(task, data)
            order = np.random.default_rng(0).permutation(len(x))
            self.real, self.rows = x[order[:REAL_IMAGENET]], (x[order[REAL_IMAGENET:]], y[order[REAL_IMAGENET:]])
        elif task["data"] == "cifar10":
            self.real = metric.calibration(task, data, REAL)

    def __call__(self, path: Path) -> float:
        if self.rows is None:
            return float(self.metric.evaluate(str(path), self.task, self.data)[0])
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        logits = self.metric.run(session, self.rows[0], self.task.get("batch", 100))[:, self.task.get("drop", 0) :]
        return 100 * float((logits.argmax(1) == self.rows[1][: len(logits)]).mean())


def rows(
    metric: ModuleType, data: Path, names: list[str], ratios: list[str], methods: list[str], seeds: list[str]
) -> Iterator[list[str]]:
    """One row a model and ratio; cells of other methods stay empty, those of several seeds are mean and deviation."""
    for entry in json.loads((data / "manifest.json").read_text()):
        if entry["task"] is None or (names and entry["name"] not in names):
            continue
        source = data / "models" / f"{entry['name']}.onnx"
        measured = Measured(metric, entry["task"], data)
        dense = measured(source)
        for ratio in ratios:
            cells = _cells(measured, source, ratio, methods, seeds)
            yield [entry["name"], entry["task"]["data"], f"{dense:.1f}", *cells]


def format_spread(values: list[float]) -> str:
    """The value, or mean and deviation of several."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _cells(measured: Measured, source: Path, ratio: str, methods: list[str], seeds: list[str]) -> list[str]:
    cells, default = [], {}
    removed = ""
    with tempfile.TemporaryDirectory() as scratch:
        real = Path(scratch) / "real.npz"
        if measured.real is not None:
            np.savez(real, x=measured.real)
        for name, text in METHODS.items():
            if name not in methods or ("REAL" in text and measured.real is None):
                cells.append("")
                continue
            target = Path(scratch) / "out.onnx"
            steps = "normalize,erase," + text.replace("RATIO", ratio).replace("REAL", json.dumps(str(real)))
            kept, found = [], {}
            for seed in seeds if "SEED" in steps else ["0"]:
                found = compile_model(source, steps.replace("SEED", seed), target)
                if "error" in found:
                    break
                kept.append(measured(target))
            cells.append(found["error"][:60] if "error" in found else format_spread(kept))
            if name == "data-free (default)" and "error" not in found:
                default, removed = found, f"{found['reached']['macs']:.1%}"
    cost = [f"{default['wall']:.1f}", f"{default['peak_memory_bytes'] / 1e6:.0f}"] if default else ["", ""]
    return [removed or f"asked {ratio}", *cells, *cost]


def main() -> None:
    """Parse the command line; rows are printed as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--evaluate", type=Path, required=True)
    parser.add_argument("--models", default="")
    parser.add_argument("--ratios", default="0.3,0.5")
    parser.add_argument("--methods", default=";".join(METHODS), help="by the heads of the columns, with ';' between")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    print("\n".join(lines), flush=True)
    names, methods = [n for n in given.models.split(",") if n], given.methods.split(";")
    if unknown := sorted(set(methods) - set(METHODS)):
        parser.error(f"no method is called {', '.join(unknown)}; there are {'; '.join(METHODS)}")
    ratios, seeds = given.ratios.split(","), given.seeds.split(",")
    for row in rows(module(given.evaluate), given.data, names, ratios, methods, seeds):
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
