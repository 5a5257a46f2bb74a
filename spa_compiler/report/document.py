"""The report of a run: JSON (docs/report.md, report/schema.json), the terminal summary and its last line.

The last line is for people and for grep:

    VERIFIED | quality GOOD (estimated drop 1.4 points) | MACs -50.1% (4.09G -> 2.04G) | params -47.3% | ... | 6 s

Its first word is about the proof (is this the pruned model?), the second field about what the model is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from spa_compiler.analysis.cost import CostModel, describe_uncounted
from spa_compiler.analysis.cost_kinds import Cost, GroupShare, MeasuredCost
from spa_compiler.analysis.cost_registry import find_costs, find_counted_costs, find_group_shares
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.errors import describe_unproven
from spa_compiler.exit_codes import ExitCode
from spa_compiler.ir.snapshots import hash_file
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import Plan, find_widths
from spa_compiler.quality.verdict import describe_quality
from spa_compiler.report.inputs import describe_inputs
from spa_compiler.version import VERSION

REPORT_FORMAT = 2


def summarize(state: State, text: str, file: Path, threads: int = 0) -> dict[str, Any]:
    """Everything but measured fidelity, latency and times."""
    graph, source, plan = state.require_graph(), state.source.path, state.plan
    cost = CostModel(graph)
    dense, small = CostModel(state.require_dense_graph()).totals({}), cost.totals(find_widths(graph, plan))
    if asked := _find_asked(state):
        dense[asked.unit], small[asked.unit] = map(
            round, asked.measure(state.require_dense_graph().model, state.model, threads)
        )
    frozen = graph.frozen_parameters()
    proof = state.proof.document() if state.proof is not None else None
    return {
        "format": "spa-compile report",
        "version": REPORT_FORMAT,
        "tool": f"spa-compile {VERSION}",
        "status": "UNPROVEN" if proof and proof["silent"] else "VERIFIED",
        "exit_code": int(ExitCode.DONE),
        "input": {"path": str(source), "bytes": source.stat().st_size, "sha256": state.source.files.digest(source)},
        "output": {"path": None, "data": None, "bytes": _count_bytes(file.parent), "sha256": hash_file(file)},
        "pipeline": text,
        "asked": state.results.get("asked", {}),
        "device": state.results.get("device"),
        "reached": {
            **{k: 1 - small[k] / dense[k] if dense[k] else 0.0 for k in dense},
            **{unit: _measure_removed(share, graph, plan) for unit, share in find_group_shares().items()},
        },
        "dense": dense,
        "compiled": small,
        "analysis": {
            "groups": len(graph.groups),
            "prunable_parameters": dense["params"] - sum(frozen.values()),
            "frozen_parameters": frozen,
            "folded": dict(state.folded or {}),
            "erased_channels": _count_removed(state.erased) + _count_counted(state),
            "redirected": state.results.get("redirected"),
            "turned": state.results.get("turned", []),
            "folded_maps": state.results.get("folded_maps"),
        },
        "groups": [_make_group_entry(graph, plan, g.label) for g in graph.groups],
        "plan_sha256": plan.digest(),
        "verification": {"prune_equals_mask": proof},
        "calibration": state.results.get("calibration"),
        "compensation": state.results.get("compensation"),
        "protection": state.results.get("protection"),
        "search": state.results.get("search"),
        "additivity": state.results.get("additivity"),
        "repetition": state.results.get("repetition"),
        "latency": None,
        "gates": [],
        "notes": [*state.source.notes, *state.notes, *describe_uncounted(cost)],
    }


def _format_first_word(report: Mapping[str, Any]) -> str:
    """The status; with how many groups the proof cannot see."""
    proof = report["verification"]["prune_equals_mask"]
    if report["status"] == "UNPROVEN" and proof:
        return format_unproven_status(len(proof["silent"]), proof["groups"])
    return str(report["status"])


def _find_asked(state: State) -> MeasuredCost | None:
    """The measured cost that the budget is of, where the report has no part of its own for it."""
    asked = state.results.get("asked")
    cost = find_costs().get(str(asked.get("of"))) if isinstance(asked, Mapping) else None
    return cost if isinstance(cost, MeasuredCost) and not cost.apart else None


def format_unproven_status(silent: int, groups: int) -> str:
    """How the last line begins where nothing depends on some of the groups that lose a unit."""
    return f"UNPROVEN ({describe_unproven(silent, groups)})"


def _make_group_entry(graph: DependencyGraph, plan: Plan, label: str) -> dict[str, Any]:
    group = graph.group(label)
    return {
        "label": label,
        "name": group.name,
        "kind": group.kind,
        "size": group.size,
        "blocks": group.blocks,
        "kept": plan.count_kept(group),
        "statistic": group.stat,
    }


def _count_removed(plan: Plan) -> int:
    """Number of bits of a plan that are off."""
    return sum(int((~np.asarray(mask, bool)).sum()) for mask in plan.keep.values())


def _count_counted(state: State) -> int:
    """Zero channels that went with the statistics over them corrected."""
    found = state.results.get("counted_channels", 0)
    return found if isinstance(found, int) else 0


def _measure_removed(share: GroupShare, graph: DependencyGraph, plan: Plan) -> float:
    """Share of what all groups hold that goes."""
    whole = sum(share.count(g, g.size) for g in graph.groups)
    return 1 - sum(share.count(g, plan.count_kept(g)) for g in graph.groups) / whole if whole else 0.0


def _count_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.iterdir())


OTHER_METRICS = (
    "speedup", "latency_ms", "cosine", "snr_db", "explained_variance", "top1", "agreement", "drop", "accuracy",
    "accuracy_kept",
)  # fmt: skip
"""Metrics that are no share of a cost; `accuracy` needs labels, `top1` and `agreement` classes."""


def list_metric_names() -> list[str]:
    """The metrics that a --fail-under gate can name."""
    return [*(f"{unit}_reduction" for unit in (*find_counted_costs(), *find_group_shares())), *OTHER_METRICS]


def list_metrics(report: dict[str, Any]) -> dict[str, float]:
    """The values of these metrics, those that were measured: shares, `drop` in points."""
    out = {f"{k}_reduction": v for k, v in report["reached"].items()}
    fidelity, latency, accuracy = report["fidelity"], report["latency"], report["accuracy"]
    out |= {k: fidelity[k] for k in ("cosine", "snr_db", "top1") if fidelity[k] is not None}
    evidence, drop = report["quality"]["evidence"], report["quality"]["drop"]
    out |= {k: evidence[k] for k in ("explained_variance", "agreement") if evidence[k] is not None}
    if drop is not None:
        out["drop"] = drop
    if latency:
        out["latency_ms"] = latency["compiled_ms"]
        out["speedup"] = latency["dense_ms"] / max(latency["compiled_ms"], 1e-9)
    if accuracy:
        out["accuracy"] = accuracy["compiled"]
        out["accuracy_kept"] = accuracy["compiled"] / max(accuracy["dense"], 1e-9)
    return out


def format_si(value: float) -> str:
    """1234567 as 1.23M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def format_change(removed: float) -> str:
    """A share that was removed as a signed percentage; nothing is not negative."""
    return f"{-100 * removed:+.1f}%" if abs(removed) >= 5e-4 else "0.0%"


def _measure_gain(found: Mapping[str, Any], unit: str) -> float:
    """The share that went of a cost that has a part of its own in the report."""
    return float(1 - found[f"compiled_{unit}"] / found[f"dense_{unit}"])


def _find_reached(report: Mapping[str, Any], cost: Cost) -> float | None:
    """The share of a cost that went; None for one that was not measured."""
    if isinstance(cost, MeasuredCost) and cost.apart:
        return _measure_gain(report[cost.name], cost.unit) if report.get(cost.name) else None
    reached: float | None = report["reached"].get(cost.unit)
    return reached


def format_last_line(report: Mapping[str, Any]) -> str:
    """The run in one line."""
    dense, small, reached = report["dense"], report["compiled"], report["reached"]
    parts = [
        _format_first_word(report),
        describe_quality(report["quality"]),
        f"MACs {format_change(reached['macs'])} ({format_si(dense['macs'])} -> {format_si(small['macs'])})",
        f"params {format_change(reached['params'])}",
    ]
    if latency := report["latency"]:
        slower = " (SLOWER)" if latency["slower"] else ""
        parts.append(f"latency {latency['dense_ms']:.3g} -> {latency['compiled_ms']:.3g} ms{slower}")
    if accuracy := report["accuracy"]:
        parts.append(f"accuracy {accuracy['dense']:.2%} -> {accuracy['compiled']:.2%}")
    if report["fidelity"]["cosine"] is not None:
        parts.append(f"cosine {report['fidelity']['cosine']:.3f}")
    check = report["verification"]["prune_equals_mask"]
    if check:
        parts.append(f"prune==mask {check['error']:.0e}")
    return " | ".join([*parts, f"{report['seconds']['total']:.1f} s"])


def list_cost_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of the table of costs: name, dense, compiled, change."""
    dense, small, reached = report["dense"], report["compiled"], report["reached"]
    rows = [
        (c.row, format_si(dense[c.unit]), format_si(small[c.unit]), format_change(reached[c.unit]))
        for c in find_costs().values()
        if c.unit in dense and getattr(c, "in_summary", True)
    ]
    if latency := report["latency"]:
        device = report.get("device")
        other = device is not None and not device["is_here"] and latency["statistic"] != "predicted"
        where = f", not of {device['name']}" if device is not None and other else ""
        title = f"latency, {latency['statistic']} ms ({latency['threads']} threads{where})"
        gain = format_change(_measure_gain(latency, "ms"))
        rows.append((title, f"{latency['dense_ms']:.3g}", f"{latency['compiled_ms']:.3g}", gain))
    return rows


def show_report(report: dict[str, Any], console: Console, verbose: bool = False) -> None:
    """The terminal summary, without the last line."""
    table = Table(box=None, pad_edge=False)
    for name, side in (("", "left"), ("dense", "right"), ("compiled", "right"), ("change", "right")):
        table.add_column(name, justify="right" if side == "right" else "left")
    for row in list_cost_rows(report):
        table.add_row(*row)
    console.print(table)
    console.print("\n".join(list_lines(report, verbose)), soft_wrap=True, highlight=False, markup=False)


def _list_budget_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Shares that were asked for beside those that went, and how far errors add up where their sum was minimised."""
    asked = report["asked"]
    of = find_costs().get(asked.get("of", ""))
    if "ratio" in asked and of and (reached := _find_reached(report, of)) is not None:
        requested = f" (requested {asked['ratio']:.1%})" if asked["ratio"] or not asked.get("parts") else " in all"
        yield f"removed {reached:.1%} of the {of.title}{requested}"
    for part in asked.get("parts", ()):
        named = f"{of.title if of else asked['of']} of {part['pattern']}"
        yield f"removed {part['reached']:.1%} of the {named} (requested {part['ratio']:.1%})"
    if sums := report["additivity"]:
        yield (
            f"groups cut alone lose {sums['alone']:.3g} of the outputs' variance in sum, "
            f"all at once {sums['joint']:.3g} (before any update)"
        )


def list_lines(report: Mapping[str, Any], verbose: bool = False) -> list[str]:
    """The run in sentences; `verbose`: every reason and every group."""
    fidelity, analysis = report["fidelity"], report["analysis"]
    lines = [*_list_budget_lines(report), *_list_device_lines(report["device"])]
    if report["latency"] and report["latency"]["slower"]:
        lines.append(
            "the compiled model is SLOWER than the dense one here: its widths fill the kernels worse, or onnxruntime "
            "fuses less; --of latency looks for faster ones"
        )
    lines += _list_exact_lines(analysis)
    if report["calibration"]:
        lines.append(f"calibrated on {report['calibration']['inputs']}")
        lines += describe_inputs(report["calibration"].get("given"))
        lines += _list_reasons("not measured, scored by weights", report["calibration"].get("missed", {}), verbose)
    if report["compensation"]:
        lines += _list_reasons("not compensated", report["compensation"].get("left", {}), verbose)
    check = report["verification"]["prune_equals_mask"]
    if check and check["unproven"]:
        lines.append(f"not proven, because they do not run at these sizes: {', '.join(check['unproven'])}")
    if check:
        lines += _list_proof_lines(check, {g["label"]: g["name"] for g in report["groups"]})
    if check and check["replayed"]:
        names = ", ".join(check["replayed"][:4]) + ", ..." * (len(check["replayed"]) > 4)
        lines.append(
            f"rounding changes one of the decisions ({names}): proven up to them, and behind them for the same ones"
        )
    top1 = "" if fidelity["top1"] is None else f", top-1 agreement {fidelity['top1']:.1%}"
    lines.append(f"fidelity on {fidelity['inputs']}: {describe_fidelity(fidelity)}{top1}")
    lines += _list_quality_lines(report)
    lines += describe_inputs(report["data"])
    frozen = sum(analysis["frozen_parameters"].values())
    lines.append(f"{analysis['groups']} groups; {frozen:,} parameters are frozen" + (":" if frozen and verbose else ""))
    if verbose:
        lines += [f"  {n:>12,}  {reason}" for reason, n in analysis["frozen_parameters"].items()]
        cut = [g for g in report["groups"] if g["kept"] < g["size"]]
        lines += [
            f"  {g['name']}: {g['size']} -> {g['kept']}"
            + (f" in each of {g['blocks']} blocks" if g["blocks"] > 1 else "")
            for g in cut
        ]
    return lines + [f"note: {n}" for n in report["notes"]]


def _list_device_lines(device: Mapping[str, Any] | None) -> list[str]:
    """Whose kernels the widths fill, and that this was assumed where nobody said it."""
    if device is None:
        return []
    how = "of this machine, which is assumed: --device names another" if device["is_assumed"] else "as was asked"
    lines = [f"widths for {device['name']} ({how}): {device['widths']}"]
    return [*lines, *([f"milliseconds of kernels {device['times']}"] if device["times"] else [])]


def _list_exact_lines(analysis: Mapping[str, Any]) -> list[str]:
    """Tell what went without a change of any output."""
    lines = []
    if analysis["erased_channels"]:
        lines.append(f"{analysis['erased_channels']} dead channels were removed, which changes no output")
    if found := analysis["redirected"]:
        what = [f"{found['channels']} channels are multiples of others, or numbers"] * bool(found["channels"])
        what += [f"{found['terms']} terms of sums are zero"] * bool(found["terms"])
        lines.append(f"{' and '.join(what)}: not computed any more, which changes no output")
    if turned := analysis["turned"]:
        lines.append(f"{len(turned)} groups were turned, so that few channels carry most, which changes no output")
    if found := analysis["folded_maps"]:
        what = [f"{found['factors']} factors"] * bool(found["factors"])
        what += [f"{found['expressions']} expressions of constants"] * bool(found["expressions"])
        what += [f"{found['branches']} linear maps"] * bool(found["branches"])
        lines.append(f"{' and '.join(what)} are in the weights now, which changes no output")
    return lines


def _list_quality_lines(report: Mapping[str, Any]) -> list[str]:
    """How sure the estimate is, what to do about a poor model, and every gate."""
    found, lines = report["quality"], []
    if found["basis"] == "estimated":
        lines.append(
            f"estimated drop {found['drop']:.1f} points, four times out of five between {found['low']:.1f} and "
            f"{found['high']:.1f} (from {found['inputs']}; docs/results.md)"
        )
    if found["advice"]:
        lines.append(f"the quality is {found['verdict']}. What helps: {'; '.join(found['advice'])}")
    for gate in report["gates"]:
        word = "holds" if gate["holds"] else "MISSED"
        value = "not a number" if gate["value"] is None else f"{gate['value']:.4g}"
        lines.append(f"gate {gate['gate']}: {word} ({value})")
    return lines


def _list_proof_lines(check: dict[str, Any], names: Mapping[str, str]) -> list[str]:
    """Lines about what the proof did not look at."""
    lines = []
    if check["inside"] < check["inside_of"]:
        lines.append(f"{check['inside']} of {check['inside_of']} values inside of the graph were compared")
    if check["silent"]:
        few = ", ".join(names[n] for n in check["silent"][:4]) + ", ..." * (len(check["silent"]) > 4)
        lines.append(f"nothing that the proof sees depends on these groups: {few}")
    return lines


def describe_fidelity(fidelity: Mapping[str, Any]) -> str:
    """Cosine and noise, or that there was nothing to compare."""
    if fidelity["cosine"] is None:
        return "the dense outputs hold no finite number"
    return f"cosine {fidelity['cosine']:.4f}, {fidelity['snr_db']:.1f} dB"


def _list_reasons(what: str, found: dict[str, str], verbose: bool) -> list[str]:
    """One line, or every entry with its reason."""
    if not found:
        return []
    if verbose:
        return [f"{what}:", *(f"  {name}: {reason}" for name, reason in found.items())]
    name, reason = next(iter(found.items()))
    return [f"{what}: {len(found)} contractions, such as '{name}' ({reason})"]
