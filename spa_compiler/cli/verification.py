"""`spa verify`: everything that can be proven of a compiled file, from the dense one.

What the file says of itself is no proof. Its hashes have to be those of the files that are given. With a plan, the
structure is proven from the dense model: the file as it is where its weights are slices of the dense ones, else the
rewrite by this plan, which the file has to equal but for weights that compensation writes. Weights that were updated
are proven by running the recorded pipeline again (`--rerun`); without that they are judged by what they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.canonicalize.constant_sharing import retie_constants
from spa_compiler.cli.inspection import (
    DRAWING_OPTIONS,
    Measured,
    analyze_file,
    check_alike,
    measure_sessions,
    open_sessions,
)
from spa_compiler.compiler import Result, compile_file
from spa_compiler.datasets.scripts import is_script
from spa_compiler.errors import GateError, SpaError, UnprovenError, UnprovenWeightsError, UsageError, VerificationError
from spa_compiler.execution.inputs import parse_ranges
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import load
from spa_compiler.pipeline.options import Options, list_given, report_idle
from spa_compiler.pipeline.passes import Pipeline, iterate_deep
from spa_compiler.pipeline.provenance import Provenance
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import Plan
from spa_compiler.quality.gates import describe_missed, judge_gates, parse_gates
from spa_compiler.report.document import describe_fidelity, format_unproven_status, list_metric_names
from spa_compiler.rewriting.prune import rewrite
from spa_compiler.verification.comparison import choose_tolerance
from spa_compiler.verification.proof import Structural, prove_rewrite
from spa_compiler.verification.structure import Structure, compare_structure, list_worst, reopen
from spa_compiler.verification.unproven_groups import list_unfinite_constants
from spa_compiler.version import VERSION

NO_PLAN = "no plan is given, so that neither structure nor weights are compared with anything"
VERIFIED, UNPROVEN_WEIGHTS = "VERIFIED", "UNPROVEN weights"


@dataclass
class Verification:
    """The outcome: `lines` in words, the rest for programs.

    `unproven` says why the weights are not proven, '' where they are; `failure` is raised once all has been printed.
    """

    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    proof: Structural | None = None
    structure: Structure | None = None
    rerun: bool = False
    unproven: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    gates: list[dict[str, Any]] = field(default_factory=list)
    failure: SpaError | None = None

    @property
    def status(self) -> str:
        """The last line: how much is proven."""
        if self.unproven:
            return UNPROVEN_WEIGHTS
        if self.proof is not None and self.proof.silent:
            return format_unproven_status(len(self.proof.silent), self.proof.groups)
        return VERIFIED

    def list_text(self) -> Iterator[str]:
        """Everything in words, the status last."""
        yield from self.lines
        yield from (f"note: {n}" for n in self.notes)
        yield self.status

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        weights = None
        if self.structure is not None:
            found = self.structure
            weights = {"equal": found.equal, "other": sorted(found.solved), "added": sorted(found.added)}
        return {
            "format": "spa-compile verification",
            "version": 1,
            "tool": f"spa-compile {VERSION}",
            "status": self.status,
            "exit_code": int(self.failure.exit_code) if self.failure is not None else 0,
            "provenance": self.provenance,
            "prune_equals_mask": self.proof.document() if self.proof is not None else None,
            "weights": weights,
            "rerun": self.rerun,
            "unproven": self.unproven,
            **self.measured,
            "gates": self.gates,
            "notes": self.notes,
        }


def verify_file(dense: Path, compiled: Path, plan: Plan | None, options: Options, rerun: bool = False) -> Verification:
    """Everything that `spa verify` shows.

    Raises VerificationError when hashes, signature, structure or prune equals mask do not hold, ModelError when a file
    changed meanwhile. What is only not proven, or misses a gate, is in `failure`.
    """
    gates = parse_gates(options.fail_under, list_metric_names())
    out = Verification(notes=_find_idle(plan, options))
    sessions, files = open_sessions([dense, compiled], options)
    source, small = load(dense), load(compiled)
    check_alike(dense, sessions[0], sessions[1], options)
    out.lines.append("the signature is the same")
    _prove(source, small, plan, options, rerun, out)
    if out.proof is not None and out.proof.silent and not options.allow_unproven:
        raise UnprovenError(out.proof.silent_names, out.proof.groups, list_unfinite_constants(source))
    measured = measure_sessions(dense, sessions, options)
    _add_measures(measured, out)
    out.gates = judge_gates(gates, _list_values(measured))
    for gate in out.gates:
        word = "holds" if gate["holds"] else "MISSED"
        out.lines.append(f"gate {gate['gate']}: {word} ({gate['value']:.4g})")
    if missed := describe_missed(out.gates):
        out.failure = GateError(missed)
    elif out.unproven and not out.gates and not options.allow_unproven:
        out.failure = UnprovenWeightsError(out.unproven)
    files.check()
    return out


def _find_idle(plan: Plan | None, options: Options) -> list[str]:
    """Notes on options about drawn inputs, where none are drawn."""
    if not options.data or plan is not None:
        return []
    return report_idle(sorted(DRAWING_OPTIONS & set(list_given(options))), "only the inputs of --data are run")


def _prove(source: Model, small: Model, plan: Plan | None, options: Options, rerun: bool, out: Verification) -> None:
    """Prove as much as there is to prove it from, into `out`. Raises VerificationError."""
    digest, own = (m.files.digest(m.path) for m in (source, small))
    said = Provenance.read(small.header)
    if digest == own:  # nothing was removed, and what the file says is about how the dense one was made
        out.lines.append("the two files are the same, byte for byte")
        said = Provenance()
    said.check_source(digest)
    if plan is not None:
        plan = _use_labels(plan, source, said, options)
        said.check_plan(plan, "the plan given")
    out.provenance = {
        "source": "equal" if said.source_sha256 else "not said",
        "plan": "equal" if said.plan_sha256 and plan is not None else "not said" if plan is not None else "not given",
        "pipeline": said.pipeline,
    }
    if said.source_sha256:
        both = " and its plan the one given" if out.provenance["plan"] == "equal" else ""
        out.lines.append(f"its source is the dense model{both}, by their hashes")
    if rerun:
        _prove_by_rerun(source, small, plan, said, options, out)
    elif plan is not None:
        _prove_by_plan(source, small, plan, said, options, out)
    elif digest != own:
        out.unproven = NO_PLAN


def _use_labels(plan: Plan, source: Model, said: Provenance, options: Options) -> Plan:
    """A plan as files are saved: where its groups are called by their names, by their labels."""
    if said.plan_sha256 in ("", plan.digest()):
        return plan
    graph = _analyze(source, said, options)
    try:
        return plan.use_labels(graph)
    except UsageError:  # a plan of another model: the hash tells
        return plan


def _prove_by_plan(
    source: Model, small: Model, plan: Plan, said: Provenance, options: Options, out: Verification
) -> None:
    """Prune equals mask of the file; where its weights were updated, of the rewrite that it equals but for these."""
    graph = _analyze(source, said, options)
    masks, ranges = plan.masks(graph), parse_ranges(options.input_range, graph.model)
    candidate = small
    if said.is_solved():
        pruned = rewrite(graph, masks)
        out.structure = compare_structure(_as_written(pruned, source), small, norms=said.is_writing_norms())
        if not out.structure.is_same:
            candidate = pruned
            out.unproven = f"{_describe_solved(out.structure)}, as the file's own pipeline says"
    out.proof = prove_rewrite(graph, masks, candidate, options.seed, ranges, source)
    if candidate is not small:
        out.lines.append("the structure is that of the dense model under this plan: every node, wire, type and shape")
        out.lines.append(_describe_solved(out.structure or Structure()))
    out.lines.append(_describe_proof(out.proof, candidate is small))


def _as_written(pruned: Model, source: Model) -> Model:
    """A rewritten model as it is when it is read from its file."""
    model = pruned.copy()
    retie_constants(model)
    return reopen(model.proto(), source)


def _analyze(source: Model, said: Provenance, options: Options) -> DependencyGraph:
    """The dependency graph by the passes that the file names, or by ours; the proof compares it with the dense file."""
    steps = said.parse_pipeline()
    at = steps.find_index("graph") if steps is not None else None
    if steps is None or at is None or options.input_shape:
        return analyze_file(source.path, options.input_shape, options.memory)
    front = Pipeline(tuple(iterate_deep(steps.iterate_flat()))[: at + 1])
    state = replace(State.of(source), seed=options.seed, ranges=parse_ranges(options.input_range, source))
    return front.run(state).require_graph()


def _describe_solved(found: Structure) -> str:
    """How many constants hold other numbers than slices of the dense model's."""
    names = [n for n, _ in list_worst(found)] + found.added
    few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} weights and biases were updated after removal ({few}), {found.equal} constants were not"


def _describe_proof(found: Structural, is_own: bool) -> str:
    what = "prune equals mask" if is_own else "prune equals mask before the update"
    replayed = f", after decisions taken once ({', '.join(found.replayed[:4])})" if found.replayed else ""
    return f"{what}: error {found.error:.1e}, tolerance {found.tolerance:.0e}, {found.checks} checks{replayed}"


def _prove_by_rerun(
    source: Model, small: Model, plan: Plan | None, said: Provenance, options: Options, out: Verification
) -> None:
    """The recorded pipeline on the dense file gives this file, weight by weight."""
    result = _run_again(source, said)
    state, again = result.state, reopen(result.model, source)
    said.check_plan(state.plan, "the pipeline that it names, run again,")
    if plan is not None and plan.digest() != state.plan.digest():
        raise VerificationError("the recorded pipeline, run again, makes another plan than the one given")
    out.structure, out.proof, out.rerun = compare_structure(again, small, strict=True), state.proof, True
    limit = choose_tolerance(state.require_graph())
    for name, error in list_worst(out.structure):
        if not error <= limit:
            raise VerificationError(
                f"the recorded pipeline, run again, gives other weights: '{name}' is off by {error:.1e} of its scale "
                f"(tolerance {limit:.0e}, {len(out.structure.solved)} of "
                f"{out.structure.equal + len(out.structure.solved)} constants differ). Another processor, other "
                f"versions or other files of --calib may be why (made by spa-compile {said.version or '?'}, "
                f"this is {VERSION})"
            )
    worst = max(out.structure.solved.values(), default=0.0)
    how = f"within {worst:.1e} of their scale (tolerance {limit:.0e})" if worst else "bit for bit"
    out.lines.append(f"the recorded pipeline, run again, gives the same {out.structure.equal} constants: {how}")
    out.lines.append(f"pipeline: {said.pipeline}")
    if out.proof is not None:
        out.lines.append(_describe_proof(out.proof, out.structure.is_same and not said.is_solved()))


def _run_again(source: Model, said: Provenance) -> Result:
    """The result of the recorded pipeline. Raises UsageError where there is none, or where it names a script."""
    if not said.pipeline:
        raise UsageError("--rerun: the file does not say how it was made (spa_compile.pipeline in its metadata)")
    steps = Pipeline.parse(said.pipeline)
    for step in iterate_deep(steps.iterate_flat()):
        if script := next((v for v in vars(step).values() if isinstance(v, str) and is_script(v)), None):
            raise UsageError(
                f"--rerun: the recorded pipeline runs the script {script}, which a file cannot be trusted to name: "
                "run spa-compile --pipeline with it yourself, and compare"
            )
    seed = int(said.seed) if said.seed.isdigit() else 0
    return compile_file(source.path, None, Options(pipeline=said.pipeline, seed=seed, latency=False, quality=False))


def _add_measures(measured: Measured, out: Verification) -> None:
    """Fidelity and accuracy."""
    close = measured.fidelity[1].document()
    out.measured = {"fidelity": close, "accuracy": None}
    out.lines += measured.notes
    out.lines.append(f"fidelity on {measured.name}: {describe_fidelity(close)}")
    if measured.has_labels:
        before, after = measured.accuracy
        known = before is not None and after is not None
        out.lines.append(f"accuracy {before:.2%} -> {after:.2%}" if known else "accuracy: not one label per row")
        out.measured["accuracy"] = {"dense": before, "compiled": after} if known else None


def _list_values(measured: Measured) -> dict[str, float]:
    """Values that a gate can name, those that were measured."""
    close = measured.fidelity[1].document()
    out: dict[str, float] = {k: close[k] for k in ("cosine", "snr_db", "top1") if close[k] is not None}
    before, after = measured.accuracy
    if before is not None and after is not None:
        out |= {"accuracy": after, "accuracy_kept": after / max(before, 1e-9)}
    return out
