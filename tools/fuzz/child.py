"""The command `spa-compile` of some environment, run under limits (`tools/fuzz/server.py` is what runs it).

with Command(sys.executable) as command:
    ran = command.run(["in.onnx", "--ratio", "0.5"], folder)
    ran.exit, ran.stdout, ran.cpu
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

SERVER = Path(__file__).with_name("server.py")
PER_CPU_SECOND, AT_LEAST = 4.0, 10.0
"""Seconds by the clock that a run may take for each second of processor time, and that any run may take."""


@dataclass(frozen=True)
class Limits:
    """Limits of one run: seconds of processor time, bytes of address space."""

    cpu: float = 20.0
    memory: int = 4 << 30


@dataclass(frozen=True)
class Ran:
    """The end of one run."""

    exit: int
    late: bool
    seconds: float
    cpu: float
    memory: int
    stdout: str = ""
    stderr: str = ""


class Command:
    """The command of one environment; a process of its own answers until `close`."""

    def __init__(self, python: str) -> None:
        self.python, self.environment = python, {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        self.environment.pop("PYTHONPATH", None)
        self.server = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, "-P", str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=self.environment,
        )  # fmt: skip

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        answer: dict[str, Any] = json.loads(self.server.stdout.readline() or "{}")
        return answer

    def warm_up(self, argv: list[str], folder: Path) -> None:
        """Run once without a process of its own, so that later runs start with what it has loaded."""
        answer = self._ask({"warm": True, "argv": argv, "folder": str(folder)})
        if not answer:
            raise RuntimeError(f"{self.python}: its spa-compile does not start")

    def run(self, argv: list[str], folder: Path, limits: Limits = Limits()) -> Ran:
        """Run the command in a folder. Its outputs are held beside the folder, not in it."""
        files = {n: folder.with_name(f"{folder.name}.{n}") for n in ("stdout", "stderr")}
        answer = self._ask(
            {"argv": argv, "folder": str(folder), "cpu": limits.cpu, "memory": limits.memory,
             "seconds": max(AT_LEAST, PER_CPU_SECOND * limits.cpu), **{n: str(f) for n, f in files.items()}}
        )  # fmt: skip
        if not answer:
            raise RuntimeError(f"{self.python}: the process that runs spa-compile has ended")
        texts = {n: f.read_bytes().decode(errors="replace") for n, f in files.items()}
        for f in files.values():
            f.unlink()
        return Ran(**answer, **texts)

    def close(self) -> None:
        """End the process."""
        if self.server.stdin is not None:
            self.server.stdin.close()
        if self.server.stdout is not None:
            self.server.stdout.close()
        self.server.wait()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
