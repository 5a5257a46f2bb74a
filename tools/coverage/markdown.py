"""The lists of `coverage.py`, and its table in Markdown.

names("timm"); markdown(rows)
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

Row = dict[str, Any]
Rows = Mapping[tuple[str, str, str], Row]

CLASSIC = """alexnet vit_b_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14 convnext_tiny convnext_small convnext_base
convnext_large densenet121 densenet169 densenet201 densenet161 efficientnet_b0 efficientnet_b1
efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7
efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l googlenet inception_v3 mnasnet0_5 mnasnet0_75
mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf regnet_y_32gf regnet_y_128gf
resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d wide_resnet50_2 wide_resnet101_2
fcn_resnet50 fcn_resnet101 deeplabv3_resnet50 deeplabv3_resnet101 deeplabv3_mobilenet_v3_large
lraspp_mobilenet_v3_large squeezenet1_0 squeezenet1_1 vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn
ssdlite320_mobilenet_v3_large ssd300_vgg16 fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2
fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_mobilenet_v3_large_fpn fcos_resnet50_fpn keypointrcnn_resnet50_fpn
maskrcnn_resnet50_fpn_v2 retinanet_resnet50_fpn_v2 raft_large swin_t swin_s swin_b shufflenet_v2_x0_5
shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0""".split()
"""The 85 of Torch-Pruning's table (benchmarks/prunability/readme.md); it fails on the last eight."""
MORE = """regnet_x_400mf swin_v2_t swin_v2_b maxvit_t s3d r3d_18 mc3_18 r2plus1d_18 mvit_v1_b mvit_v2_s swin3d_t
raft_small""".split()
FAMILIES = ("torchvision85", "torchvision", "timm", "transformers", "recurrent", "dense", "scaling", "units", "files")
TITLES = {
    "torchvision85": "torchvision: the 85 models of Torch-Pruning's table",
    "torchvision": "torchvision: others",
    "timm": "timm: one model per family",
    "transformers": "transformers: tiny configurations",
    "recurrent": "Recurrent networks",
    "dense": "Generation, detection, dense prediction, small networks",
    "scaling": "Depth",
    "units": "Unit graphs of the test suite",
    "files": "Trained files of many exporters",
}


def names(family: str | None) -> list[str]:
    """Models of one family, or of all families that are exported, cheap ones first."""
    from tools.coverage.zoo_models import table

    if family == "torchvision85":
        return CLASSIC
    if family == "torchvision":
        return MORE
    found = table()
    if family:
        return [n for n, m in found.items() if m.family == family]
    order = ("recurrent", "dense", "transformers", "timm")
    return [n for f in order for n, m in found.items() if m.family == f] + CLASSIC + MORE + names("scaling")


def brief(row: Row) -> str:
    """One row in a few words, for the terminal."""
    if "error" in row:
        return "ERROR " + row["error"].splitlines()[0][:200]
    if row["tool"] != "spa":
        wrong = [
            f"{k}: {row[k]}"[:100]
            for k in ("load", "simplify", "graph", "prune", "runs")
            if row.get(k, True) is not True
        ]
        return f"prunable {prunable(row)}, MACs left {share(macs_left(row))} {'; '.join(wrong)}"
    macs, channels = row["macs"], row["channels"]
    wrong = [r["error"][:200] for r in (macs, channels) if "error" in r]
    silent = f" UNPROVEN ({channels['silent']} of {channels['cut']} groups)" if channels.get("silent") else ""
    return (
        f"prunable {prunable(row)}, MACs left {share(macs_left(row))}, error {channels.get('error_of_scale', -1):.0e}"
        f"{silent}, {row['nodes']} nodes, normalize {row['normalize_seconds']:.2f} analyze"
        f" {row['analyze_seconds']:.2f} s {'; '.join(wrong)}"
    )


def share(value: float | None) -> str:
    """As a percentage, or a dash."""
    return "-" if value is None else f"{100 * value:.1f} %"


def prunable_share(row: Row | None) -> float | None:
    """Share of the parameters that some group can cut."""
    if row is None or "error" in row:
        return None
    if row["tool"] == "spa":
        return 1 - sum(row["frozen"].values()) / max(row["parameters"], 1)
    if row["tool"] == "torch_pruning" and row.get("prunable_parameters") is not None:
        return float(row["prunable_parameters"] / row["parameters"])
    return None


def prunable(row: Row | None) -> str:
    """The same as text."""
    return share(prunable_share(row))


def macs_left(row: Row | None) -> float | None:
    """Share of the MACs left at half of the channels, by a model that runs with the same outputs."""
    if row is None or "error" in row:
        return None
    if row["tool"] == "spa":
        return row["channels"].get("macs_left")  # type: ignore[no-any-return]
    if row.get("runs") is not True or not row.get("macs_after") or not row.get("macs"):
        return None
    return float(row["macs_after"] / row["macs"])


def is_working(row: Row | None) -> bool:
    """Analysed, and both compiles gave a proven model."""
    return row is not None and "error" not in row and not any("error" in row[k] for k in ("macs", "channels"))


def is_refused(row: Row | None) -> bool:
    """Nothing of it may change by what was asked: every parameter reaches an input or an output of the graph."""
    if row is None or "error" in row or row["tool"] != "spa":
        return False
    nothing = all(row[of].get("error", "").startswith("NothingToPrune") for of in ("macs", "channels"))
    return nothing and all("signature" in why or "single number" in why for why in row["frozen"])


def share_by_reason(row: Row) -> str:
    """Frozen parameters with their reasons, as text."""
    return "; ".join(f"{n:,}: {why}" for why, n in row["frozen"].items())


def family_of(rows: Rows) -> dict[str, str]:
    """Family of every model in the rows."""
    from tools.coverage.zoo_models import table

    found = {n: m.family for n, m in table().items()}
    found |= {n: "torchvision" for n, f in found.items() if f == "torchvision_tasks"}
    found |= dict.fromkeys(CLASSIC, "torchvision85")
    return {m: e if e in ("units", "files") else found.get(m, "?") for m, e, _ in rows}


HEAD = ("model", "exporter", "nodes", "prunable", "Torch-Pruning", "MACs left", "Torch-Pruning", "onnxsim",
        "prune==mask", "normalise s", "analyse s", "all s")  # fmt: skip


def line(cells: Iterator[str] | tuple[str, ...] | list[str]) -> str:
    """One line of a table."""
    return "| " + " | ".join(c.replace("|", "/").replace("\n", " ") for c in cells) + " |"


def cells(rows: Rows, name: str, exporter: str) -> list[str]:
    """One row of the table."""
    spa, sim = rows.get((name, exporter, "spa")), rows.get((name, exporter, "onnxsim"))
    peer = rows.get((name, "pytorch", "torch_pruning"))
    peers = [prunable(peer), share(macs_left(peer)), share(macs_left(sim))]
    if spa is None or "error" in spa:
        text = "failed" if spa else "not exported"
        return [name, exporter, "-", text, peers[0], "-", *peers[1:], "-", "-", "-", "-"]
    channels = spa["channels"]
    failed = "refused" if is_refused(spa) else "failed"
    proof = failed if "error" in channels else f"{channels['error_of_scale']:.0e}"
    proof += f" ({channels['silent']} of {channels['cut']} groups unproven)" if channels.get("silent") else ""
    return [
        name, exporter, str(spa["nodes"]), prunable(spa), peers[0], share(macs_left(spa)), *peers[1:], proof,
        *(f"{spa[k]:.2f}" if k in spa else "-" for k in ("normalize_seconds", "analyze_seconds")),
        f"{channels.get('seconds', 0):.1f}",
    ]  # fmt: skip


def failure(row: Row) -> str | None:
    """The failure of a row in words, or None."""
    if is_refused(row):
        return None
    if "error" in row:
        return str(row["error"]).splitlines()[0][:300]
    if row["tool"] == "spa":
        wrong = [f"{of}: {row[of]['error']}" for of in ("macs", "channels") if "error" in row[of]]
        return "; ".join(wrong)[:300] or None
    wrong = [f"{k}: {row[k]}" for k in ("load", "simplify", "graph", "prune", "runs") if row.get(k, True) is not True]
    return "; ".join(wrong)[:200].splitlines()[0] if wrong else None


def peers_left(rows: Rows, model: str, exporter: str) -> dict[str, float]:
    """MACs left by the peers that gave a model which runs with the same outputs."""
    found = {
        "Torch-Pruning": macs_left(rows.get((model, "pytorch", "torch_pruning"))),
        "onnxsim": macs_left(rows.get((model, exporter, "onnxsim"))),
    }
    return {peer: left for peer, left in found.items() if left is not None}


def behind(rows: Rows, model: str, exporter: str) -> tuple[float, str] | None:
    """The best peer's MACs left and its name, where that is less than ours by more than half a percent of the model."""
    ours, peers = macs_left(rows.get((model, exporter, "spa"))), peers_left(rows, model, exporter)
    if ours is None or not peers:
        return None
    best = min(peers, key=lambda p: peers[p])
    return (peers[best], best) if ours > peers[best] + 0.005 else None


def totals(rows: Rows, members: list[str]) -> list[str]:
    """Counts of one family."""
    keys = sorted({(m, e) for m, e, t in rows if m in members and t == "spa"})
    good = [k for k in keys if is_working(rows[(*k, "spa")])]
    no = sum(is_refused(rows[(*k, "spa")]) for k in keys)
    compared = [k for k in good if peers_left(rows, *k)]
    peer = [rows[(m, "pytorch", "torch_pruning")] for m in members if (m, "pytorch", "torch_pruning") in rows]
    sim = [rows[k] for k in rows if k[0] in members and k[2] == "onnxsim"]
    return [
        str(len(members)), f"{len(good)} of {len(keys)}" + f", {no} refused" * (no > 0),
        *(f"{sum(macs_left(r) is not None for r in rows)} of {len(rows)}" if rows else "-" for rows in (peer, sim)),
        f"{sum(behind(rows, *k) is None for k in compared)} of {len(compared)}" if compared else "-",
    ]  # fmt: skip


def markdown(rows: Rows) -> str:
    """The whole document."""
    from tools.coverage.zoo_narrow import NARROW

    families = family_of(rows)
    out = [INTRODUCTION.replace("NARROW", textwrap.fill(", ".join(NARROW), 120)), *list_unmeasured(rows)]
    grouped = {f: [m for m, g in families.items() if g == f] for f in FAMILIES}
    out += [line(("", "models", "files that work", "Torch-Pruning", "onnxsim", "MACs no worse than the best peer")),
            "|---|---|---|---|---|---|"]  # fmt: skip
    out += [line([TITLES[f], *totals(rows, m)]) for f, m in grouped.items() if m]
    for family, members in grouped.items():
        if members:
            out += ["", f"## {TITLES[family]}", "", *section(rows, members)]
    return "\n".join(out) + "\n"


def list_unmeasured(rows: Rows) -> Iterator[str]:
    """Models of the lists of which an exporter has no row: neither a measurement nor a refusal."""
    for family in ("torchvision85", "torchvision", "timm", "transformers", "recurrent", "dense"):
        for exporter in ("legacy", "dynamo"):
            left = [n for n in names(family) if not {(n, exporter, "spa"), (n, exporter, "export")} & rows.keys()]
            if left:
                yield textwrap.fill(f"Not measured, {TITLES[family]}, {exporter}: {', '.join(left)}.", 120) + "\n"


def section(rows: Rows, members: list[str]) -> Iterator[str]:
    """One family: its rows, then what failed."""
    yield line(HEAD)
    yield "|" + "---|" * len(HEAD)
    tried = [(m, e) for m in members for e in ("legacy", "dynamo", "units", "files")]
    for name, exporter in tried:
        if any((name, exporter, tool) in rows for tool in ("spa", "export")):
            yield line(cells(rows, name, exporter))
    no = [(m, e, share_by_reason(rows[(m, e, "spa")])) for m, e in tried if is_refused(rows.get((m, e, "spa")))]
    if no:
        yield from ("", line(("refused", "exporter", "parameters by reason")), "|" + "---|" * 3, *map(line, no))
    worse = [(m, e, behind(rows, m, e)) for m, e in tried]
    if any(w for _, _, w in worse):
        yield from ("", line(("a peer leaves less", "exporter", "ours", "peer", "its MACs left")), "|" + "---|" * 5)
        yield from (
            line((m, e, share(macs_left(rows[(m, e, "spa")])), w[1], share(w[0]))) for m, e, w in worse if w is not None
        )
    failures = [(*k, failure(rows[k])) for k in rows if k[0] in members]
    failed = [f for f in failures if f[3]]
    if failed:
        yield ""
        yield line(("failed", "exporter", "tool", "error"))
        yield "|---|---|---|---|"
        yield from (line([str(c) for c in f]) for f in failed)


INTRODUCTION = """# Coverage: which models work, and how far

    pip install -e '.[tools]' torchvision timm transformers torch-pruning onnxsim onnxscript
    python -m tools.coverage.table && python -m tools.coverage.table --table docs/coverage.md

Random weights (structure, not accuracy), both exporters of PyTorch 2.13, `--of channels --ratio 0.5 --criterion l2`; a
model counts as working when it also compiles at `--ratio 0.5` (MACs), runs with the same signature, and prune equals
mask. *prunable* is the share of parameters that some group can cut; *MACs left* is at half of the channels of every
group. Torch-Pruning 1.6 (BasePruner, group magnitude, ratio 0.5, the last Linear or Conv ignored, in detectors what its
own benchmark ignores) takes the PyTorch model, onnxsim 0.8 (`apply_structured_pruning`) the file. A dash in their
columns is a failure (listed under the table), outputs that changed their shape, or no run. Torch-Pruning counts the
modules that it touches as prunable, whole, and MACs its own way, without the products of activations.
Where both digits of an axis (heads and channels of a head) are groups, half of each leaves a quarter.
*normalise* and *analyse* are seconds of processor time, *all s* seconds of the whole compile, written and proven, on
two cores shared with other work. Images are as small as the network allows, and so are clips (8 frames of 64 x 64; s3d
takes 16 of 224 x 224). Models have their full width and depth;
NARROW
have their own depth and blocks at a fraction of the width (a half to a sixteenth; two do not fit into one file).
"(n of m groups unproven)": nothing that the proof sees depends on n of the m groups that lose a unit.

## What cannot be pruned, and why that is so

- **Constants that are no weights** count as parameters here, because a file does not say what trained: tables of
  relative positions (timm_convit_tiny, 82.3 and 74.8 %: thirty and fifty of 196 x 196; every weight of it but the
  output's bias is prunable), masks of shifted windows (hf_swin 96.4 %, swin_t and swin_v2_b 99.7 % with the legacy
  exporter), grids of coordinates (raft_large 96.9 %, raft_small 90.9 % with the dynamo exporter). Their axes are
  positions in an image of fixed size.
- **Weights over positions**: timm_gmlp_s16_224 (94.0 %) mixes its 196 patches by 196 x 196 matrices. The patches are
  positions of the first convolution's output, and pass on through residual sums: to remove one is to crop the image.
- **A convolution over the channel axis**: the channel attention of timm_eca_nfnet_l0 (86.3 %). Each channel reads its
  neighbours by their place; without one of them the others would read wrong ones. So the widths of the residual streams
  that it scales stay, and everything inside the blocks is prunable.
- **The output itself**: bert_trunk (76 to 80 %) gives its hidden states, so the residual width is part of the
  signature, and the embeddings are vocabulary x width. bert, which has a head, is at 99.8 %. timm's
  eva02_tiny_patch14_224 (96.8 %) has no classes either: its 192 pooled features are the output.
- **States as inputs**: lstm_states gets its state from outside and gives it back. Hidden sizes are signature, nothing
  is left to prune, and the compiler refuses (exit code 5) instead of writing the same file: *refused*, not failed.
- What is below 100 % elsewhere is the bias of the output, tables of one batch, and axes that an operator indexes at run
  time (classes in a detector's TopK and Gather).

## Against the peers

"MACs no worse" counts files of which spa-compile leaves at most half a percent of the model more than the best peer
that gave a model which runs with outputs of the same shape; whether it computes what a masked model computes, nothing
of the peers' tells. Where a peer leaves less, a list under the family's table says so. In the two cases so far the peer
cut the same widths and counts otherwise: graph_conv's products with the adjacency are activations, which Torch-Pruning
leaves out (its widths counted as here leave 40.2 %, too), and of timm_lcnet_050 both leave 42.5 % of the parameters.
100 % in Torch-Pruning's column beside an error is a model that it left as it was; its "no result in 60 s" is by the
clock of a busy machine.

## What was run

In pieces, on two cores shared with other work (load 2 to 12), while what was found was being fixed: rows are not all of
the same commit, and most are older than what made normalising faster. What failed was measured again after its fix.
Peers were run on all models but some of the largest (no figure in their columns); a detector takes 25 to 60 s beside
onnxsim because its MACs are counted by our own analysis (of the pruned files, which run for it), the pruning itself 3.
Normalising a detector runs the whole network twice to see sizes that depend on data, and that is most of it. None of
the ten detectors has an export by the dynamo exporter: torch.export refuses their data-dependent sizes.

BatchNorms take their statistics from 16 random inputs, in older rows from 4. With 4, EfficientNet-B7 and V2-L amplify
rounding until PyTorch in float32 and in float64 differ by 0.6 and 0.7 of the output, which no export can agree with;
with 16, by 1e-5.
"""
