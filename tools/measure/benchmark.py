"""Compile every .onnx of a folder at 30 % and 50 % fewer MACs, and write a table.

    python -m tools.measure.benchmark [--data DIR] [--out FILE.md]

Every measurement is a process of its own. Seconds are wall clock on whatever the machine does meanwhile: run it alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def compile_file(path: Path, *options: str) -> Row:
    """Run the command line on a file: its report, or its exit code and message."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [
            sys.executable,
            "-c",
            "from spa_compiler.cli.main import compile_command; compile_command()",
            str(path),
        ]
        command += ["-o", str(Path(scratch) / "out.onnx"), "--report", str(report), "-q", *options]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        row: Row = {"exit": done.returncode, "wall": time.perf_counter() - start}
        if report.exists():
            row |= json.loads(report.read_text())
        else:
            row["message"] = (done.stderr.strip() or done.stdout.strip()).splitlines()[0]
        return row


def model_rows(folder: Path, criterion: str) -> Iterator[list[str]]:
    """One row a model and ratio: asked, reached, frozen share, proof, latency, seconds, memory."""
    for path in sorted(folder.glob("*.onnx")):
        for ratio in ("0.3", "0.5"):
            r = compile_file(path, "--ratio", ratio, "--criterion", criterion)
            if "reached" not in r:
                yield [path.stem, ratio, str(r["exit"]), r["message"].partition("error: ")[2], *[""] * 7]
                continue
            check, frozen = r["verification"]["prune_equals_mask"], sum(r["analysis"]["frozen_parameters"].values())
            share = frozen / max(r["dense"]["params"], 1)
            speed = r["latency"]["dense_ms"] / r["latency"]["compiled_ms"]
            reached = [f"{r['reached'][unit]:.1%}" for unit in ("macs", "params")]
            yield [
                path.stem, ratio, str(r["exit"]), *reached, f"{share:.1%}", f"{check['error']:.0e}",
                f"{check['groups'] - len(check['silent'])} of {check['groups']}", f"{speed:.2f}", f"{r['wall']:.1f}",
                f"{r['peak_memory_bytes'] / 1e6:.0f}",
            ]  # fmt: skip


MODEL_HEAD = ["model", "asked (MACs)", "exit", "MACs removed", "parameters removed", "frozen", "prune==mask",
              "groups seen", "speed-up", "s in all", "peak MB"]  # fmt: skip


def markdown(head: list[str], rows: Iterator[list[str]], echo: bool = True) -> str:
    """A table; rows are also printed as they come."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |")
        if echo:
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("models"), help="the folder")
    parser.add_argument("--criterion", default="l2")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    table = markdown(MODEL_HEAD, model_rows(given.data, given.criterion))
    if given.out:
        given.out.write_text(table)


if __name__ == "__main__":
    main()
