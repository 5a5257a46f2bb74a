"""Compile every export of a folder and compare it with its reference at twelve sizes; writes a table.

    python -m tools.exports.sizes --out small && python -m tools.measure.every_size small
    python -m tools.exports.sizes --out real --real && python -m tools.measure.every_size real --write docs/sizes.md

The folder is one that the first command made: files `NAME.EXPORTER.onnx` and their `inputs.json`. The reference is the
dense file with zeros in place of what is gone (`tests/support/oracle.py`). Needs the extra `test`. Each file runs in a
process of its own, with a limit of time and memory. Exit code 1 when a file is wrong at some size or is refused.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tools import isolation
from tools.isolation import Row

TESTS = Path(__file__).resolve().parents[2] / "tests"
SECONDS, MEMORY = 900.0, 14 << 30
TOLERANCE, SEEN = 1e-4, 1e-3
"""Largest error that is rounding, and the least effect of a plan that shows."""
HEAD = """| network | exporter | right sizes | largest error | groups cut | MACs left | |
|---|---|---|---|---|---|---|
"""


def measure(path: str) -> Row:
    """Compile one file and compare it; what the table says about it."""
    sys.path.insert(0, str(TESTS / "support"))
    import onnx

    import oracle

    file = Path(path)
    dense = onnx.load(file)
    feeds = oracle.find_accepted(dense, oracle.read_inputs(file.parent)[file.stem.partition(".")[0]])
    with tempfile.TemporaryDirectory() as folder:
        compiled, result = oracle.compile_without_statistics(file, Path(folder) / "out.onnx")
    found = oracle.differences(dense, compiled, feeds)
    report = result.report
    wrong = [f for f in found if f.error > TOLERANCE]
    return {
        "sizes": len(found),
        "wrong": len(wrong),
        "error": max((f.error for f in found), default=float("nan")),
        "effect": max((f.effect for f in found), default=0.0),
        "cut": len(result.state.plan.document()["groups"]),
        "groups": len(result.state.require_graph().groups),
        "macs": report["compiled"]["macs"] / max(report["dense"]["macs"], 1),
        "message": f"{wrong[0].sizes}: {wrong[0].message or 'other numbers'}" if wrong else "",
    }


def is_right(row: Row) -> bool:
    """Did the file compile, and does it agree at enough sizes with a plan that shows?"""
    compiled = "error" in row and not isinstance(row["error"], str)
    return compiled and not row["wrong"] and row["sizes"] >= 6 and row["effect"] >= SEEN


def line(file: Path, row: Row) -> str:
    """One row of the table."""
    name, _, way = file.stem.partition(".")
    if isinstance(row["error"], str):
        told = " ".join(row["error"].replace(str(file), file.name).split())[:160].replace("|", "\\|")
        return f"| {name} | {way} | | | | | {told} |"
    told = row["message"][:160].replace("|", "\\|") if row["wrong"] else ""
    told = told or ("no effect" if row["effect"] < SEEN else "")
    sizes, groups = f"{row['sizes'] - row['wrong']} of {row['sizes']}", f"{row['cut']} of {row['groups']}"
    return f"| {name} | {way} | {sizes} | {row['error']:.0e} | {groups} | {row['macs']:.0%} | {told} |"


def summary(rows: dict[Path, Row]) -> str:
    """One sentence over the table."""
    right = sum(is_right(r) for r in rows.values())
    refused = sum(isinstance(r["error"], str) for r in rows.values())
    return f"{right} of {len(rows)} files are right at every size that was tried; {refused} were refused.\n"


def table(rows: dict[Path, Row]) -> str:
    """The whole table, with a sentence before it."""
    return summary(rows) + "\n" + HEAD + "\n".join(line(f, r) for f, r in rows.items()) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="file names that contain this")
    parser.add_argument("--write", type=Path, help="write the table into this file")
    a = parser.parse_args()
    isolation.preload("numpy", "onnx", "onnxruntime")
    rows: dict[Path, Row] = {}
    for file in sorted(a.folder.resolve().glob("*.onnx")):
        if a.only in file.name:
            rows[file] = isolation.run(measure, (str(file),), SECONDS, MEMORY)
            print(line(file, rows[file]), flush=True)
    print(summary(rows))
    if a.write:
        a.write.write_text(table(rows))
    raise SystemExit(not all(map(is_right, rows.values())))


if __name__ == "__main__":
    main()
