"""Several models in one run, each to its place, and one table of all.

    jobs = list_jobs(["a.onnx", "zoo/"], "small/")      # [Job(a.onnx, "small/"), Job(zoo/b.onnx, "small/"), ...]
    compile_batch(jobs, given)

One model after another; what is wrong with one stops no other. The exit code is that of the worst.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from spa_compiler.cli.arguments import make_options
from spa_compiler.cli.colours import paint
from spa_compiler.cli.compilation import COMPILED, compile_model, find_target, place_output
from spa_compiler.cli.printing import print_json, quote_command, write_or_tell
from spa_compiler.compiler import list_steps
from spa_compiler.errors import GateError, ModelError, NothingToPrune, ReportError, TimeLimitError, UsageError
from spa_compiler.execution.interrupts import check_stop
from spa_compiler.output import copy_model, is_foreign_model
from spa_compiler.pipeline.output_paths import check_apart, check_place
from spa_compiler.report.batch_rows import format_batch_line, format_batch_rows, make_batch
from spa_compiler.report.failure import make_failed_report
from spa_compiler.report.saving import PAGE_SUFFIXES, save_report

MODEL = ".onnx"


@dataclass(frozen=True)
class Job:
    """A model, and where it goes: None for beside it, else a folder."""

    source: Path
    output: str | None

    @property
    def target(self) -> Path:
        """The file that is written."""
        return find_target(self.source, self.output)


def split_files(files: Sequence[str], output: str | None) -> tuple[Sequence[str], str | None]:
    """The models of a command line, and where they go: of two words the second says it, unless -o does.

    Raises UsageError where the second is a model that no compilation made, which would be lost.
    """
    if output is not None or len(files) != 2:
        return files, output
    source, output = files
    if Path(output).is_file() and not Path(source).is_dir() and is_foreign_model(Path(output)):
        raise UsageError(
            f"{output} is there, and is a model that spa-compile did not make: to compile both give -o FOLDER/, to "
            f"replace it -o {output}"
        )
    return [source], output


def list_jobs(sources: Sequence[str], output: str | None) -> list[Job]:
    """The models of these files and folders; those of a folder in order, its sub-folders kept in the output.

    Models that are named as compiled ones are not taken from folders. Raises ModelError for a folder without a model,
    UsageError for an output that is a file.
    """
    if output is not None and (output.endswith(MODEL) or Path(output).is_file()):
        both = f"{sources[1]} and -o {output} both say where to write; " if len(sources) == 2 else f"-o {output}: "
        raise UsageError(f"{both}several models go to a folder, -o FOLDER/")
    return [job for source in sources for job in _list_own(Path(source), output)]


def _list_own(source: Path, output: str | None) -> Iterator[Job]:
    """The models that one word of the command line stands for."""
    if not source.is_dir():
        yield Job(source, None if output is None else f"{output}{os.sep}")
        return
    found = sorted(p for p in source.rglob(f"*{MODEL}") if p.is_file() and not p.name.endswith(COMPILED))
    if not found:
        raise ModelError(f"{source}: no *{MODEL} in this folder that is not called *{COMPILED}")
    for file in found:
        inner = file.parent.relative_to(source)
        yield Job(file, None if output is None else f"{Path(output) / inner}{os.sep}")


def compile_batch(jobs: Sequence[Job], given: dict[str, Any]) -> None:
    """Compile one after another, print a row for each, and end with the exit code of the worst.

    What is wrong for all is an error before any work: an option, a place, a file that would be written twice. Raises
    TimeLimitError with the rest undone, ReportError where a report could not be written.
    """
    list_steps(make_options(given))
    _check_files(jobs, given)
    runs: list[dict[str, Any]] = []
    late = None
    try:
        _print_rows(jobs, _run_jobs(jobs, given, runs), given)
    except TimeLimitError as e:
        late = e
    failures = _finish(runs, given)
    if late is not None:
        raise late
    if failures:
        raise ReportError(f"the models were written; {'; '.join(failures)}")
    sys.exit(make_batch(runs)["exit_code"])


def _check_files(jobs: Sequence[Job], given: Mapping[str, Any]) -> None:
    if given["save_plan"]:
        raise UsageError("--save-plan is of one model, and several are compiled")
    for file in given["reports"]:
        if file.suffix.lower() in PAGE_SUFFIXES:
            raise UsageError(f"--report {file}: a page shows one model; give a name in .json or .md for several")
        check_place(file)
    written = [(f"the output of {j.source},", j.target) for j in jobs]
    check_apart(
        {j.source: "a model that is compiled" for j in jobs}, [*written, *(("--report", f) for f in given["reports"])]
    )


def _print_rows(jobs: Sequence[Job], runs: Iterator[dict[str, Any]], given: Mapping[str, Any]) -> None:
    """Run, with a row for each as soon as it is over."""
    lines = format_batch_rows([str(j.source) for j in jobs], runs)
    for line in lines:
        if not given["as_json"] and not given["quiet"]:
            click.echo(paint(line))


def _run_jobs(jobs: Sequence[Job], given: dict[str, Any], runs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The report of each, which is put among the runs, too."""
    for k, job in enumerate(jobs, 1):
        if not given["quiet"]:
            click.echo(f"spa-compile: model {k} of {len(jobs)}: {job.source}", err=True)
        runs.append({**_run_job(job, given), "command": quote_command()})
        yield runs[-1]
        check_stop()


def _run_job(job: Job, given: dict[str, Any]) -> dict[str, Any]:
    try:
        with place_output(job.source, job.output) as target:
            try:
                return compile_model(job.source, target, given).report
            except NothingToPrune as e:
                if not given["allow_noop"]:
                    raise
                copy = None if given["dry_run"] else copy_model(job.source, target)
                return make_failed_report(e, job.source, copy, is_allowed=True)
    except GateError as e:
        return e.report or make_failed_report(e, job.source)
    except Exception as e:
        if not isinstance(e, TimeLimitError):
            check_stop()  # an interrupt in disguise
        if given["verbose"]:
            traceback.print_exc()
        return make_failed_report(e, job.source)


def _finish(runs: Sequence[dict[str, Any]], given: Mapping[str, Any]) -> list[str]:
    """Write the document of all runs and print the last line; a sentence for each file that could not be written."""
    found = make_batch(runs)
    why = {file: write_or_tell(file, lambda f: save_report(found, f)) for file in given["reports"]}
    if given["as_json"]:
        print_json(found)
    else:
        click.echo(paint(format_batch_line(found)))
    return [f"the report {file} was not: {reason}" for file, reason in why.items() if reason]


__all__ = ["Job", "compile_batch", "list_jobs", "split_files"]
