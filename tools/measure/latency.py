"""How fast do models become: a share of the time asked for, beside the same share of the multiply-accumulates.

    python -m tools.measure.latency collect ROWS.jsonl MODEL.onnx ... [--criterion l2] [--threads 1,2]
    python -m tools.measure.latency table ROWS.jsonl > docs/latency.md

Both models run in turns in one process, and minima are compared: nothing makes a run shorter. Closeness is the cosine
of the outputs on the inputs that a compile judges by. A line a compile; those that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from spa_compiler.compiler import compile_file
from spa_compiler.errors import SpaError
from spa_compiler.execution.session import open_quiet_session
from spa_compiler.ir.model import Model
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.state import State
from spa_compiler.verification.latency import draw_sample, measure_latency
from spa_compiler.version import VERSION

SECONDS = 1.5
"""Time for which two files are run in turns."""
COSTS = ("latency", "macs")
Row = dict[str, Any]

HEAD = """# Latency

`--of latency --ratio R` asks for a share of the time, `--of macs` for the same share of the multiply-accumulates.
`python -m tools.measure.latency` made this page ({version}, onnxruntime {runtime}, {machine},
`--criterion {criterion}`): minima of alternating runs. Columns are the share of the time that went, that of
the MACs, and the cosine of the outputs with the dense model's.

How a latency is met: kernels of the model's contractions are timed at several widths (`spa_compiler/times.py`), groups
compete by error per millisecond, and models are measured until the time is the one asked for, within 5 points, or the
exit code is 4.

Where time does not follow the multiply-accumulates: convolutions of onnxruntime keep activations in blocks of 16
channels (AVX-512; 8 with AVX2), so that a layer of 16 that loses 4 takes as long as before, or a little longer; and a
model of a tenth of a millisecond spends most of it between its kernels. There a share of the MACs buys little time, and
a share of the time costs many MACs. Where no width is fast enough the exit code says so.
"""


def measure_pair(dense: Path, small: Path, model: Model, threads: int) -> dict[str, float]:
    """Minimum milliseconds of both files, on an input of the analysed model."""
    sessions = [open_quiet_session(str(p), 3, threads) for p in (dense, small)]
    found = measure_latency(sessions[0], sessions[1], draw_sample(model, sessions), threads, seconds=SECONDS)
    return {"dense_ms": found.dense_min_ms, "compiled_ms": found.compiled_min_ms}


def compile_once(source: Path, of: str, ratio: float, threads: int, criterion: str, known: dict[str, State]) -> Row:
    """One compile and what it gave; its exit code and message where there is no model."""
    row: Row = {"model": source.stem, "of": of, "ratio": ratio, "threads": threads, "criterion": criterion}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "small.onnx"
        options = Options(of=of, ratio=ratio, criterion=criterion, threads=threads, latency=False)
        try:
            made = compile_file(source, out, options, known=known)
        except SpaError as e:
            return row | {"exit": int(e.exit_code), "error": str(e)[:300], "seconds": time.perf_counter() - start}
        report = made.report
        row |= {"seconds": time.perf_counter() - start, "macs": report["reached"]["macs"]}
        row |= {"cosine": report["fidelity"]["cosine"], "status": report["status"]}
        return row | measure_pair(source, out, made.state.require_graph().model, threads)


def collect(given: argparse.Namespace) -> None:
    """Append a line for every compile that is not there."""
    seen = {_make_key(r) for r in read_rows(given.rows)} if given.rows.exists() else set()
    ratios = [float(r) for r in given.ratios.split(",")]
    with given.rows.open("a", encoding="utf-8") as file:
        for source in given.models:
            known: dict[str, State] = {}
            for threads in map(int, given.threads.split(",")):
                for ratio, of in ((r, c) for r in ratios for c in COSTS):
                    key = (source.stem, of, ratio, threads, given.criterion)
                    if key in seen:
                        continue
                    try:
                        row = compile_once(source, of, ratio, threads, given.criterion, known)
                    except Exception as e:
                        row = {**dict(zip(KEY, key, strict=True)), "exit": 70, "error": repr(e)[:300]}
                    print(json.dumps(row), file=file, flush=True)


KEY = ("model", "of", "ratio", "threads", "criterion")


def _make_key(row: Row) -> tuple[Any, ...]:
    return tuple(row[k] for k in KEY)


def read_rows(file: Path) -> list[Row]:
    """The lines of a file; the last one of each compile."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list({_make_key(r): r for r in rows}.values())


def measure_gain(row: Row) -> float | None:
    """The share of the time that went; None where there is no model."""
    return None if "exit" in row else 1 - row["compiled_ms"] / row["dense_ms"]


def find_mean_speed(rows: Iterable[Row]) -> float:
    """Geometric mean of how many times faster; 1 where there is no model."""
    logs = [0.0 if "exit" in r else math.log(r["dense_ms"] / r["compiled_ms"]) for r in rows]
    return math.exp(sum(logs) / max(len(logs), 1))


def list_lines(rows: Sequence[Row], machine: str) -> Iterator[str]:
    """The page."""
    criterion = rows[0]["criterion"]
    yield from HEAD.format(
        version=f"spa-compile {VERSION}", runtime=ort.__version__, machine=machine, criterion=criterion
    ).splitlines()
    for threads in sorted({r["threads"] for r in rows}):
        own = [r for r in rows if r["threads"] == threads]
        yield from ("", f"## {threads} thread{'s' * (threads > 1)}", "")
        yield from _list_means(own)
        yield ""
        yield "| model | asked | dense ms | by latency: time | MACs | cosine | by MACs: time | MACs | cosine |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for model, ratio in sorted({(r["model"], r["ratio"]) for r in own}):
            pair = {r["of"]: r for r in own if (r["model"], r["ratio"]) == (model, ratio)}
            if len(pair) == len(COSTS):
                dense = next((f"{r['dense_ms']:.3g}" for r in pair.values() if "exit" not in r), "")
                cells = [c for of in COSTS for c in _list_cells(pair[of])]
                yield f"| {model} | {ratio:.0%} | {dense} | {' | '.join(cells)} |"


def _list_cells(row: Row) -> list[str]:
    gain = measure_gain(row)
    if gain is None:
        return [f"exit {row['exit']}", "", ""]
    mark = " **slower**" if gain < -0.03 else ""
    close = "" if row["cosine"] is None else f"{row['cosine']:.3f}"
    return [f"{gain:.1%}{mark}", f"{row['macs']:.1%}", close]


def _list_means(rows: Sequence[Row]) -> Iterator[str]:
    for of in COSTS:
        for ratio in sorted({r["ratio"] for r in rows}):
            own = [r for r in rows if (r["of"], r["ratio"]) == (of, ratio)]
            made = [r for r in own if "exit" not in r]
            gains = [g for r in made if (g := measure_gain(r)) is not None]
            near = sum(abs(g - ratio) <= 0.05 for g in gains)
            text = (
                f"- `--of {of} --ratio {ratio:g}`: {find_mean_speed(made):.2f} times faster (mean of {len(made)} files)"
            )
            text += f", {sum(g < -0.03 for g in gains)} slower than dense"
            text += f", {near} within 5 points of the time asked for" if of == "latency" else ""
            yield text + (f"; {len(own) - len(made)} without a model (exit 4, 5)" if len(own) > len(made) else "")


def main() -> None:
    """Collect lines, or print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("collect")
    one.add_argument("rows", type=Path)
    one.add_argument("models", type=Path, nargs="+")
    one.add_argument("--criterion", default="l2")
    one.add_argument("--threads", default="1,2")
    one.add_argument("--ratios", default="0.3,0.5")
    one.set_defaults(run=collect)
    two = commands.add_parser("table")
    two.add_argument("rows", type=Path)
    two.add_argument("--machine", default="2 cores")
    two.set_defaults(run=lambda given: print("\n".join(list_lines(read_rows(given.rows), given.machine))))
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
