"""Compile the same models by two versions of spa-compile: are the files the same, and what does each version cost?

    git worktree add ../base COMMIT && python -m venv ../base/.venv && ../base/.venv/bin/pip install ../base
    python -m tools.measure.identity --base ../base/.venv/bin/python --output TABLE.md [--data FOLDER] [--quick]

The models are those of models/ (digits), of tests/exports and of FOLDER/models; each is compiled with `--criterion l2`
and with the default pipeline, at ratios 0.3 and 0.5. Both versions take turns, model by model: a process of each makes
all compiles of a model, and who begins changes from model to model. Both get the same folder names, the same seed for
hashes and one thread for onnxruntime and BLAS; both environments must hold the same libraries. Leave the code of both
alone while this runs.

Two compiles are identical if they write the same files, byte for byte but for the metadata entries
spa_compile.pipeline and spa_compile.version, or if neither writes one and exit code and last lines are the same.
Seconds are of the processor, children included; the row `start` of a model is what its process spent beside the
compiles (the imports). Rows are written as they come; `--resume` continues a table that the same code has begun. The
exit code is 1 if anything differs, 130 if it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parents[2]
METHODS = {"l2": ["--criterion", "l2"], "default": []}
"""Options by the name in the table."""
RATIOS = ("0.3", "0.5")
COMMON = ["--seed", "0", "--threads", "1", "--no-latency", "-q"]
START = "start"
"""The method's column where the seconds are those of the process beside its compiles."""
IGNORED = {"spa_compile.pipeline", "spa_compile.version"}
"""Metadata entries that may differ."""
METADATA = onnx.ModelProto.DESCRIPTOR.fields_by_name["metadata_props"].number
HEAD = ["model", "method", "ratio", "identical", "first difference", "base CPU s", "now CPU s"]
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
EVERY = 4
"""Of the exports, --quick takes one in so many."""
TARGET, RESULTS, ERRORS = "compiled.onnx", "results.jsonl", "errors.txt"
WIDTH = 80
"""Characters of a value, or of a message, that are shown."""

WORKER = """
import contextlib, io, json, pathlib, resource, sys
from importlib.metadata import entry_points
command = next(iter(entry_points(group="console_scripts", name="spa-compile"))).load()
def seconds():
    both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in both)
def last(text):
    return (text.getvalue().strip().splitlines() or [""])[-1]
for arguments in json.loads(sys.argv[1]):
    out, err, code, start = io.StringIO(), io.StringIO(), 0, seconds()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command(arguments, prog_name="spa-compile")
        except SystemExit as e:
            code = e.code or 0
    row = {"code": code, "lines": [last(out), last(err)], "seconds": seconds() - start}
    with pathlib.Path(sys.argv[2]).open("a") as file:
        print(json.dumps(row), file=file)
"""
IDENTIFY = """
import hashlib, json, pathlib, sys
from importlib.metadata import entry_points, version
for group in ("console_scripts", "spa_compiler.passes", "spa_compiler.criteria"):
    for point in entry_points(group=group):
        if point.value.startswith("spa_compiler"):
            point.load()
modules = sorted((n, m.__file__) for n, m in sys.modules.items() if n.split(".")[0] == "spa_compiler" and m.__file__)
digest = hashlib.sha256()
for name, file in modules:
    digest.update(name.encode() + pathlib.Path(file).read_bytes())
names = "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "protobuf", "scipy"
libraries = ", ".join(f"{n} {version(n)}" for n in names)
print(json.dumps([digest.hexdigest()[:12], f"Python {sys.version.split()[0]}, {libraries}"]))
"""

Job = tuple[str, str]
"""A method and a ratio."""


# comparing files


def split_fields(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, record and payload of each field of a serialized message, in the order of the file."""
    at = 0
    while at < len(data):
        start = at
        key, at = _read_varint(data, at)
        body = at
        match key & 7:
            case 0:
                _, at = _read_varint(data, at)
            case 1:
                at += 8
            case 2:
                size, body = _read_varint(data, at)
                at = body + size
            case 5:
                at += 4
            case kind:
                raise ValueError(f"no ONNX file: wire type {kind} at byte {start}")
        yield key >> 3, data[start:at], data[body:at]


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def strip_metadata(data: bytes) -> bytes:
    """A model's file without the metadata entries that may differ."""
    return b"".join(record for number, record, body in split_fields(data) if not _is_ignored(number, body))


def _is_ignored(number: int, body: bytes) -> bool:
    return number == METADATA and onnx.StringStringEntryProto.FromString(body).key in IGNORED


def compare_folders(base: Path, now: Path) -> str:
    """The first difference of what two compiles have written, in words; empty if there is none."""
    names = [{p.name for p in folder.iterdir()} for folder in (base, now)]
    sources = [(folder / TARGET).read_bytes() for folder in (base, now)]
    is_same = sources[0] == sources[1] or strip_metadata(sources[0]) == strip_metadata(sources[1])
    others = sorted((names[0] & names[1]) - {TARGET})
    if is_same and names[0] == names[1] and all((base / n).read_bytes() == (now / n).read_bytes() for n in others):
        return ""
    if words := compare_messages(read_model(base / TARGET), read_model(now / TARGET)):
        return words
    if alone := sorted(names[0] ^ names[1]):
        return f"file '{alone[0]}' only {'in base' if alone[0] in names[0] else 'now'}"
    return "the same content is written in other bytes"


def read_model(path: Path) -> onnx.ModelProto:
    """A model with its external data, without the metadata that may differ."""
    model = onnx.load(path)
    kept = [entry for entry in model.metadata_props if entry.key not in IGNORED]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model


def compare_messages(base: Message, now: Message) -> str:
    """Where two messages of one type first differ, in words; empty if no field does."""
    if isinstance(base, onnx.TensorProto) and isinstance(now, onnx.TensorProto):
        return compare_tensors(base, now)
    names = [{field.name for field, _ in m.ListFields()} for m in (base, now)]
    for name in base.DESCRIPTOR.fields_by_name:
        a, b = getattr(base, name), getattr(now, name)
        if isinstance(a, Message) and (name in names[0]) != (name in names[1]):
            return f"{name} only {'in base' if name in names[0] else 'now'}"
        if name in names[0] | names[1] and (words := _compare_field(name, a, b)):
            return words
    return ""


def _compare_field(name: str, base: Any, now: Any) -> str:
    if isinstance(base, Message):
        words = compare_messages(base, now)
        return f"{name}, {words}" if words else ""
    if isinstance(base, int | float | str | bytes):
        return "" if is_same(base, now) else f"{name} {show(base)} in base, {show(now)} now"
    return compare_entries(name, base, now)


def compare_entries(name: str, base: Sequence[Any], now: Sequence[Any]) -> str:
    """Where two lists, the values of the field `name`, first differ."""
    for k, (a, b) in enumerate(zip(base, now, strict=False)):
        if not isinstance(a, Message):
            if not is_same(a, b):
                return f"{name}[{k}] {show(a)} in base, {show(b)} now"
        elif label(name, a) != label(name, b):
            return f"{name} {k} is {label(name, a)} in base, {label(name, b)} now"
        elif words := compare_messages(a, b):
            return f"{label(name, a)}, {words}"
    if len(base) == len(now):
        return ""
    longer, side = (base, "in base") if len(base) > len(now) else (now, "now")
    return f"{label(name, longer[min(len(base), len(now))])} only {side} ({len(base)} in base, {len(now)} now)"


def compare_tensors(base: onnx.TensorProto, now: onnx.TensorProto) -> str:
    """Type, shape or number of values that differ bit by bit."""
    kinds = [f"{onnx.TensorProto.DataType.Name(t.data_type)}{list(t.dims)}" for t in (base, now)]
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} in base, {kinds[1]} now"
    a, b = numpy_helper.to_array(base), numpy_helper.to_array(now)
    if a.dtype.kind == "O":
        count, most = int((a != b).sum()), ""
    else:
        bits = [np.frombuffer(x.tobytes(), np.uint8).reshape(x.size, -1) for x in (a, b)] if a.size else [a, b]
        count, most = int((bits[0] != bits[1]).any(axis=-1).sum()), f", by {_largest_difference(a, b):.3g} at most"
    return f"{count} of {a.size} values differ{most}" if count else ""


def _largest_difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        return float(np.abs(a.astype(wide) - b.astype(wide)).max(initial=0))


def is_same(base: Any, now: Any) -> bool:
    """Are two scalars the same, down to the sign of zero, where a NaN is a NaN?"""
    return base is now or (repr(base) == repr(now) if isinstance(base, float) else bool(base == now))


def label(field: str, entry: Any) -> str:
    """A list's entry by its name."""
    if isinstance(entry, onnx.NodeProto):
        return f"node {show(entry.name or ', '.join(entry.output))} ({entry.op_type})"
    if isinstance(entry, onnx.StringStringEntryProto):
        return f"metadata entry {show(entry.key)}"
    if not isinstance(entry, Message):
        return f"{field} {show(entry)}"
    return f"{field} {show(getattr(entry, 'name', '') or getattr(entry, 'domain', ''))}"


def show(value: Any) -> str:
    """A value, shortened."""
    text = repr(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


# comparing compiles


@dataclass(frozen=True)
class Compile:
    """How one compile ended: exit code (None where its process ended first), last lines, CPU seconds and folder."""

    code: int | None
    lines: tuple[str, ...]
    seconds: float
    folder: Path

    @property
    def has_model(self) -> bool:
        return (self.folder / TARGET).exists()

    def __str__(self) -> str:
        said = " / ".join(filter(None, self.lines))
        ended = "the process ended" if self.code is None else f"exit {self.code}"
        return f"{ended}, a file" if self.has_model else f"{ended}, no file: {said[: 2 * WIDTH]}"


def compare_compiles(base: Compile, now: Compile) -> tuple[bool, str]:
    """Are two compiles identical, and the first difference, or how both ended without a file."""
    if base.code is None or now.code is None or (base.code, base.has_model) != (now.code, now.has_model):
        return False, f"base: {base}; now: {now}"
    if base.has_model:
        words = compare_folders(base.folder, now.folder)
        return not words, words
    if base.lines != now.lines:
        return False, f"base: {base}; now: {now}"
    return True, f"neither writes a file: {base}"


def compile_model(python: str, source: Path, jobs: list[Job], folder: Path) -> tuple[list[Compile], float]:
    """All compiles of a model by one version, and the CPU seconds of their process (of several, where one crashes)."""
    folders = [folder / f"{method}-{ratio}" for method, ratio in jobs]
    for inner in folders:
        inner.mkdir(parents=True)
    commands = [
        [str(source.resolve()), "-o", f"{inner.name}/{TARGET}", "--ratio", ratio, *METHODS[method], *COMMON]
        for inner, (method, ratio) in zip(folders, jobs, strict=True)
    ]
    results, seconds = folder / RESULTS, 0.0
    results.touch()
    while (count := len(results.read_text().splitlines())) < len(jobs):  # once, unless a compile ends its process
        code, spent = run_process([python, "-P", "-c", WORKER, json.dumps(commands[count:]), RESULTS], folder)
        seconds += spent
        if len(results.read_text().splitlines()) < len(jobs):
            said = (folder / ERRORS).read_text(errors="replace").strip().splitlines()[-1:]
            with results.open("a") as file:
                print(json.dumps({"code": None, "lines": [f"exit {code}", *said], "seconds": 0.0}), file=file)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    return [Compile(r["code"], tuple(r["lines"]), r["seconds"], f) for r, f in zip(rows, folders, strict=True)], seconds


def run_process(command: list[str], folder: Path) -> tuple[int, float]:
    """Run a command in a folder: its exit code and CPU seconds. It does not outlive this process's interruption."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with (folder / ERRORS).open("w") as errors:
        environment = {**inherited, **ENVIRONMENT}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=errors, stderr=errors)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime


# the table


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


@dataclass(frozen=True)
class Row:
    """A line of the table; `identical` is yes, no, or empty where nothing is compared."""

    model: str
    method: str
    ratio: str
    identical: str
    difference: str
    base: float
    now: float

    def __str__(self) -> str:
        texts = [self.model, self.method, self.ratio, self.identical, self.difference]
        cells = [*texts, f"{self.base:.3f}", f"{self.now:.3f}"]
        return _line([" ".join(c.split()).replace("|", "\\|") for c in cells])

    @classmethod
    def parse(cls, line: str) -> Row:
        """The row that a line of the table holds."""
        cells = [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        model, method, ratio, identical, difference, base, now = cells
        return cls(model, method, ratio, identical, difference, float(base), float(now))


def measure_model(
    name: str, source: Path, jobs: list[Job], pythons: tuple[str, str], is_base_first: bool
) -> Iterator[Row]:
    """The rows of a model: one a compile, and one for what both processes spent beside them."""
    with tempfile.TemporaryDirectory() as scratch:
        sides: list[tuple[list[Compile], float]] = [([], 0.0), ([], 0.0)]
        for side in (0, 1) if is_base_first else (1, 0):
            folder = Path(scratch) / str(side)
            sides[side] = compile_model(pythons[side], source, jobs, folder)
        for (method, ratio), base, now in zip(jobs, sides[0][0], sides[1][0], strict=True):
            is_identical, words = compare_compiles(base, now)
            yield Row(name, method, ratio, "yes" if is_identical else "no", words, base.seconds, now.seconds)
        rest = [total - sum(c.seconds for c in compiles) for compiles, total in sides]
        yield Row(name, START, "", "", "", *rest)


class Table:
    """The rows so far, in a file that is whole at any time."""

    def __init__(self, path: Path, setting: str) -> None:
        self.path, self.setting, self.rows = path, setting, list[Row]()

    def resume(self) -> None:
        """Take over the rows of the file; ValueError if another version or environment made them."""
        if not self.path.exists():
            return
        lines = self.path.read_text().splitlines()
        if self.setting not in lines:
            raise ValueError(f"{self.path} was made by other code or libraries")
        self.rows = [Row.parse(line) for line in lines[lines.index(_line(HEAD)) + 2 :] if line.startswith("|")]

    def has_all(self, model: str, jobs: Iterable[Job]) -> bool:
        """Are there rows for all of these compiles of a model?"""
        return {(START, ""), *jobs} <= {(r.method, r.ratio) for r in self.rows if r.model == model}

    def replace_rows(self, model: str, rows: list[Row]) -> None:
        """Put a model's rows at the end, in place of those that it has."""
        self.rows = [r for r in self.rows if r.model != model] + rows
        self.save()

    def save(self) -> None:
        """Write the table and what it comes to."""
        lines = [self.setting, "", _line(HEAD), "|" + "---|" * len(HEAD), *map(str, self.rows), "", *self.summary()]
        scratch = self.path.with_name(f"{self.path.name}.part")
        scratch.write_text("\n".join(lines) + "\n")
        scratch.replace(self.path)

    def differences(self) -> int:
        """Compiles that are not identical."""
        return sum(r.identical == "no" for r in self.rows)

    def summary(self) -> list[str]:
        """How many compiles are identical, and the CPU seconds of both versions."""
        compiles = [r for r in self.rows if r.method != START]
        alike = [r for r in compiles if r.identical == "yes"]
        files = sum(not r.difference for r in alike)
        return [
            f"{len(alike)} of {len(compiles)} compiles of {len({r.model for r in self.rows})} models are identical: "
            f"{files} with a file, {len(alike) - files} without.",
            f"CPU seconds: {_describe_seconds(self.rows)}; without the start: {_describe_seconds(compiles)}.",
        ]


def _describe_seconds(rows: list[Row]) -> str:
    base, now = sum(r.base for r in rows), sum(r.now for r in rows)
    return f"{base:.2f} base, {now:.2f} now, now / base {now / base if base else float('nan'):.4f}"


# what is compiled


def list_work(data: Path | None, is_quick: bool) -> dict[str, tuple[Path, list[Job]]]:
    """Models by their name in the table, and the compiles of each."""
    digits = sorted((ROOT / "models").glob("digits_*.onnx"))
    exports = sorted((ROOT / "tests" / "exports").glob("*.onnx"))
    real = sorted((data / "models").glob("*.onnx")) if data else []
    all_jobs = [(method, ratio) for method in METHODS for ratio in RATIOS]
    few = [("l2", ratio) for ratio in RATIOS]
    if is_quick:
        return _name_jobs("digits", digits, [*few, ("default", "0.5")]) | _name_jobs("exports", exports[::EVERY], few)
    return (
        _name_jobs("digits", digits, all_jobs)
        | _name_jobs("exports", exports, all_jobs)
        | _name_jobs("data", real, all_jobs)
    )


def _name_jobs(kind: str, paths: list[Path], jobs: list[Job]) -> dict[str, tuple[Path, list[Job]]]:
    return {f"{kind}/{p.stem}": (p, jobs) for p in paths}


def identify_code(python: str) -> tuple[str, str]:
    """Digest of the modules of spa-compile that an interpreter imports, and the versions of its libraries."""
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run([python, "-P", "-c", IDENTIFY], cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{python} has no spa-compile: {done.stderr.strip().splitlines()[-1:]}")
    code, libraries = json.loads(done.stdout.splitlines()[-1])
    return code, libraries


def describe_setting(pythons: tuple[str, str]) -> str:
    """The line that says what a table compares; ValueError if the libraries of both differ."""
    (base, old), (now, new) = map(identify_code, pythons)
    if old != new:
        raise ValueError(f"the libraries differ: {old} in base, {new} now")
    return f"Modules of base `{base}`, now `{now}`{' (the same)' if base == now else ''}; {new}."


def parse_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser, for its errors, and what was given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, metavar="PYTHON", help="interpreter with the base version installed")
    parser.add_argument("--now", default=sys.executable, metavar="PYTHON", help="the same for the version of now")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="compile FOLDER/models/*.onnx, too")
    parser.add_argument("--models", default="", metavar="NAME,...", help="only these, as the table names them")
    parser.add_argument("--quick", action="store_true", help=f"digits and every {EVERY}th export, mostly with l2 only")
    parser.add_argument("--resume", action="store_true", help="keep the models that the table has")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.md")
    return parser, parser.parse_args()


def main() -> int:
    """Measure what was asked for: 1 if anything differs."""
    parser, given = parse_arguments()
    work = list_work(given.data, given.quick)
    names = [n for n in given.models.split(",") if n] or list(work)
    if unknown := set(names) - set(work):
        parser.error(f"no model is called {', '.join(sorted(unknown))}")
    if given.data and not any(n.startswith("data/") for n in work) and not given.quick:
        parser.error(f"{given.data / 'models'} holds no .onnx file")
    pythons = given.base, given.now
    try:
        table = Table(given.output, describe_setting(pythons))
        if given.resume:
            table.resume()
    except ValueError as e:
        parser.error(str(e))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it leaves no process behind, either
    table.save()
    for k, (name, (source, jobs)) in enumerate((n, work[n]) for n in names):
        if not table.has_all(name, jobs):
            table.replace_rows(name, list(measure_model(name, source, jobs, pythons, is_base_first=k % 2 == 0)))
            print("\n".join(str(r) for r in table.rows if r.model == name), flush=True)
    print("\n".join(table.summary()))
    return int(table.differences() > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; --resume continues", file=sys.stderr)
        sys.exit(130)
