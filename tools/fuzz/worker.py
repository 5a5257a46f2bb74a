"""Cases one after the other in one process: made, run, judged, made smaller where they fail, and written down."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections import Counter
from glob import escape
from pathlib import Path
from typing import Any

from tools.fuzz.cases import MODEL, Case, make_case
from tools.fuzz.child import Command, Ran
from tools.fuzz.judge import Verdict, keep_known, run_case
from tools.fuzz.minimise import minimise, name_operators

WARM_UP = ("images", 1), ("tokens", 3), ("tokens", 7)
"""Cases that are run before any other, so that later runs start with what they load."""
ATTEMPTS = 30
"""Runs that one fault may be made smaller by."""
SMALL = 1
"""Faults of a signature that are made smaller in one process."""


class Worker:
    """Runs cases one after the other, with a command of its own."""

    def __init__(self, python: str, out: Path | None, attempts: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        self.python, self.out, self.attempts = python, out, attempts
        self.options = list_options(python)
        self.command = Command(python)
        self.seen: Counter[str] = Counter()
        for name in WARM_UP:
            warm, place = make_case(*name), self.make_folder()
            (place / MODEL).write_bytes(warm.files[MODEL])
            self.command.warm_up([MODEL, *keep_known(warm.argv, self.options)], place)

    def make_folder(self) -> Path:
        """An empty folder."""
        place = self.folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place

    def run(self, case: Case) -> tuple[Ran, Verdict]:
        """Run one case in an empty folder.

        Where the file differs and a group went over which a statistic is taken that the reference does not know, the
        case is run again without such groups, and only that counts.
        """
        ran, verdict = run_case(case, self.command, self.make_folder(), self.options)
        if not verdict.signature.startswith("wrong file: differs") or "--exclude" in case.argv:
            return ran, verdict
        excludes = [w for label in self.list_statistics() for w in ("--exclude", escape(label))]
        if not excludes:
            return ran, verdict
        again = dataclasses.replace(case, argv=[*excludes, *case.argv])
        second, found = run_case(again, self.command, self.make_folder(), self.options)
        return (second, found) if found.level == "fault" else (ran, Verdict("compared without statistics"))

    def list_statistics(self) -> list[str]:
        """Labels of the groups of the case that was run last over which a statistic is taken, as the command says."""
        spa = Path(self.python).with_name("spa")
        argv = [str(spa), "inspect", str(self.folder / "case" / MODEL), "--json"]
        told = subprocess.run(argv, capture_output=True, text=True)
        groups: list[dict[str, Any]] = json.loads(told.stdout)["groups"] if not told.returncode else []
        return [g["label"] for g in groups if g["statistic"]]

    def work(self, name: tuple[str, int]) -> dict[str, Any]:
        """Run the case of a kind and seed, and make a fault smaller."""
        case = make_case(*name)
        ran, verdict = self.run(case)
        row = {
            "case": case.name, "kind": case.kind, "cpu": ran.cpu, "memory": ran.memory, "exit": ran.exit,
            "tags": case.tags, **dataclasses.asdict(verdict),
        }  # fmt: skip
        if verdict.level and self.out is not None and self.seen[verdict.signature] < SMALL:
            self.seen[verdict.signature] += 1
            small = self.make_smaller(case, verdict)
            row["operators"] = name_operators(small)
            self.save(self.out / case.name, small, verdict)
        return row

    def make_smaller(self, case: Case, verdict: Verdict) -> Case:
        """A smaller case with the same verdict; as it is where every run takes its whole time."""
        if verdict.outcome == "hang":
            return case
        return minimise(case, lambda c: self.run(c)[1].signature == verdict.signature, self.attempts)

    def save(self, place: Path, case: Case, verdict: Verdict) -> None:
        """The files, the command, and what went wrong."""
        place.mkdir(parents=True, exist_ok=True)
        for name, data in case.files.items():
            (place / name).write_bytes(data)
        argv = shlex.join(["spa-compile", MODEL, *keep_known(case.argv, self.options)])
        text = f"{argv}\n\n{verdict.level}: {verdict.signature}\n{verdict.text}\ncase {case.name}, {case.tags}\n"
        (place / "what.txt").write_text(text)

    def close(self) -> None:
        """End the command and remove the folder."""
        self.command.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def list_options(python: str) -> set[str]:
    """The options that the command of an environment knows."""
    told = subprocess.run([str(Path(python).with_name("spa-compile")), "--help"], capture_output=True, text=True)
    return {*re.findall(r"(?<![\w-])--?[a-z][\w-]*", told.stdout), "-o", "-v", "-q"}


_worker: Worker | None = None


def start_worker(python: str, out: Path | None, attempts: int) -> None:
    """Make the worker of this process."""
    global _worker
    _worker = Worker(python, out, attempts)


def work(name: tuple[str, int]) -> dict[str, Any]:
    """Run a case in the worker of this process."""
    assert _worker is not None
    return _worker.work(name)
