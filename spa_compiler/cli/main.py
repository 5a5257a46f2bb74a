"""The command line: `spa-compile` is `spa compile`; beside it inspect, explain, verify, compare, sweep, apply, passes.

Each command parses, calls the library and prints. Errors are one line on stderr; the exit code is the error's.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from spa_compiler import times
from spa_compiler.cli.arguments import (
    FILE,
    add_options,
    make_named_option,
    make_topic_options,
    read_options,
    spell_out_switches,
)
from spa_compiler.cli.colours import paint
from spa_compiler.cli.explanation import explain_file
from spa_compiler.cli.group_table import inspect_file, list_orders, make_frozen_table, make_group_table
from spa_compiler.cli.inspection import (
    compare_files,
    compare_with_random,
    describe_passes,
    list_passes,
    make_comparison_table,
)
from spa_compiler.cli.progress import show_progress
from spa_compiler.cli.score_columns import add_columns, make_score_table
from spa_compiler.cli.verification import verify_file
from spa_compiler.compiler import Result, compile_file, count_steps
from spa_compiler.errors import (
    GateError,
    ModelError,
    NothingToPrune,
    PlaceError,
    ReportError,
    SpaError,
    UnprovenError,
    UsageError,
)
from spa_compiler.execution.interrupts import raise_on_signals
from spa_compiler.execution.time_limit import limit_time
from spa_compiler.exit_codes import ExitCode
from spa_compiler.output import copy_model
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.output_paths import check_apart, check_place
from spa_compiler.planning.plan import Plan
from spa_compiler.report import document
from spa_compiler.report.failure import describe_error, find_exit_code, make_failed_report
from spa_compiler.report.numbers import write_json
from spa_compiler.report.saving import is_replaceable, save_report
from spa_compiler.report.sweep_rows import format_rows, save_rows
from spa_compiler.sweeps import make_budgets, sweep_file
from spa_compiler.times import USUAL_SECONDS
from spa_compiler.version import VERSION


def _guard(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors become one line and their exit code; Ctrl-C and SIGTERM leave nothing behind."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            with raise_on_signals(), limit_time(options.get("time_limit") or 0.0):
                command(*args, **options)
        except KeyboardInterrupt:
            click.echo("spa-compile: interrupted; no unfinished file is left", err=True)
            sys.exit(ExitCode.INTERRUPTED)
        except Exception as e:
            if isinstance(e, OSError) and e.errno == errno.EPIPE:  # whoever read the output has gone
                raise
            _show_error(e, bool(options.get("verbose")))
            if options.get("as_json") and not click.get_current_context().meta.get(PRINTED):
                _print_json({"status": "ERROR", "exit_code": int(find_exit_code(e)), "error": describe_error(e)})
            sys.exit(find_exit_code(e))

    return run


def _print_json(found: Mapping[str, Any]) -> None:
    """Print a document on standard output, where it is the only one."""
    click.echo(write_json(found))
    click.get_current_context().meta[PRINTED] = True


def _show_error(error: Exception, verbose: bool) -> None:
    """One line on stderr; where it comes from, if that was asked for."""
    known = isinstance(error, SpaError | OSError | MemoryError)
    click.echo(f"{paint('spa-compile: error:') if known else 'spa-compile:'} {describe_error(error)}", err=True)
    for note in getattr(error, "__notes__", []) if verbose else []:
        click.echo(f"  {note}", err=True)
    if verbose and not known:
        traceback.print_exc()


CALIBRATION_OPTIONS, INPUT_OPTIONS, UNPROVEN_OPTIONS = (
    make_topic_options("calibration"),
    make_topic_options("inputs"),
    make_topic_options("proof"),
)
SCORING_OPTIONS = make_topic_options("scoring", leave_out=("pipeline", "with_passes"))
TEXTS = [
    click.option(
        "--mask", type=FILE, help="Apply keep-masks from an .npz, one boolean array per group (name or label)."
    ),
    make_named_option("pipeline"),
    make_named_option("with_passes"),
]
RUN_OPTIONS: list[Callable[..., Any]] = [
    click.option(
        "--report",
        "reports",
        type=FILE,
        multiple=True,
        help="Write the report: a page for .html, Markdown for .md and $GITHUB_STEP_SUMMARY, else JSON; - is --json. "
        "Repeatable.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON and nothing else."),
    make_named_option("fail_under"),
    click.option("--allow-noop", is_flag=True, help="Copy the model and exit 0, not 5, when nothing can be pruned."),
    make_named_option("latency"),
    make_named_option("quality"),
    click.option("-q", "--quiet", is_flag=True, help="Only the last line."),
    click.option("-v", "--verbose", is_flag=True, help="Groups, frozen parameters by reason, tracebacks."),
]
TRACE_OPTIONS = [click.option("-v", "--verbose", is_flag=True, help="Say where an error comes from.")]
MOST_COLUMNS = 10_000
"""Width of a table that is not for a terminal: no name is folded."""
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
STANDARD_OUTPUT = Path("-")
"""Stands for standard output where a report is asked for."""
PRINTED = "spa_compiler.json"
"""Key in the context of a command that has printed its JSON."""
SETTINGS: dict[str, Any] = {
    "show_default": True, "max_content_width": 120, "help_option_names": ["-h", "--help"],
}  # fmt: skip


def _make_options(given: dict[str, Any]) -> Options:
    """Command-line values as Options; keep-masks are a plan."""
    if given.get("mask"):
        if given["plan"]:
            raise UsageError("--plan and --mask both say which channels stay: give one of them")
        given = {**given, "plan": given["mask"]}
    return read_options(given)


def _run(source: Path, output: Path | None, given: dict[str, Any]) -> None:
    """Compile, print and save what was asked for; a run that fails says so in its reports, too."""
    target = output or source.with_name(f"{source.stem}.pruned.onnx")
    try:
        try:
            _compile_and_save(source, target, given)
        except NothingToPrune as e:
            if not given["allow_noop"]:
                raise
            _copy_unchanged(e, source, target, given)
    except (GateError, ReportError):  # they have a report of the whole run
        raise
    except Exception as e:
        _report_failure(make_failed_report(e, source), [] if isinstance(e, PlaceError) else given["reports"], given)
        raise


def _copy_unchanged(error: NothingToPrune, source: Path, target: Path, given: dict[str, Any]) -> None:
    """Where nothing could be pruned and that is allowed, the next step gets the model as it is, and a report."""
    copy = None if given["dry_run"] else copy_model(source, target)
    failures = _report_failure(make_failed_report(error, source, copy, True), given["reports"], given)
    if not given["as_json"]:
        rest = "; --fail-under was not judged" if given["fail_under"] else ""
        did = f"{target} is a copy of {source}" if copy else "dry run: nothing was written"
        click.echo(f"{paint('UNCHANGED')} | {error}; {did}{rest}")
    if failures:
        raise ReportError(f"{'the copy was written' if copy else 'the dry run was done'}; {'; '.join(failures)}")


def _compile_and_save(source: Path, target: Path, given: dict[str, Any]) -> None:
    options = _make_options(given)
    beside = _list_other_outputs(given)
    for _, file in beside:
        check_place(file)
    if not source.is_file():
        raise ModelError(f"{source}: no such file" if not source.exists() else f"{source}: not a file")
    try:
        quiet = given["quiet"] or (given["as_json"] and not sys.stderr.isatty())
        words = _describe_unproven(" | nothing was written", given["as_json"])
        with words, show_progress(count_steps(options), quiet) as tell:
            result = compile_file(source, target, options, tell, None, beside)
    except GateError as e:
        if e.report is not None:
            e.report["command"] = _tell_command()
            _show_missed(e.report, given)
        raise
    result.report["command"] = _tell_command()
    failures = list(_save(result, beside))
    _print_result(result, given)
    if failures:
        written = result.report["output"]["path"]
        done = f"the model was written ({written})" if written else "the dry run was done"
        raise ReportError(f"{done}, {'; '.join(failures)}")


def _tell_command() -> str:
    """The command as it was typed, with what a shell needs in quotes."""
    return shlex.join(["spa-compile", *sys.argv[1:]])


def _report_failure(report: dict[str, Any], files: Sequence[Path], given: dict[str, Any]) -> list[str]:
    """Save and print the report of a run that ended without a result; a sentence for each that could not be saved."""
    failures = []
    for file in files:
        if not is_replaceable(file):
            failures.append(f"{file} is no report and stays as it is; none of this run is written")
        elif why := _write(file, lambda f: save_report(report, f)):
            failures.append(f"the report {file} was not written: {why}")
    for failure in failures:
        click.echo(f"spa-compile: {failure}", err=True)
    if given["as_json"]:
        _print_json(report)
    return failures


def _show_missed(report: dict[str, Any], given: dict[str, Any]) -> None:
    """Print and save the report of a run that missed a gate."""
    for file in given["reports"]:
        if why := _write(file, lambda f: save_report(report, f)):
            click.echo(f"spa-compile: error: the report {file} was not written: {why}", err=True)
    if given["as_json"]:
        _print_json(report)
        return
    if not given["quiet"]:
        document.show_report(report, Console(), given["verbose"])
    click.echo(paint(document.format_last_line(report)))


def _list_other_outputs(given: dict[str, Any]) -> list[tuple[str, Path]]:
    """Files that are written beside the model, each with the option that names it."""
    plan = given.get("save_plan")
    return [*([("--save-plan", plan)] if plan is not None else []), *(("--report", file) for file in given["reports"])]


def _save(result: Result, beside: Sequence[tuple[str, Path]]) -> Iterator[str]:
    """Write the plan and the reports; a sentence for each that could not be written, of which nothing is left."""
    writers: dict[str, tuple[str, Callable[[Path], None]]] = {
        "--report": ("report", lambda f: save_report(result.report, f)),
        "--save-plan": ("plan", lambda f: result.plan.save(f, result.state.graph)),
    }
    for option, file in beside:
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
def _describe_unproven(rest: str, as_json: bool) -> Iterator[None]:
    """The last line where the proof cannot see some groups."""
    try:
        yield
    except UnprovenError as e:
        if not as_json:
            click.echo(f"{document.format_unproven_status(len(e.silent), e.groups)}{rest}")
        raise


def _print_result(result: Result, given: dict[str, Any]) -> None:
    if given["as_json"]:
        _print_json(result.report)
        return
    if not given["quiet"]:
        document.show_report(result.report, Console(), given["verbose"])
    written, data = result.report["output"]["path"], result.report["output"]["data"]
    if not given["quiet"]:
        both = f"wrote {written}" + (f" and its weights {data}" if data else "")
        click.echo(both if written else "dry run: nothing was written")
    click.echo(paint(document.format_last_line(result.report)))


def _compile(source: Path, destination: str | None, output: str | None, **given: Any) -> None:
    """Make an ONNX model smaller and faster: remove channels, heads and hidden units, without data or training.

    The result is checked against onnxruntime before it is written. Exit codes: 0 done; 1 verification failed, or the
    proof cannot see some groups, nothing written; 2 usage; 3 the model cannot be read or run; 4 the budget cannot be
    reached; 5 nothing could be pruned; 6 a --fail-under gate was missed; 7 the model was written, its report or plan
    could not be; 70 out of memory, or a defect of spa-compile.
    """
    if destination is not None and output is not None:
        raise UsageError(f"{destination} and -o {output} both say where to write: give one of them")
    if given["quiet"] and given["verbose"]:
        raise UsageError("-q and -v contradict each other: give one of them")
    if STANDARD_OUTPUT in given["reports"]:
        given |= {"reports": tuple(f for f in given["reports"] if f != STANDARD_OUTPUT), "as_json": True}
    with _place_output(source, destination or output) as target:
        _run(source, target, given)


@contextmanager
def _place_output(source: Path, output: str | None) -> Iterator[Path | None]:
    """The file that is written: one in the folder that is named, if it is one. Folders are made, and stay if used."""
    if output is None:
        yield None
        return
    is_folder = output.endswith(("/", os.sep)) or Path(output).is_dir()
    target = Path(output) / f"{source.stem}.pruned.onnx" if is_folder else Path(output)
    made = [p for p in target.parents if not p.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise PlaceError(f"{output}: cannot make the folder: {e.strerror or e}") from e
    try:
        yield target
    finally:
        for p in made:
            with suppress(OSError):  # something is in it
                p.rmdir()


class _Command(click.Command):
    """A command whose usage errors look like all others, and which may be the name of another one."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run it; the first argument may be a verb, as in `spa-compile inspect IN.onnx`."""
        given = list(extra.get("args") or (args[0] if args else None) or sys.argv[1:])
        is_verb = bool(given) and self.name == "spa-compile" and given[0] in spa.commands
        if is_verb and not Path(given[0]).is_file():
            return spa.main(**{**extra, "args": given, "prog_name": "spa-compile"})
        return super().main(*args, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; an option that may stand alone gets the value that this means."""
        return super().parse_args(ctx, spell_out_switches(self.params, args))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """The context of a run; what is wrong with the options is one line, in the style of all errors."""
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as e:
            click.echo(f"spa-compile: error: {e.format_message()} (-h lists the options)", err=True)
            sys.exit(ExitCode.BAD_USAGE)


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
    body = click.option(
        "-o", "--output", type=click.Path(), help="The file to write, or FOLDER/; default: IN.pruned.onnx."
    )(body)
    body = click.version_option(VERSION, prog_name="spa-compile")(body)
    body = click.argument("destination", metavar="[OUT.onnx]", type=click.Path(), required=False)(body)
    body = click.argument("source", metavar="IN.onnx", type=FILE)(body)
    return click.command(name, cls=_Command, context_settings=SETTINGS)(body)


compile_command = _make_command("spa-compile")


class _Group(click.Group):
    """Verbs that are commands of our own kind."""

    command_class = _Command


@click.group(cls=_Group, context_settings=SETTINGS)
@click.version_option(VERSION, prog_name="spa")
def spa() -> None:
    """Structured pruning of ONNX models."""
    logging.captureWarnings(True)


spa.add_command(_make_command("compile"), "compile")


@spa.command("inspect")
@click.argument("source", metavar="IN.onnx", type=FILE)
@JSON_OPTION
@click.option("--sort", type=click.Choice(list_orders()), default="macs", show_default=True, help="Order of groups.")
@click.option("--top", type=click.IntRange(1), metavar="N", help="The first N groups, and N nodes that are frozen.")
@click.option("-v", "--verbose", is_flag=True, help="The members of every group, and where an error comes from.")
@click.option("--criterion", help="Columns of the scores of each group by this criterion, and of its zero weights.")
@click.option("--calib", metavar="SOURCE", help="Columns of how often units are not 0 on these inputs, too.")
@add_options([make_named_option(n) for n in ("samples", "preprocess", "input_range", "seed")])
@add_options([make_named_option("input_shape"), make_named_option("memory"), make_named_option("time_limit")])
@_guard
def inspect_command(
    source: Path,
    as_json: bool,
    sort: str,
    top: int | None,
    verbose: bool,
    criterion: str | None,
    calib: str | None,
    **given: Any,
) -> None:
    """List the groups of coupled channels, and why the rest is frozen.

    What hangs on a group (MACs, parameters and their shares) would go with all of its channels. Shares overlap: a
    weight between two groups counts for both.
    """
    options = read_options(given)
    whole = inspect_file(source, options.input_shape, options.memory)
    add_columns(whole, source, criterion, calib, options)
    found = whole.arrange(sort, top)
    if as_json:
        _print_json(found)
        return
    click.echo("\n".join(found.list_totals()))
    if found["groups"]:
        _print_table(make_group_table(found))
    if verbose:
        click.echo("\n".join(found.list_members()))
    if found["frozen_nodes"]:
        _print_table(make_frozen_table(found))
    if "criterion" in found:
        _print_table(make_score_table(found))


def _print_table(table: Table) -> None:
    """Print a table, in full width where it goes into a file or a pipe."""
    console = Console()
    lines = console if console.is_terminal else Console(width=MOST_COLUMNS)
    lines.print(table)


@spa.command("explain")
@click.argument("source", metavar="IN.onnx", type=FILE)
@click.argument("one", metavar="A")
@click.argument("other", metavar="[B]", required=False)
@JSON_OPTION
@add_options([make_named_option("input_shape"), make_named_option("memory"), make_named_option("time_limit")])
@_guard
def explain_command(
    source: Path,
    one: str,
    other: str | None,
    as_json: bool,
    input_shape: tuple[str, ...],
    memory: str,
    time_limit: float,
) -> None:
    """Print what A is part of, what else hangs on that, and why the rest of it is frozen; with B the chain between.

    A and B are groups (name or label), nodes, modules, values, or axes (VALUE:AXIS).
    """
    found = explain_file(source, one, other, input_shape, memory)
    _print_json(found) if as_json else click.echo("\n".join(found.lines()))


@spa.command("verify")
@click.argument("dense", metavar="DENSE.onnx", type=FILE)
@click.argument("compiled", metavar="COMPILED.onnx", type=FILE)
@click.option("--plan", type=FILE, help="The plan that was applied: proves the structure, and prune equals mask.")
@click.option("--rerun", is_flag=True, help="Run the pipeline that the file names again, and compare every weight.")
@JSON_OPTION
@add_options(UNPROVEN_OPTIONS, INPUT_OPTIONS, [make_named_option("fail_under")], TRACE_OPTIONS)
@_guard
def verify_command(dense: Path, compiled: Path, plan: Path | None, rerun: bool, as_json: bool, **given: Any) -> None:
    """Prove a compiled model from the dense one: hashes, signature, structure and weights; measure its fidelity.

    The last line is VERIFIED, or UNPROVEN with what is not proven. Weights that were updated after removal are proven
    by --rerun. Without it, and without a plan, the exit code is 1 unless a --fail-under gate holds or --allow-unproven
    is given.
    """
    with _describe_unproven("", as_json):
        found = verify_file(dense, compiled, Plan.load(plan) if plan else None, _make_options(given), rerun)
    _print_json(found.document()) if as_json else click.echo("\n".join(found.list_text()))
    if found.failure is not None:
        raise found.failure


@spa.command("compare")
@click.argument("dense", metavar="DENSE.onnx", type=FILE)
@click.argument("others", metavar="OTHER.onnx...", nargs=-1, required=True, type=FILE)
@click.option(
    "--random", "is_random", is_flag=True,
    help="Beside each model the dense one, cut at random to as many MACs (--seed): what every criterion has to beat.",
)  # fmt: skip
@JSON_OPTION
@add_options(INPUT_OPTIONS, TRACE_OPTIONS)
@_guard
def compare_command(dense: Path, others: tuple[Path, ...], is_random: bool, as_json: bool, **given: Any) -> None:
    """A table of models with the dense one's signature: size, MACs, latency, fidelity, accuracy."""
    compare = compare_with_random if is_random else compare_files
    found = compare(dense, list(others), _make_options(given))
    _print_json(found) if as_json else Console().print(make_comparison_table(found))


@spa.command("sweep")
@click.argument("source", metavar="IN.onnx", type=FILE)
@click.option("--ratios", default="", show_default="0.1,0.3,0.5,0.7", help="Shares to remove.")
@click.option("--targets", default="", show_default=False, help="Absolute budgets, such as 15ms,20ms or 20MB.")
@click.option("--write", "folder", type=FILE, help="Write each model to this folder, as IN.BUDGET.onnx.")
@click.option("--csv", "table", type=FILE, help="Write the rows as CSV, each as it comes.")
@click.option(
    "--report",
    "reports",
    type=FILE,
    multiple=True,
    help="Write the rows: a page with the curve for .html, Markdown for .md, CSV for .csv, else JSON. Repeatable.",
)
@JSON_OPTION
@add_options(
    make_topic_options("budget", leave_out=("ratio", "target", "max_drop")),
    make_topic_options("scoring", leave_out=("plan", "pipeline", "with_passes")),
    CALIBRATION_OPTIONS,
    INPUT_OPTIONS,
    UNPROVEN_OPTIONS,
    [make_named_option("latency")],
    TRACE_OPTIONS,
)
@_guard
def sweep_command(
    source: Path,
    ratios: str,
    targets: str,
    folder: Path | None,
    table: Path | None,
    reports: tuple[Path, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Print what each budget costs, a row as soon as it is known; write nothing that is not asked for."""
    options = _make_options({**given, "plan": None})
    budgets = make_budgets(_read_numbers("--ratios", ratios), [t for t in targets.split(",") if t])
    beside = [*([("--csv", table)] if table else []), *(("--report", file) for file in reports)]
    for _, file in beside:
        check_place(file)
    check_apart({source: "the model"}, beside)
    found: dict[str, Any] = {"input": str(source), "rows": []}

    def keep(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            found["rows"].append(row)
            for option, file in beside:  # a row that is known is not lost when a later one fails
                if why := _write(file, lambda f: save_rows(found, f)):
                    raise ReportError(f"{option} {file} was not written: {why}")
            yield row

    rows = keep(sweep_file(source, budgets, options, folder))
    if not as_json:
        for line in format_rows(rows):
            click.echo(line)
        return
    list(rows)
    _print_json(found)


def _read_numbers(option: str, text: str) -> list[float]:
    """Numbers with commas between, also in percent. Raises UsageError for anything else."""
    try:
        return [float(t.removesuffix("%")) / (100 if t.endswith("%") else 1) for t in text.split(",") if t]
    except ValueError as e:
        raise UsageError(f"{option} {text}: expected numbers like 0.3,0.5") from e


@spa.command("times")
@click.argument("source", metavar="[IN.onnx]", type=FILE, required=False)
@click.option("-o", "--output", type=FILE, help="The file of times, for --times.")
@click.option("--script", type=FILE, help="Write the program that measures, to run alone on the target.")
@click.option("--seconds", type=click.FloatRange(1), default=USUAL_SECONDS, help="Time to spend on contractions.")
@click.option("--no-cache", is_flag=True, help="Measure again what is remembered.")
@JSON_OPTION
@add_options([make_named_option("threads")], TRACE_OPTIONS)
@click.option("--input-shape", multiple=True, metavar="NAME:1x3", help="Sizes of an input; symbolic axes are 1.")
@_guard
def times_command(source: Path | None, output: Path | None, script: Path | None, **given: Any) -> None:
    """Measure how long this model's kernels take here at several widths, for --times of a compile elsewhere."""
    if script is not None and source is None:
        check_place(script)
        script.write_text(Path(times.__file__).read_text(encoding="utf-8"), encoding="utf-8")
        click.echo(f"wrote {script}; on the target: python {script.name} IN.onnx -o t.json (numpy, onnx, onnxruntime)")
        return
    if source is None or output is None or script is not None:
        raise UsageError("give IN.onnx and -o T.json, or --script FILE.py alone")
    check_place(output)
    try:
        found = times.time_file(
            source, output, given["threads"], given["seconds"], given["input_shape"], not given["no_cache"]
        )
    except times.TimesError as e:
        raise (UsageError if e.is_usage else ModelError)(str(e)) from e
    _print_json(found) if given["as_json"] else click.echo(times.describe_times(found, output))


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
@JSON_OPTION
@_guard
def passes_command(as_json: bool) -> None:
    """List the passes with their options, the criteria, the scopes, the costs and the devices."""
    found = describe_passes()
    _print_json(found) if as_json else click.echo("\n".join(list_passes(found)))
