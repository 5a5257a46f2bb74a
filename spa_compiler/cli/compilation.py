"""One compile as a command: compile, print, save what was asked for; a run that fails says so in its reports, too."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from spa_compiler.cli.arguments import make_options
from spa_compiler.cli.colours import paint
from spa_compiler.cli.printing import describe_unproven_run, print_json, quote_command, write_or_tell
from spa_compiler.cli.progress import show_progress
from spa_compiler.compiler import Result, compile_file, list_steps
from spa_compiler.errors import GateError, ModelError, NothingToPrune, PlaceError, ReportError
from spa_compiler.output import copy_model
from spa_compiler.pipeline.output_paths import check_place
from spa_compiler.report import document
from spa_compiler.report.failure import make_failed_report
from spa_compiler.report.saving import is_replaceable, save_report

COMPILED = ".pruned.onnx"
"""How the names of compiled models end where nobody names them."""


def run_compile(source: Path, target: Path, given: dict[str, Any]) -> None:
    """Compile, print and save what was asked for; a run that fails says so in its reports, too."""
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
    beside = _list_other_outputs(given)
    try:
        with describe_unproven_run(" | nothing was written", given["as_json"]):
            result = compile_model(source, target, given, beside)
    except GateError as e:
        if e.report is not None:
            _show_missed(e.report, given)
        raise
    failures = list(_save(result, beside))
    _print_result(result, given)
    if failures:
        written = result.report["output"]["path"]
        done = f"the model was written ({written})" if written else "the dry run was done"
        raise ReportError(f"{done}, {'; '.join(failures)}")


def compile_model(source: Path, target: Path, given: dict[str, Any], beside: Sequence[tuple[str, Path]] = ()) -> Result:
    """Compile with what the command line gave, and show the steps; `beside`: other files that will be written.

    Raises a SpaError; a GateError has the report.
    """
    options = make_options(given)
    for _, file in beside:
        check_place(file)
    if not source.is_file():
        raise ModelError(f"{source}: no such file" if not source.exists() else f"{source}: not a file")
    quiet = given["quiet"] or (given["as_json"] and not sys.stderr.isatty())
    try:
        with show_progress(list_steps(options), quiet) as tell:
            result = compile_file(source, target, options, tell, None, beside)
    except GateError as e:
        if e.report is not None:
            e.report["command"] = quote_command()
        raise
    result.report["command"] = quote_command()
    return result


def _report_failure(report: dict[str, Any], files: Sequence[Path], given: dict[str, Any]) -> list[str]:
    """Save and print the report of a run that ended without a result; a sentence for each that could not be saved."""
    failures = []
    for file in files:
        if not is_replaceable(file):
            failures.append(f"{file} is no report and stays as it is; none of this run is written")
        elif why := write_or_tell(file, lambda f: save_report(report, f)):
            failures.append(f"the report {file} was not written: {why}")
    for failure in failures:
        click.echo(f"spa-compile: {failure}", err=True)
    if given["as_json"]:
        print_json(report)
    return failures


def _show_missed(report: dict[str, Any], given: dict[str, Any]) -> None:
    """Print and save the report of a run that missed a gate."""
    for file in given["reports"]:
        if why := write_or_tell(file, lambda f: save_report(report, f)):
            click.echo(f"spa-compile: error: the report {file} was not written: {why}", err=True)
    if given["as_json"]:
        print_json(report)
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
        if why := write_or_tell(file, write):
            yield f"the {what} {file} was not: {why}"


def _print_result(result: Result, given: dict[str, Any]) -> None:
    if given["as_json"]:
        print_json(result.report)
        return
    if not given["quiet"]:
        document.show_report(result.report, Console(), given["verbose"])
    written, data = result.report["output"]["path"], result.report["output"]["data"]
    if not given["quiet"]:
        both = f"wrote {written}" + (f" and its weights {data}" if data else "")
        click.echo(both if written else "dry run: nothing was written")
    click.echo(paint(document.format_last_line(result.report)))


@contextmanager
def place_output(source: Path, output: str | None) -> Iterator[Path]:
    """The file that is written: one in the folder that is named, if it is one. Folders are made, and stay if used."""
    target = find_target(source, output)
    made = [p for p in target.parents if output is not None and not p.exists()]
    try:
        if made:
            target.parent.mkdir(parents=True)
    except OSError as e:
        raise PlaceError(f"{target.parent}: cannot make the folder: {e.strerror or e}") from e
    try:
        yield target
    finally:
        for p in made:
            with suppress(OSError):  # something is in it
                p.rmdir()


def find_target(source: Path, output: str | None) -> Path:
    """Where a compiled model goes: beside its source under the usual name, into a folder, or to a file."""
    usual = f"{source.stem}{COMPILED}"
    if output is None:
        return source.with_name(usual)
    is_folder = output.endswith(("/", os.sep)) or Path(output).is_dir()
    return Path(output) / usual if is_folder else Path(output)


__all__ = ["COMPILED", "compile_model", "find_target", "place_output", "run_compile"]
