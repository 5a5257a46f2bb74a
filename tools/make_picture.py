"""Draw the picture at the top of README.md: what a compile takes out of digits_resnet.

    python -m tools.make_picture docs/picture.svg      # needs the extra `report`

Widths are those of `spa-compile models/digits_resnet.onnx --ratio 0.5 --device avx2`, which is run for it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import spa_compiler

MODEL = Path(__file__).resolve().parent.parent / "models" / "digits_resnet.onnx"
INK, GONE, KEPT = "#7a7f87", "#c9cdd3", "#2f7ed8"
"""Text, what goes and what stays, in colours that are read on white and on black."""


def compile_model() -> dict[str, Any]:
    """The report of the compile that is drawn."""
    return spa_compiler.compile(MODEL, 0.5, device="avx2", latency=False).report


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw channels of every convolution before and after, and what the whole costs, as an SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    shown = [n for n in report["layers"] if n["width"] is not None]
    settings = {"svg.fonttype": "none", "svg.hashsalt": "picture", "text.color": INK, "font.size": 9}
    with pyplot.rc_context({**settings, "xtick.color": INK, "ytick.color": INK}):
        figure, axes = pyplot.subplots(figsize=(7.2, 0.27 * len(shown) + 0.9), layout="constrained")
        places = list(range(len(shown)))[::-1]
        axes.barh(places, [n["width"] for n in shown], color=GONE, height=0.7, label="removed")
        axes.barh(places, [n["kept"] for n in shown], color=KEPT, height=0.7, label="stays")
        axes.set_yticks(places, [f"layer {k + 1} ({n['op']})" for k, n in enumerate(shown)])
        for place, n in zip(places, shown, strict=True):
            cut = n["kept"] < n["width"]
            text = f"{n['width']} → {n['kept']} channels" if cut else f"{n['width']}"
            axes.text(n["width"] + 0.8, place, text, va="center")
        axes.set_xticks([])
        axes.set_xlim(0, 1.45 * max(n["width"] for n in shown))
        axes.set_frame_on(False)
        axes.tick_params(length=0)
        axes.legend(frameon=False, loc="lower right")
        before, after = report["dense"], report["compiled"]
        axes.set_title(
            f"digits_resnet at half of its work: {before['macs'] / 1e6:.2f} → {after['macs'] / 1e6:.2f} million "
            f"multiply-accumulates, {before['bytes'] / 1e3:.0f} → {after['bytes'] / 1e3:.0f} kB of weights",
            color=INK, fontsize=9, loc="left", x=-0.13,
        )  # fmt: skip
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    draw(compile_model(), parser.parse_args().out)


if __name__ == "__main__":
    main()
