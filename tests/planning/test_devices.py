"""Devices: the one that is named decides the widths, on whatever machine that is."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import spa_compiler
from commands import run, run_spa
from spa_compiler.analysis.cost_kinds import MeasuredCost
from spa_compiler.analysis.cost_registry import find_costs
from spa_compiler.errors import UsageError
from spa_compiler.planning import device as module
from spa_compiler.planning import devices
from spa_compiler.planning.device import HOST, Device, find_device, find_devices, find_host, list_device_names

QUICK = {"criterion": "l2", "latency": False, "quality": False}
WITHOUT_AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR AVX512_KNL AVX512_KNM"
OTHERS = [name for name in find_devices() if name != find_host().name]


def widths_of(report: dict[str, list[dict[str, int]]]) -> list[int]:
    return [g["kept"] for g in report["groups"] if g["kept"] < g["size"]]


def test_every_device_of_the_table_is_an_entry_point() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())
    points = project["project"]["entry-points"]["spa_compiler.devices"]
    made = {name for name, value in vars(devices).items() if isinstance(value, Device)}
    assert points == {name: f"spa_compiler.planning.devices:{name}" for name in made}
    assert list_device_names() == [HOST, *find_devices()]
    assert all(d.source and d.title for d in find_devices().values())


def test_this_machine_is_one_device() -> None:
    assert sum(d.is_here() for d in find_devices().values()) == 1
    assert find_host() == find_device(HOST)


@pytest.mark.parametrize("name", ["avx2", "avx512"])
def test_the_plan_is_the_same_on_a_processor_without_the_instructions(name: str, models: Path, tmp_path: Path) -> None:
    """By l2 the same bytes: numpy and the linear algebra run with and without AVX-512."""
    made = []
    for k, environment in enumerate([{}, {"NPY_DISABLE_CPU_FEATURES": WITHOUT_AVX512, "OPENBLAS_CORETYPE": "Haswell"}]):
        out = tmp_path / f"{k}.onnx"
        command = [sys.executable, "-W", "ignore", "-c", "from spa_compiler.cli.start import compile_command as c; c()"]
        given = ["--ratio", "0.5", "--criterion", "l2", "--device", name, "--no-latency", "--no-quality", "-q"]
        subprocess.run(
            [*command, str(models / "digits_resnet.onnx"), str(out), *given], check=True, env=os.environ | environment
        )
        made.append(hashlib.sha256(out.read_bytes()).hexdigest())
    assert made[0] == made[1]


@pytest.mark.parametrize("name", ["avx2", "avx512", "arm64", "tensorrt"])
def test_widths_fill_the_blocks_of_the_device_and_the_report_says_whose(name: str, models: Path) -> None:
    report = spa_compiler.compile(models / "digits_resnet.onnx", 0.5, device=name, **QUICK).report
    assert report["device"]["name"] == name
    assert report["device"]["is_assumed"] is False
    assert report["device"]["is_here"] == (name == find_host().name)
    assert f"device={name}" in report["pipeline"]
    block = find_device(name).convolution
    sizes = {g["size"]: min(block, g["size"] // 4) for g in report["groups"]}
    finest = {s: min(step, find_device(name).finest) for s, step in sizes.items()}
    assert all(g["kept"] % finest[g["size"]] == 0 for g in report["groups"] if g["kept"] < g["size"])


def test_without_a_device_the_report_says_what_was_assumed(models: Path) -> None:
    got = run(models / "digits_resnet.onnx", "--ratio", "0.5", "--criterion", "l2", "--dry-run", "--no-latency")
    assert f"widths for {find_host().name} (of this machine, which is assumed: --device names another)" in got.output
    report = spa_compiler.compile(models / "digits_resnet.onnx", 0.5, **QUICK).report
    assert report["device"]["is_assumed"] and report["device"]["is_here"]


def test_an_alignment_overrides_the_device(models: Path) -> None:
    made = [
        spa_compiler.compile(models / "digits_resnet.onnx", 0.5, align=8, device=name, **QUICK)
        for name in (HOST, "tensorrt")
    ]
    assert made[0].model.SerializeToString() == made[1].model.SerializeToString()
    assert made[0].report["device"] is None


def test_tensor_cores_want_their_alignment_of_matrix_products_and_of_integers(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    save_products(file)
    for name, step in (("tensorrt", 8), ("avx2", 1)):
        report = spa_compiler.compile(file, 0.34, device=name, **QUICK).report
        assert widths_of(report) and all(w % step == 0 for w in widths_of(report))
        assert step == 8 or any(w % 8 for w in widths_of(report))
    tensorrt = find_device("tensorrt")
    assert [tensorrt.find_step(k, integers=True) for k in ("convolution", "matrix", "")] == [32, 32, 1]
    assert find_device("avx512").find_step("convolution", integers=True) == 16


def save_products(file: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [16, 96, 72, 4]
    weights = {f"w{k}": rng.standard_normal(s).astype(np.float32) for k, s in enumerate(pairwise(sizes))}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"]), helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["y"]),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info(n, 1, [1, s]) for n, s in (("x", 16), ("y", 4))]
    held = [numpy_helper.from_array(w, n) for n, w in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    "asked",
    [("--target", "1ms"), ("--of", "latency", "--ratio", "0.3"), ("--ratio", "0.3", "--fail-under", "latency_ms<=5"),
     ("--ratio", "0.3", "--fail-under", "speedup=1.5")],
)  # fmt: skip
def test_milliseconds_of_another_device_are_refused(
    name: str, asked: tuple[str, ...], models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o.onnx"
    got = run(models / "digits_resnet.onnx", out, "--criterion", "l2", "--device", name, *asked)
    assert got.exit_code == 2
    assert f"milliseconds of --device {name} cannot be measured here" in got.output
    assert not out.exists()


def test_a_share_of_what_no_machine_decides_is_not_refused(models: Path) -> None:
    name = OTHERS[0]
    assert {c.name for c in find_costs().values() if isinstance(c, MeasuredCost) and c.is_of_machine} == {"latency"}
    got = run(models / "digits_resnet.onnx", "--of", "params", "--ratio", "0.3", "--criterion", "l2", "--device", name,
              "--dry-run", "--json")  # fmt: skip
    assert json.loads(got.output)["device"]["name"] == name


def test_the_latency_of_another_device_is_said_to_be_none_of_it(models: Path) -> None:
    name = OTHERS[0]
    got = run(models / "digits_resnet.onnx", "--ratio", "0.3", "--criterion", "l2", "--device", name, "--dry-run")
    assert f"threads, not of {name})" in " ".join(got.output.split())


def test_a_device_that_there_is_not_is_named_with_those_that_there_are(models: Path) -> None:
    with pytest.raises(UsageError, match=r"no device is called 'gpu'; there are host, avx512, avx2"):
        spa_compiler.compile(
            models / "digits_resnet.onnx", pipeline="normalize,score,allocate{ratio=0.5,device=gpu},remove,verify"
        )
    assert run(models / "digits_resnet.onnx", "--ratio", "0.5", "--device", "gpu").exit_code == 2


def test_devices_that_cannot_be_loaded_are_an_error_only_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "gone": EntryPoint("gone", "no_such_module:device", "spa_compiler.devices"),
        "text": EntryPoint("text", "string:digits", "spa_compiler.devices"),
    }
    monkeypatch.setattr(module, "find_device_points", lambda: points)
    module.find_devices.cache_clear()
    try:
        assert list_device_names() == [HOST, "gone", "text"]
        assert find_host().describe() == "any width"
        with pytest.raises(UsageError, match=r"the device 'gone' \(no_such_module:device\) cannot be loaded"):
            find_device("gone")
        with pytest.raises(UsageError, match="is no Device"):
            find_device("text")
    finally:
        module.find_devices.cache_clear()


def test_spa_passes_lists_the_devices() -> None:
    assert "  avx2: x86 with AVX2: convolutions in blocks of 8 channels" in run_spa("passes").output
