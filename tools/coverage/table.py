"""Which models work, and how far: one table of spa-compile beside Torch-Pruning and onnxsim, made in one run.

    python -m tools.coverage.table                                     everything, resumed where it stopped
    python -m tools.coverage.table swin_t resnet50                     these
    python -m tools.coverage.table --family timm --tools spa           ours only
    python -m tools.coverage.table --table docs/coverage.md            write the table from what has been measured

Models come from `zoo_models` and are exported with both exporters of PyTorch (`zoo`). Each file is analysed and
compiled twice, at half of the MACs and at half of the channels (`--criterion l2`: structure, not accuracy);
Torch-Pruning takes the PyTorch model and onnxsim the file, both at half of the channels (`peers`). Every measurement is
a process of its own with limits of time and memory, one at a time. Rows are kept in coverage.jsonl in the cache under
model, exporter, tool and the version of that tool's code; a row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tools import isolation
from tools.coverage import markdown as coverage_table
from tools.coverage import peers, zoo
from tools.isolation import Row

ROOT = Path(__file__).resolve().parents[2]
GB = 1 << 30
LIMITS = {"spa": (600.0, 14 * GB), "torch_pruning": (60.0, 14 * GB), "onnxsim": (120.0, 14 * GB)}
"""Seconds and bytes that one measurement may take; onnxsim's, in which we count MACs three times, takes longer."""
LARGE = 200e6
PASSES = ("normalize", "analyze", "erase", "score", "allocate", "remove", "verify")
PRELOAD = (*zoo.PRELOAD, "peers", "torch_pruning", "onnxsim", *(f"spa_compiler.passes.{name}" for name in PASSES))
"""Imported once, so that editing our sources does not change a run that is under way."""


def code_version(tool: str) -> str:
    """A key of what a row depends on beside the model: a hash of our sources, or the peer's version."""
    if tool != "spa":
        return version({"torch_pruning": "torch-pruning"}.get(tool, tool))
    home = Path(find_spec("spa_compiler").origin).parent  # type: ignore[union-attr, arg-type]
    sources = sorted([*home.rglob("*.py"), *(home.parent / "passes").glob("*.py")])
    return hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:12]


class Cache:
    """coverage.jsonl: the last row under a key counts, and a measurement after a failed export undoes that."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[tuple[str, str, str], Row] = {}
        for text in file.read_text().splitlines() if file.exists() else []:
            self._set(json.loads(text))

    def _set(self, row: Row) -> None:
        self.rows[self.key(row)] = row
        if row["tool"] != "export":
            self.rows.pop((row["model"], row["exporter"], "export"), None)

    @staticmethod
    def key(row: Row) -> tuple[str, str, str]:
        return row["model"], row["exporter"], row["tool"]

    def fresh(self, model: str, exporter: str, tool: str, code: str | None) -> Row | None:
        row = self.rows.get((model, exporter, tool))
        return row if row is not None and code in (None, row["code"]) else None

    def add(self, row: Row) -> None:
        self._set(row)
        with self.file.open("a") as out:
            out.write(json.dumps(row) + "\n")


# what is measured -----------------------------------------------------------------------------------------------------


def measure_spa(path: str) -> Row:
    """Seconds of normalising and analysis, frozen parameters by reason, and the two compiles.

    Half of the MACs is compiled up to the proof; half of the channels is the whole job, written and compared.
    """
    from spa_compiler.analysis.dependency_graph import analyze
    from spa_compiler.canonicalize.pipeline import normalize
    from spa_compiler.ir.reader import load
    from spa_compiler.pipeline.state import State

    source = load(Path(path))
    start = time.process_time()  # of the processor: other work on the machine does not count
    model, _ = normalize(source)
    done = time.process_time()
    graph = analyze(model)
    analyzed = time.process_time()
    row: Row = {
        "nodes": len(graph.sites), "groups": len(graph.groups),
        "parameters": sum(map(graph.count_parameters, graph.weights)), "frozen": graph.frozen_parameters(),
        "normalize_seconds": done - start, "analyze_seconds": analyzed - done,
        "stat_parameters": stat_parameters(graph),
    }  # fmt: skip
    row["macs"] = half_of_macs(replace(State.of(source, print), model=model, graph=graph))
    del source, model, graph
    row["channels"] = half_of_channels(path)
    return row


def stat_parameters(graph: Any) -> int:
    """Parameters that only groups with a statistic can cut."""
    plain = {m.value for g in graph.groups if not g.stat for m in g.members}
    live = {m.value for g in graph.groups for m in g.members}
    return sum(graph.count_parameters(n) for n in live - plain)


def half_of_macs(state: Any) -> Row:
    """The MACs left and the proof; or the error with its exit code."""
    from spa_compiler.analysis.cost import CostModel
    from spa_compiler.errors import SpaError
    from spa_compiler.pipeline.passes import Pipeline
    from spa_compiler.planning.plan import find_widths

    try:
        done = Pipeline.parse("erase,score{criterion=l2},allocate{of=macs,ratio=0.5},remove,verify").run(state)
    except SpaError as error:
        return {"error": f"{type(error).__name__}: {error}"[:600], "exit": error.exit_code}
    graph, check = done.require_graph(), done.proof.document()
    cost = CostModel(graph)
    dense, small = cost.totals({}), cost.totals(find_widths(graph, done.plan))
    return {
        "macs_left": small["macs"] / max(dense["macs"], 1), "params_left": small["params"] / max(dense["params"], 1),
        "error_of_scale": check["error"], "silent": len(check["silent"]), "cut": check["groups"],
    }  # fmt: skip


def half_of_channels(path: str) -> Row:
    """The channels left, the proof, seconds; or the error with its exit code."""
    import spa_compiler
    from spa_compiler.errors import SpaError

    start = time.perf_counter()
    try:
        report = spa_compiler.compile(path, ratio=0.5, of="channels", criterion="l2", latency=False).report
    except SpaError as error:
        return {"error": f"{type(error).__name__}: {error}"[:600], "exit": error.exit_code}
    check = report["verification"]["prune_equals_mask"]
    return {
        "macs_left": 1 - report["reached"]["macs"], "params_left": 1 - report["reached"]["params"],
        "error_of_scale": check["error"], "silent": len(check["silent"]), "cut": check["groups"],
        "seconds": time.perf_counter() - start, "peak_bytes": report["peak_memory_bytes"],
    }  # fmt: skip


MEASURES = {"spa": measure_spa, "onnxsim": peers.measure_onnxsim, "torch_pruning": peers.measure_torch_pruning}


# the run --------------------------------------------------------------------------------------------------------------


class Run:
    """One call of the program: what is measured, where it is kept, and which rows still count."""

    def __init__(self, folder: Path, tools: list[str], any_version: bool, retry: bool) -> None:
        self.folder, self.tools, self.retry = folder, tools, retry
        self.cache = Cache(folder / "coverage.jsonl")
        self.code = {tool: code_version(tool) for tool in tools}
        self.any_version = any_version
        isolation.preload(*PRELOAD)

    def find_made(self, name: str, exporter: str, tool: str) -> Row | None:
        """A row that need not be measured again."""
        return self.cache.fresh(name, exporter, tool, None if self.any_version else self.code[tool])

    def measure(self, name: str, exporter: str, tool: str, argument: str) -> Row:
        """A measurement, unless it has been made."""
        found = self.find_made(name, exporter, tool)
        if found is not None:
            return found
        start = time.perf_counter()
        row = isolation.run(MEASURES[tool], (argument,), *LIMITS[tool])
        row |= {"model": name, "exporter": exporter, "tool": tool, "code": self.code[tool]}
        self.cache.add(row)
        print(f"{name}.{exporter} {tool} {time.perf_counter() - start:.0f} s {coverage_table.brief(row)}", flush=True)
        return row

    def model(self, name: str, exporters: tuple[str, ...]) -> None:
        """Everything about one model of the zoo; a large file is gone afterwards."""
        for exporter in exporters:
            todo = [t for t in self.tools if t != "torch_pruning"]
            if all(self.find_made(name, exporter, t) for t in todo):
                continue
            error = zoo.run(name, exporter, self.folder, zoo.TIMEOUT, self.retry)
            if error:
                self.cache.add(
                    {"model": name, "exporter": exporter, "tool": "export", "code": "", "error": error[:1500]}
                )
                continue
            path = zoo.path_of(name, exporter, self.folder)
            for tool in todo:
                self.measure(name, exporter, tool, str(path))
            if path.stat().st_size > LARGE:
                path.unlink()
        if "torch_pruning" in self.tools:
            self.measure(name, "pytorch", "torch_pruning", name)

    def file(self, path: Path, exporter: str) -> None:
        """A model file that is there already."""
        for tool in self.tools:
            if tool != "torch_pruning":
                self.measure(path.stem, exporter, tool, str(path))


def text_models(folder: Path) -> list[Path]:
    """The unit graphs of the test suite, written out as files."""
    import sys

    import onnx

    sys.path.insert(0, str(ROOT / "tests" / "models"))
    import zoo_base

    spec = importlib_zoo()
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for name, case in spec.items():
        if case.runs:
            out.append(folder / f"{name}.onnx")
            onnx.save(zoo_base.build(case), out[-1])
    return out


def importlib_zoo() -> dict[str, Any]:
    """`CASES` of tests/models/zoo.py, whose name is that of tools/coverage/zoo.py."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("unit_zoo", ROOT / "tests" / "models" / "zoo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases: dict[str, Any] = module.CASES
    return cases


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--family", choices=["torchvision85", "torchvision", "torchvision_tasks", "timm",
                        "transformers", "recurrent", "dense", "scaling", "units", "files"])  # fmt: skip
    parser.add_argument("--data", type=Path, help="with --family files: a folder of .onnx files")
    parser.add_argument("--out", type=Path, default=zoo.cache(), help="default: $SPA_ZOO or ~/.cache/spa-compile/zoo")
    parser.add_argument("--tools", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--exporter", choices=zoo.EXPORTERS, help="one of them only")
    parser.add_argument("--any-version", action="store_true", help="rows of older code count, too")
    parser.add_argument("--retry", action="store_true", help="export again what could not be exported before")
    parser.add_argument("--table", type=Path, help="write the table of all rows, measure nothing")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    if a.table:
        a.table.write_text(coverage_table.markdown(Cache(a.out / "coverage.jsonl").rows))
        return
    run = Run(a.out, a.tools, a.any_version, a.retry)
    if a.family in ("units", "files"):
        paths = text_models(a.out / "units") if a.family == "units" else sorted(a.data.glob("*.onnx"))
        for path in paths:
            run.file(path, a.family)
        return
    for name in a.names or coverage_table.names(a.family):
        run.model(name, (a.exporter,) if a.exporter else zoo.EXPORTERS)


if __name__ == "__main__":
    main()
