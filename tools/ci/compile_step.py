"""One compile as a step of a CI job: `action.yml` runs it, and so does any other system that sets its variables.

    SPA_MODEL=model.onnx SPA_RATIO=0.3 SPA_GATES='drop<=1%' python tools/ci/compile_step.py

Reports are left in the folder `SPA_REPORTS` and added to the job's summary; errors, gates that were missed and notes
are printed as annotations; `status`, `model` and `report` are outputs of the step, which ends with spa-compile's exit
code. Variables that are empty count as not given: an action passes all of its inputs.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

OPTIONS = {
    "SPA_OUTPUT": "--output",
    "SPA_RATIO": "--ratio",
    "SPA_TARGET": "--target",
    "SPA_MAX_DROP": "--max-drop",
    "SPA_CALIB": "--calib",
    "SPA_DATA": "--data",
}
"""Variables that become one option; `SPA_GATES` has a gate a line, `SPA_ARGUMENTS` any other options as a shell has."""
USUAL_REPORTS = "spa-report"
BAD_USAGE = 2
"""The exit code of spa-compile for options that do not fit."""


def make_command(given: Mapping[str, str], reports: Path) -> list[str]:
    """The command that the variables ask for."""
    command = [sys.executable, "-m", "spa_compiler", given["SPA_MODEL"]]
    for variable, option in OPTIONS.items():
        if value := given.get(variable, "").strip():
            command += [option, value]
    for gate in given.get("SPA_GATES", "").splitlines():
        if gate.strip():
            command += ["--fail-under", gate.strip()]
    if given.get("SPA_ALLOW_NOOP", "").strip().lower() == "true":
        command.append("--allow-noop")
    files = [str(reports / "report.json"), str(reports / "report.html"), given.get("GITHUB_STEP_SUMMARY", "")]
    command += [word for file in files if file for word in ("--report", file)]
    return command + shlex.split(given.get("SPA_ARGUMENTS", ""))


def list_annotations(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines that people see beside the job: why it failed, each gate that was missed, what to know of a result."""
    name = Path(report["input"]["path"]).name
    if error := report.get("error"):
        yield annotate("warning" if report["exit_code"] == 0 else "error", f"{name}: {report['status']}", error)
        return
    for gate in report["gates"]:
        if not gate["holds"]:
            yield annotate("error", f"{name}: gate missed", f"{gate['gate']}: measured {gate['value']}")
    quality = report["quality"]
    if quality["verdict"] == "POOR":
        yield annotate(
            "warning", f"{name}: quality POOR", "; ".join(quality["advice"]) or "much of the quality is lost"
        )
    for note in report["notes"]:
        yield annotate("warning", name, note)


def annotate(level: str, title: str, text: str) -> str:
    """A line that GitHub shows as an annotation. A title ends at a comma or colon, so those are written as numbers."""
    body = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    head = title.replace("%", "%25").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={head}::{body}"


def read_report(file: Path) -> dict[str, Any]:
    """The report that the run wrote; empty where it wrote none."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def write_outputs(given: Mapping[str, str], values: Mapping[str, object]) -> None:
    """Outputs of the step, where the system takes any; one line each."""
    if place := given.get("GITHUB_OUTPUT"):
        with open(place, "a", encoding="utf-8") as file:
            file.writelines(f"{name}={' '.join(str(value).split())}\n" for name, value in values.items())


def main(given: Mapping[str, str]) -> int:
    """Run the step; the exit code of spa-compile."""
    if not given.get("SPA_MODEL", "").strip():
        print(annotate("error", "spa-compile", "SPA_MODEL (the input `model`) is empty: which file is to be compiled?"))
        return BAD_USAGE
    reports = Path(given.get("SPA_REPORTS", "").strip() or USUAL_REPORTS)
    reports.mkdir(parents=True, exist_ok=True)
    file = reports / "report.json"
    file.unlink(missing_ok=True)  # the report of an earlier run says nothing of this one
    done = subprocess.run(make_command(given, reports), stderr=subprocess.PIPE, text=True, check=False)
    print(done.stderr, end="", file=sys.stderr)
    report = read_report(file)
    if report:
        print("\n".join(list_annotations(report)))
    elif done.returncode != 0:  # the options could not be read, or the process was ended
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(annotate("error", "spa-compile", f"exit code {done.returncode}: {last}"))
    output = report.get("output", {}).get("path") or ""
    write_outputs(given, {"status": report.get("status", "ERROR"), "model": output, "report": file if report else ""})
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(os.environ))
