"""No file that is read is written to: all files of a run are compared with each other before any work is done."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spa_compiler.passes import plan as plan_pass

from commands import QUICK, folder, last, run, run_spa
from spa_compiler import compiler
from spa_compiler.cli import compilation, inspection, verification
from spa_compiler.compiler import compile_file
from spa_compiler.errors import ModelError, UsageError
from spa_compiler.exit_codes import ExitCode
from spa_compiler.pipeline.options import Options
from spa_compiler.pipeline.output_paths import check_apart
from spa_compiler.pipeline.passes import Pipeline
from spa_compiler.pipeline.state import State
from spa_compiler.planning.plan import Plan

Files = dict[str, list[object]]
WRITES = ("-o", "--report", "--save-plan")


def directly(file: Path) -> Path:
    return file


def through_a_link(file: Path) -> Path:
    link = file.with_name(f"link-{file.name}")
    link.symlink_to(file)
    return link


def hard_link(file: Path) -> Path:
    other = file.with_name(f"hard-{file.name}")
    os.link(file, other)
    return other


def another_way(file: Path) -> Path:
    return file.parent / ".." / file.parent.name / file.name


WAYS = (directly, through_a_link, hard_link, another_way)


@pytest.fixture
def files(source: Path, models: Path) -> Files:
    """By the name of a file that a run reads: the run. All of them are there, and fit."""
    at = source.parent
    big = at / "big.onnx"
    onnx.save(onnx.load(source), big, save_as_external_data=True, location="big.data", size_threshold=0)
    real = at / "real"
    real.mkdir()
    for to in (at / "data.npz", at / "calib.npz", real / "part.npz"):
        shutil.copy(models / "digits_calib.npz", to)
    script = at / "inputs.py"
    script.write_text(f"import numpy as np\ndef draw():\n    return np.load({str(at / 'calib.npz')!r})['x']\n")
    plan, mask, scores = at / "plan.json", at / "mask.npz", at / "scores.npz"
    assert run(source, "--ratio", 0.3, "--dry-run", "--save-plan", plan, *QUICK).exit_code == 0
    groups = run_spa("inspect", source, "--json").output
    found = {g["label"]: g["size"] for g in json.loads(groups)["groups"]}
    np.savez(scores, **{label: np.arange(size) for label, size in found.items()})
    np.savez(mask, **{label: np.arange(size) > 2 for label, size in found.items()})
    quick = ("--ratio", 0.3, *QUICK)
    few = ("--ratio", 0.3, "--samples", 16, "--no-latency")
    plain = ("--no-compensate", "--no-latency")
    return {
        "gru.onnx": [source, *quick],
        "big.data": [big, *quick],
        "data.npz": [source, *quick, "--data", at / "data.npz"],
        "calib.npz": [source, *few, "--calib", at / "calib.npz"],
        "real/part.npz": [source, *few, "--calib", real],
        "inputs.py": [source, *few, "--calib", f"{script}:draw"],
        "plan.json": [source, "--plan", plan, *plain],
        "mask.npz": [source, "--mask", mask, *plain],
        "scores.npz": [source, "--ratio", 0.3, "--scores", scores, *plain],
    }


READ = """gru.onnx big.data data.npz calib.npz real/part.npz inputs.py plan.json mask.npz scores.npz""".split()


@pytest.mark.parametrize("read", READ)
def test_no_file_that_is_read_is_written(
    files: Files, source: Path, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler.Pipeline, "run", lambda *_: pytest.fail("work was done"))
    refused = ModelError if read == "big.data" else UsageError  # onnx.checker wants one name for external data
    for way, option in itertools.product(WAYS, WRITES):
        place = way(source.parent / read)
        before = {p: p.read_bytes() for p in source.parent.rglob("*") if p.is_file()}
        result = run(*files[read], option, place)
        wanted = refused if way is hard_link else UsageError
        assert result.exit_code == wanted.exit_code, (way, option, result.output)
        assert wanted is ModelError or f"{option} {place}: this file is " in result.stderr
        assert {p: p.read_bytes() for p in source.parent.rglob("*") if p.is_file()} == before
        if way in (through_a_link, hard_link):
            place.unlink()


def test_the_plan_of_spa_apply_and_of_a_pipeline_is_read(files: Files, source: Path) -> None:
    plan = source.with_name("plan.json")
    before = plan.read_bytes()
    assert run_spa("apply", source, plan, "--report", plan, "--no-latency").exit_code == 2
    text = f'normalize,plan{{file="{plan}"}},remove,verify'
    assert run(source, "--pipeline", text, "--report", plan, "--no-latency").exit_code == 2
    assert plan.read_bytes() == before


@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.__name__)
@pytest.mark.parametrize(("one", "two"), [*itertools.combinations(WRITES, 2)])
def test_no_two_files_are_written_to_one_place(source: Path, one: str, two: str, way: Callable[[Path], Path]) -> None:
    place = source.with_name("new")
    if way is not another_way:
        place.write_text("old")
    other = way(place)
    before = folder(source.parent)
    result = run(source, "--ratio", 0.3, one, place, two, other, *QUICK)
    assert result.exit_code == 2 and "a file of its own" in result.stderr
    assert folder(source.parent) == before


def test_a_report_is_not_written_to_the_data_of_the_output(source: Path) -> None:
    report = source.with_name("out.onnx.0123456789abcdef.data")
    result = run(source, "--ratio", 0.3, "-o", source.with_name("out.onnx"), "--report", report, *QUICK)
    assert result.exit_code == 2 and not report.exists()


def test_devices_hold_nothing_that_could_be_lost(source: Path) -> None:
    options = ("--dry-run", "--report", "/dev/null", "--save-plan", "/dev/null")
    assert run(source, "--ratio", 0.3, *options, *QUICK).exit_code == 0


def test_the_library_compares_too(source: Path, files: Files) -> None:
    data = source.with_name("data.npz")
    before = data.read_bytes()
    with pytest.raises(UsageError, match="what --data reads"):
        compile_file(source, data, Options(ratio=0.3, criterion="l2", data=str(data), latency=False, quality=False))
    assert data.read_bytes() == before


@given(st.data())
def test_files_are_apart_exactly_when_no_two_are_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The oracle is the file system: writing to each place in turn changes no other one."""
    at = tmp_path_factory.mktemp("apart")
    (at / "sub").mkdir()
    (at / "a").write_text("")
    (at / "b").write_text("")
    (at / "soft").symlink_to(at / "a")
    os.link(at / "a", at / "hard")
    (at / "dangling").symlink_to(at / "new")
    names = st.sampled_from(["a", "b", "soft", "hard", "new", "other", "sub/../a", "sub/../new", "dangling", "sub/a"])
    read = data.draw(st.lists(names, max_size=3))
    written = data.draw(st.lists(names, min_size=1, max_size=3))
    try:
        check_apart({at / n: "read" for n in read}, [(str(k), at / n) for k, n in enumerate(written)])
        refused = False
    except UsageError:
        refused = True
    touched: list[str] = []
    for k, name in enumerate(written):
        (at / name).write_text(f"written {k}")
        others = [*read, *written[:k]]
        touched += [n for n in others if (at / n).exists() and (at / n).read_text() == f"written {k}"]
    assert refused == bool(touched)


def test_a_place_without_room_is_refused_before_any_work(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """A file on a full disk: it can be made, and nothing can be put into it."""

        def __init__(self, file: IO[bytes]) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    made = tempfile.TemporaryFile
    full = source.parent / "full"
    full.mkdir()

    def make(*args: Any, dir: Path, **options: Any) -> Any:  # noqa: A002  # tempfile's name for it
        return Full(made(*args, dir=dir, **options)) if Path(dir) == full else made(*args, dir=dir, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    monkeypatch.setattr(compiler.Pipeline, "run", lambda *_: pytest.fail("work was done"))
    for there in (False, True):
        for option in WRITES:
            place = full / option.strip("-")
            if there:
                place.write_text("old")
            result = run(source, "--ratio", 0.3, option, place, *QUICK)
            assert result.exit_code == 2 and "No space left" in result.stderr, result.stderr
            assert place.exists() == there and (not there or place.read_text() == "old")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no such file system")
@pytest.mark.parametrize("option", WRITES)
def test_a_place_where_only_trying_tells_is_tried_before_any_work(
    source: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The super user has every right in /proc, and no file can be made there."""
    monkeypatch.setattr(compiler.Pipeline, "run", lambda *_: pytest.fail("work was done"))
    before = folder(source.parent)
    result = run(source, "--ratio", 0.3, option, "/proc/spa-compile.json", *QUICK)
    assert result.exit_code == 2 and "cannot write" in result.stderr
    assert folder(source.parent) == before


def test_looking_for_room_leaves_nothing_and_changes_nothing(source: Path) -> None:
    report = source.with_name("r.json")
    report.write_text("old")
    before = folder(source.parent)
    assert run(source, "--ratio", 0.3, "--report", report, "--target", "1MB", *QUICK).exit_code == 2
    assert folder(source.parent) == before


def fails(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("broken", "option", "word"), [
    ((compilation, "save_report"), "--report", "the report"), ((Plan, "save"), "--save-plan", "the plan"),
], ids=["report", "plan"])  # fmt: skip
@pytest.mark.parametrize("dry", [False, True])
def test_exit_7_when_the_model_was_written_and_the_rest_could_not_be(
    source: Path, broken: tuple[Any, str], option: str, word: str, dry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, other = source.with_name("place"), source.with_name("other")
    second = "--save-plan" if option == "--report" else "--report"
    monkeypatch.setattr(*broken, fails)
    options = ("--ratio", 0.3, option, place, second, other, *QUICK, *(["--dry-run"] if dry else []))
    result = run(source, *options)
    assert result.exit_code == 7
    done = "the dry run was done" if dry else f"the model was written ({source.with_name('gru.pruned.onnx')})"
    assert f"{done}, {word} {place} was not: No space left on device" in result.stderr
    assert last(result).startswith("VERIFIED | ")
    assert source.with_name("gru.pruned.onnx").exists() != dry
    assert other.exists() and not place.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_device_is_found_when_it_is_written(source: Path) -> None:
    """A device cannot give back what was written to it, so no write is tried before."""
    result = run(source, "--ratio", 0.3, "--report", "/dev/full", "--save-plan", "/dev/full", *QUICK)
    assert result.exit_code == 7
    assert result.stderr.count("/dev/full was not: No space left on device") == 2
    assert source.with_name("gru.pruned.onnx").exists()


def keep_times(file: Path, data: bytes) -> None:
    times = file.stat()
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def append(file: Path) -> None:
    keep_times(file, file.read_bytes() + b"\0")


def touch(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def change_content(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    keep_times(file, bytes(data))


def remove(file: Path) -> None:
    file.unlink()


CHANGES = {append: "its size changed", touch: "it was written to", change_content: "its content", remove: "disappeared"}


WHERE = [*((r, touch) for r in READ), *itertools.product(READ[:3], (append, change_content, remove))]


@pytest.mark.parametrize(("read", "change"), WHERE, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_exit_3_when_what_is_read_changes_meanwhile(
    files: Files, source: Path, read: str, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, changed = compiler._make_report, source.parent / read

    def meanwhile(*args: Any) -> dict[str, Any]:
        report = work(*args)
        change(changed)
        return report

    monkeypatch.setattr(compiler, "_make_report", meanwhile)
    out = source.with_name("out.onnx")
    result = run(*files[read], "-o", out)
    assert result.exit_code == 3, result.output
    assert f"{changed}: " in result.stderr and CHANGES[change] in result.stderr
    assert not out.exists()


def test_large_files_are_known_by_size_and_time(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of many gigabytes is not read twice more; the model itself always is."""
    monkeypatch.setattr("spa_compiler.ir.snapshots.HASHED_SIZE", 1000)
    big = source.with_name("big.onnx")
    onnx.save(onnx.load(source), big, save_as_external_data=True, location="big.data", size_threshold=0)
    work = Pipeline.run

    def during(change: Callable[[Path], None], file: Path) -> int:
        def meanwhile(self: Pipeline, state: State) -> State:
            state = work(self, state)
            if "verify" in str(self):
                change(file)
            return state

        monkeypatch.setattr(Pipeline, "run", meanwhile)
        return run(big, "--ratio", 0.3, "--dry-run", *QUICK).exit_code

    assert during(change_content, source.with_name("big.data")) == 0
    assert during(touch, source.with_name("big.data")) == 3
    assert during(touch, source) == 0  # is not read here
    model = source.with_name("big.onnx")
    assert during(lambda file: keep_times(file, file.read_bytes().replace(b"big.data", b"big.dat0")), model) == 3


@pytest.mark.parametrize("command", ["verify", "compare"])
def test_commands_that_only_look_find_it_as_well(
    source: Path, models: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, data = source.with_name("s.onnx"), Path(shutil.copy(models / "digits_test.npz", source.parent))
    assert run(source, "--ratio", 0.3, "-o", small, *QUICK).exit_code == 0
    outputs = inspection.measure_sessions
    for file in (small, data):

        def meanwhile(*args: Any, file: Path = file) -> Any:
            found = outputs(*args)
            touch(file)
            return found

        for module in (inspection, verification):
            monkeypatch.setattr(module, "measure_sessions", meanwhile)
        result = run_spa(command, source, small, "--data", data)
        assert result.exit_code == ModelError.exit_code and f"{file}: it was written to" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with names")
def test_a_pipe_is_read_once(source: Path) -> None:
    """A plan from another program: nothing of it may be read to see whether it changes."""
    plan, pipe = source.with_name("plan.json"), source.with_name("pipe")
    assert run(source, "--ratio", 0.3, "--dry-run", "--save-plan", plan, *QUICK).exit_code == 0
    os.mkfifo(pipe)
    handle = os.open(pipe, os.O_RDWR)
    os.write(handle, plan.read_bytes())
    reader = plan_pass.load_template
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan_pass, "load_template", lambda path: reader(plan if path == pipe else path))
            result = run(source, "--plan", pipe, "--no-latency", "--no-compensate", "--dry-run")
        assert result.exit_code == 0, result.stderr
        assert os.read(handle, 1 << 16) == plan.read_bytes()
    finally:
        os.close(handle)
    assert result.exit_code != ExitCode.INTERNAL
