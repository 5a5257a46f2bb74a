"""How well is the drop of a compiled model estimated? Compiles many, measures their true drop, fits the curve.

    python -m tools.measure.verdicts collect ROWS.jsonl --data DIR --evaluate SCRIPT [--models NAME,...] [--sources ...]
    python -m tools.measure.verdicts fit ROWS.jsonl [--curve spa_compiler/quality/curve.json] [--table TABLE.md]

`collect` compiles every model with labelled data (those of DIR/manifest.json, the digits models of models/, and with
--more NAME=MODEL.onnx=DATA.npz=CALIB.npz others) at 0.1, 0.3 and 0.5 fewer MACs: without data, with 128 real inputs,
and by magnitude without any update. Where no calibration file exists, odd rows calibrate and even rows are measured,
dense too. Each compile is one line of ROWS: its evidence, as the report has it, and its true drop. Lines that are there
are not made again.

`fit` judges each family of models by a curve that was fitted without it, writes the table with what that gave, and the
curve of all.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from scipy.stats import spearmanr

from spa_compiler import analyze, load, normalize
from spa_compiler.execution.session import open_quiet_session
from spa_compiler.quality.estimate import MOST_DROP, estimate_drop, find_curve, find_points, list_features
from spa_compiler.quality.evidence import Evidence
from spa_compiler.quality.inputs import choose_inputs
from spa_compiler.quality.judgement import measure_worth
from spa_compiler.quality.verdict import judge_drop
from tools.measure.accuracy import module

Array = NDArray[Any]
ROOT = Path(__file__).resolve().parents[2]
RATIOS = ("0.1", "0.3", "0.5")
REAL = 128
SOURCES: dict[str, dict[str, str]] = {"no data": {}, "128 real": {"calib": "REAL"}, "magnitude": {"criterion": "l2"}}
"""Options by what they are called in the table; REAL is a file of real inputs."""
FAMILIES = {
    "akamaster": "CIFAR ResNets", "distiller": "CIFAR ResNets", "smmk47": "CIFAR ViTs",
    "imagenet_squeezenet": "SqueezeNet", "SqueezeNet": "SqueezeNet", "keras_kws": "DS-CNNs", "kws_mcu_DS": "DS-CNNs",
    "digits": "digits",
}  # fmt: skip
"""Models whose compiles are left out together, by the beginning of their names; others are families of one."""
FEATURES = {
    "classes": ("constant", "disagreement", "unexplained"),
    "foreign": ("constant", "disagreement", "unexplained"),
    "others": ("constant", "unexplained"),
}
RIDGE = 0.01


@dataclass(frozen=True)
class Measured:
    """A model, its metric in percent as a function of a file, and real inputs that the metric does not see."""

    name: str
    path: Path
    x: Array
    y: Array
    real: Array
    task: dict[str, Any]
    metric: Any = None

    def measure(self, path: Path, even: bool) -> float:
        """The metric of a file, on all rows or on even ones."""
        x, y = (self.x[::2], self.y[::2]) if even else (self.x, self.y)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        if self.task.get("data") == "ad_car":
            return _measure_anomalies(session, x, y, self.metric)
        logits = _run(session, x, self.task.get("batch", 50))[:, self.task.get("drop", 0) :]
        return 100 * float((logits.argmax(1) == y[: len(logits)]).mean())


def _run(session: ort.InferenceSession, x: Array, batch: int) -> Array:
    feed = session.get_inputs()[0]
    fixed = isinstance(feed.shape[0], int) and feed.shape[0] > 0
    batch = feed.shape[0] if fixed else batch
    x = x.astype(np.float16) if feed.type == "tensor(float16)" else x
    stop = len(x) - len(x) % batch if fixed else len(x)
    chunks = [x[i : i + batch] for i in range(0, stop, batch)]
    return np.concatenate([session.run(None, {feed.name: c})[0].reshape(len(c), -1) for c in chunks])


def _measure_anomalies(session: ort.InferenceSession, x: Array, y: Array, metric: Any) -> float:
    scores = []
    for row in x:
        windows = np.stack([row[i : i + 640] for i in range(0, len(row) - 640 + 1, 128)])
        scores.append(float(((_run(session, windows, 100) - windows) ** 2).mean()))
    return float(metric.auc(np.array(scores), y))


def list_models(data: Path, evaluate: Path, more: Sequence[str]) -> Iterator[Measured]:
    """Every model with labelled data."""
    test = np.load(ROOT / "models" / "digits_test.npz")
    real = np.load(ROOT / "models" / "digits_calib.npz")["x"]
    for path in sorted((ROOT / "models").glob("digits_*.onnx")):
        yield Measured(path.stem, path, test["x"], test["y"], real, {"apart": True})
    for text in more:
        name, model, labelled, calib = text.split("=")
        arrays, spare = np.load(labelled), np.load(calib)
        yield Measured(name, Path(model), arrays["x"], arrays["y"], next(iter(spare.values())), {"apart": True})
    metric = module(evaluate)
    for entry in json.loads((data / "manifest.json").read_text()):
        if entry["task"] is None:
            continue
        task = entry["task"]
        x, y = metric.load(task, data)
        real = x[1::2]
        if task["data"] == "cifar10":
            real, task = metric.calibration(task, data, REAL), {**task, "apart": True}
        elif task["data"] == "ad_car":
            real = np.concatenate([x[1::2][:, i : i + 640] for i in range(0, x.shape[1] - 639, 1280)])
        yield Measured(entry["name"], data / "models" / f"{entry['name']}.onnx", x, y, real, task, metric)


WORKER = """
import json, sys
from pathlib import Path
from spa_compiler.compiler import compile_file
from spa_compiler.errors import SpaError
from spa_compiler.pipeline.options import Options
source, folder, options, ratios = json.loads(sys.argv[1])
known = {}
for ratio in ratios:
    target = Path(folder) / f"{ratio}.onnx"
    try:
        options |= {"ratio": float(ratio), "latency": False, "threads": 1}
        report = compile_file(Path(source), target, Options(**options), known=known).report
    except SpaError as e:
        report = {"error": str(e)}
    target.with_suffix(".json").write_text(json.dumps(report))
"""
"""Compiles of one model at several ratios: what does not depend on the ratio is done once, as in a sweep."""


def collect(models: Iterable[Measured], sources: Sequence[str], ratios: Sequence[str], rows: Path) -> None:
    """Append a line for every compile that ROWS does not have."""
    done = {(r["model"], r["source"], r["ratio"]) for r in read_rows(rows)}
    for model in models:
        for source in sources:
            wanted = [r for r in ratios if (model.name, source, r) not in done]
            if not wanted:
                continue
            even = source == "128 real" and not model.task.get("apart")
            dense = model.measure(model.path, even)
            for ratio, found in compile_rows(model, SOURCES[source], wanted, even):
                row = {"model": model.name, "source": source, "ratio": ratio, "dense": dense, **found}
                with rows.open("a") as file:
                    print(json.dumps(row), file=file, flush=True)
                print(row["model"], source, ratio, row["dense"], row.get("compiled", row.get("error")), flush=True)


def compile_rows(
    model: Measured, options: dict[str, str], ratios: Sequence[str], even: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compile in a process of its own; the evidence and the true metric at each ratio."""
    with tempfile.TemporaryDirectory() as folder:
        real = Path(folder) / "real.npz"
        np.savez(real, x=model.real[:REAL])
        given = {n: str(real) if v == "REAL" else v for n, v in options.items()}
        arguments = json.dumps([str(model.path), folder, given, list(ratios)])
        done = subprocess.run([sys.executable, "-c", WORKER, arguments], capture_output=True, text=True, check=False)
        for ratio in ratios:
            target = Path(folder) / f"{ratio}.onnx"
            if not target.with_suffix(".json").exists():
                yield ratio, {"error": (done.stderr.strip().splitlines() or ["failed"])[-1]}
                continue
            found = json.loads(target.with_suffix(".json").read_text())
            if "error" in found:
                yield ratio, found
                continue
            yield ratio, {
                "compiled": model.measure(target, even), "macs": found["reached"]["macs"], "quality": found["quality"],
                "drawn": collect_drawn(model.path, target) if found["quality"]["kind"] == "used" else None,
                "compensated": found["compensation"] is not None, "seconds": found["seconds"]["total"],
            }  # fmt: skip


def collect_drawn(dense: Path, compiled: Path) -> dict[str, Any]:
    """Evidence on drawn inputs, beside that on given ones that calibration used."""
    inputs = choose_inputs(analyze(normalize(load(dense))[0]), None, 0, None)
    sessions = [open_quiet_session(str(f), 3, 1) for f in (dense, compiled)]
    worth = measure_worth(sessions, inputs)
    return {"kind": worth.kind, "evidence": worth.evidence.document()}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def find_family(name: str) -> str:
    """Models that are left out together."""
    return next((f for start, f in FAMILIES.items() if name.startswith(start)), name)


@dataclass(frozen=True)
class Point:
    """One compile: what the curve is linear in, and the true drop."""

    model: str
    source: str
    ratio: str
    features: dict[str, float]
    curve: str
    drop: float


def make_points(rows: Iterable[dict[str, Any]]) -> list[Point]:
    """Compiles with evidence that tells something."""
    out = []
    for row in rows:
        if "error" in row or row["quality"]["kind"] in ("noise", "guessed"):
            continue
        judged = row["quality"]
        if row.get("drawn") and row["drawn"]["kind"] == "drawn":  # rows of an earlier choice of inputs
            judged = row["drawn"]
        evidence = Evidence(**judged["evidence"])
        features = list_features(evidence)
        if estimate_drop(evidence, judged["kind"]) is None:
            continue
        curve = find_curve(evidence, "foreign" if row["source"] == "128 real" else judged["kind"])
        out.append(Point(row["model"], row["source"], row["ratio"], features, curve, row["dense"] - row["compiled"]))
    return out


def fit_curve(points: Sequence[Point], curve: str) -> dict[str, Any]:
    """Weights by ridge regression, none below 0, and the residuals between which four of five lie.

    Every family counts the same. A constant below 0 would call all small differences the same. The curve without
    classes is fitted on all compiles, those with classes among them, by explained variance alone.
    """
    names = FEATURES[curve]
    mine = [p for p in points if curve == "others" or p.curve == curve]
    families = [find_family(p.model) for p in mine]
    share = np.array([1 / math.sqrt(families.count(f)) for f in families])
    x = np.array([[p.features[n] for n in names] for p in mine])
    y = np.sqrt(np.clip([p.drop for p in mine], 0, MOST_DROP))
    penalty = math.sqrt(RIDGE) * np.diag([0.0, *[1.0] * (len(names) - 1)])
    least = [0.0] * len(names)  # what differs more is never called better
    both = np.vstack([x * share[:, None], penalty]), np.concatenate([y * share, np.zeros(len(names))])
    weights = lsq_linear(*both, bounds=(least, np.inf)).x
    low, high = np.quantile(y - x @ weights, (0.1, 0.9))
    return {"weights": {n: round(float(w), 4) for n, w in zip(names, weights, strict=True)},
            "low": round(min(float(low), 0.0), 3), "high": round(max(float(high), 0.0), 3)}  # fmt: skip


def predict(curve: dict[str, Any], p: Point) -> float:
    """The estimate in points."""
    return find_points(sum(w * p.features[n] for n, w in curve["weights"].items()))


def leave_out(points: Sequence[Point]) -> list[float]:
    """Each compile as a curve estimates it that was fitted without its family."""
    out = []
    for p in points:
        others = [q for q in points if find_family(q.model) != find_family(p.model)]
        out.append(predict(fit_curve(others, p.curve), p))
    return out


def summarize(points: Sequence[Point], estimates: Sequence[float]) -> list[str]:
    """How good the estimates are, in lines."""
    true = np.array([p.drop for p in points])
    guess = np.array(estimates)
    words = np.array([judge_drop(float(e)) for e in estimates])
    lost, kept = true > 5, true <= 1
    right = np.mean([judge_drop(float(t)) == w for t, w in zip(true, words, strict=True)])
    good = words[kept] == "GOOD"
    return [
        f"{len(points)} compiles, rank correlation {spearmanr(true, guess).statistic:.3f}",
        f"of {lost.sum()} that lost over 5 points: {(words[lost] == 'GOOD').sum()} called GOOD, "
        f"{(words[lost] == 'POOR').sum()} POOR ({(words[lost] == 'POOR').mean():.0%})",
        f"of {kept.sum()} that lost at most 1: {good.sum()} called GOOD ({good.mean():.0%})",
        f"verdict as the true drop has it: {right:.0%}",
    ]


def make_table(points: Sequence[Point], estimates: Sequence[float]) -> str:
    """One row a model and source: true and estimated drop at each ratio."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for p, e in zip(points, estimates, strict=True):
        cells.setdefault((p.model, p.source), {})[p.ratio] = f"{p.drop:.1f} / {e:.1f} {judge_drop(e)}"
    head = ["model", "inputs", *(f"{float(r):.0%}" for r in RATIOS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join([*key, *(found.get(r, "") for r in RATIOS)]) + " |" for key, found in cells.items()]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("collect", "fit"))
    parser.add_argument("rows", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--evaluate", type=Path)
    parser.add_argument("--models", default="")
    parser.add_argument("--more", action="append", default=[], metavar="NAME=MODEL=DATA=CALIB")
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--ratios", default=",".join(RATIOS))
    parser.add_argument("--curve", type=Path)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    if given.what == "collect":
        names = [n for n in given.models.split(",") if n]
        found = {m.name: m for m in list_models(given.data, given.evaluate, given.more)}
        models = (found[n] for n in names if n in found) if names else found.values()
        collect(models, given.sources.split(","), given.ratios.split(","), given.rows)
        return
    points = make_points(read_rows(given.rows))
    estimates = leave_out(points)
    lines = [f"- {line}" for line in summarize(points, estimates)]
    updated = [k for k, p in enumerate(points) if "criterion" not in SOURCES.get(p.source, {})]
    lines += ["", "Of these without data and with 128 real inputs, where weights were updated:", ""]
    lines += [f"- {line}" for line in summarize([points[k] for k in updated], [estimates[k] for k in updated])]
    print("\n".join(lines))
    if given.table:
        given.table.write_text("\n".join([*lines, "", make_table(points, estimates), ""]))
    if given.curve:
        given.curve.write_text(json.dumps({c: fit_curve(points, c) for c in FEATURES}, indent=1) + "\n")


if __name__ == "__main__":
    main()
