"""The command line: `spa-compile` is `spa compile`; beside it inspect, explain, verify, compare, sweep, apply, passes.

Each command parses, calls the library and prints. Errors are one line on stderr; the exit code is the error's.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from spa_compiler.cli.inspection import (
    axis_of,
    comparison,
    explanation,
    inspection,
    pass_table,
    sweep_table,
    verification,
)
from spa_compiler.compiler import Result, compile_file
from spa_compiler.errors import ModelError, NothingToPrune, ReportError, SpaError, UnprovenError, UsageError
from spa_compiler.execution.interrupts import stoppable
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.output_paths import check_place
from spa_compiler.planning.plan import Plan
from spa_compiler.report import document
from spa_compiler.version import VERSION

INTERRUPTED, INTERNAL = 130, 70
"""Exit codes of what is no SpaError: Ctrl-C, and a defect or a lack of memory (sysexits' EX_SOFTWARE)."""
FILE = click.Path(path_type=Path)


def _guard(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors become one line and their exit code; Ctrl-C and SIGTERM leave nothing behind."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            with stoppable():
                command(*args, **options)
        except SpaError as e:
            click.echo(f"spa-compile: error: {e}", err=True)
            for note in getattr(e, "__notes__", []) if options.get("verbose") else []:
                click.echo(f"  {note}", err=True)
            sys.exit(e.exit_code)
        except KeyboardInterrupt:
            click.echo("spa-compile: interrupted; no unfinished file is left", err=True)
            sys.exit(INTERRUPTED)
        except MemoryError:
            click.echo("spa-compile: error: out of memory; nothing was written", err=True)
            sys.exit(INTERNAL)
        except OSError as e:
            if e.errno == errno.EPIPE:  # whoever read the output has gone
                raise
            click.echo(f"spa-compile: error: {e}", err=True)
            sys.exit(UsageError.exit_code)
        except Exception as e:
            click.echo(f"spa-compile: internal error: {type(e).__name__}: {e} (-v shows where)", err=True)
            if options.get("verbose"):
                traceback.print_exc()
            sys.exit(INTERNAL)

    return run


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A spinner that names the step, on a terminal only."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda text: None
        return
    with console.status("spa-compile") as status:
        yield lambda text: status.update(f"spa-compile: {text}")


BUDGET = [
    click.option("--ratio", type=float, help="Share to remove, 0 to 1: --ratio 0.5 halves the MACs."),
    click.option(
        "--of", type=click.Choice(["macs", "params", "size", "latency", "channels"]), default="macs",
        help="What the ratio is of.",
    ),
    click.option(
        "--target", default="", show_default=False,
        help="The same as an absolute number: 1.2GMACs, 8Mparams, 20MB or 15ms.",
    ),
    click.option(
        "--scope", type=click.Choice(["auto", "global", "uniform"]), default="auto",
        help="Groups compete by error per cost, or all lose the same share; auto follows the criterion.",
    ),
    click.option("--align", default="auto", help="Widths in multiples of N; auto: what the kernels here need."),
    click.option("--min-keep", type=click.IntRange(1), default=1, help="Channels that every group keeps at least."),
    click.option("--max-group-ratio", type=click.FloatRange(0, 1), default=0.9, help="Most that one group may lose."),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave groups alone, by label, weight or node."),
    click.option("--include", multiple=True, metavar="PATTERN", help="Prune these groups only."),
    click.option(
        "--group-ratio", multiple=True, metavar="PATTERN=R",
        help="A ratio of their own for some groups, also a larger one.",
    ),
]  # fmt: skip
SCORING = [
    click.option("--criterion", default=Options.criterion, help="How channels are scored; `spa passes` lists them."),
    click.option("--scores", type=FILE, help="Scores from an .npz, one array per group label."),
    click.option("--plan", type=FILE, help="Apply a saved plan (JSON) instead of scoring."),
    click.option("--mask", type=FILE, help="Apply keep-masks from an .npz, one boolean array per group label."),
    click.option(
        "--pipeline", default="", show_default=False, help="The passes as text; replaces what the other options build."
    ),
]
CALIBRATION = [
    click.option(
        "--calib", default=Options.calib, metavar="SOURCE",
        help="Inputs to calibrate on: synthetic, one kind of it (photographs, tokens, ...), FILE.npz, a folder of them "
        "or script.py:function.",
    ),
    click.option("--samples", type=click.IntRange(0), default=0, help="Calibration inputs; 0: what memory allows."),
    click.option("--memory", default=Options.memory, help="Memory for calibration."),
    click.option(
        "--compensate/--no-compensate", default=None,
        help="Let what is left take over the work of what went; default: where the criterion calibrates (obspa, flap).",
    ),
]  # fmt: skip
INPUTS = [
    click.option("--input-shape", multiple=True, metavar="[NAME:]1,3,224,224", help="Sizes for symbolic axes."),
    click.option("--input-range", multiple=True, metavar="[NAME:]LO,HI", help="Range of an input's values."),
    click.option("--data", type=FILE, help="An .npz with inputs and labels: accuracy before and after."),
    click.option("--seed", type=click.IntRange(0), default=0, help="Every random choice follows it."),
    click.option("--threads", type=click.IntRange(0), default=0, help="Threads of onnxruntime; 0: one per core."),
]
UNPROVEN = [
    click.option(
        "--allow-unproven", is_flag=True,
        help="Exit 0 although nothing that the proof sees depends on some groups.",
    ),
]  # fmt: skip
RUNNING = [
    click.option("--report", "report_file", type=FILE, help="Write the report: a page for .html, else JSON."),
    click.option("--fail-under", multiple=True, metavar="METRIC=VALUE", help="Exit 6 when it is lower: cosine=0.95."),
    click.option("--allow-noop", is_flag=True, help="Exit 0 instead of 5 when nothing can be pruned."),
    click.option("--no-latency", is_flag=True, help="Do not measure latency."),
    click.option("-q", "--quiet", is_flag=True, help="Only the last line."),
    click.option("-v", "--verbose", is_flag=True, help="Groups, frozen parameters by reason, tracebacks."),
]
TRACES = [click.option("-v", "--verbose", is_flag=True, help="Say where an error comes from.")]
SETTINGS: dict[str, Any] = {"show_default": True, "max_content_width": 120}


def _with(*groups: list[Callable[..., Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([o for g in groups for o in g]):
            command = option(command)
        return command

    return add


def _options(given: dict[str, Any]) -> Options:
    """Command-line values as Options."""
    align = given.get("align", "auto")
    if align != "auto" and (not str(align).isdigit() or int(align) < 1):
        raise UsageError(f"--align {align}: expected auto or a number of channels")
    values = {f.name: given[f.name] for f in fields(Options) if f.name in given}
    values |= {n: str(v) if v else "" for n, v in values.items() if n in ("scores", "plan", "data")}
    values["align"] = 0 if align == "auto" else int(align)
    if given.get("mask"):
        if values["plan"]:
            raise UsageError("--plan and --mask say the same thing: give one of them")
        values["plan"] = str(given["mask"])
    return Options(**values, latency=not given.get("no_latency"))


def _run(source: Path, output: Path | None, given: dict[str, Any]) -> None:
    """Compile, print and save what was asked for."""
    options = _options(given)
    beside = _beside(given)
    for file in beside.values():
        check_place(file)
    if not source.is_file():
        raise ModelError(f"{source}: no such file" if not source.exists() else f"{source}: not a file")
    target = output or source.with_name(f"{source.stem}.pruned.onnx")
    try:
        with _unproven(" | nothing was written"), _progress(given["quiet"]) as tell:
            result = compile_file(source, target, options, tell, None, beside)
    except NothingToPrune as e:
        if not given["allow_noop"]:
            raise
        click.echo(f"UNCHANGED | {e}; nothing was written")
        return
    failures = list(_save(result, beside))
    _say(result, given)
    if failures:
        written = result.report["output"]["path"]
        done = f"the model was written ({written})" if written else "the dry run was done"
        raise ReportError(f"{done}, {'; '.join(failures)}")


def _beside(given: dict[str, Any]) -> dict[str, Path]:
    """Files that are written beside the model, by the option that names them."""
    files = {"--save-plan": given.get("save_plan"), "--report": given["report_file"]}
    return {option: Path(file) for option, file in files.items() if file is not None}


def _save(result: Result, beside: dict[str, Path]) -> Iterator[str]:
    """Write the plan and the report; a sentence for each that could not be written, of which nothing is left."""
    for option, file in beside.items():
        was_there = file.exists()
        try:
            if option == "--report":
                document.save(result.report, file)
            else:
                result.state.plan.save(file)
        except OSError as e:
            if not was_there:
                file.unlink(missing_ok=True)
            yield f"the {'report' if option == '--report' else 'plan'} {file} was not: {e.strerror or e}"


@contextmanager
def _unproven(rest: str) -> Iterator[None]:
    """The last line where the proof cannot see some groups."""
    try:
        yield
    except UnprovenError as e:
        click.echo(f"{document.unproven_status(len(e.silent), e.groups)}{rest}")
        raise


def _say(result: Result, given: dict[str, Any]) -> None:
    if not given["quiet"]:
        document.show(result.report, Console(), given["verbose"])
    written, data = result.report["output"]["path"], result.report["output"]["data"]
    if not given["quiet"]:
        both = f"wrote {written}" + (f" and its weights {data}" if data else "")
        click.echo(both if written else "dry run: nothing was written")
    click.echo(document.last_line(result.report))


def _compile(source: Path, output: Path | None, **given: Any) -> None:
    """Make an ONNX model smaller and faster: remove channels, heads and hidden units, without data or training.

    The result is checked against onnxruntime before it is written. Exit codes: 0 done; 1 verification failed, or the
    proof cannot see some groups, nothing written; 2 usage; 3 the model cannot be read or run; 4 the budget cannot be
    reached; 5 nothing could be pruned; 6 a --fail-under gate was missed; 7 the model was written, its report or plan
    could not be; 70 out of memory, or a defect of spa-compile.
    """
    _run(source, output, given)


def _command(name: str) -> click.Command:
    body = _guard(_compile)
    body = _with(BUDGET, SCORING, CALIBRATION, INPUTS, UNPROVEN, RUNNING)(body)
    body = click.option("--dry-run", is_flag=True, help="Do everything but write the model.")(body)
    body = click.option("--save-plan", type=FILE, help="Write which channels stay, as JSON.")(body)
    body = click.option("-o", "--output", type=FILE, help="Where to write; default: IN.pruned.onnx.")(body)
    body = click.version_option(VERSION, prog_name="spa-compile")(body)
    body = click.argument("source", metavar="IN.onnx", type=FILE)(body)
    return click.command(name, context_settings=SETTINGS)(body)


compile_command = _command("spa-compile")


@click.group(context_settings=SETTINGS)
@click.version_option(VERSION, prog_name="spa")
def spa() -> None:
    """Structured pruning of ONNX models."""
    logging.captureWarnings(True)


spa.add_command(_command("compile"), "compile")


@spa.command("inspect")
@click.argument("source", metavar="IN.onnx", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-v", "--verbose", is_flag=True, help="The members of every group, and where an error comes from.")
@_with(INPUTS[:1])
@_guard
def inspect_command(source: Path, as_json: bool, input_shape: tuple[str, ...], verbose: bool) -> None:
    """List the groups of coupled channels, and why the rest is frozen."""
    found = inspection(source, input_shape)
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(found.lines(verbose)))


@spa.command("explain")
@click.argument("source", metavar="IN.onnx", type=FILE)
@click.argument("axis_a", metavar="A")
@click.argument("axis_b", metavar="[B]", required=False)
@_with(INPUTS[:1])
@_guard
def explain_command(source: Path, axis_a: str, axis_b: str | None, input_shape: tuple[str, ...]) -> None:
    """Print the path that couples axes A and B (VALUE:AXIS), or why A is frozen."""
    for line in explanation(source, axis_of(axis_a), axis_of(axis_b) if axis_b else None, input_shape):
        click.echo(line)


@spa.command("verify")
@click.argument("dense", metavar="DENSE.onnx", type=FILE)
@click.argument("compiled", metavar="COMPILED.onnx", type=FILE)
@click.option("--plan", type=FILE, help="The plan that was applied: checks prune equals mask, too.")
@_with(UNPROVEN, INPUTS, TRACES)
@_guard
def verify_command(dense: Path, compiled: Path, plan: Path | None, **given: Any) -> None:
    """Check a compiled model against the dense one: signature, fidelity, and prune equals mask with a plan."""
    with _unproven(""):
        for line in verification(dense, compiled, Plan.load(plan) if plan else None, _options(given)):
            click.echo(line)


@spa.command("compare")
@click.argument("dense", metavar="DENSE.onnx", type=FILE)
@click.argument("others", metavar="OTHER.onnx...", nargs=-1, required=True, type=FILE)
@_with(INPUTS, TRACES)
@_guard
def compare_command(dense: Path, others: tuple[Path, ...], **given: Any) -> None:
    """A table of models with the dense one's signature: size, MACs, latency, fidelity, accuracy."""
    Console().print(comparison(dense, list(others), _options(given)))


@spa.command("sweep")
@click.argument("source", metavar="IN.onnx", type=FILE)
@click.option("--ratios", default="0.1,0.3,0.5,0.7", help="Ratios to try.")
@_with(BUDGET[1:2], BUDGET[3:], SCORING[:2], CALIBRATION, INPUTS, UNPROVEN, TRACES)
@_guard
def sweep_command(source: Path, ratios: str, **given: Any) -> None:
    """What each ratio would cost; nothing is written."""
    Console().print(sweep_table(source, ratios, _options({**given, "plan": None})))


@spa.command("apply")
@click.argument("source", metavar="IN.onnx", type=FILE)
@click.argument("plan", metavar="PLAN.json", type=FILE)
@click.option("-o", "--output", type=FILE, help="Where to write; default: IN.pruned.onnx.")
@_with(CALIBRATION, INPUTS, UNPROVEN, RUNNING)
@_guard
def apply_command(source: Path, plan: Path, output: Path | None, **given: Any) -> None:
    """Apply a saved plan to another checkpoint of the same graph."""
    _run(source, output, {**given, "plan": plan})


@spa.command("passes")
@_guard
def passes_command() -> None:
    """List the passes with their options, and the criteria."""
    for line in pass_table():
        click.echo(line)
