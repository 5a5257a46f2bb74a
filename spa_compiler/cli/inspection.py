"""The output of `spa compare` and `passes`, and what the commands share."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import onnx
from rich.table import Column, Table

from spa_compiler.analysis.cost import CostModel
from spa_compiler.analysis.cost_registry import find_costs, list_table_costs
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.calibration.user_inputs import decide_scale
from spa_compiler.compensation.policy import find_policy, find_policy_points
from spa_compiler.compiler import compile_file
from spa_compiler.datasets.dataset import open_dataset
from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.errors import (
    BudgetError,
    ModelError,
    NothingToPrune,
    VerificationError,
)
from spa_compiler.execution.inputs import parse_ranges
from spa_compiler.execution.outputs import run_arrays
from spa_compiler.execution.session import check_loads, list_outputs, open_file_session
from spa_compiler.ir.memory import USUAL_MEMORY, count_bytes, parse_bytes
from spa_compiler.ir.model import Model, find_element_type
from spa_compiler.ir.reader import load
from spa_compiler.ir.snapshots import Snapshot
from spa_compiler.ir.symbols import find_only_sizes
from spa_compiler.pipeline import passes
from spa_compiler.pipeline.options import Options, list_given, make_front_end, report_idle
from spa_compiler.pipeline.output_paths import list_named_files
from spa_compiler.pipeline.state import State
from spa_compiler.planning.device import find_devices
from spa_compiler.planning.scopes import find_scope, find_scope_points
from spa_compiler.report.document import format_si
from spa_compiler.scoring import registry
from spa_compiler.shape_inference.bindings import check_memory
from spa_compiler.verification.fidelity import Fidelity, draw_feeds, measure_fidelity
from spa_compiler.verification.latency import draw_sample, measure_latency
from spa_compiler.verification.on_data import measure_on_data
from spa_compiler.verification.signature import check_signature

SHOWN_SHARE = 0.01
"""Element types of less than this share of the constants are not in the table."""
DRAWING_OPTIONS = {"input_shape", "input_range", "seed"}
"""Options that say how inputs are drawn."""


def analyze_file(path: Path, input_shape: tuple[str, ...] = (), memory: str = USUAL_MEMORY) -> DependencyGraph:
    """Load, normalise and analyse a file whose values may take so much memory."""
    source = load(path, parse_bytes("--memory", memory))
    return make_front_end(Options(input_shape=input_shape)).run(State.of(source)).require_graph()


def open_sessions(paths: list[Path], options: Options) -> tuple[list[Any], Snapshot]:
    """A session for every file, and what the files were, those of --data too, before they were read."""
    out, files = [], Snapshot.of(list_named_files(options.data) if options.data else [])
    for path in paths:
        model = load(path, parse_bytes("--memory", options.memory))
        check_loads(model)
        check_memory(model)  # onnxruntime computes what follows from constants when it opens a file
        files = files.join(model.files)
        try:
            out.append(open_file_session(path, model.graph.nodes, 3, options.threads))
        except Exception as e:
            raise ModelError(f"{path}: onnxruntime cannot load it: {' '.join(str(e).split())[:300]}") from e
    return out, files


def check_alike(path: Path, dense: Any, compiled: Any, options: Options) -> None:
    """`check_signature`; what sizes the dense model takes is only looked at where it matters."""
    try:
        check_signature(dense, compiled)
    except VerificationError:
        check_signature(dense, compiled, find_only_sizes(analyze_file(path, options.input_shape, options.memory).model))


@dataclass(frozen=True)
class Measured:
    """By session: closeness to the first one, and accuracy where there are labels."""

    name: str
    fidelity: list[Fidelity]
    accuracy: list[float | None]
    has_labels: bool = False
    notes: tuple[str, ...] = ()


def measure_sessions(path: Path, sessions: list[Any], options: Options) -> Measured:
    """Every session on the data given, or on random inputs."""
    if not options.data:
        report_idle([n for n in list_given(options) if n == "preprocess"], "no --data is given")
        model = analyze_file(path, options.input_shape, options.memory).model
        feeds = draw_feeds(model, options.seed, parse_ranges(options.input_range, model))
        outputs = [[run_arrays(s, f) for f in feeds] for s in sessions]
        name = "random inputs"
        names = list_outputs(sessions[0])
        return Measured(name, [measure_fidelity(outputs[0], o, name, names) for o in outputs], [None] * len(sessions))
    model = load(path)
    data = open_dataset(options.data, model, parse_preprocess(options.preprocess))
    data.check()
    if data.is_unscaled:
        data = decide_scale(
            analyze_file(path, options.input_shape, options.memory), data, parse_ranges(options.input_range, model)
        )
    found = measure_on_data(sessions, data)
    first = found.first
    return Measured(data.name, found.fidelity, found.accuracy, first.labels is not None, first.notes)


def compare_files(dense: Path, others: list[Path], options: Options) -> dict[str, Any]:
    """The inputs that were fed, and a row a model: costs by unit, bytes of its files, bytes of constants by element
    type, milliseconds, cosine and accuracy.
    """
    paths = [dense, *others]
    sessions, files = open_sessions(paths, options)
    for s in sessions[1:]:
        check_alike(dense, sessions[0], s, options)
    found = measure_sessions(dense, sessions, options)
    model = analyze_file(dense, options.input_shape, options.memory).model
    feed = draw_sample(model, sessions, parse_ranges(options.input_range, model), options.seed)
    rows = []
    for path, session, close, right in zip(paths, sessions, found.fidelity, found.accuracy, strict=True):
        graph = analyze_file(path, options.input_shape, options.memory)
        totals = CostModel(graph).totals({})
        ms = measure_latency(sessions[0], session, feed, options.threads, seconds=0.5).compiled_ms
        costs = {c.unit: totals[c.unit] for c in list_table_costs()}
        rows.append({
            "model": str(path), **costs, "file_bytes": count_file_bytes(path), "types": count_type_bytes(load(path)),
            "latency_ms": ms, "cosine": close.cosine, "accuracy": right,
        })  # fmt: skip
    files.check()
    return {"inputs": found.name, "notes": list(found.notes), "rows": rows}


def count_file_bytes(path: Path) -> int:
    """Bytes on disk, external data among them."""
    return path.stat().st_size + sum((path.parent / f).stat().st_size for f in load(path).external)


def count_type_bytes(model: Model) -> dict[str, int]:
    """Bytes of all constants of a model as they are stored, by element type, most first."""
    found: dict[str, int] = {}
    for tensor in model.constants().values():
        kind = find_element_type(tensor)
        name = onnx.TensorProto.DataType.Name(kind).lower()
        found[name] = found.get(name, 0) + count_bytes(kind, tensor.shape)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def compare_with_random(dense: Path, others: list[Path], options: Options) -> dict[str, Any]:
    """The same, with a row beside each model: the dense one cut at random to as many multiply-accumulates.

    Weights shrink by the Erdős-Rényi kernel, nothing is updated. A model that cannot be reached so is left out with a
    note.
    """
    notes = list[str]()
    with tempfile.TemporaryDirectory(prefix="spa-compile-") as folder:
        paths = list[Path]()
        for k, path in enumerate(others):
            made = Path(folder) / str(k) / f"random.{path.name}"
            made.parent.mkdir()
            paths += [path, *_cut_at_random(dense, path, made, options, notes)]
        found = compare_files(dense, paths, options)
    for row in found["rows"]:
        row["model"] = Path(row["model"]).name if Path(folder) in Path(row["model"]).parents else row["model"]
    return {**found, "notes": [*found["notes"], *notes]}


def _cut_at_random(dense: Path, path: Path, made: Path, options: Options, notes: list[str]) -> list[Path]:
    """Write the dense model with as many multiply-accumulates as another one; nothing, with a note, where it cannot."""
    macs = [CostModel(analyze_file(p, options.input_shape, options.memory)).total("macs", {}) for p in (dense, path)]
    names = ("input_shape", "input_range", "memory", "seed", "threads")
    kept = {n: getattr(options, n) for n in names}
    ratio = 1 - macs[1] / macs[0] if macs[0] else 0.0
    if ratio > 0:
        asked = Options(ratio=ratio, criterion="random", scope="erk", align=1, latency=False, quality=False, **kept)
        try:
            compile_file(dense, made, asked)
            return [made]
        except (BudgetError, NothingToPrune) as e:
            notes.append(f"no random model beside {path.name}: {e}")
    else:
        notes.append(f"no random model beside {path.name}: it has no fewer MACs than {dense.name}")
    return []


def make_comparison_table(found: Mapping[str, Any]) -> Table:
    """One row a model."""
    costs = list_table_costs()
    first, rest = Column("model", overflow="fold"), ("file", "types", "median ms", "cosine", "accuracy")
    caption = "\n".join([f"cosine on {found['inputs']}", *found["notes"]])
    table = Table(first, *(c.title for c in costs), *rest, box=None, caption=caption)
    for row in found["rows"]:
        cosine = "" if row["cosine"] is None else f"{row['cosine']:.4f}"
        shown = "" if row["accuracy"] is None else f"{row['accuracy']:.2%}"
        whole = max(sum(row["types"].values()), 1)
        types = ", ".join(name for name, size in row["types"].items() if size >= SHOWN_SHARE * whole)
        numbers = *(format_si(row[c.unit]) for c in costs), format_si(row["file_bytes"])
        table.add_row(Path(row["model"]).name, *numbers, types, f"{row['latency_ms']:.3g}", cosine, shown)
    return table


def describe_passes() -> dict[str, dict[str, Any]]:
    """Passes with options and defaults; criteria, scopes, policies, costs and devices, each with a sentence."""
    kinds = {name: passes.find_pass_type(name) for name in sorted(passes.find_passes())}
    return {
        "passes": {
            name: {
                "text": _find_first_sentence(kind),
                "options": [
                    {"name": f.name} if f.default is MISSING else {"name": f.name, "default": f.default}
                    for f in passes.find_option_fields(kind)
                ],
            }
            for name, kind in kinds.items()
        },
        "criteria": {n: _find_first_sentence(registry.find_criterion(n)) for n in sorted(registry.find_criteria())},
        "scopes": {n: _find_first_sentence(find_scope(n)) for n in sorted(find_scope_points())},
        "policies": {n: _find_first_sentence(find_policy(n)) for n in sorted(find_policy_points())},
        "costs": {name: _find_first_sentence(cost) for name, cost in find_costs().items()},
        "devices": {d.name: f"{d.title}: {d.describe()} ({d.source})" for d in find_devices().values()},
    }


def list_passes(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The same as text."""
    yield "passes:"
    for name, entry in found["passes"].items():
        options = ", ".join(o["name"] + (f"={o['default']!r}" if "default" in o else "") for o in entry["options"])
        yield f"  {name}: {entry['text']}" + (f"\n      {options}" if options else "")
    for kind in ("criteria", "scopes", "policies", "costs", "devices"):
        yield f"{kind}:"
        yield from (f"  {name}: {text}" for name, text in found[kind].items())


def _find_first_sentence(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]
