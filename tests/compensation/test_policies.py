"""Policies: what `--compensate NAME` does to the weights that stay, in every way in which it can be given."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from commands import last, run, run_spa
from networks import DENSE, cut, feeds, graph_of, outputs
from spa_compiler.calibration.inputs import Calibration
from spa_compiler.cli.arguments import spell_out_switches
from spa_compiler.cli.main import compile_command
from spa_compiler.compensation.policy import Task, find_policy, list_policy_names
from spa_compiler.compiler import compile_file
from spa_compiler.errors import NothingToPrune, UsageError
from spa_compiler.execution.session import add_outputs, open_session
from spa_compiler.ir.model import Model
from spa_compiler.pipeline.options import Options, pipeline_of
from spa_compiler.planning.plan import Plan
from spa_compiler.rewriting.prune import rewrite
from zoo import CASES
from zoo_base import Case, build

SHORT = ("--align", 1, "--no-latency", "--no-quality")


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A small network with a mean in what is removed."""
    path = tmp_path / "dense.onnx"
    onnx.save(build(DENSE), path)
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"ratio": 0.5}, "lockstep"),
        ({"ratio": 0.5, "criterion": "l2"}, ""),
        ({"ratio": 0.5, "criterion": "l2", "compensate": True}, "lockstep"),
        ({"ratio": 0.5, "compensate": False}, ""),
        ({"ratio": 0.5, "compensate": "none"}, ""),
        ({"ratio": 0.5, "criterion": "l2", "compensate": "merge"}, "merge"),
        ({"plan": "p.json"}, ""),
        ({"plan": "p.json", "compensate": True}, "lockstep"),
        ({"plan": "p.json", "compensate": "bias"}, "bias"),
    ],
)
def test_the_pipeline_has_the_policy_that_was_asked_for(given: dict[str, Any], method: str) -> None:
    steps = {p.name: p for p in pipeline_of(Options(**given)).iterate_flat()}
    text = str(pipeline_of(Options(**given)))
    assert ("compensate" in text) == bool(method)
    assert (f"compensate{{method={method}}}" in text) == (method not in ("", "lockstep"))
    if not given.get("ratio"):
        assert ("calibrate" in steps) == bool(method)


def test_a_policy_of_weights_alone_calibrates_nothing() -> None:
    names = {p.name for p in pipeline_of(Options(ratio=0.5, criterion="l2", compensate="merge")).iterate_flat()}
    assert not names & {"calibrate", "protect"}


def test_an_unknown_policy_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="'none', 'affine', 'bias'"):
        Options(ratio=0.5, compensate="biases")
    with pytest.raises(UsageError, match=r"no policy is called 'x'; there are .*lockstep"):
        find_policy("x")
    assert run("m.onnx", "--ratio", 0.5, "--compensate=x").exit_code == 2


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ("--compensate m.onnx", "--compensate=lockstep m.onnx"),
        ("m.onnx --compensate", "m.onnx --compensate=lockstep"),
        ("--compensate bias m.onnx", "--compensate bias m.onnx"),
        ("--compensate=bias m.onnx", "--compensate=bias m.onnx"),
        ("m.onnx --no-compensate", "m.onnx --compensate=none"),
        ("--compensate -- --compensate", "--compensate=lockstep -- --compensate"),
    ],
)
def test_the_name_may_be_left_out(args: str, wanted: str) -> None:
    assert " ".join(spell_out_switches(compile_command.params, args.split())) == wanted


def test_spa_passes_lists_the_policies() -> None:
    found = json.loads(run_spa("passes", "--json").output)["policies"]
    assert sorted(found) == sorted(set(list_policy_names()) - {"none"})
    assert all(found.values())


def test_bias_changes_nothing_but_biases_and_lowers_the_error(dense: Path, tmp_path: Path) -> None:
    """FLAP: what was removed stands at its mean; every weight is a slice of the dense one, bit for bit."""
    calib = tmp_path / "x.npz"
    np.savez(calib, x=np.random.default_rng(0).standard_normal((256, 5)).astype(np.float32) + 1)
    files = {n: tmp_path / f"{n}.onnx" for n in ("none", "bias")}
    reports = {n: tmp_path / f"{n}.json" for n in files}
    for name, file in files.items():
        more = ("--calib", calib) if name == "bias" else ()
        chosen = ("--criterion", "l2", "--ratio", 0.4, "--compensate", name)
        result = run(dense, file, *chosen, *SHORT, *more, "--report", reports[name])
        assert result.exit_code == 0, result.output
    plain, better = (read(f) for f in files.values())
    for name, array in plain.items():
        assert name.startswith("b") or array.tobytes() == better[name].tobytes()
    assert json.loads(reports["bias"].read_text())["compensation"]["method"] == "bias"
    errors = [measure(dense, f, calib) for f in files.values()]
    assert errors[1] < 0.7 * errors[0]


def measure(dense: Path, file: Path, calib: Path) -> float:
    """Mean squared distance of the outputs."""
    x = np.load(calib)["x"]
    a, b = (run_model(f, x) for f in (dense, file))
    return float(np.square(a - b).mean())


def run_model(file: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


NORMED = Case(
    "(float[N,3,8,8] x) => (float[N,4] y) { a = Conv <pads = [1,1,1,1]> (x, w1)"
    "  n = BatchNormalization (a, g1, b1, m1, var1)  r = Relu(n)  c = Conv <pads = [1,1,1,1]> (r, w2, c2)"
    "  k = BatchNormalization (c, g2, b2, m2, var2)  q = Relu(k)  p = GlobalAveragePool(q)  f = Flatten(p)"
    "  y = Gemm <transB = 1> (f, w3, b3) }",
    {
        "w1": (16, 3, 3, 3), "g1": (16,), "b1": (16,), "m1": (16,), "var1": (16,), "w2": (24, 16, 3, 3), "c2": (24,),
        "g2": (24,), "b2": (24,), "m2": (24,), "var2": (24,), "w3": (4, 24), "b3": (4,),
    },
    None,
)  # fmt: skip
TOKENS = Case(
    "(float[N,6,512] x) => (float[N,6,512] y) { a = LayerNormalization (x, g1, b1)  h = MatMul(a, w1)  i = Add(h, c1)"
    "  r = Relu(i)  o = MatMul(r, w2)  s = Add(o, x)  m = LayerNormalization (s, g2, b2)  u = MatMul(m, w3)"
    "  v = Relu(u)  z = MatMul(v, w4)  t = RMSNormalization (z, g3)  y = MatMul(t, w5) }",
    {
        "g1": (512,), "b1": (512,), "w1": (512, 1024), "c1": (1024,), "w2": (1024, 512), "g2": (512,), "b2": (512,),
        "w3": (512, 1024), "w4": (1024, 512), "g3": (512,), "w5": (512, 512),
    },
    None, opset=23,
)  # fmt: skip


def cut_with(case: Case, policy: str, given: list[dict[str, np.ndarray]], share: float = 0.5) -> tuple[Any, Model, Any]:
    """The dense graph, the model that a policy makes of a cut of it, and what became of its nodes."""
    graph = graph_of(case)
    masks = cut(graph, share)
    plan = Plan({g.label: masks[g.dims[0]] for g in graph.groups})
    small = rewrite(graph, plan.masks(graph))
    task = Task(graph, plan, small, Calibration(given, "given"))
    return graph, *find_policy(policy).update(task)


def test_norm_gives_what_activations_read_its_dense_mean_and_deviation() -> None:
    """Row FedTiny: moments before each activation are those of the dense model, on the data that was used."""
    given = feeds((32, 3, 8, 8))
    graph, small, outcome = cut_with(NORMED, "norm", given)
    assert outcome.solved == 2
    dense, cut_graph = (measure_before_relu(m, given) for m in (graph.model, small))
    masks = cut(graph)
    for (mean, deviation), (mine, own), size in zip(dense, cut_graph, (16, 24), strict=True):
        kept = next(m for m in masks.values() if m.size == size)
        np.testing.assert_allclose(mine, mean[kept], atol=1e-3)
        np.testing.assert_allclose(own, deviation[kept], atol=1e-3)
    before, after = graph.model.constants(), small.constants()
    changed = {n for n in after if after[n].shape == before[n].shape and n[0] in "mv"}
    assert changed <= {"m1", "var1", "m2", "var2"}
    for n in ("w1", "g1", "b1"):
        kept = next(m for m in masks.values() if m.size == 16)
        np.testing.assert_array_equal(small.array(after[n]), graph.model.array(before[n])[kept])


def measure_before_relu(model: Model, given: list[dict[str, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and deviation per channel of what each Relu reads."""
    names = [n.inputs[0].name for n in model.graph.nodes if n.op == "Relu"]
    session = open_session(add_outputs(model.proto(), names), model.folder)
    runs = [session.run(names, f) for f in given]
    return [(a.mean((0, 2, 3)), a.std((0, 2, 3))) for a in (np.concatenate([r[k] for r in runs]) for k in range(2))]


@pytest.mark.parametrize("case", [NORMED, TOKENS], ids=["batch", "layer and rms"])
def test_affine_changes_gains_and_biases_and_lowers_the_error(case: Case) -> None:
    """Row PERP: few parameters change, and the outputs are nearer to the dense ones on inputs that were not used."""
    shape = (32, 3, 8, 8) if case is NORMED else (64, 6, 512)
    unseen = feeds(shape, seed=5)
    errors = {}
    for name in ("affine", "bias", "none"):
        if name == "none":
            graph = graph_of(case)
            model = rewrite(graph, cut(graph))
        else:
            graph, model, _ = cut_with(case, name, feeds(shape))
        errors[name] = float(np.square(outputs(model, unseen) - outputs(graph.model, unseen)).mean())
        if name == "affine":
            small = rewrite(graph, cut(graph))
            old, new = small.constants(), model.constants()
            changed = [n for n in new if n not in old or not np.array_equal(model.array(new[n]), small.array(old[n]))]
            assert changed
            assert all(model.array(new[n]).ndim == 1 for n in changed)
            total = sum(model.array(t).size for t in new.values())
            share = sum(model.array(new[n]).size for n in changed) / total
            assert share < (0.0035 if case is TOKENS else 1), share
    assert errors["affine"] < errors["bias"] < errors["none"]


def test_norm_says_so_where_there_is_nothing_to_estimate(dense: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    chosen = ("--criterion", "l2", "--ratio", 0.4, "--compensate", "norm", "--samples", 16, "--report", report)
    assert run(dense, tmp_path / "o.onnx", *chosen, *SHORT).exit_code == 0
    assert "--compensate norm found nothing to update in this model" in json.loads(report.read_text())["notes"]


@pytest.mark.parametrize("policy", ["norm", "affine"])
def test_what_training_knew_of_drawn_pictures_stays(policy: str, models: Path, tmp_path: Path) -> None:
    """Statistics of drawn inputs are not those of real ones: only their change by the cut reaches the file."""
    data = ("--data", models / "digits_test.npz", "--no-latency", "--criterion", "l2", "--ratio", 0.3, "--align", 1)
    accuracy = {}
    for name in ("none", policy):
        more = ("--samples", 64) if name != "none" else ()
        out = ("-o", tmp_path / f"{name}.onnx")
        result = run(models / "digits_resnet.onnx", *data, "--compensate", name, *more, *out)
        accuracy[name] = float(re.findall(r"-> ([\d.]+)%", last(result))[0])
    assert accuracy[policy] > accuracy["none"]


@pytest.mark.parametrize("policy", ["norm", "affine"])
def test_spa_verify_knows_which_policies_write_normalisations(policy: str, models: Path, tmp_path: Path) -> None:
    """The pipeline that a file names decides which constants may be other than slices; `--rerun` proves them."""
    source, out, plan = models / "digits_resnet.onnx", tmp_path / "o.onnx", tmp_path / "p.json"
    more = ("--criterion", "l2", "--ratio", 0.3, "--samples", 16, "--save-plan", plan)
    assert run(source, out, *more, "--compensate", policy, *SHORT).exit_code == 0
    assert last(run_spa("verify", source, out, "--plan", plan)) == "UNPROVEN weights"
    found = run_spa("verify", source, out, "--plan", plan, "--rerun")
    assert last(found).startswith("VERIFIED"), found.output
    file = onnx.load(out)
    entry = next(p for p in file.metadata_props if "pipeline" in p.key)
    entry.value = entry.value.replace(f"{{method={policy}}}", "{method=bias}")
    onnx.save(file, out)
    assert run_spa("verify", source, out, "--plan", plan).exit_code == 1
    assert "the structure differs" in run_spa("verify", source, out, "--plan", plan).output


def test_fresh_weights_have_the_shapes_of_the_slices_and_follow_from_the_seed(models: Path, tmp_path: Path) -> None:
    """Row "Rethinking the Value of Network Pruning": the same graph and shapes, new weights."""
    files = {}
    for name, seed in (("none", 0), ("fresh", 0), ("fresh", 0), ("fresh", 1)):
        out = tmp_path / f"{len(files)}.onnx"
        chosen = ("--criterion", "l2", "--ratio", 0.4, "--compensate", name, "--seed", seed)
        assert run(models / "digits_vit.onnx", out, *chosen, *SHORT).exit_code == 0
        files[out.name] = onnx.load(out)
    plain, once, *_ = files.values()
    assert [n.SerializeToString() for n in plain.graph.node] == [n.SerializeToString() for n in once.graph.node]
    slices, new, same, others = (
        {t.name: numpy_helper.to_array(t) for t in f.graph.initializer} for f in files.values()
    )
    assert {n: a.shape for n, a in slices.items()} == {n: a.shape for n, a in new.items()}
    assert all(a.tobytes() == same[n].tobytes() for n, a in new.items())
    drawn = [n for n, a in new.items() if a.ndim > 1 and not np.array_equal(a, slices[n])]
    assert sum(new[n].size for n in drawn) > 0.95 * sum(a.size for a in new.values())
    assert not any(np.array_equal(new[n], others[n]) for n in drawn)


FANS = Case(
    "(float[1,32,9,9] x) => (float[1,8,9,9] y) { a = Conv <pads = [1,1,1,1], group = 4> (x, w1, b1)  r = Relu(a)"
    "  n = BatchNormalization (r, g, b, m, var)  t = ConvTranspose <group = 2, pads = [1,1,1,1]> (n, w2)"
    "  q = Transpose <perm = [0,2,3,1]> (t)  z = MatMul(q, w3)  s = Add(z, b3)  y = Transpose <perm = [0,3,1,2]> (s) }",
    {
        "w1": (128, 8, 3, 3), "b1": (128,), "g": (128,), "b": (128,), "m": (128,), "var": (128,),
        "w2": (128, 40, 3, 3), "w3": (80, 8), "b3": (8,),
    },
    None,
)  # fmt: skip


def test_fresh_weights_have_the_variance_of_their_fan_in() -> None:
    """He et al. 2015: a number of the output sums 8 * 9, 64 * 9 (of a group) and 80 products."""
    graph = graph_of(FANS)
    plan = Plan({})
    model, _ = find_policy("fresh").update(Task(graph, plan, rewrite(graph, {})))
    new = {n: model.array(t) for n, t in model.constants().items()}
    for name, fan in (("w1", 8 * 9), ("w2", 64 * 9), ("w3", 80)):
        assert new[name].std() == pytest.approx((2 / fan) ** 0.5, rel=0.1), name
    for name, value in {"b1": 0, "b3": 0, "b": 0, "m": 0, "g": 1, "var": 1}.items():
        assert (new[name] == value).all(), name


@pytest.mark.parametrize("kind", ["matmul", "gemm", "convolution"])
@pytest.mark.parametrize("function", ["Relu", "Sigmoid"])
def test_a_channel_without_variance_goes_exactly_into_a_bias(kind: str, function: str) -> None:
    """FLAP, eq. 6: b += W mean(x), also behind a product that had no bias; nothing varies, so nothing is lost."""
    plain = "x, w1, b1)  r = FUNCTION (a)"
    texts = {
        "matmul": f"(float[N,5] x) => (float[N,3] y) {{ a = Gemm <transB = 1> ({plain}  y = MatMul(r, w2) }}",
        "gemm": f"(float[N,5] x) => (float[N,3] y) {{ a = Gemm <transB = 1> ({plain}  y = Gemm(r, w2, b2) }}",
        "convolution": f"(float[N,5,4,4] x) => (float[N,3,2,2] y) {{ a = Conv ({plain}  y = Conv (r, w2) }}",
    }
    rng, places = np.random.default_rng(0), (1, 1) if kind == "convolution" else ()
    inits: dict[str, np.ndarray] = {"w1": rng.standard_normal((7, 5, *places)), "b1": rng.standard_normal(7)}
    inits["w2"] = rng.standard_normal((3, 7, 3, 3) if places else (7, 3))
    inits |= {"b2": rng.standard_normal(3)} if kind == "gemm" else {}
    inits["w1"][[2, 5]], inits["b1"][[2, 5]] = 0, (1.5, 0.75)
    case = Case(texts[kind].replace("FUNCTION", function), {n: a.astype(np.float32) for n, a in inits.items()}, None)
    graph, shape = graph_of(case), (16, 5, 4, 4) if places else (64, 5)
    (group,) = graph.groups
    plan = Plan({group.label: ~np.isin(np.arange(7), [2, 5])})
    small = rewrite(graph, plan.masks(graph))
    task = Task(graph, plan, small, Calibration(feeds(shape), "given"))
    better, unseen = find_policy("bias").update(task)[0], feeds(shape, seed=7)
    dense, cut_off, exact = (outputs(m, unseen) for m in (graph.model, small, better))
    assert np.abs(cut_off - dense).max() > 0.1
    np.testing.assert_allclose(exact, dense, atol=1e-5)


POLICIES = sorted(set(list_policy_names()) - {"none"})


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", sorted(n for n, c in CASES.items() if c.runs)[4::40])
def test_every_policy_leaves_the_graph_and_finite_weights(name: str, policy: str, tmp_path: Path) -> None:
    """On models of every kind: only constants change, but for biases that are added, and onnxruntime loads the file."""
    onnx.save(build(CASES[name]), tmp_path / "m.onnx")
    calibrated = "calibrate{samples=8,moments=false}," if find_policy(policy).needs == "inputs" else ""
    chosen = "score{criterion=l2},allocate{ratio=0.3,of=channels,align=1},remove,verify{allow_unproven=true}"
    text = f"normalize,erase,{calibrated}{chosen},compensate{{method={policy}}}"
    options, out = Options(pipeline=text, latency=False, quality=False), tmp_path / "o.onnx"
    try:
        state = compile_file(tmp_path / "m.onnx", out, options).state
    except NothingToPrune:
        pytest.skip("nothing is removed")
    slices = state.pruned
    assert slices is not None
    before, after = slices.constants(), {n: state.model.array(t) for n, t in state.model.constants().items()}
    assert all(np.isfinite(a).all() for a in after.values() if a.dtype.kind == "f")
    assert all(after[n].size == slices.array(t).size for n, t in before.items() if n in after)
    added = len(state.model.graph.nodes) - len(slices.graph.nodes)
    assert added == 0 or find_policy(policy).needs == "inputs"
