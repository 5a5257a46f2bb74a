"""The command line: `spa-compile` is `spa compile`; beside it inspect, explain, verify, compare, sweep, apply, passes.

Each command parses, calls the library and prints. Errors are one line on stderr; the exit code is the error's.
"""

from __future__ import annotations

import errno
import functools
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
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
    make_options,
    make_topic_options,
    read_options,
    spell_out_switches,
)
from spa_compiler.cli.batch import compile_batch, list_jobs, split_files
from spa_compiler.cli.colours import paint
from spa_compiler.cli.compilation import find_target, place_output, run_compile
from spa_compiler.cli.explanation import explain_file
from spa_compiler.cli.group_table import inspect_file, list_orders, make_frozen_table, make_group_table
from spa_compiler.cli.inspection import (
    compare_files,
    compare_with_random,
    describe_passes,
    list_passes,
    make_comparison_table,
)
from spa_compiler.cli.printing import PRINTED, describe_unproven_run, print_json, write_or_tell
from spa_compiler.cli.score_columns import add_columns, make_score_table
from spa_compiler.cli.verification import verify_file
from spa_compiler.errors import (
    ModelError,
    ReportError,
    SpaError,
    UsageError,
)
from spa_compiler.execution.interrupts import raise_on_signals
from spa_compiler.execution.time_limit import limit_time
from spa_compiler.exit_codes import ExitCode
from spa_compiler.pipeline.output_paths import check_apart, check_place
from spa_compiler.planning.plan import Plan
from spa_compiler.report.failure import describe_error, find_exit_code
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
                print_json({"status": "ERROR", "exit_code": int(find_exit_code(e)), "error": describe_error(e)})
            sys.exit(find_exit_code(e))

    return run


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
SETTINGS: dict[str, Any] = {
    "show_default": True, "max_content_width": 120, "help_option_names": ["-h", "--help"],
}  # fmt: skip


def _compile(files: tuple[str, ...], output: str | None, **given: Any) -> None:
    """Make an ONNX model smaller and faster: remove channels, heads and hidden units, without data or training.

    With -o FOLDER/, a folder of models or more than two files all are compiled, with a row for each.

    The result is checked against onnxruntime before it is written. Exit codes: 0 done; 1 verification failed, or the
    proof cannot see some groups, nothing written; 2 usage; 3 the model cannot be read or run; 4 the budget cannot be
    reached; 5 nothing could be pruned; 6 a --fail-under gate was missed; 7 the model was written, its report or plan
    could not be; 70 out of memory, or a defect of spa-compile.
    """
    if given["quiet"] and given["verbose"]:
        raise UsageError("-q and -v contradict each other: give one of them")
    if STANDARD_OUTPUT in given["reports"]:
        given |= {"reports": tuple(f for f in given["reports"] if f != STANDARD_OUTPUT), "as_json": True}
    sources, output = split_files(files, output)
    if len(sources) > 1 or Path(sources[0]).is_dir():
        compile_batch(list_jobs(sources, output), given)
        return
    source = Path(sources[0])
    with place_output(source, output) as target:
        run_compile(source, target, given)


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
        "-o",
        "--output",
        type=click.Path(),
        help="The file to write, or FOLDER/ (for any number of models); default: IN.pruned.onnx beside each.",
    )(body)
    body = click.version_option(VERSION, prog_name="spa-compile")(body)
    body = click.argument("files", metavar="IN.onnx... [OUT.onnx]", nargs=-1, required=True, type=click.Path())(body)
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
        print_json(found)
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
    print_json(found) if as_json else click.echo("\n".join(found.lines()))


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
    with describe_unproven_run("", as_json):
        found = verify_file(dense, compiled, Plan.load(plan) if plan else None, make_options(given), rerun)
    print_json(found.document()) if as_json else click.echo("\n".join(found.list_text()))
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
    found = compare(dense, list(others), make_options(given))
    print_json(found) if as_json else Console().print(make_comparison_table(found))


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
    options = make_options({**given, "plan": None})
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
                if why := write_or_tell(file, lambda f: save_rows(found, f)):
                    raise ReportError(f"{option} {file} was not written: {why}")
            yield row

    rows = keep(sweep_file(source, budgets, options, folder))
    if not as_json:
        for line in format_rows(rows):
            click.echo(line)
        return
    list(rows)
    print_json(found)


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
    print_json(found) if given["as_json"] else click.echo(times.describe_times(found, output))


@spa.command("apply")
@click.argument("source", metavar="IN.onnx", type=FILE)
@click.argument("plan", metavar="PLAN.json", type=FILE)
@click.option("-o", "--output", type=FILE, help="Where to write; default: IN.pruned.onnx.")
@add_options(CALIBRATION_OPTIONS, INPUT_OPTIONS, UNPROVEN_OPTIONS, RUN_OPTIONS)
@_guard
def apply_command(source: Path, plan: Path, output: Path | None, **given: Any) -> None:
    """Apply a saved plan to another checkpoint of the same graph."""
    run_compile(source, output or find_target(source, None), {**given, "plan": plan})


@spa.command("passes")
@JSON_OPTION
@_guard
def passes_command(as_json: bool) -> None:
    """List the passes with their options, the criteria, the scopes, the costs and the devices."""
    found = describe_passes()
    print_json(found) if as_json else click.echo("\n".join(list_passes(found)))
