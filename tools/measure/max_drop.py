"""How fast do models become at a drop of at most one point, and does the drop that was searched for hold?

    python -m tools.measure.max_drop collect ROWS.jsonl --data DIR --evaluate SCRIPT [--models NAME,...] [--peer PYTHON]
    python -m tools.measure.max_drop table ROWS.jsonl [--out TABLE.md]

Every model with labelled data (as tools.measure.verdicts lists them) is compiled with `--max-drop 1%`, without data
and with 128 real inputs that the metric does not see, and once with `--ratio 0.3`, whose seconds of the processor
those of the search are compared with; each in a process of its own. With --sweep, steps of 5 % show what the best
step would have been. PYTHON is an environment with onnxsim: the fastest of its channel ratios whose true drop is at
most a point is the peer's figure. Times are minima of alternating runs on one thread. A file whose true drop is above
one point counts as 1.0 times faster. Lines that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from tools.measure.verdicts import REAL, Measured, list_models, read_rows

LIMIT = 1.0
"""Points that may be lost."""
MEASURED = 1.0
"""Seconds for which two files are run in turns."""
PEER_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
PEER = """
import onnx, onnxsim, sys
onnx.save(onnxsim.apply_structured_pruning(sys.argv[1], float(sys.argv[3])), sys.argv[2])
"""
COMPILE = "from spa_compiler.cli.main import compile_command; compile_command()"
SEARCHES = {"no data": (), "128 real": ("--calib", "REAL")}
STEPS = [round(0.05 * k, 2) for k in range(1, 19)]
Row = dict[str, Any]


def run_compiler(source: Path, target: Path, *options: str) -> Row:
    """The report of the command line, its seconds of the processor, or its exit code and message."""
    report = target.with_suffix(".json")
    before = os.times()
    command = [
        sys.executable,
        "-c",
        COMPILE,
        str(source),
        str(target),
        "--report",
        str(report),
        "--no-latency",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    if done.returncode:
        return {"cpu": cpu, "exit": done.returncode, "error": (done.stderr.strip().splitlines() or ["failed"])[-1]}
    found = json.loads(report.read_text())
    return {
        "cpu": cpu, "macs": found["reached"]["macs"], "stated": found["quality"]["drop"], "search": found["search"],
    }  # fmt: skip


def measure_speed_up(dense: Path, small: Path, x: Any) -> float:
    """Minimum of a run of the dense file over that of the compiled one, in turns on one thread."""
    sessions = []
    for path in (dense, small):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        sessions.append(ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
    given = sessions[0].get_inputs()[0]
    rows = given.shape[0] if isinstance(given.shape[0], int) and given.shape[0] > 0 else 1
    x = np.ascontiguousarray(x[:rows]).astype(np.float16 if given.type == "tensor(float16)" else x.dtype)
    best = [math.inf, math.inf]
    until = time.perf_counter() + MEASURED
    while time.perf_counter() < until:
        for k, s in enumerate(sessions):
            start = time.perf_counter()
            s.run(None, {given.name: x})
            best[k] = min(best[k], time.perf_counter() - start)
    return best[0] / best[1]


def measure_model(model: Measured, peer: str, sweep: bool) -> Iterator[Row]:
    """The lines of a model."""
    even = not model.task.get("apart")
    x = model.x[:, :640] if model.task.get("data") == "ad_car" else model.x
    dense = model.measure(model.path, even)
    with tempfile.TemporaryDirectory() as folder:
        real, target = Path(folder) / "real.npz", Path(folder) / "small.onnx"
        np.savez(real, x=model.real[:REAL])
        plain = run_compiler(model.path, target, "--ratio", "0.3")
        for name, options in SEARCHES.items():
            given = [str(real) if o == "REAL" else o for o in options]
            found = run_compiler(model.path, target, "--max-drop", f"{LIMIT:g}%", *given)
            row = {"model": model.name, "source": name, "dense": dense, "plain_cpu": plain["cpu"], **found}
            if "error" not in found:
                row["drop"] = dense - model.measure(target, even)
                row["speedup"] = measure_speed_up(model.path, target, x)
            if sweep:
                row["step"] = find_best_step(model, target, given, even, dense)
            yield row
        if peer:
            yield {
                "model": model.name,
                "source": "onnxsim",
                "dense": dense,
                **measure_peer(model, peer, target, x, even),
            }


def find_best_step(model: Measured, target: Path, given: list[str], even: bool, dense: float) -> float:
    """The most MACs removed by a step of 5 % whose true drop is at most a point."""
    best = 0.0
    for ratio in STEPS:
        found = run_compiler(model.path, target, "--ratio", str(ratio), *given)
        if "error" not in found and dense - model.measure(target, even) <= LIMIT:
            best = max(best, found["macs"])
    return best


def measure_peer(model: Measured, peer: str, target: Path, x: Any, even: bool) -> Row:
    """The fastest of the peer's files whose true drop is at most a point."""
    dense, best = model.measure(model.path, even), Row(speedup=1.0, drop=0.0)
    for ratio in PEER_RATIOS:
        done = subprocess.run(
            [peer, "-c", PEER, str(model.path), str(target), str(ratio)], capture_output=True, check=False
        )
        if done.returncode:
            continue
        try:
            drop = dense - model.measure(target, even)
            speed = measure_speed_up(model.path, target, x)
        except Exception:  # its file does not load or run
            continue
        if drop <= LIMIT and speed > best["speedup"]:
            best = Row(speedup=speed, drop=drop, ratio=ratio)
    return best


def format_table(rows: list[Row]) -> str:
    """A row a model, and the geometric means."""
    head = ["model", "dense"]
    for name in SEARCHES:
        head += [f"{name}: MACs removed", "stated drop", "true drop", "speed-up", "CPU, of one compile"]
    lines = ["| " + " | ".join([*head, "onnxsim: speed-up"]) + " |", "|" + "---|" * (len(head) + 1)]
    by = {(r["model"], r["source"]): r for r in rows}
    counted: dict[str, list[float]] = {}
    for model in dict.fromkeys(r["model"] for r in rows):
        cells = [model, f"{next(r for r in rows if r['model'] == model)['dense']:.1f}"]
        for name in SEARCHES:
            r = by.get((model, name), {"error": "not run", "exit": ""})
            held = r.get("drop", 100.0) <= LIMIT
            counted.setdefault(name, []).append(r["speedup"] if held else 1.0)
            if "error" in r:
                cells += [f"exit {r['exit']}", "", "", "", ""]
                continue
            speed = f"{r['speedup']:.2f}" + ("" if held else " (not counted)")
            shown = [f"{r['macs']:.1%}", f"{r['stated']:.1f}", f"{r['drop']:.1f}", speed]
            cells += [*shown, f"{r['cpu'] / r['plain_cpu']:.1f}"]
        peer = by.get((model, "onnxsim"))
        counted.setdefault("onnxsim", []).append(peer["speedup"] if peer else 1.0)
        lines.append("| " + " | ".join([*cells, f"{peer['speedup']:.2f}" if peer else ""]) + " |")
    means = {n: math.exp(sum(map(math.log, v)) / len(v)) for n, v in counted.items()}
    said = ", ".join(f"{n} {m:.2f}" for n, m in means.items())
    return "\n".join(lines) + f"\n\nGeometric means (a true drop above {LIMIT:g} counts as 1.0): {said}.\n"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("collect", "table"))
    parser.add_argument("rows", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--evaluate", type=Path)
    parser.add_argument("--models", default="")
    parser.add_argument("--more", action="append", default=[], metavar="NAME=MODEL.onnx=DATA.npz=CALIB.npz")
    parser.add_argument("--peer", default="")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.verb == "collect":
        names, done = given.models.split(",") if given.models else [], {r["model"] for r in read_rows(given.rows)}
        for model in list_models(given.data, given.evaluate, given.more):
            if model.name not in done and (not names or model.name in names):
                for row in measure_model(model, given.peer, given.sweep):
                    with given.rows.open("a") as file:
                        print(json.dumps(row), file=file, flush=True)
                    print(json.dumps({k: v for k, v in row.items() if k != "search"}), flush=True)
        return
    text = format_table(read_rows(given.rows))
    print(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
