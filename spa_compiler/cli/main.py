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
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from spa_compiler.cli.arguments import FILE, add_options, make_named_option, make_topic_options, read_options
from spa_compiler.cli.inspection import (
    compare_files,
    explain_axes,
    inspect_file,
    list_passes,
    make_sweep_table,
    parse_axis,
)
from spa_compiler.cli.verification import verify_file
from spa_compiler.compiler import Result, compile_file
from spa_compiler.errors import GateError, ModelError, NothingToPrune, ReportError, SpaError, UnprovenError, UsageError
from spa_compiler.execution.interrupts import raise_on_signals
from spa_compiler.exit_codes import ExitCode
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.output_paths import check_place
from spa_compiler.planning.plan import Plan
from spa_compiler.report import document
from spa_compiler.version import VERSION


def _guard(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors become one line and their exit code; Ctrl-C and SIGTERM leave nothing behind."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            with raise_on_signals():
                command(*args, **options)
        except SpaError as e:
            click.echo(f"spa-compile: error: {e}", err=True)
            for note in getattr(e, "__notes__", []) if options.get("verbose") else []:
                click.echo(f"  {note}", err=True)
            sys.exit(e.exit_code)
        except KeyboardInterrupt:
            click.echo("spa-compile: interrupted; no unfinished file is left", err=True)
            sys.exit(ExitCode.INTERRUPTED)
        except MemoryError:
            click.echo("spa-compile: error: out of memory; nothing was written", err=True)
            sys.exit(ExitCode.INTERNAL)
        except OSError as e:
            if e.errno == errno.EPIPE:  # whoever read the output has gone
                raise
            click.echo(f"spa-compile: error: {e}", err=True)
            sys.exit(ExitCode.BAD_USAGE)
        except Exception as e:
            click.echo(f"spa-compile: internal error: {type(e).__name__}: {e} (-v shows where)", err=True)
            if options.get("verbose"):
                traceback.print_exc()
            sys.exit(ExitCode.INTERNAL)

    return run


@contextmanager
def _show_progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A spinner that names the step, on a terminal only."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda text: None
        return
    with console.status("spa-compile") as status:
        yield lambda text: status.update(f"spa-compile: {text}")


CALIBRATION_OPTIONS, INPUT_OPTIONS, UNPROVEN_OPTIONS = (
    make_topic_options("calibration"),
    make_topic_options("inputs"),
    make_topic_options("proof"),
)
SCORING_OPTIONS = make_topic_options("scoring", leave_out=("pipeline", "with_passes"))
TEXTS = [
    click.option("--mask", type=FILE, help="Apply keep-masks from an .npz, one boolean array per group label."),
    make_named_option("pipeline"),
    make_named_option("with_passes"),
]
RUN_OPTIONS: list[Callable[..., Any]] = [
    click.option("--report", "report_file", type=FILE, help="Write the report: a page for .html, else JSON."),
    make_named_option("fail_under"),
    click.option("--allow-noop", is_flag=True, help="Exit 0 instead of 5 when nothing can be pruned."),
    make_named_option("latency"),
    make_named_option("quality"),
    click.option("-q", "--quiet", is_flag=True, help="Only the last line."),
    click.option("-v", "--verbose", is_flag=True, help="Groups, frozen parameters by reason, tracebacks."),
]
TRACE_OPTIONS = [click.option("-v", "--verbose", is_flag=True, help="Say where an error comes from.")]
SETTINGS: dict[str, Any] = {"show_default": True, "max_content_width": 120}


def _make_options(given: dict[str, Any]) -> Options:
    """Command-line values as Options; keep-masks are a plan."""
    if given.get("mask"):
        if given["plan"]:
            raise UsageError("--plan and --mask both say which channels stay: give one of them")
        given = {**given, "plan": given["mask"]}
    return read_options(given)


def _run(source: Path, output: Path | None, given: dict[str, Any]) -> None:
    """Compile, print and save what was asked for."""
    options = _make_options(given)
    beside = _list_other_outputs(given)
    for file in beside.values():
        check_place(file)
    if not source.is_file():
        raise ModelError(f"{source}: no such file" if not source.exists() else f"{source}: not a file")
    target = output or source.with_name(f"{source.stem}.pruned.onnx")
    try:
        with _describe_unproven(" | nothing was written"), _show_progress(given["quiet"]) as tell:
            result = compile_file(source, target, options, tell, None, beside)
    except NothingToPrune as e:
        if not given["allow_noop"]:
            raise
        click.echo(f"UNCHANGED | {e}; nothing was written")
        return
    except GateError as e:
        _show_missed(e, given)
        raise
    failures = list(_save(result, beside))
    _print_result(result, given)
    if failures:
        written = result.report["output"]["path"]
        done = f"the model was written ({written})" if written else "the dry run was done"
        raise ReportError(f"{done}, {'; '.join(failures)}")


def _show_missed(error: GateError, given: dict[str, Any]) -> None:
    """Print and save the report of a run that missed a gate."""
    if error.report is None:
        return
    if not given["quiet"]:
        document.show_report(error.report, Console(), given["verbose"])
    report = error.report
    if given["report_file"] and (why := _write(Path(given["report_file"]), lambda f: document.save_report(report, f))):
        click.echo(f"spa-compile: error: the report {given['report_file']} was not written: {why}", err=True)
    click.echo(document.format_last_line(report))


def _list_other_outputs(given: dict[str, Any]) -> dict[str, Path]:
    """Files that are written beside the model, by the option that names them."""
    files = {"--save-plan": given.get("save_plan"), "--report": given["report_file"]}
    return {option: Path(file) for option, file in files.items() if file is not None}


def _save(result: Result, beside: dict[str, Path]) -> Iterator[str]:
    """Write the plan and the report; a sentence for each that could not be written, of which nothing is left."""
    writers: dict[str, tuple[str, Callable[[Path], None]]] = {
        "--report": ("report", lambda f: document.save_report(result.report, f)),
        "--save-plan": ("plan", result.state.plan.save),
    }
    for option, file in beside.items():
        what, write = writers[option]
        if why := _write(file, write):
            yield f"the {what} {file} was not: {why}"


def _write(file: Path, write: Callable[[Path], None]) -> str:
    """Write a file; where that fails nothing of it is left, and the system's reason is returned."""
    was_there = file.exists()
    try:
        write(file)
    except OSError as e:
        if not was_there:
            file.unlink(missing_ok=True)
        return e.strerror or str(e)
    return ""


@contextmanager
def _describe_unproven(rest: str) -> Iterator[None]:
    """The last line where the proof cannot see some groups."""
    try:
        yield
    except UnprovenError as e:
        click.echo(f"{document.format_unproven_status(len(e.silent), e.groups)}{rest}")
        raise


def _print_result(result: Result, given: dict[str, Any]) -> None:
    if not given["quiet"]:
        document.show_report(result.report, Console(), given["verbose"])
    written, data = result.report["output"]["path"], result.report["output"]["data"]
    if not given["quiet"]:
        both = f"wrote {written}" + (f" and its weights {data}" if data else "")
        click.echo(both if written else "dry run: nothing was written")
    click.echo(document.format_last_line(result.report))


def _compile(source: Path, output: Path | None, **given: Any) -> None:
    """Make an ONNX model smaller and faster: remove channels, heads and hidden units, without data or training.

    The result is checked against onnxruntime before it is written. Exit codes: 0 done; 1 verification failed, or the
    proof cannot see some groups, nothing written; 2 usage; 3 the model cannot be read or run; 4 the budget cannot be
    reached; 5 nothing could be pruned; 6 a --fail-under gate was missed; 7 the model was written, its report or plan
    could not be; 70 out of memory, or a defect of spa-compile.
    """
    _run(source, output, given)


def _make_command(name: str) -> click.Command:
    body = _guard(_compile)
    body = add_options(
        make_topic_options("budget"),
        SCORING_OPTIONS,
        TEXTS,
        CALIBRATION_OPTIONS,
        INPUT_OPTIONS,
        UNPROVEN_OPTIONS,
        RUN_OPTIONS,
    )(body)
    body = make_named_option("dry_run")(body)
    body = click.option("--save-plan", type=FILE, help="Write which channels stay, as JSON.")(body)
    body = click.option("-o", "--output", type=FILE, help="Where to write; default: IN.pruned.onnx.")(body)
    body = click.version_option(VERSION, prog_name="spa-compile")(body)
    body = click.argument("source", metavar="IN.onnx", type=FILE)(body)
    return click.command(name, context_settings=SETTINGS)(body)


compile_command = _make_command("spa-compile")


@click.group(context_settings=SETTINGS)
@click.version_option(VERSION, prog_name="spa")
def spa() -> None:
    """Structured pruning of ONNX models."""
    logging.captureWarnings(True)


spa.add_command(_make_command("compile"), "compile")


@spa.command("inspect")
@click.argument("source", metavar="IN.onnx", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-v", "--verbose", is_flag=True, help="The members of every group, and where an error comes from.")
@add_options([make_named_option("input_shape")])
@_guard
def inspect_command(source: Path, as_json: bool, input_shape: tuple[str, ...], verbose: bool) -> None:
    """List the groups of coupled channels, and why the rest is frozen."""
    found = inspect_file(source, input_shape)
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(found.lines(verbose)))


@spa.command("explain")
@click.argument("source", metavar="IN.onnx", type=FILE)
@click.argument("axis_a", metavar="A")
@click.argument("axis_b", metavar="[B]", required=False)
@add_options([make_named_option("input_shape")])
@_guard
def explain_command(source: Path, axis_a: str, axis_b: str | None, input_shape: tuple[str, ...]) -> None:
    """Print the path that couples axes A and B (VALUE:AXIS), or why A is frozen."""
    for line in explain_axes(source, parse_axis(axis_a), parse_axis(axis_b) if axis_b else None, input_shape):
        click.echo(line)


@spa.command("verify")
@click.argument("dense", metavar="DENSE.onnx", type=FILE)
@click.argument("compiled", metavar="COMPILED.onnx", type=FILE)
@click.option("--plan", type=FILE, help="The plan that was applied: proves the structure, and prune equals mask.")
@click.option("--rerun", is_flag=True, help="Run the pipeline that the file names again, and compare every weight.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@add_options(UNPROVEN_OPTIONS, INPUT_OPTIONS, [make_named_option("fail_under")], TRACE_OPTIONS)
@_guard
def verify_command(dense: Path, compiled: Path, plan: Path | None, rerun: bool, as_json: bool, **given: Any) -> None:
    """Prove a compiled model from the dense one: hashes, signature, structure and weights; measure its fidelity.

    The last line is VERIFIED, or UNPROVEN with what is not proven. Weights that were updated after removal are proven
    by --rerun. Without it, and without a plan, the exit code is 1 unless a --fail-under gate holds or --allow-unproven
    is given.
    """
    with _describe_unproven(""):
        found = verify_file(dense, compiled, Plan.load(plan) if plan else None, _make_options(given), rerun)
    click.echo(json.dumps(found.document(), indent=2) if as_json else "\n".join(found.list_text()))
    if found.failure is not None:
        raise found.failure


@spa.command("compare")
@click.argument("dense", metavar="DENSE.onnx", type=FILE)
@click.argument("others", metavar="OTHER.onnx...", nargs=-1, required=True, type=FILE)
@add_options(INPUT_OPTIONS, TRACE_OPTIONS)
@_guard
def compare_command(dense: Path, others: tuple[Path, ...], **given: Any) -> None:
    """A table of models with the dense one's signature: size, MACs, latency, fidelity, accuracy."""
    Console().print(compare_files(dense, list(others), _make_options(given)))


@spa.command("sweep")
@click.argument("source", metavar="IN.onnx", type=FILE)
@click.option("--ratios", default="0.1,0.3,0.5,0.7", help="Ratios to try.")
@add_options(
    make_topic_options("budget", leave_out=("ratio", "target")),
    make_topic_options("scoring", leave_out=("plan", "pipeline", "with_passes")),
    CALIBRATION_OPTIONS,
    INPUT_OPTIONS,
    UNPROVEN_OPTIONS,
    TRACE_OPTIONS,
)
@_guard
def sweep_command(source: Path, ratios: str, **given: Any) -> None:
    """Print the cost of each ratio; write nothing."""
    Console().print(make_sweep_table(source, ratios, _make_options({**given, "plan": None})))


@spa.command("apply")
@click.argument("source", metavar="IN.onnx", type=FILE)
@click.argument("plan", metavar="PLAN.json", type=FILE)
@click.option("-o", "--output", type=FILE, help="Where to write; default: IN.pruned.onnx.")
@add_options(CALIBRATION_OPTIONS, INPUT_OPTIONS, UNPROVEN_OPTIONS, RUN_OPTIONS)
@_guard
def apply_command(source: Path, plan: Path, output: Path | None, **given: Any) -> None:
    """Apply a saved plan to another checkpoint of the same graph."""
    _run(source, output, {**given, "plan": plan})


@spa.command("passes")
@_guard
def passes_command() -> None:
    """List the passes with their options, the criteria and the costs."""
    for line in list_passes():
        click.echo(line)
