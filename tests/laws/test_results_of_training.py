"""Zero units, masks, plans and checkpoints that training and other programs hand over are taken exactly as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from commands import run, run_spa
from networks import CONV, DENSE, RESIDUAL
from spa_compiler.planning.plan import Plan
from zoo import CASES
from zoo_base import Case, build

SHORT = ("--align", 1, "--no-latency", "--no-quality")
ZOO = "depth_to_space depth_to_space_crd grouped_conv concat_channels se_gate attention conv_3d unet low_rank"
NETWORKS = {
    "dense": DENSE,
    "convolutions": CONV,
    "residual": RESIDUAL,
    **{n: CASES[n] for n in ZOO.split()},
}


def save(case: Case, path: Path) -> Path:
    onnx.save(build(case), path)
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def write(path: Path, weights: dict[str, np.ndarray], out: Path) -> Path:
    """The same graph with other numbers."""
    model = onnx.load(path)
    for t in model.graph.initializer:
        t.CopyFrom(numpy_helper.from_array(weights[t.name].astype(numpy_helper.to_array(t).dtype), t.name))
    onnx.save(model, out)
    return out


def list_groups(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run_spa("inspect", path, "--json").output)["groups"]
    return found


def run_model(path: Path, seed: int = 0) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    shapes = {i.name: [n if isinstance(n, int) else 4 for n in i.shape] for i in session.get_inputs()}
    feed = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    return np.concatenate([np.ravel(a) for a in session.run(None, feed)])


def choose_plans(path: Path, count: int) -> list[dict[str, Any]]:
    """Groups with the channels that each of several plans keeps, drawn at random."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        kept = {}
        for g in list_groups(path):
            rows = [np.sort(rng.permutation(g["size"])[: -(-g["size"] // 2)]).tolist() for _ in range(g["blocks"])]
            kept[g["label"]] = {"size": g["size"], "keep": rows if g["blocks"] > 1 else rows[0]}
        out.append({"version": 1, "groups": kept})
    return out


def make_mask(entry: dict[str, Any]) -> np.ndarray:
    rows = entry["keep"] if entry["keep"] and isinstance(entry["keep"][0], list) else [entry["keep"]]
    mask = np.stack([np.isin(np.arange(entry["size"]), r) for r in rows])
    return mask if len(rows) > 1 else mask[0]


def silence(path: Path, plan: dict[str, Any], out: Path) -> Path:
    """The model in which nothing reads a removed channel: slices of all weights that contract it are zero."""
    weights = {n: a.copy() for n, a in read(path).items()}
    for g in list_groups(path):
        mask = make_mask(plan["groups"][g["label"]])
        for m in g["members"]:
            array = weights[m["value"]]
            if m["role"] == "in" and mask.ndim == 1 and array.shape[m["axis"]] == mask.size:
                np.moveaxis(array, m["axis"], 0)[~mask] = 0
    return write(path, weights, out)


@pytest.mark.parametrize("name", ["dense", "convolutions", "residual"])
def test_each_of_several_masks_gives_a_model_of_its_own(name: str, tmp_path: Path) -> None:
    """APTP's codes, EcoDiff's mask: one source, a mask file each; equal to the model that does not read what goes."""
    source = save(NETWORKS[name], tmp_path / "m.onnx")
    seen = []
    for k, plan in enumerate(choose_plans(source, 3)):
        masks, out = tmp_path / f"{k}.npz", tmp_path / f"{k}.onnx"
        np.savez(masks, **{n: make_mask(e) for n, e in plan["groups"].items()})
        result = run(source, out, "--mask", masks, *SHORT[2:])
        assert result.exit_code == 0, result.output
        onnx.checker.check_model(onnx.load(out), full_check=True)
        quiet = silence(source, plan, tmp_path / f"quiet{k}.onnx")
        np.testing.assert_allclose(run_model(out), run_model(quiet), atol=1e-4, rtol=1e-4)
        seen.append(run_model(out))
    assert not any(np.allclose(seen[0], s) for s in seen[1:])


def find_kept(path: Path, plan: Path, folder: Path) -> dict[str, np.ndarray]:
    """The numbers of the entries of each weight that a plan keeps: read off a checkpoint whose weights are numbered."""
    rng, numbered = np.random.default_rng(0), {}
    orders = {n: rng.permutation(a.size) for n, a in read(path).items() if a.dtype.kind == "f"}
    for n, a in read(path).items():
        numbered[n] = (orders[n] + 1).reshape(a.shape) if n in orders else a
    source, out = write(path, numbered, folder / "numbered.onnx"), folder / "kept.onnx"
    result = run(source, out, "--plan", plan, *SHORT[2:])
    assert result.exit_code == 0, result.output
    return {n: np.argsort(orders[n])[a.astype(int) - 1] for n, a in read(out).items() if n in orders}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_plan_of_one_checkpoint_gives_slices_of_another(name: str, tmp_path: Path) -> None:
    """The Lottery Ticket Hypothesis and its stable form: found on trained weights, applied to those of another time."""
    trained = save(NETWORKS[name], tmp_path / "trained.onnx")
    rng, plan = np.random.default_rng(5), tmp_path / "plan.json"
    first = {n: np.abs(rng.standard_normal(a.shape)) if a.dtype.kind == "f" else a for n, a in read(trained).items()}
    early = write(trained, first, tmp_path / "early.onnx")
    chosen = ("--ratio", 0.4, "--criterion", "l2", "--save-plan", plan)
    assert run(trained, tmp_path / "a.onnx", *chosen, *SHORT).exit_code == 0
    assert run(early, tmp_path / "b.onnx", "--plan", plan, *SHORT[2:]).exit_code == 0
    a, b, kept = read(tmp_path / "a.onnx"), read(tmp_path / "b.onnx"), find_kept(trained, plan, tmp_path)
    assert {n: w.shape for n, w in a.items()} == {n: w.shape for n, w in b.items()}
    assert any(kept[n].size < first[n].size for n in kept)
    for n, at in kept.items():
        assert b[n].tobytes() == first[n].astype(b[n].dtype).ravel()[at].tobytes(), n


@pytest.mark.parametrize("name", ["dense", "convolutions"])
def test_a_plan_keeps_what_is_still_zero_in_another_checkpoint(name: str, tmp_path: Path) -> None:
    """Units that training starts at zero are no dead ones: the ticket has the shapes of the trained model."""
    trained, plan = save(NETWORKS[name], tmp_path / "m.onnx"), tmp_path / "p.json"
    assert (
        run(trained, tmp_path / "a.onnx", "--ratio", 0.3, "--criterion", "l2", "--save-plan", plan, *SHORT).exit_code
        == 0
    )
    start = {n: a.copy() for n, a in read(trained).items()}
    for n in ("w1", "b1"):
        start[n][Plan.load(plan).keep[list_groups(trained)[0]["label"]]] = 0
    early = write(trained, start, tmp_path / "early.onnx")
    assert run(early, tmp_path / "b.onnx", "--plan", plan, "--allow-unproven", *SHORT[2:]).exit_code == 0
    a, b = read(tmp_path / "a.onnx"), read(tmp_path / "b.onnx")
    assert {n: w.shape for n, w in a.items()} == {n: w.shape for n, w in b.items()}


@pytest.mark.parametrize("name", ["dense", "convolutions", "residual"])
def test_a_plan_of_a_compiled_model_composes_with_its_own(name: str, tmp_path: Path) -> None:
    """EfficientLLM's repeated small steps: one after the other is the same file as both at once."""
    files = {n: tmp_path / f"{n}.onnx" for n in ("source", "once", "twice", "both")}
    plans = [tmp_path / "1.json", tmp_path / "2.json"]
    save(NETWORKS[name], files["source"])
    step = ("--ratio", 0.25, "--criterion", "l2", "--save-plan")
    assert run(files["source"], files["once"], *step, plans[0], *SHORT).exit_code == 0
    assert run(files["once"], files["twice"], *step, plans[1], *SHORT).exit_code == 0
    first, second = (Plan.load(p).keep for p in plans)
    both = {n: m.copy() for n, m in first.items()}
    for n, m in second.items():
        whole = both.setdefault(n, np.ones(m.size, bool))
        whole[whole] = m
    Plan(both).save(plans[1])
    assert run(files["source"], files["both"], "--plan", plans[1], *SHORT[2:]).exit_code == 0
    a, b = read(files["twice"]), read(files["both"])
    assert {n: w.tobytes() for n, w in a.items()} == {n: w.tobytes() for n, w in b.items()}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_units_beyond_a_level_that_are_zero_go_and_no_others(name: str, tmp_path: Path) -> None:
    """Proximal training (WGSEF), and pixel shuffles of it (ISS-P): k units of each group are left, nothing changes."""
    source, wish = save(NETWORKS[name], tmp_path / "m.onnx"), tmp_path / "wish.json"
    wanted = {g["label"]: g["size"] - 2 for g in list_groups(source) if g["size"] > 3}
    whole = {
        g["label"]: [list(range(g["size"] - 2))] * g["blocks"] if g["blocks"] > 1 else list(range(g["size"] - 2))
        for g in list_groups(source) if g["label"] in wanted
    }  # fmt: skip
    wish.write_text(json.dumps({"version": 1, "groups": whole}))
    kept = find_kept(source, wish, tmp_path)
    weights = {n: a.copy() for n, a in read(source).items()}
    for n, at in kept.items():
        gone = np.setdiff1d(np.arange(weights[n].size), at)
        if not n.startswith("var"):
            weights[n].reshape(-1)[gone] = 0
    zeroed, out, plan = write(source, weights, tmp_path / "z.onnx"), tmp_path / "o.onnx", tmp_path / "p.json"
    result = run(zeroed, out, "--ratio", 0, "--save-plan", plan, *SHORT[2:])
    assert result.exit_code == 0, result.output
    assert {n: int(m.reshape(-1, m.shape[-1])[0].sum()) for n, m in Plan.load(plan).keep.items()} == wanted
    np.testing.assert_allclose(run_model(out), run_model(zeroed), atol=1e-5)


@pytest.mark.parametrize("name", ["dense", "convolutions", "residual"])
def test_zeros_inside_of_units_remove_nothing(name: str, tmp_path: Path) -> None:
    """GraNet, DASS: unstructured zeros leave every unit alive, and the file is what it was."""
    source = save(NETWORKS[name], tmp_path / "m.onnx")
    rng, out = np.random.default_rng(0), tmp_path / "o.onnx"
    sparse = {
        n: np.where(rng.random(a.shape) < 0.5, 0, a) if a.ndim > 1 else a for n, a in read(source).items()
    }  # fmt: skip
    for a in sparse.values():
        if a.ndim > 1:  # no unit is zero
            a.reshape(a.shape[0], -1)[:, 0], a.reshape(a.shape[0], a.shape[1], -1)[0, :, 0] = 1, 1
    source = write(source, sparse, tmp_path / "s.onnx")
    result = run(source, out, "--ratio", 0, "--json", *SHORT[2:])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert all(g["kept"] == g["size"] for g in report["groups"])
    assert out.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["digits_resnet", "digits_vit", "digits_mobilenet", "digits_gru"])
def test_scores_by_the_best_update_beat_magnitudes_without_data(name: str, models: Path, tmp_path: Path) -> None:
    """OBSPA at half of the MACs: nearer to the dense outputs than magnitudes are, and no file of data is read."""
    errors = []
    for more in ((), ("--criterion", "l2")):
        result = run(models / f"{name}.onnx", tmp_path / "o.onnx", "--ratio", 0.5, "--json", "--no-latency", *more,
                     "--data", models / "digits_test.npz")  # fmt: skip
        assert result.exit_code == 0, result.output
        report = json.loads(result.output)
        errors.append(1 - report["fidelity"]["cosine"])
        assert report["calibration"] is None or report["calibration"]["synthetic"]
    assert errors[0] < errors[1]
