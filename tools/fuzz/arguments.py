"""Random options of the command line: sensible ones, and ones that make no sense."""

from __future__ import annotations

import random

QUICK = ("--criterion", "l2", "--no-latency", "--no-quality")
WILD: list[tuple[str, ...]] = [
    ("--ratio", "nan"), ("--ratio", "-0.5"), ("--ratio", "1"), ("--ratio", "1.5"), ("--ratio", "inf"),
    ("--ratio", "x"), ("--ratio", "0"), ("--ratio", "1e-9"), ("--ratio", "0.999999"), ("--target", "0MACs"),
    ("--target", "-5kMACs"), ("--target", "1kparams"), ("--target", "nonsense"), ("--target", "1e400MACs"),
    ("--align", "0"), ("--align", "-3"), ("--align", "x"), ("--align", "1000000"), ("--min-keep", "0"),
    ("--min-keep", "1000000000000"), ("--max-group-ratio", "0"), ("--max-group-ratio", "nan"),
    ("--group-ratio", "*=nan"), ("--group-ratio", "=0.5"), ("--group-ratio", "*=2"), ("--exclude", "*"),
    ("--exclude", "["), ("--include", "nothing"), ("--include", "*"), ("--criterion", "none"), ("--criterion", ""),
    ("--scope", "local"), ("--memory", "0"), ("--memory", "1kB"), ("--memory", "-1GB"), ("--memory", "lots"),
    ("--memory", "200MB"), ("--samples", "-1"), ("--samples", "1000000"), ("--seed", "-1"),
    ("--seed", "99999999999999999999"), ("--threads", "-1"), ("--threads", "999"), ("--threads", "3"),
    ("--input-shape", "1,1"), ("--input-shape", "x:0,0,0,0"), ("--input-shape", "nowhere:1"),
    ("--input-shape", "x:"), ("--input-range", "1,0"), ("--input-range", "nan,nan"), ("--input-range", "x:5,5"),
    ("--input-range", "ids:1,1"), ("--input-range", "-1e38,1e38"), ("--input-range", "inf,inf"),
    ("--pipeline", ""), ("--pipeline", "normalize"), ("--pipeline", "verify"), ("--pipeline", "remove,remove"),
    ("--pipeline", "normalize,analyze,score{criterion=l2},allocate{ratio=0.3},remove,verify"),
    ("--pipeline", "normalize,allocate{ratio"), ("--pipeline", "protect{floor=0.5}(protect())"),
    ("--with", "nothing{}"), ("--with", "erase"), ("--plan", "plan.json"), ("--mask", "mask.npz"),
    ("--scores", "scores.npz"), ("--calib", "data.npz"), ("--data", "data.npz"), ("--calib", "nowhere"),
    ("--calib", "tokens"), ("--calib", "noise"), ("--report", "r.json"), ("--report", "r.html"),
    ("--report", "model.onnx"), ("--report", "."), ("--save-plan", "plan.out"), ("--save-plan", "model.onnx"),
    ("-o", "model.onnx"), ("-o", "nowhere/out.onnx"), ("-o", "."), ("--dry-run",), ("--fail-under", "cosine=0.99"),
    ("--fail-under", "nothing=1"), ("--fail-under", "cosine=nan"), ("--fail-under", "drop<=1%"), ("--allow-noop",),
    ("--max-drop", "1%"), ("--max-drop", "-1"), ("--max-drop", "nan"), ("--ratio", "auto"), ("--ratio", "*=0.3"),
    ("--ratio", "nothing=0.3"), ("--device", "avx2"), ("--device", "nothing"), ("--device", "arm64"),
    ("--of", "latency"),
    ("--times", "nowhere.json"), ("--times", "plan.json"), ("--layer-ratio", "*=2"), ("--layer-ratio", "*=0.2"),
    ("--scope", "erk"), ("--scope", "pq"), ("--scope", "exact"), ("--scope", "angle"), ("--scope", "sensitivity"),
    ("--criterion", "0.5*l2+fpgm"), ("--criterion", "l2+"), ("--criterion", "order"), ("--with", "repeat{steps=2}"),
    ("--with", "repeat{steps=0}"), ("--target", "1ms"), ("--target", "50%"), ("--align", "auto"),
    ("--compensate", "bias"), ("--compensate", "norm"), ("--compensate", "affine"), ("--compensate", "merge"),
    ("--compensate", "fresh"), ("--compensate",), ("--no-compensate",), ("--compensate", "nothing"),
    ("--quiet",), ("--preprocess", "resize=0"), ("--preprocess", "x"), ("--time-limit", "1"),
]  # fmt: skip
"""Options of all kinds; most are wrong in some way, and each has to give a documented exit code."""


def draw_plain(rng: random.Random) -> list[str]:
    """Options under which an ordinary model has to compile."""
    of = rng.choice(["channels", "channels", "macs", "params"])
    out = [
        "--ratio",
        rng.choice(["0.3", "0.5", "0.5", "0.2"]),
        "--of",
        of,
        "--align",
        rng.choice(["1", "1", "1", "auto"]),
    ]
    if rng.random() < 0.15:
        out += ["--scope", "uniform" if of == "channels" else rng.choice(["global", "uniform"])]
    if rng.random() < 0.1:
        out += ["--min-keep", rng.choice(["1", "2"])]
    return out


def draw_quick(rng: random.Random) -> list[str]:
    """A criterion that needs no calibration."""
    criterion = rng.choice(["l2", "l2", "l2", "l1", "fpgm", "random", "bn_scale"])
    return ["--criterion", criterion, "--no-latency", "--no-quality"]


def draw_wild(rng: random.Random) -> list[str]:
    """Up to three options of WILD."""
    return [word for option in rng.sample(WILD, rng.choice([1, 1, 2, 3])) for word in option]
