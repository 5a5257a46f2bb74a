"""Show what other programs do with compiled models: simplifiers, onnxruntime's int8 quantiser, runtimes for the edge.

    python -m tools.measure.edge models WORK [--ratio 0.5] [--out TABLE.md]      # python: with spa-compile
        --peer onnxsim=PYTHON --peer onnxslim=PYTHON --peer openvino=PYTHON ...  # an environment that has each

Every model of the folder is compiled (`--device avx2`), and dense and compiled model go the same way: converted or
loaded, run on the held-out digits, compared with onnxruntime, and timed: one input, one thread, minimum. What fails for
the dense model, too, is marked as such: it says nothing of the compiled one. Every step is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.measure.edge_steps import STEPS

HEAD = ["model", "after", "loads", "largest difference", "top-1, dense → compiled", "ms, dense → compiled"]
DENSE, COMPILED = "dense", "compiled"
CLOSE = 1e-3
"""Of the largest value of the outputs: runtimes order their sums otherwise; int8 is judged by its top-1."""


def compile_model(source: Path, output: Path, ratio: float) -> None:
    """The compiled model of a file."""
    import spa_compiler

    spa_compiler.compile(source, ratio, output=output, device="avx2", latency=False)


def take_step(python: str, name: str, model: Path, data: Path, work: Path) -> dict[str, Any]:
    """One program with one model; an `error` where it failed."""
    work.mkdir(parents=True, exist_ok=True)
    command = [python, "-m", "tools.measure.edge_steps", name, str(model), str(data), str(work)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return {"error": "no result in 300 s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return {"error": (said[-1] if said else f"ended with {done.returncode}")[:100].replace("|", "/")}


def list_rows(models: list[Path], data: Path, peers: dict[str, str], work: Path, ratio: float) -> Iterator[list[str]]:
    """A row a model and program."""
    for source in models:
        compiled = work / source.name
        compile_model(source, compiled, ratio)
        for name, python in peers.items():
            found = {
                kind: take_step(python, name, model, data, work / name / source.stem / kind)
                for kind, model in ((DENSE, source), (COMPILED, compiled))
            }
            yield [source.stem, name, *describe(found[DENSE], found[COMPILED])]


def describe(dense: dict[str, Any], compiled: dict[str, Any]) -> list[str]:
    """Cells of a row, without those that name it."""
    if "error" in compiled:
        also = "dense fails, too: " if "error" in dense else "COMPILED ALONE FAILS: "
        return [also + compiled["error"], "", "", ""]
    if "error" in dense:
        return [
            "compiled alone; dense fails: " + dense["error"],
            f"{compiled['difference']:.0e}",
            f"- → {compiled['top1']:.1f}",
            f"- → {compiled['ms']:.3g}",
        ]
    is_wrong, is_dense_wrong = (f["exact"] and f["difference"] > CLOSE for f in (compiled, dense))
    if is_wrong:
        mark = "DIFFERS, dense, too" if is_dense_wrong else "COMPILED ALONE DIFFERS"
    else:
        mark = "yes; dense DIFFERS" if is_dense_wrong else "yes"
    return [
        mark,
        f"{dense['difference']:.0e} → {compiled['difference']:.0e}",
        f"{dense['top1']:.1f} → {compiled['top1']:.1f}",
        f"{dense['ms']:.3g} → {compiled['ms']:.3g}",
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=f"one of {', '.join(STEPS)}")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    from tools.measure.benchmark import markdown

    peers = {"onnxruntime": sys.executable} | dict(entry.split("=", 1) for entry in given.peer)
    given.work.mkdir(parents=True, exist_ok=True)
    models = sorted(given.folder.glob("digits_*.onnx"))
    text = markdown(HEAD, list_rows(models, given.folder, peers, given.work, given.ratio))
    if given.out:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
