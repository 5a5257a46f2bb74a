"""Publishing a result: all of it at once, or nothing, whatever ends the process.

    with open_scratch(output) as folder:               # beside the output, so that a rename publishes
        write(proto, source, folder / output.name)
        publish(folder, output, keep=read)
    copy_model(source, output)                         # a model as it is, with its external data

External data has a name of its own (`data_name`), so the old model and the new one each find their own data at any
moment: the data is put down first, the model is renamed over the old one, and then the old one's data is removed. What
a killed process leaves, its folder and data that no model names, is removed by the next run in the same folder.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from spa_compiler.errors import ModelError, UsageError
from spa_compiler.execution.interrupts import check_stop, hold_signals
from spa_compiler.ir.external_data import PROTOBUF_LIMIT, find_locations
from spa_compiler.ir.reader import read_proto
from spa_compiler.ir.snapshots import Snapshot, hash_file
from spa_compiler.ir.writer import write

if sys.platform != "win32":
    import fcntl

SCRATCH_PREFIX = ".spa-compile-"
LOCK, DATA, RESULT = "lock", "data.json", "result"
"""In a scratch folder: whose it is, the data files that a killed process may have left over, and the new files."""
STALE_SECONDS = 7 * 24 * 3600.0
"""Seconds after which a folder is left over, where it cannot be asked whether its process lives."""
LOCK_SECONDS = 5.0
"""Seconds to wait for another run that publishes in the same folder."""
DATA_NAME = re.compile(r"(?P<model>.+)\.[0-9a-f]{16}\.data")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FIRST_BYTE = b"\x08"
"""The first byte of a model file: the tag of its IR version."""


@contextmanager
def open_scratch(output: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards, beside the output, or where the system keeps temporary files.

    Raises UsageError where nothing can be written, in the body too.
    """
    parent = output.parent if output else Path(tempfile.gettempdir())
    try:
        remove_stale(parent)
        with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=parent) as name, _claim(Path(name)):
            result = Path(name) / RESULT
            result.mkdir()
            yield result
    except OSError as e:
        raise UsageError(f"{e.filename or output}: cannot write: {e.strerror or e}") from e


@contextmanager
def _claim(folder: Path) -> Iterator[None]:
    """Say whose the folder is, and hold a lock that ends with the process. Whoever reads the text knows of the lock."""
    with open(folder / LOCK, "w") as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        file.write(_identify_machine())
        file.flush()
        yield


def _identify_machine() -> str:
    """An identifier of this running system, because others may share the folder."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return platform.node()


def remove_stale(parent: Path) -> None:
    """Remove the scratch folders of processes that have ended, and the data that they left beside them."""
    for folder in sorted(parent.glob(f"{SCRATCH_PREFIX}*")):
        with ExitStack() as stack:
            if _is_own_folder(folder) and _take_over(folder, stack):
                _remove_leftovers(folder, parent)
                shutil.rmtree(folder, ignore_errors=True)


def _is_own_folder(folder: Path) -> bool:
    """Is it a folder of this user, and no link to one?"""
    try:
        if not folder.is_dir() or folder.is_symlink():
            return False
        return sys.platform == "win32" or folder.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _take_over(folder: Path, stack: ExitStack) -> bool:
    """Hold the lock of a folder whose process has ended, until `stack` is closed. False where it may live.

    A lock can be asked for on the system that holds it. Other machines may share the folder, and not all file systems
    carry locks between them: what they have made, and what has no lock, must be old.
    """
    if sys.platform == "win32":
        return False
    try:
        lock = folder / LOCK
        if not lock.exists():
            return time.time() - folder.stat().st_mtime > STALE_SECONDS
        file = stack.enter_context(lock.open("r+", errors="replace"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file.read() == _identify_machine() or time.time() - lock.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False


def _remove_leftovers(folder: Path, parent: Path) -> None:
    """Remove what a killed process put down before its model, or had not yet removed after it."""
    try:
        names = json.loads((folder / DATA).read_text())
    except (OSError, ValueError):
        return
    with _take_turn(parent) as alone:
        if alone and isinstance(names, list):
            remove_unnamed([n for n in names if isinstance(n, str) and DATA_NAME.fullmatch(n)], parent)


def publish(folder: Path, output: Path, read: Collection[Path] = ()) -> None:
    """Move the files of a result to their places: data first, the model over the old one, then the old data goes.

    Data of the model that is replaced is removed where no other model beside it names it and it is not in `read`.
    """
    new = [p for p in sorted(folder.iterdir()) if p.name != output.name]
    for file in (*new, folder / output.name):
        _flush(file)
    check_stop()
    with hold_signals(), _take_turn(output.parent) as alone:
        names = sorted({*(p.name for p in new), *_find_data(output)})
        (folder.parent / DATA).write_text(json.dumps(names))
        try:
            for p in new:
                if not _is_one_of(output.with_name(p.name), read):  # its name says that it holds the same
                    p.replace(output.with_name(p.name))
            (folder / output.name).replace(output)
            _flush(output.parent)
        finally:
            if alone:
                remove_unnamed(names, output.parent, read)


def copy_model(source: Path, output: Path) -> dict[str, Any]:
    """Put a copy of a model in a place, at once or not at all; returns what the report says of an output.

    A model without external data is copied byte by byte. External data gets a file of its own, named as that of
    compiled models, so that the copy may lie in another folder and does not depend on the file it was made from.
    """
    proto = read_proto(source)
    read = [source, *(source.parent / name for name in find_locations(proto))]
    before = Snapshot.of(read)
    with open_scratch(output) as folder:
        file = folder / output.name
        if len(read) == 1:
            shutil.copyfile(source, file)
        else:
            write(proto, source.parent, file)
        data = [p for p in folder.iterdir() if p.name != file.name]
        found = {
            "path": str(output),
            "data": data[0].name if data else None,
            "bytes": sum(p.stat().st_size for p in (file, *data)),
            "sha256": hash_file(file),
        }
        before.check()
        publish(folder, output, read)
    return found


@contextmanager
def _take_turn(folder: Path) -> Iterator[bool]:
    """Keep other runs from publishing in a folder. False where that cannot be asked for, or not soon."""
    if sys.platform == "win32":
        yield False
        return
    end = time.monotonic() + LOCK_SECONDS
    with ExitStack() as stack:
        try:
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            while not _try_lock(handle) and time.monotonic() < end:
                time.sleep(0.02)
            alone = time.monotonic() < end
        except OSError:  # a file system without locks
            alone = False
        yield alone


def _try_lock(handle: int) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: a power cut must leave no name without content."""
    if sys.platform == "win32":
        return
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        if not path.is_dir():  # not every file system can do it for folders
            raise


def _find_data(model: Path) -> set[str]:
    """External data that a model which is about to be replaced names, and that a compilation wrote for it."""
    legacy = f"{model.name}.data"
    try:
        if not model.is_file() or not any(
            DATA_NAME.fullmatch(p.name) or p.name == legacy for p in model.parent.iterdir()
        ):
            return set()
        if model.stat().st_size > PROTOBUF_LIMIT:
            return set()
        proto = onnx.load(model, format="protobuf", load_external_data=False)
        compiled = _is_compiled(proto)
        return {n for n in find_locations(proto) if DATA_NAME.fullmatch(n) or (compiled and n == legacy)}
    except (OSError, ValueError, DecodeError, ModelError):
        return set()


def is_foreign_model(path: Path) -> bool:
    """Is it a model that no compilation wrote? Not so for what is no model, nor for one too large to be looked at."""
    try:
        if path.stat().st_size > PROTOBUF_LIMIT:
            return False
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except (OSError, ValueError, DecodeError):
        return False
    return bool(proto.graph.node) and not _is_compiled(proto)


def _is_compiled(proto: onnx.ModelProto) -> bool:
    return any(p.key == "spa_compile.version" for p in proto.metadata_props)


def remove_unnamed(names: Iterable[str], folder: Path, read: Collection[Path] = ()) -> None:
    """Remove data files, given by name, that no model in the folder names and no run reads."""
    for name in names:
        file = folder / name
        try:
            plain = file.parent == folder and file.is_file() and not file.is_symlink()
            if plain and not _is_one_of(file, read) and not _is_named(name, folder):
                file.unlink()
        except OSError:  # it stays: that costs room and nothing else
            continue


def _is_one_of(file: Path, others: Collection[Path]) -> bool:
    return file.exists() and any(other.exists() and file.samefile(other) for other in others)


def _is_named(name: str, folder: Path) -> bool:
    """Does a model in the folder, whatever it is called, name this data file? Raises OSError if one cannot be read."""
    for file in folder.iterdir():
        if not file.is_file() or not 0 < file.stat().st_size <= PROTOBUF_LIMIT:
            continue
        with open(file, "rb") as opened:
            if opened.read(1) != FIRST_BYTE and ".onnx" not in file.suffixes:
                continue
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content.find(name.encode()) >= 0:
                    return True
    return False
