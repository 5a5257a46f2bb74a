"""A result comes to its place in one step: whatever ends a run, the model that is there finds its own data."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from commands import QUICK, folder, run
from spa_compiler import compiler, output
from spa_compiler.execution.session import open_quiet_session
from spa_compiler.ir.external_data import find_locations
from spa_compiler.output import BOOT_ID, SCRATCH_PREFIX, STALE_SECONDS, open_scratch, publish, remove_stale

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX file locks")
NAMED = re.compile(r"(.+)\.([0-9a-f]{16})\.data")
CHILD = """
import os, pathlib, signal, sys
from spa_compiler.cli.main import compile_command
left = [int(sys.argv.pop(1))]
def deadly(name):
    method = getattr(pathlib.Path, name)
    def call(self, *args, **options):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return method(self, *args, **options)
    setattr(pathlib.Path, name, call)
deadly("replace"), deadly("unlink")
compile_command()
"""


@pytest.fixture
def big(source: Path) -> Path:
    """The model with its weights in a file of their own."""
    path = source.with_name("big.onnx")
    onnx.save(onnx.load(source), path, save_as_external_data=True, location="big.data", size_threshold=0)
    source.unlink()
    return path


def data_of(model: Path) -> list[str]:
    return sorted(find_locations(onnx.load(model, load_external_data=False)))


def is_whole(model: Path) -> bool:
    """Does a model find data with the content that its name tells?"""
    names = data_of(model)
    found = [NAMED.fullmatch(n) for n in names]
    digests = [hashlib.sha256((model.parent / n).read_bytes()).hexdigest()[:16] for n in names]
    return len(names) == 1 and [m[2] for m in found if m] == digests and bool(result_of(model).size)


def result_of(model: Path) -> Any:
    session = open_quiet_session(str(model))
    rng = np.random.default_rng(0)
    feed = {i.name: rng.normal(size=[s if isinstance(s, int) else 2 for s in i.shape]) for i in session.get_inputs()}
    return session.run(None, {n: a.astype(np.float32) for n, a in feed.items()})[0]


def test_data_is_named_after_its_content_and_equal_runs_give_equal_files(big: Path) -> None:
    out = big.with_name("out.onnx")
    first = run(big, "--ratio", 0.3, "-o", out, "--report", big.with_name("r.json"), *QUICK)
    assert first.exit_code == 0 and is_whole(out)
    name = data_of(out)[0]
    assert f"wrote {out} and its weights {name}" in first.stdout
    assert json.loads(big.with_name("r.json").read_text())["output"]["data"] == name
    before = folder(big.parent)
    assert run(big, "--ratio", 0.3, "-o", out, *QUICK).exit_code == 0
    assert folder(big.parent) == before


def test_the_data_of_the_model_that_is_replaced_goes(big: Path) -> None:
    out = big.with_name("out.onnx")
    for ratio in (0.3, 0.5, 0.0):
        assert run(big, "--ratio", ratio, "-o", out, *QUICK if ratio else QUICK[2:]).exit_code == 0
        assert is_whole(out)
        assert set(folder(big.parent)) == {"big.onnx", "big.data", "out.onnx", *data_of(out)}


def test_data_that_an_earlier_version_wrote_goes_with_its_model(big: Path) -> None:
    out = big.with_name("out.onnx")
    assert run(big, "--ratio", 0.3, "-o", out, *QUICK).exit_code == 0
    plain = onnx.load(out)
    out.with_name(data_of(out)[0]).unlink()
    onnx.save(plain, out, save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    assert run(big, "--ratio", 0.5, "-o", out, *QUICK).exit_code == 0
    assert set(folder(big.parent)) == {"big.onnx", "big.data", "out.onnx", *data_of(out)}


@pytest.mark.parametrize("location", ["out.onnx.data", "weights.bin", "out.onnx.0123456789abcdef.data2"])
def test_data_that_no_compilation_wrote_stays(big: Path, location: str) -> None:
    out = big.with_name("out.onnx")
    onnx.save(onnx.load(big), out, save_as_external_data=True, location=location, size_threshold=0)
    assert run(big, "--ratio", 0.5, "-o", out, *QUICK).exit_code == 0
    assert big.with_name(location).exists()


@pytest.mark.parametrize("name", ["kept.onnx", "kept", "kept.onnx.bak"])
def test_data_that_another_model_names_stays(big: Path, name: str) -> None:
    out, kept = big.with_name("out.onnx"), big.with_name(name)
    assert run(big, "--ratio", 0.3, "-o", out, *QUICK).exit_code == 0
    shutil.copy(out, kept)
    before = result_of(kept)
    assert run(big, "--ratio", 0.5, "-o", out, *QUICK).exit_code == 0
    np.testing.assert_array_equal(result_of(kept), before)
    assert is_whole(kept) and is_whole(out) and data_of(kept) != data_of(out)
    kept.unlink()


def test_the_data_of_the_input_stays_where_the_input_was_the_output_once(big: Path) -> None:
    out, moved = big.with_name("out.onnx"), big.with_name("moved.onnx")
    assert run(big, "--ratio", 0.3, "-o", out, *QUICK).exit_code == 0
    out.replace(moved)
    assert run(moved, "--ratio", 0, "-o", out, "--no-latency").exit_code == 0  # its data holds the same
    assert data_of(moved) == data_of(out)
    assert run(big, "--ratio", 0.4, "-o", out, *QUICK).exit_code == 0
    assert is_whole(moved) and is_whole(out) and data_of(moved) != data_of(out)


def left_over(parent: Path) -> list[Path]:
    return sorted(parent.glob(f"{SCRATCH_PREFIX}*"))


@pytest.mark.parametrize("old", [False, True])
def test_whenever_a_run_is_killed_the_model_finds_its_data_and_the_next_run_cleans_up(big: Path, old: bool) -> None:
    out = big.with_name("out.onnx")
    ends, whole = set(), set()
    for at in itertools.count():
        for p in (*big.parent.glob("out*"), *left_over(big.parent)):
            shutil.rmtree(p) if p.is_dir() else p.unlink()
        if old:
            assert run(big, "--ratio", 0.3, "-o", out, *QUICK).exit_code == 0
        before = out.read_bytes() if old else b""
        command = [sys.executable, "-c", CHILD, str(at), str(big), "--ratio", "0.5", "-o", str(out), *QUICK]
        ended = subprocess.run(command, capture_output=True, timeout=120).returncode
        ends.add(ended)
        assert ended in (0, -signal.SIGKILL)
        if out.exists():
            assert is_whole(out)
            whole.add(out.read_bytes() == before)
        else:
            assert not old
        assert bool(left_over(big.parent)) == (ended != 0)
        assert run(big, "--ratio", 0.4, "-o", big.with_name("other.onnx"), *QUICK).exit_code == 0
        assert not left_over(big.parent)
        named = {n for p in big.parent.glob("*.onnx") for n in data_of(p)}
        assert {p.name for p in big.parent.iterdir() if p.suffix != ".onnx"} == named
        if ended == 0:
            break
    assert ends == {0, -signal.SIGKILL} and at >= (4 if old else 3)
    assert whole == ({True, False} if old else {False})


def test_a_model_that_cannot_be_put_in_its_place_leaves_no_data(big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, move = big.with_name("out.onnx"), Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target == out:
            raise OSError(28, "No space left on device")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    before = folder(big.parent)
    assert run(big, "--ratio", 0.3, "-o", out, *QUICK).exit_code == 2
    assert folder(big.parent) == before


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[Path]:
    """A folder that a killed process leaves, with a lock that nobody holds any more."""
    with open_scratch(tmp_path / "out.onnx") as inside:
        (inside / "out.onnx").write_bytes(b"\x08 unfinished")
        copy = Path(shutil.copytree(inside.parent, tmp_path / "copy"))
    yield copy.rename(tmp_path / f"{SCRATCH_PREFIX}dead")


def test_a_folder_of_a_dead_process_goes(dead: Path) -> None:
    remove_stale(dead.parent)
    assert not dead.exists()


def test_a_folder_of_a_live_process_stays(tmp_path: Path) -> None:
    """Also one that has worked for weeks; in another process, as it would be."""
    with open_scratch(tmp_path / "out.onnx") as inside:
        (inside / "out.onnx").write_bytes(b"\x08")
        for file in (inside.parent, inside.parent / "lock"):
            os.utime(file, (1, 1))
        text = f"from pathlib import Path; from spa_compiler.output import *; remove_stale(Path({str(tmp_path)!r}))"
        subprocess.run([sys.executable, "-c", text], check=True, timeout=120)
        remove_stale(tmp_path)
        assert (inside / "out.onnx").exists()
    assert not left_over(tmp_path)


@pytest.mark.parametrize("days", [0, 30])
@pytest.mark.parametrize("kind", ["another machine", "no lock", "a lock of bytes"])
def test_a_folder_that_cannot_be_asked_stays_until_it_is_old(dead: Path, kind: str, days: int) -> None:
    lock = dead / "lock"
    if kind == "no lock":
        lock.unlink()
    else:
        lock.write_bytes(b"another machine" if kind == "another machine" else b"\xff\xfe")
    for file in (dead, *([lock] if lock.exists() else [])):
        os.utime(file, (time.time() - days * 86400,) * 2)
    remove_stale(dead.parent)
    assert dead.exists() == (days * 86400 < STALE_SECONDS)


def test_links_and_files_of_that_name_are_not_followed(dead: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    dead.rename(mine)
    (tmp_path / f"{SCRATCH_PREFIX}link").symlink_to(mine)
    (tmp_path / f"{SCRATCH_PREFIX}file").write_text("")
    remove_stale(tmp_path)
    assert (mine / "lock").exists() and (tmp_path / f"{SCRATCH_PREFIX}file").exists()


def test_what_a_folder_lists_goes_only_if_it_is_data_of_ours(dead: Path) -> None:
    """Whoever made the folder: files with other names, elsewhere, or that a model names are not touched."""
    parent = dead.parent
    ours, named, other = "x.onnx.0123456789abcdef.data", "y.onnx.0123456789abcdef.data", "precious.txt"
    away = f"../{parent.name}-away/{ours}"
    (parent / away).resolve().parent.mkdir()
    for name in (ours, named, other, away):
        (parent / name).write_text("")
    (parent / "model").write_bytes(b"\x08 reads " + named.encode())
    (dead / "data.json").write_text(json.dumps([ours, named, other, away, 7, {"a": 1}]))
    remove_stale(parent)
    assert not dead.exists() and not (parent / ours).exists()
    assert all((parent / name).exists() for name in (named, other, away))


def test_where_the_system_does_not_tell_itself_apart_its_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "BOOT_ID", tmp_path / "none")
    with open_scratch(tmp_path / "out.onnx") as inside:
        assert (inside.parent / "lock").read_text() == platform.node()
    if BOOT_ID.exists():
        monkeypatch.undo()
        with open_scratch(tmp_path / "out.onnx") as inside:
            assert (inside.parent / "lock").read_text() == BOOT_ID.read_text().strip()


def test_runs_in_one_folder_publish_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another run publishes nothing old is removed: it may be what that run has put down."""
    monkeypatch.setattr(output, "LOCK_SECONDS", 0.1)
    stray = tmp_path / "out.onnx.0123456789abcdef.data"
    for busy in (True, False):
        stray.write_text("")
        with open_scratch(tmp_path / "out.onnx") as inside:
            (inside / "out.onnx").write_bytes(b"\x08")
            monkeypatch.setattr(output, "_find_data", lambda model: {stray.name})
            if busy:
                with output._take_turn(tmp_path) as alone:
                    assert alone
                    publish(inside, tmp_path / "out.onnx")
            else:
                publish(inside, tmp_path / "out.onnx")
        assert stray.exists() == busy


def test_a_run_that_fails_late_leaves_the_old_model(big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = big.with_name("out.onnx")
    assert run(big, "--ratio", 0.3, "-o", out, *QUICK).exit_code == 0
    before = folder(big.parent)
    monkeypatch.setattr(compiler, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(big, "--ratio", 0.5, "-o", out, *QUICK).exit_code == 130
    assert folder(big.parent) == before
