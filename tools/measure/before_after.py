"""Compile the same files by two versions of spa-compile and write a table: groups, MACs left, time of each.

    git worktree add ../before COMMIT && python -m venv ../before/.venv && ../before/.venv/bin/pip install -e ../before
    python -m tools.measure.before_after --before ../before/.venv/bin/python FILE.onnx ... [--out TABLE.md]

The two versions take turns, file by file, each in a process of its own; seconds are of the processor. The compiled
files of both are then run in turns in one process: milliseconds are medians, at sizes that both take. Differences are
marked; a file that only one version compiles shows the other's message.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

Row = dict[str, Any]
WORKER = """
import json, sys, time
import spa_compiler
from spa_compiler import analyze, load, normalize
path, output, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
row = {}
try:
    start = time.process_time()
    graph = analyze(normalize(load(path))[0])
    row["analysis"] = time.process_time() - start
    row["groups"], row["units"] = len(graph.groups), sum(g.size * g.blocks for g in graph.groups)
    row["frozen"] = sum(graph.frozen_parameters().values())
    start = time.process_time()
    result = spa_compiler.compile(path, output=output, latency=False, **options)
    row["seconds"] = time.process_time() - start
    row["macs"] = result.report["compiled"]["macs"]
    row["nodes"] = len(result.model.graph.node)
except Exception as e:
    row["error"] = f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
print(json.dumps(row))
"""
MEASURED = 0.4
"""Seconds for which two compiled files are run in turns."""


def compile_by(python: str, path: Path, output: Path, options: Row) -> Row:
    """The row of one version for a file."""
    command = [python, "-P", "-c", WORKER, str(path), str(output), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    found: Row = json.loads(lines[-1]) if lines else {"error": done.stderr.strip()[-160:]}
    return found


def feed_of(session: ort.InferenceSession, number: int) -> dict[str, Any]:
    """Ones and small numbers for every input; symbolic axes get `number`, the first of each input 1."""
    kinds = {"float": np.float32, "double": np.float64, "float16": np.float16, "int64": np.int64, "int32": np.int32,
             "bool": np.bool_, "int8": np.int8, "uint8": np.uint8}  # fmt: skip
    rng, out = np.random.default_rng(0), {}
    for v in session.get_inputs():
        shape = [s if isinstance(s, int) else (1 if k == 0 else number) for k, s in enumerate(v.shape)]
        kind = kinds[v.type.partition("(")[2].rstrip(")")]
        out[v.name] = rng.normal(size=shape).astype(kind) if np.dtype(kind).kind == "f" else np.ones(shape, kind)
    return out


def milliseconds(files: list[Path]) -> list[float | None]:
    """Medians of compiled files that are run in turns; None where no size that was tried is taken by all."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    sessions = [ort.InferenceSession(str(f), options, providers=["CPUExecutionProvider"]) for f in files]
    for number in (64, 16, 5, 224, 1, 2560):
        try:
            feeds = [feed_of(s, number) for s in sessions]
            for s, f in zip(sessions, feeds, strict=True):
                s.run(None, f)
        except Exception:
            continue
        times: list[list[float]] = [[] for _ in sessions]
        stop = time.perf_counter() + MEASURED
        while len(times[0]) < 5 or time.perf_counter() < stop:
            for s, f, row in zip(sessions, feeds, times, strict=True):
                start = time.perf_counter()
                s.run(None, f)
                row.append((time.perf_counter() - start) * 1e3)
        return [statistics.median(t) for t in times]
    return [None] * len(files)


def row_of(path: Path, before: str, options: Row, scratch: Path) -> tuple[list[str], Row, Row]:
    """One file: a row of the table, and what was measured."""
    outputs = [scratch / f"{path.stem}.{k}.onnx" for k in ("before", "now")]
    a, b = (compile_by(p, path, o, options) for p, o in zip((before, sys.executable), outputs, strict=True))
    if "error" in a or "error" in b:
        shown = [r.get("error", f"{r.get('groups')} groups, {r.get('macs')} MACs") for r in (a, b)]
        return [path.name, *shown, *[""] * 6], a, b
    times = milliseconds(outputs)
    a["ms"], b["ms"] = times
    cells = [_pair(a[k], b[k]) for k in ("groups", "units", "frozen", "macs", "nodes")]
    cells += [f"{a[k]:.2f} / {b[k]:.2f}" for k in ("analysis", "seconds")]
    cells += ["" if None in times else f"{times[0]:.3f} / {times[1]:.3f}"]
    return [path.name, *cells], a, b


def _pair(before: int, now: int) -> str:
    return str(now) if before == now else f"**{before} / {now}**"


HEAD = ["file", "groups", "units", "frozen parameters", "MACs left", "nodes", "analysis s", "compile s", "ms"]


def main() -> None:
    """Write the table, and what the columns come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--before", required=True, help="the interpreter of the environment of the version before")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--criterion", default="l2")
    parser.add_argument("--of", default="channels")
    parser.add_argument("--differences", action="store_true", help="leave out rows that are the same")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    options = {"ratio": given.ratio, "criterion": given.criterion, "of": given.of}
    lines, same = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)], 0
    totals: dict[str, list[float]] = {k: [0.0, 0.0] for k in ("analysis", "seconds", "ms", "macs", "units")}
    with tempfile.TemporaryDirectory() as scratch:
        for path in given.files:
            cells, *both = row_of(path, given.before, options, Path(scratch))
            line = "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"
            print(line, flush=True)
            is_same = both[0].get("error") == both[1].get("error") and not any("**" in c for c in cells)
            same += is_same
            lines += [] if is_same and given.differences else [line]
            for name, sums in totals.items():
                if all(r.get(name) is not None for r in both):
                    sums[0], sums[1] = sums[0] + both[0][name], sums[1] + both[1][name]
    told = f"{same} of {len(given.files)} files have the same groups, units, frozen parameters, MACs and nodes."
    lines += ["", told, ""]
    lines += [*(f"{name}: {a:.2f} before, {b:.2f} now ({b / a:.3f})" for name, (a, b) in totals.items() if a)]
    print("\n".join(lines[-len(totals) - 3 :]))
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
