"""Call a function in a process of its own: onnxruntime ends the process on some models.

call_in_child(compare, dense, small)       # what it returns; raises what it raises, and Ended where the process died
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from typing import Any


class Ended(Exception):
    """The process that ran the function was ended by a signal; the message names it."""


def call_in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a forked process, and give what it gives: results and errors that can be pickled."""
    here, there = os.pipe()
    child = os.fork()
    if not child:
        os.close(here)
        try:
            answer: tuple[Any, BaseException | None] = (function(*args), None)
        except BaseException as e:
            answer = (None, e)
        with os.fdopen(there, "wb") as pipe:
            pipe.write(_serialize(answer))
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise Ended(signal.Signals(os.WTERMSIG(status)).name)
    result, error = pickle.loads(data)
    if error is not None:
        raise error
    return result


def _serialize(answer: tuple[Any, BaseException | None]) -> bytes:
    try:
        return pickle.dumps(answer)
    except Exception:  # an error that holds what cannot leave its process
        return pickle.dumps((None, RuntimeError(repr(answer[1] or type(answer[0])))))
