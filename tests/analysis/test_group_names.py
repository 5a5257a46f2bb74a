"""Names of groups: read off modules, unique, the same for other weights, and taken wherever labels are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import spa_compiler
from commands import run, run_spa
from laws import analyze_proto
from spa_compiler.analysis.dependency_graph import DependencyGraph
from spa_compiler.analysis.group_names import keep_names
from spa_compiler.analysis.scope_names import find_common_scope, read_module, read_path, read_stem
from spa_compiler.errors import UsageError
from spa_compiler.planning.plan import Plan

ROOT = Path(__file__).resolve().parent.parent.parent
EXPORTS = sorted((ROOT / "tests" / "exports").glob("*.onnx"))
NAMES = {
    "vit.legacy17": ["attention heads", "attention q/k dim", "attention v dim", "mlp hidden", "residual stream"],
    "vit.dynamo18": ["attention heads", "attention q/k dim", "attention v dim", "mlp hidden", "residual stream"],
    "vit.dynamo23": ["attention heads", "attention q/k dim", "attention v dim", "mlp hidden", "residual stream"],
    "attention.tf2onnx": [
        "m_1/heads_1 heads", "m_1/heads_1 q/k dim", "m_1/heads_1 v dim", "m_1/up_1 hidden", "residual stream",
    ],
    "resnet.legacy17": ["1.body.0.0 channels", "2.body.0.0 channels", "residual stream 1", "residual stream 2"],
    "resnet.legacy13_bn": ["1.body.0.0 channels", "2.body.0.0 channels", "residual stream 1", "residual stream 2"],
    "lstm.legacy17": ["first units", "second units"],
    "edsr.legacy13": ["body.0 channels", "residual stream", "up channels"],
    "cnn.tflite": ["m_1/c2_1 channels", "m_1/c5_1 channels", "residual stream"],
    "mlp.jax2onnx": ["node_Gemm_0 hidden", "node_Gemm_5 hidden"],
    "unet.legacy17": [
        "high.0 channels", "high.0 groups", "last.0 channels", "last.0 groups", "low.0 channels", "low.0 groups",
        "up channels",
    ],
}  # fmt: skip


def read_export(name: str) -> onnx.ModelProto:
    return onnx.load(ROOT / "tests" / "exports" / f"{name}.onnx")


def list_names(graph: DependencyGraph) -> list[str]:
    return sorted(g.name for g in graph.groups)


def add_scopes(model: onnx.ModelProto, scopes: dict[str, list[str]]) -> onnx.ModelProto:
    """Metadata of PyTorch's exporter for some nodes."""
    for node in model.graph.node:
        if node.name in scopes:
            entry = onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=repr(scopes[node.name]))
            node.metadata_props.append(entry)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_exports_have_these_names(name: str) -> None:
    assert list_names(analyze_proto(read_export(name))) == NAMES[name]


@pytest.mark.parametrize("path", EXPORTS, ids=lambda p: p.stem)
def test_names_are_unique_and_end_in_their_kind(path: Path) -> None:
    graph = analyze_proto(onnx.load(path))
    names = [g.name for g in graph.groups]
    assert len({*names, *graph.by_label}) == 2 * len(names)
    assert all(g.kind and g.kind in g.name for g in graph.groups)


@pytest.mark.parametrize("name", ["vit.legacy17", "llama.dynamo18", "cnn.tf2onnx", "shufflenet.legacy17"])
def test_names_do_not_depend_on_weights(name: str) -> None:
    model = read_export(name)
    other = read_export(name)
    rng = np.random.default_rng(0)
    for tensor in other.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim:
            drawn = rng.normal(size=values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(drawn, tensor.name))
    one, two = analyze_proto(model), analyze_proto(other)
    assert [(g.label, g.name) for g in one.groups] == [(g.label, g.name) for g in two.groups]


def test_metadata_name_what_weights_and_paths_do_not() -> None:
    """In `gru.dynamo18` the exporter made up the names of all weights of the two cells."""
    plain = analyze_proto(read_export("gru.dynamo18"))
    assert list_names(plain) == ["node_gru_1__1 units", "node_gru__1 units"]
    scopes = {"node_gru__1": ["", "encoder", "encoder.first", "gru"], "node_gru_1__1": ["", "second", "gru_1"]}
    assert list_names(analyze_proto(add_scopes(read_export("gru.dynamo18"), scopes))) == [
        "encoder.first units", "second units",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "[", "['', 3, 'conv']", "{'a': 1}", "['conv']", "[" * 5000])
def test_metadata_that_are_no_scopes_are_left(text: str) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    node.metadata_props.append(onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=text))
    assert read_module(node) == ""


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("/features/features.1/conv/Conv", "features.1.conv"),
        ("/1/body/body.0/body.0.0/Conv", "1.body.0.0"),
        ("/Conv_1", ""),
        ("m_1/entry_1/Tensordot/MatMul", "m_1/entry_1"),
        ("model/conv2d_1/Conv2D", "model/conv2d_1"),
    ],
)
def test_paths_of_nodes(name: str, module: str) -> None:
    assert read_path(name) == module


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("layers.0.0.body.1.qkv.bias", "layers.0.0.body.1.qkv"),
        ("0.0.weight_bias", "0.0"),
        ("conv2d_0.w_0", "conv2d_0"),
        ("m_1/c1_1/convolution/merged_input:0", "m_1/c1_1"),
        ("functional_1/dense/MatMul/ReadVariableOp:0", "functional_1/dense"),
        ("fire2/squeeze1x1_w_0", "fire2/squeeze1x1"),
        ("ConstantFolding/net/dense/MatMul", "net/dense"),
        ("onnx::Conv_97", ""),
        ("val_13", ""),
        ("847", ""),
        ("p2o.Conv.1", ""),
        ("Constant@80", ""),
        ("position", "position"),
    ],
)
def test_modules_of_weights(name: str, module: str) -> None:
    assert read_stem(name) == module


@pytest.mark.parametrize(
    ("names", "module"),
    [
        (["a.b.c", "a.b.d"], "a.b"),
        (["a.b1", "a.b2"], "a"),
        (["a.b", "a.b"], "a.b"),
        (["a.b", "a.b.c"], "a.b"),
        (["a", "b"], ""),
        ([], ""),
    ],
)
def test_the_module_around_some(names: list[str], module: str) -> None:
    assert find_common_scope(names) == module


def drop_first_shortcut(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the sum at the end of its first block."""
    add = next(n for n in model.graph.node if n.op_type == "Add")
    model.graph.node.remove(add)
    for node in model.graph.node:
        node.input[:] = [add.input[0] if n == add.output[0] else n for n in node.input]
    return model


def test_names_stay_where_an_edit_would_count_them_anew() -> None:
    """An exact pass may take a whole branch out: the second stream is the only one then."""
    before = analyze_proto(read_export("resnet.legacy17"))
    after = analyze_proto(drop_first_shortcut(read_export("resnet.legacy17")))
    second = before.group("residual stream 2").label
    assert after.group(second).name == "residual stream"
    keep_names(after.groups, before.groups)
    assert after.group(second).name == "residual stream 2"
    names = {g.label: g.name for g in after.groups}
    assert names == {**{g.label: g.name for g in before.groups}, "onnx::Conv_68:0": "1.body.1.0 channels"}


def test_a_name_that_is_kept_is_given_to_no_other_group() -> None:
    one, two = (analyze_proto(read_export("resnet.legacy17")).groups for _ in range(2))
    two[0].label = "new"
    two[0].name = next(g.name for g in one if g.label == two[1].label)
    keep_names(two, one)
    assert len({g.name for g in two}) == len(two)
    assert two[1].name == next(g.name for g in one if g.label == two[1].label)


def test_a_name_finds_its_group() -> None:
    graph = analyze_proto(read_export("vit.legacy17"))
    for group in graph.groups:
        assert graph.group(group.name) is group is graph.group(group.label)
    with pytest.raises(UsageError, match="did you mean 'attention heads'"):
        graph.group("attention head")


def compile_vit(tmp_path: Path, **options: object) -> bytes:
    model = ROOT / "models" / "digits_vit.onnx"
    given = {"latency": False, **options}
    spa_compiler.compile(model, output=tmp_path / "out.onnx", **given)  # type: ignore[arg-type]
    return (tmp_path / "out.onnx").read_bytes()


def test_plans_masks_and_scores_take_names(tmp_path: Path) -> None:
    """The plan of a file says labels, whatever it was given by: both give the same bytes."""
    label, name = "val_45:1", "layers.0.1.body hidden"
    made = []
    for key in (label, name):
        file = tmp_path / f"plan{len(made)}.json"
        file.write_text(json.dumps({"version": 1, "groups": {key: {"size": 192, "keep": list(range(100))}}}))
        made.append(compile_vit(tmp_path, plan=file))
        masks = tmp_path / f"mask{len(made)}.npz"
        np.savez(masks, **{key: np.arange(192) < 100})
        made.append(compile_vit(tmp_path, plan=masks))
    weights = [[t.SerializeToString() for t in onnx.load_from_string(m).graph.initializer] for m in made]
    assert weights[0] == weights[1] == weights[2] == weights[3]
    plans = [
        next(p.value for p in onnx.load_from_string(m).metadata_props if p.key.endswith("plan_sha256")) for m in made
    ]
    assert len(set(plans)) == 1
    scores = []
    for key in (label, name):
        file = tmp_path / f"scores{len(scores)}.npz"
        np.savez(file, **{key: np.arange(192.0)})
        scores.append(compile_vit(tmp_path, scores=file, ratio=0.05, align=1))
    assert [t.SerializeToString() for t in onnx.load_from_string(scores[0]).graph.initializer] == [
        t.SerializeToString() for t in onnx.load_from_string(scores[1]).graph.initializer
    ]


def test_a_saved_plan_finds_its_groups_where_an_export_counts_differently(tmp_path: Path) -> None:
    """The file says names beside labels; `verify` takes the plan of the first export for the second, too."""
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    data = (ROOT / "models" / "digits_vit.onnx").read_bytes()
    first.write_bytes(data)
    second.write_bytes(data.replace(b"val_45", b"val_05").replace(b"val_88", b"val_45"))
    plan = tmp_path / "plan.json"
    options = ("--ratio", 0.1, "--criterion", "l2", "--align", 1, "--no-latency", "--no-quality")
    only = ("--include", "layers.0.1.body hidden", "--save-plan", plan)
    result = run(first, *options, *only, "-o", tmp_path / "a.onnx")
    assert result.exit_code == 0, result.output
    groups = json.loads(plan.read_text())["groups"]
    assert {label: g["name"] for label, g in groups.items()} == {"val_45:1": "layers.0.1.body hidden"}
    plan.write_text(plan.read_text().replace("val_45:1", "val_1045:1"))
    result = run(second, "--plan", plan, "--no-latency", "-o", tmp_path / "b.onnx")
    assert result.exit_code == 0, result.output
    weights = [{t.name: list(t.dims) for t in onnx.load(tmp_path / n).graph.initializer} for n in ("a.onnx", "b.onnx")]
    assert weights[0]["val_45"] == weights[1]["val_05"] != [64, 192] == weights[1]["val_45"]
    assert run_spa("verify", second, tmp_path / "b.onnx", "--plan", plan).exit_code == 0


def test_one_group_by_label_and_name_is_refused() -> None:
    graph = analyze_proto(read_export("vit.legacy17"))
    group = next(g for g in graph.groups if g.kind == "hidden")
    keep = np.arange(group.size) < 4
    with pytest.raises(UsageError, match="names one group twice"):
        Plan({group.label: keep, group.name: keep}).use_labels(graph)
