"""Run a function in a process of its own, with limits of time and memory: what crashes or hangs ends alone.

    run(measure, ("resnet50",), seconds=60, memory=8 << 30)      # what it returned, or {"error": "no result in 60 s"}

Processes are forked from a server that has imported what is slow to import (`preload`), so each starts in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

Row = dict[str, Any]
CONTEXT = multiprocessing.get_context("forkserver")


def preload(*modules: str) -> None:
    """Name the modules that every process starts with; before the first `run`."""
    CONTEXT.set_forkserver_preload(list(modules))


def run(function: Callable[..., Row], arguments: tuple[Any, ...], seconds: float, memory: int) -> Row:
    """The row that `function` returned; one with `error` when it raised, crashed, or met a limit."""
    receive, send = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run_inside, args=(send, function, arguments, memory))
    process.start()
    send.close()
    try:
        if not receive.poll(seconds):
            return {"error": f"no result in {seconds:.0f} s"}
        row: Row = receive.recv()
        return row
    except EOFError:
        process.join(5)
        return {"error": f"its process ended with code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _run_inside(send: Connection, function: Callable[..., Row], arguments: tuple[Any, ...], memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    if not os.environ.get("SPA_LOUD"):  # exporters print whole graphs
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    try:
        row = function(*arguments)
    except MemoryError:
        row = {"error": f"more than {memory >> 30} GB of memory"}
    except Exception as error:  # any tool may fail in any way: the failure is the result
        row = {"error": f"{type(error).__name__}: {error}"[:1500], "trace": traceback.format_exc(limit=-3)[-1500:]}
    send.send(row)
    send.close()
    sys.stdout.flush()
    os._exit(0)
