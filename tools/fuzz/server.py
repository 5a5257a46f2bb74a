"""Run `spa-compile` many times: the command is imported once, and every run is a process that is forked from there.

    PYTHON tools/fuzz/server.py        # one request a line on standard input, one answer a line on standard output

It needs nothing but the standard library and an installed spa-compile of any version, so that the fuzzer can drive the
command of another environment. A request names argv, the folder to run in, files for both outputs, and limits: seconds
of processor time, seconds by the clock, bytes of address space. An answer has the exit code (a signal is negative),
the times, the largest resident size in bytes, and whether the limit by the clock was met.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import pkgutil
import resource
import select
import signal
import sys
import time
import traceback
from typing import Any

COMMAND = "spa-compile"
FILE_SIZE = 1 << 30


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    command = next(e for e in importlib.metadata.entry_points(group="console_scripts") if e.name == COMMAND)
    import_all(command.module.partition(".")[0])
    run = command.load()
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("warm"):
            call(run, request["argv"], request["folder"], os.devnull, os.devnull)
            answer = {"warm": True}
        else:
            answer = run_forked(run, request)
        print(json.dumps(answer), file=answers, flush=True)


def import_all(package: str) -> None:
    """Import every module of a package, so that no run has to."""
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        with contextlib.suppress(Exception):  # a module that needs what is not installed
            importlib.import_module(found.name)


def run_forked(run: Any, request: dict[str, Any]) -> dict[str, Any]:
    """One run in a process of its own, and what became of it."""
    start = time.monotonic()
    child = os.fork()
    if not child:
        os.setsid()
        limit(request)
        os._exit(call(run, request["argv"], request["folder"], request["stdout"], request["stderr"]))
    late = not wait(child, request["seconds"])
    if late:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # what the run may have left behind
        os.killpg(child, signal.SIGKILL)
    return {
        "exit": os.waitstatus_to_exitcode(status), "late": late, "seconds": time.monotonic() - start,
        "cpu": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss << 10,
    }  # fmt: skip


def wait(child: int, seconds: float) -> bool:
    """Wait for the end of a process; False where it takes longer."""
    handle = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(1000 * seconds))
    finally:
        os.close(handle)


def limit(request: dict[str, Any]) -> None:
    """Set the limits of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (int(request["cpu"]), int(request["cpu"]) + 2))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def call(run: Any, argv: list[str], folder: str, stdout: str, stderr: str) -> int:
    """The exit code of the command; its outputs go to files."""
    os.chdir(folder)
    for number, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.argv = [COMMAND, *argv]
    code = 0
    try:
        run()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(bool(e.code))
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code


if __name__ == "__main__":
    main()
