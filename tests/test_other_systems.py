"""The package works without what only POSIX or Linux has. Libraries are loaded before that is taken away."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

TAKE_AWAY = """
import os, signal, sys
import click, jinja2, networkx, numpy, onnx, onnx_graphsurgeon, onnxruntime, PIL.Image, rich.console, rich.live
import scipy.linalg, scipy.optimize, scipy.special, sympy, threadpoolctl
import concurrent.futures.thread, subprocess, tempfile

MODULES, NAMES = LACKS


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def refuse(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and os.fspath(arguments[0]).startswith("/proc"):
        frame = sys._getframe(1)
        while "pathlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if "site-packages" not in frame.f_code.co_filename:  # of a library: it knows the system that it is on
            raise FileNotFoundError(2, "No such file or directory", os.fspath(arguments[0]))


for name in MODULES:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Missing())
sys.addaudithook(refuse)
for module in (os, signal):
    for name in NAMES:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = PLATFORM
"""
LACKS = {
    "win32": (
        "fcntl resource pwd grp termios tty pty syslog _posixshmem",
        "sched_getaffinity geteuid getuid getpgid killpg setsid fork uname sysconf statvfs getloadavg nice chown "
        "SIGALRM SIGHUP SIGKILL SIGUSR1 SIGQUIT setitimer alarm pthread_sigmask sigwait",
    ),
    "darwin": ("_posixshmem", "sched_getaffinity sched_setaffinity pidfd_open memfd_create"),
}
"""Modules, and names of os and signal, that a system does not have."""


def call(code: str, platform: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process from which the rest was taken away."""
    lacks = repr([text.split() for text in LACKS[platform]])
    full = TAKE_AWAY.replace("LACKS", lacks).replace("PLATFORM", repr(platform)) + textwrap.dedent(code)
    command = [sys.executable, "-c", full, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_nothing_that_was_taken_away_is_there() -> None:
    done = call("import fcntl", "win32")
    assert done.returncode == 1 and "No module named 'fcntl'" in done.stderr
    for platform in LACKS:
        done = call("import os; assert not hasattr(os, 'sched_getaffinity'); open('/proc/self/status')", platform)
        assert done.returncode == 1 and "FileNotFoundError" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there it is the real thing")
def test_every_module_can_be_imported_without_posix() -> None:
    code = """
    import importlib, pkgutil, spa_compiler, spa_compiler.passes
    found = list(pkgutil.walk_packages(spa_compiler.__path__, "spa_compiler."))
    for module in found:
        if not module.name.endswith((".__main__", ".olive")):
            importlib.import_module(module.name)
    print(len(found))
    """
    done = call(code, "win32")
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 200


@pytest.mark.skipif(sys.platform == "win32", reason="there it is the real thing")
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_a_model_is_compiled_without_posix(platform: str, source: Path) -> None:
    output = source.with_name("small.onnx")
    code = "from spa_compiler.cli.start import compile_command; compile_command()"
    options = ["--ratio", 0.3, "--criterion", "l2", "--time-limit", 200, "--report", source.with_name("r.json")]
    done = call(code, platform, source, output, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert output.stat().st_size < source.stat().st_size
    assert "VERIFIED" in done.stdout + done.stderr
    assert not list(source.parent.glob(".spa-compile-*"))
