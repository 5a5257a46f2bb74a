"""Measure what goes without any loss: every .onnx of a folder at ratio 0, in one table.

    python -m tools.measure.exact DIR [DIR ...] [--out TABLE.md]

What is folded into other weights, channels that are multiples or numbers, zero terms of sums and dead channels are
counted; MACs, bytes of weights and milliseconds (one thread, minimum of alternating runs) before and after; the error
of the proof. A file with nothing to
take has to come out byte for byte.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import spa_compiler
from spa_compiler.errors import SpaError
from tools.measure.benchmark import markdown

HEAD = [
    "model",
    "folded",
    "multiples, numbers",
    "zero terms",
    "dead channels",
    "MACs",
    "bytes of weights",
    "ms",
    "proof",
    "file",
]


def list_rows(folders: list[Path]) -> Iterator[list[str]]:
    """A row a file."""
    for path in sorted(p for f in folders for p in f.glob("*.onnx")):
        try:
            found = spa_compiler.compile(path, 0.0, quality=False, threads=1)
        except SpaError as e:
            yield [path.stem, str(e).partition(";")[0][:80], *[""] * (len(HEAD) - 2)]
            continue
        report, analysis = found.report, found.report["analysis"]
        redirected = analysis["redirected"] or {"channels": 0, "terms": 0}
        folded = sum((analysis["folded_maps"] or {}).values())
        proof, times = report["verification"]["prune_equals_mask"], report["latency"]
        same = found.model.SerializeToString() == path.read_bytes()
        yield [
            path.stem, str(folded),
            str(redirected["channels"]), str(redirected["terms"]), str(analysis["erased_channels"]),
            f"{report['reached']['macs']:.1%}", f"{report['reached']['bytes']:.1%}",
            f"{times['dense_min_ms']:.3g} -> {times['compiled_min_ms']:.3g}" if times else "",
            f"{proof['error']:.0e}" if proof else "", "the same bytes" if same else "changed",
        ]  # fmt: skip


def main() -> None:
    """Parse the command line and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    text = markdown(HEAD, list_rows(given.folders))
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
