"""Measure spa-compile and write tables: `python tools/benchmark.py zoo | models [--data DIR] [--out FILE.md]`.

`zoo`     models that tools/zoo.py exported, at channel ratio 0.5, each beside Torch-Pruning and onnxsim in the same run
          (tools/peers.py; needs `pip install -e .[tools]`, torch-pruning and onnxsim).
`models`  every .onnx of a folder at 30 % and 50 % fewer MACs.

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

ISSUE = """resnet50 densenet121 mobilenet_v2 shufflenet_v2_x1_0 vit_b_16 swin_t convnext_tiny regnet_y_400mf
efficientnet_b0 googlenet""".split()
PASSES = ("normalize", "erase", "score", "allocate", "remove")
Row = dict[str, Any]


def compiled(path: Path, *options: str) -> Row:
    """Run the command line on a file: its report, or its exit code and message."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-c", "from spa_compiler.cli import compile_command; compile_command()", str(path)]
        command += ["-o", str(Path(scratch) / "out.onnx"), "--report", str(report), "-q", *options]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        row: Row = {"exit": done.returncode, "wall": time.perf_counter() - start}
        if report.exists():
            row |= json.loads(report.read_text())
        else:
            row["message"] = (done.stderr.strip() or done.stdout.strip()).splitlines()[0]
        return row


def work_seconds(row: Row) -> float:
    """Seconds of what a peer does, too: load, analyse, score, allocate, remove."""
    return sum(float(row["seconds"].get(name, 0.0)) for name in ("load", *PASSES))


def model_rows(folder: Path, criterion: str) -> Iterator[list[str]]:
    """One row a model and ratio: asked, reached, frozen share, proof, latency, seconds, memory."""
    for path in sorted(folder.glob("*.onnx")):
        for ratio in ("0.3", "0.5"):
            r = compiled(path, "--ratio", ratio, "--criterion", criterion)
            if "reached" not in r:
                yield [path.stem, ratio, str(r["exit"]), r["message"].partition("error: ")[2], *[""] * 7]
                continue
            check, frozen = r["verification"]["prune_equals_mask"], sum(r["analysis"]["frozen_parameters"].values())
            share = frozen / max(r["dense"]["params"], 1)
            speed = r["latency"]["dense_ms"] / r["latency"]["compiled_ms"]
            reached = [f"{r['reached'][unit]:.1%}" for unit in ("macs", "params")]
            yield [
                path.stem, ratio, str(r["exit"]), *reached, f"{share:.1%}", f"{check['error']:.0e}",
                f"{check['effect']:.0e}", f"{speed:.2f}", f"{r['wall']:.1f}",
                f"{r['peak_memory_bytes'] / 1e6:.0f}",
            ]  # fmt: skip


MODEL_HEAD = ["model", "asked (MACs)", "exit", "MACs removed", "parameters removed", "frozen", "prune==mask",
              "effect of the plan", "speed-up", "s in all", "peak MB"]  # fmt: skip
ZOO_HEAD = ["model", "exporter", "tool", "prunable parameters", "MACs left", "parameters left", "s", "runs"]


def zoo_rows(names: list[str], folder: Path, criterion: str) -> Iterator[list[str]]:
    """Per model and exporter our row, then the peers' in the same run."""
    for name in names:
        for exporter in ("legacy", "dynamo"):
            path = folder / f"{name}.{exporter}.onnx"
            if path.exists():
                yield _own(
                    name,
                    exporter,
                    compiled(path, "--of", "channels", "--ratio", "0.5", "--criterion", criterion, "--no-latency"),
                )
        peers = json.loads(_peer_line(name))
        yield _torch_pruning(name, peers["torch_pruning"])
        yield from (_onnxsim(name, exporter, found) for exporter, found in peers["onnxsim"].items())


def _peer_line(name: str) -> str:
    command = [sys.executable, str(Path(__file__).parent / "peers.py"), name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]


def _own(name: str, exporter: str, r: Row) -> list[str]:
    if "reached" not in r:
        return [name, exporter, "spa-compile", "", "", "", "", f"exit {r['exit']}: {r['message']}"]
    share = r["analysis"]["prunable_parameters"] / r["dense"]["params"]
    check = r["verification"]["prune_equals_mask"]["error"]
    left = [f"{1 - r['reached'][unit]:.1%}" for unit in ("macs", "params")]
    return [
        name,
        exporter,
        "spa-compile",
        f"{share:.1%}",
        *left,
        f"{work_seconds(r):.2f} ({r['wall']:.1f} in all)",
        f"yes, prune==mask {check:.0e}",
    ]


def _torch_pruning(name: str, r: Row) -> list[str]:
    if "parameters_after" not in r or r.get("runs") is not True:
        error = next((str(r[k]) for k in ("graph", "prune", "runs") if k in r and r[k] is not True), "failed")
        return [name, "(PyTorch)", "Torch-Pruning", "", "", "", f"{r.get('seconds', 0):.2f}", f"no: {error[:90]}"]
    share = r["prunable_parameters"] / r["parameters"]
    left = [f"{r['macs_after'] / r['macs']:.1%}", f"{r['parameters_after'] / r['parameters']:.1%}"]
    return [name, "(PyTorch)", "Torch-Pruning", f"{share:.1%}", *left, f"{r['seconds']:.2f}", "yes"]


def _onnxsim(name: str, exporter: str, r: Row) -> list[str]:
    left = ["", f"{r['parameters_after'] / r['parameters']:.1%}"] if "parameters_after" in r else ["", ""]
    if r.get("macs") and r.get("macs_after"):
        left[0] = f"{r['macs_after'] / r['macs']:.1%}"
    runs = "yes" if r.get("runs") is True else f"no: {str(r.get('runs', r.get('prune')))[:90]}"
    return [name, exporter, "onnxsim", "", *left, f"{r.get('seconds', 0):.2f}", runs]


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
    parser.add_argument("what", choices=["zoo", "models"])
    parser.add_argument("names", nargs="*", help="zoo: models; default the ten of the issue")
    parser.add_argument(
        "--data", type=Path, default=Path("models"), help="models: the folder; zoo: where the exports are"
    )
    parser.add_argument("--criterion", default="l2")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "models":
        table = markdown(MODEL_HEAD, model_rows(given.data, given.criterion))
    else:
        table = markdown(ZOO_HEAD, zoo_rows(given.names or ISSUE, given.data, given.criterion))
    if given.out:
        given.out.write_text(table)


if __name__ == "__main__":
    main()
