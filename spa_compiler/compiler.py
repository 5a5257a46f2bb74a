"""A compile from file to file: build the pipeline from options, run it, prove the result, then write it.

    result = compile("m.onnx", ratio=0.5)
    result.report["compiled"]["macs"], result.model

Nothing is written where the caller asked until every check has passed; inputs are never touched.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import onnx
import onnxruntime as ort

from spa_compiler.analysis.cost import CostModel
from spa_compiler.calibration.inputs import has_folded_norms
from spa_compiler.calibration.user_inputs import check_scale, decide_scale
from spa_compiler.canonicalize.constant_sharing import retie_constants
from spa_compiler.datasets.dataset import Dataset, open_dataset
from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.datasets.summary import summarize_dataset
from spa_compiler.errors import GateError, ModelError, UsageError, VerificationError
from spa_compiler.execution.inputs import parse_ranges
from spa_compiler.execution.parallel import PROCESSORS, bound_threads
from spa_compiler.execution.session import check_loads, find_deadly_signal, open_file_session
from spa_compiler.execution.time_limit import limit_time
from spa_compiler.exit_codes import ExitCode
from spa_compiler.ir.external_data import PROTOBUF_LIMIT
from spa_compiler.ir.memory import parse_bytes
from spa_compiler.ir.reader import load, read_proto
from spa_compiler.ir.snapshots import Snapshot
from spa_compiler.ir.symbols import find_only_sizes
from spa_compiler.ir.writer import restore_sparse, write
from spa_compiler.output import open_scratch, publish
from spa_compiler.pipeline.option_values import OptionsBesideRatio
from spa_compiler.pipeline.options import Options, find_idle, pipeline_of, report_idle
from spa_compiler.pipeline.output_paths import check_apart, check_output, list_named_files, pass_files
from spa_compiler.pipeline.passes import Pipeline, find_inner, find_providers, iterate_deep, make_pass
from spa_compiler.pipeline.provenance import Provenance
from spa_compiler.pipeline.state import PYTHON_PREFIX, Pass, State, find_given
from spa_compiler.planning.budget_check import check_budget
from spa_compiler.planning.device import HOST, check_measurable, find_device
from spa_compiler.planning.kernel_times import UNIT, KernelTimes, add_times, read_times
from spa_compiler.planning.plan import Plan, find_widths
from spa_compiler.quality.gates import Gate, describe_missed, judge_gates, parse_gates
from spa_compiler.quality.inputs import choose_inputs, draw_noise
from spa_compiler.quality.judgement import Worth, measure_worth, measure_worth_on_data
from spa_compiler.quality.verdict import advise
from spa_compiler.report.contractions import list_contraction_rows, time_contractions
from spa_compiler.report.document import list_metric_names, list_metrics, summarize
from spa_compiler.report.environment import describe_environment
from spa_compiler.report.numbers import replace_unfinite
from spa_compiler.verification.feeds import Feed
from spa_compiler.verification.latency import Latency, draw_sample, measure_latency
from spa_compiler.verification.signature import check_signature
from spa_compiler.version import VERSION

Progress = Callable[[str], None]
LOGGER = logging.getLogger("spa_compiler")
"""Hears of every step (INFO) where nobody else wants to."""
SLOWER_MEASUREMENTS = 3
"""Measurements after which a model counts as slower than the dense one."""
STATUS_FILE = Path("/proc/self/status")


@dataclass(frozen=True)
class Result:
    """The compiled model and the report (docs/report.md); `plan` can be saved and applied again."""

    model: onnx.ModelProto
    report: dict[str, Any]
    state: State = field(repr=False)

    @property
    def plan(self) -> Plan:
        """Which channels stay."""
        return self.state.plan


def compile(  # noqa: A001  # the public name, used as spa_compiler.compile
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    ratio: float | Mapping[str, float] | Sequence[float | str] | str | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Unpack[OptionsBesideRatio],
) -> Result:
    """Compile a model: a file, the bytes of one, or a ModelProto, which are not changed.

    `ratio` may also be shares of parts, by pattern: `{"unet/*": 0.35}`. `output` is written when it is given. Options
    as on the command line (see `Options`); patterns may be one text, a list of texts or a dictionary:
    `group_ratio={"layer1*": 0.2}`, `input_shape={"x": (1, 3, 224, 224)}`. `calib` and
    `data` may also be arrays, dictionaries of arrays by input (labels: `y`), iterables of such, or readers with
    `get_next`. Raises SpaError: VerificationError, UsageError, ModelError, BudgetError, NothingToPrune, GateError.
    """
    values: dict[str, Any] = dict(options)
    given = {f"{PYTHON_PREFIX}{n}": v for n in ("calib", "data") if _is_object(v := values.get(n))}
    for name in ("calib", "data"):
        if (value := values.get(name)) is not None:
            values[name] = f"{PYTHON_PREFIX}{name}" if _is_object(value) else os.fspath(value)
    target = Path(output) if output else None
    chosen = Options(ratio=ratio, **values)
    if isinstance(model, str | os.PathLike):
        with limit_time(chosen.time_limit):
            return compile_file(Path(model), target, chosen, progress, given=given)
    folder = Path(tempfile.mkdtemp(prefix="spa-compile-"))
    try:
        with limit_time(chosen.time_limit):
            result = compile_file(_save_model(model, folder), target, chosen, progress, given=given)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)  # its state may read weights from the file
    return result


def _save_model(model: bytes | onnx.ModelProto, folder: Path) -> Path:
    """A file of a model that is in memory, in a folder of its own; weights beside it where it is too large for one."""
    file = folder / "model.onnx"
    if isinstance(model, bytes):
        file.write_bytes(model)
    elif model.ByteSize() <= PROTOBUF_LIMIT:
        file.write_bytes(model.SerializeToString())
    else:
        write(model, folder, file)
    return file


def _is_object(value: Any) -> bool:
    """Is it neither a text nor a path?"""
    return value is not None and not isinstance(value, str | os.PathLike)


def compile_file(
    source: Path, output: Path | None, options: Options, progress: Progress | None = None,
    known: dict[str, State] | None = None, beside: Iterable[tuple[str, Path]] = (),
    given: Mapping[str, object] | None = None,
) -> Result:  # fmt: skip
    """The whole job. The output and its external data appear at once, or not at all.

    `beside`: files that the caller is going to write afterwards, with what they are called in a message. `known` keeps
    the states before a budget is met, by the passes run: given again for the same file, they are not run again. `given`
    are inputs that are objects, by what the options call them. The caller limits the time (`limit_time`).
    """
    start = time.perf_counter()
    asked, gates = pipeline_of(options), parse_gates(options.fail_under, list_metric_names())
    unread = report_idle(find_idle(options), f"the passes are {asked}", lenient=options.ratio == 0)
    _check_proof(asked)
    asked.complete()
    steps = asked.resolve()
    _check_gate_names(gates, options, steps)
    tell = progress or LOGGER.info
    tell("load")
    first, rest = steps.split("scores")  # what comes before does not depend on the budget
    named = pass_files(steps) | dict.fromkeys(list_named_files(options.data), "what --data reads")
    before = Snapshot.of(named)
    state = (known or {}).get(str(first)) or _first_state(source, options, tell)
    read_files = named | dict.fromkeys(state.source.files.states, "the input or its external data")
    if output is not None:
        check_output(output, options.dry_run)
    check_apart(read_files, [*([("-o", output)] if output is not None else []), *beside])
    data = _open_data(state, options, given or {})
    known_times = _read_times(state, options, steps)
    loaded = time.perf_counter() - start
    if not state.done:
        state = first.run(replace(state, given=given or {}))
    if known is not None:
        known[str(first)] = state
    state = rest.run(state)
    if state.graph is None:  # what measures the file asks the graph, whatever the passes did
        state = Pipeline(tuple(make_pass(n) for n in find_providers("graph")[:1])).run(state)
    if not state.plan.is_empty and state.pruned is None:
        apply = ",".join(_name_passes("pruned", "proof"))
        raise UsageError(f"the pipeline makes a plan and does not apply it: put `{apply}` at its end")
    if not state.plan.is_empty and state.proof is None:
        raise UsageError(_describe_unproven())
    text = str(steps.settle(state))
    with open_scratch(output if not options.dry_run else None) as scratch:
        file = scratch / (output.name if output else "compiled.onnx")
        proto, dense = _write(state, text, file, options)
        tell("compare")
        report = _make_report(state, text, file, options, data, known_times)
        report["notes"] += [*dense, *unread]
        if report["device"] is not None:
            report["device"] = {**report["device"], "is_assumed": HOST in _list_devices(asked)}
        report["seconds"] = {"load": loaded, **state.seconds, **report["seconds"], "total": time.perf_counter() - start}
        report["gates"] = judge_gates(gates, list_metrics(report))
        _check_budget(state, report, options)
        if missed := describe_missed(report["gates"]):
            report |= {"status": "GATE_MISSED", "exit_code": int(ExitCode.GATE_MISSED)}
            raise GateError(f"{missed}; no model was written", replace_unfinite(report))
        state.source.files.join(before).check()
        if output is not None and not options.dry_run:
            report["output"] |= {"path": str(output), "data": _find_data_name(file)}
            publish(scratch, output, read_files)
    return Result(proto, replace_unfinite(report), state)


def list_steps(options: Options) -> list[str]:
    """The steps that a run tells of, in their order: reading the file, its passes, comparing what was written.

    Some may be left out (nothing was edited, so that nothing is analysed again), and some come again (a plan that is
    made again). Raises UsageError for options that contradict each other.
    """
    return ["load", *_list_begun(pipeline_of(options).complete().iterate_flat()), "compare"]


def _list_begun(steps: Iterable[Pass]) -> Iterator[str]:
    """Names of passes in the order in which they begin."""
    for step in steps:
        yield step.name
        yield from _list_begun(find_inner(step))


def _first_state(source: Path, options: Options, tell: Progress) -> State:
    """The state before the first pass, and how inputs are drawn."""
    state = State.of(load(source, parse_bytes("--memory", options.memory)), tell)
    check_loads(state.source)  # a second, before minutes of work
    return replace(state, seed=options.seed, ranges=parse_ranges(options.input_range, state.source))


def _open_data(state: State, options: Options, given: Mapping[str, object]) -> Dataset | None:
    """The data set of --data, as far as it can be looked at before the work."""
    said = parse_preprocess(options.preprocess)
    if not options.data:
        return None
    data = open_dataset(find_given("--data", options.data, given), state.source, said, options.data)
    data.check()
    return data


def _find_data_name(file: Path) -> str | None:
    """The name of the external data of a model that was just written."""
    return next((p.name for p in file.parent.iterdir() if p.name != file.name), None)


def _check_proof(steps: Pipeline) -> None:
    """Raise UsageError for a text that rewrites and never proves it, before any work is done."""
    rewritten, proven = steps.find_index("pruned"), steps.find_index("proof")
    if rewritten is not None and (proven is None or proven < rewritten):
        raise UsageError(_describe_unproven())


def _name_passes(*provided: str) -> list[str]:
    """A pass for each of these fields that provides it."""
    return [find_providers(n)[0] for n in provided]


def _describe_unproven() -> str:
    rewrite, proof = _name_passes("pruned", "proof")
    return f"the pipeline does not prove its rewrite: put `{proof}` after `{rewrite}`"


def _list_devices(steps: Pipeline) -> list[str]:
    """Devices that passes make widths for, without those of which there are times."""
    found = [s for s in iterate_deep(steps.iterate_flat()) if not getattr(s, "times", "")]
    return [str(name) for step in found if (name := getattr(step, "device", ""))]


def _read_times(state: State, options: Options, steps: Pipeline) -> KernelTimes | None:
    """The times of another machine that were given, to the command or to a pass."""
    given = [options.times, *(getattr(s, "times", "") for s in iterate_deep(steps.iterate_flat()))]
    file = next((f for f in given if f), "")
    return read_times(Path(file), state.source.files.digest(state.source.path)) if file else None


def _predict_latency(state: State, known: KernelTimes) -> Latency:
    """Milliseconds of the machine that the times are from, which is not this one."""
    graph, dense = state.require_graph(), known.dense_ms
    small = add_times(CostModel(graph), known).total(UNIT, find_widths(graph, state.plan))
    threads, sizes = known.document["threads"], known.document["inputs"]
    return Latency(dense, dense, dense, small, small, small, "predicted", threads, 0, sizes)


def _check_gate_names(gates: Iterable[Gate], options: Options, steps: Pipeline) -> None:
    """Raise UsageError for a gate on what these options do not measure."""
    for gate in gates:
        if gate.metric in ("speedup", "latency_ms"):
            for name in _list_devices(steps):
                check_measurable(find_device(name), f"--fail-under {gate.text}")
        if gate.metric in ("speedup", "latency_ms") and not options.latency:
            raise UsageError(f"--fail-under {gate.text}: not measured with --no-latency")
        if gate.metric == "drop" and not (options.quality or options.data):
            raise UsageError(f"--fail-under {gate.text}: not measured with --no-quality")
        if gate.metric.startswith("accuracy") and not options.data:
            raise UsageError(f"--fail-under {gate.text}: not measured without labels, give --data with labels")


def _write(state: State, text: str, file: Path, options: Options) -> tuple[onnx.ModelProto, list[str]]:
    """Write the compiled model to a scratch file; where nothing was removed it is the input, byte for byte.

    The second value is notes about what is written in another form.
    """
    if not state.is_changed():
        proto = read_proto(state.source.path)
        if state.source.external:
            write(proto, state.source.folder, file)
        else:
            shutil.copyfile(state.source.path, file)
        return proto, []
    model = state.model.copy()
    retie_constants(model)
    proto = model.proto()
    dense = restore_sparse(proto, state.source)
    _describe_provenance(state, text, options).write(proto)
    write(proto, state.source.folder, file)
    return proto, dense


def _describe_provenance(state: State, text: str, options: Options) -> Provenance:
    source = state.source.files.digest(state.source.path)
    return Provenance(VERSION, text, source, state.plan.digest(), str(options.seed))


def _check_file(state: State, file: Path) -> None:
    """onnx.checker with shape inference; what it refuses in the source, too, is not our doing."""
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except Exception as e:
        try:
            onnx.checker.check_model(str(state.source.path), full_check=True)
        except Exception:
            return
        raise VerificationError(f"the compiled model is invalid: {str(e).strip()}") from e


def _make_report(
    state: State, text: str, file: Path, options: Options, data: Dataset | None, known: KernelTimes | None
) -> dict[str, Any]:
    start = time.perf_counter()
    _check_file(state, file)
    if state.is_changed() and (ended := find_deadly_signal(state.source, file)):
        raise VerificationError(f"onnxruntime ends the process ({ended}) when it loads the compiled model")
    try:
        nodes = state.source.graph.nodes
        sessions = [open_file_session(f, nodes, 3, options.threads) for f in (state.source.path, file)]
    except Exception as e:
        raise ModelError(f"onnxruntime cannot load the model: {' '.join(str(e).split())[:400]}") from e
    only = find_only_sizes(state.require_graph().model) if state.graph is not None else {}
    check_signature(sessions[0], sessions[1], only)
    worth, found = _measure_worth(state, sessions, options, data)
    checked = time.perf_counter()
    contractions, others = list_contraction_rows(state), None
    if options.latency and known is not None:
        found["latency"] = _predict_latency(state, known).document()
    elif options.latency and (not state.plan.is_empty or state.edits):
        ranges = parse_ranges(options.input_range, state.source)
        feed = draw_sample(state.require_graph().model, sessions, ranges, options.seed)
        threads = bound_threads(options.threads) or PROCESSORS
        found["latency"] = _measure_until_faster(sessions, feed, threads).document()
        others = time_contractions(contractions, state, file, feed, options.threads)
    seconds = {"compare": checked - start, "latency": time.perf_counter() - checked}
    summary = summarize(state, text, file, bound_threads(options.threads))
    summary |= {"layers": contractions, "other_nodes": others, "environment": describe_environment(), "command": None}
    if options.threads > PROCESSORS:
        summary["notes"].append(f"--threads {options.threads}: there are {PROCESSORS} cores, and so many were taken")
    summary["notes"] += found.pop("notes")
    if only:
        sizes = ", ".join(f"{n}={size}" for n, size in only.items())
        summary["notes"].append(f"the model fits these sizes of its symbolic axes only, as far as was tried: {sizes}")
    if (worth.fidelity.snr_db or 0) < 0:
        summary["notes"].append(f"the outputs are farther from the dense model's than zeros would be ({worth.inputs})")
    if worth.quality.verdict == "POOR":
        found["quality"]["advice"] = _advise(state, options)
    return {**summary, **found, "seconds": seconds, "peak_memory_bytes": measure_peak_memory()}


def _measure_until_faster(sessions: Sequence[ort.InferenceSession], feed: Feed, threads: int) -> Latency:
    """Milliseconds of both models; measured again where the compiled one seems to be slower, which is said aloud."""
    for _ in range(SLOWER_MEASUREMENTS):
        found = measure_latency(sessions[0], sessions[1], feed, threads)
        if not found.is_slower:
            break
    return found


def _check_budget(state: State, report: Mapping[str, Any], options: Options) -> None:
    """Raise BudgetError where the model that would be written does not keep to the budget."""
    device = report["device"]
    elsewhere = device is not None and device["times"] and not device["is_here"]  # it is as those times say
    if state.budget is None or state.plan.is_empty or elsewhere:
        return
    latency = report["latency"] if state.budget.of == "latency" else None
    known = 1 - latency["compiled_min_ms"] / latency["dense_min_ms"] if latency else None
    check_budget(state.require_graph(), state.model, state.budget, state.plan, options.threads, known, state.unedited)


def _measure_worth(
    state: State, sessions: Sequence[ort.InferenceSession], options: Options, given: Dataset | None
) -> tuple[Worth, dict[str, Any]]:
    """Fidelity and quality on the caller's data, else on the most telling inputs there are; and the report's part."""
    ranges, graph = parse_ranges(options.input_range, state.source), state.require_graph()
    if given is None:
        if options.quality:
            inputs = choose_inputs(graph, state.calibration, options.seed, ranges)
        else:
            inputs = draw_noise(graph, options.seed, ranges)
        worth = measure_worth(sessions, inputs)
        return worth, {**worth.document(), "data": None, "notes": []}
    data = decide_scale(graph, given, ranges)
    worth, first = measure_worth_on_data(sessions, data)
    taken = summarize_dataset(data, [first], list(range(first.rows)), 0, worth.samples) | {"rows": worth.samples}
    return worth, {**worth.document(), "data": taken, "notes": [*first.notes, *check_scale(graph, data, first)]}


def _advise(state: State, options: Options) -> list[str]:
    """Ways to a better result, for the report."""
    real = state.calibration is not None and not state.calibration.synthetic
    compensated = state.results.get("compensation") is not None
    return list(advise(real, bool(options.data), has_folded_norms(state.require_graph()), compensated))


def measure_peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes; 0 where the system does not tell."""
    try:  # what getrusage tells on Linux includes what the process was forked from
        found = next(line for line in STATUS_FILE.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
