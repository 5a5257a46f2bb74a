"""Real exports of every exporter (tools/exports/make.py), a few channels wide: what is found, and what comes out."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from exports_table import EXPORTS
from laws import (
    TOLERANCE,
    VISIBLE,
    analyze_proto,
    assert_every_rule_fits,
    assert_nothing_is_lost,
    compare,
    random_masks,
)
from spa_compiler.algebra.expr import is_trivial, iterate_dims
from spa_compiler.analysis.dependency_graph import DependencyGraph, Group
from spa_compiler.compiler import compile_file
from spa_compiler.errors import NothingToPrune
from spa_compiler.pipeline.options import Options, replace_options

FOLDER = Path(__file__).parents[1] / "exports"
LARGEST, ALL = 32_000, 400_000  # bytes
PATHS = re.compile(rb"(?:/|\\)(?:home|root|work|tmp|usr|opt|Users)(?:/|\\)|site-packages|\.py\b")
PRUNABLE = [n for n, e in EXPORTS.items() if e.groups]


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.onnx"


@functools.cache
def graph_of(name: str) -> DependencyGraph:
    """The analysis of an export; nobody changes it."""
    return analyze_proto(onnx.load(path_of(name)))


def written(group: Group) -> str:
    """A group as the table writes it."""
    return f"{group.size}{f'x{group.blocks}' * (group.blocks > 1)}{' stat' * bool(group.stat)}"


def test_the_table_names_every_file_and_they_are_small() -> None:
    sizes = {p.stem: p.stat().st_size for p in FOLDER.iterdir()}
    assert set(sizes) == set(EXPORTS)
    assert max(sizes.values()) <= LARGEST and sum(sizes.values()) <= ALL


@pytest.mark.parametrize("name", EXPORTS)
def test_a_file_says_what_made_it_and_names_no_machine(name: str) -> None:
    model = onnx.load(path_of(name))
    assert f"{model.producer_name} {model.producer_version}".startswith(EXPORTS[name].producer.rstrip())
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # numbers may read as anything
    assert not PATHS.findall(model.SerializeToString())


@pytest.mark.parametrize("name", EXPORTS)
def test_groups_and_frozen_parameters_are_as_stated(name: str) -> None:
    graph, wanted = graph_of(name), EXPORTS[name]
    assert Counter(written(g) for g in graph.groups) == Counter(wanted.groups.values())
    assert sum(graph.count_parameters(n) for n in graph.weights) == wanted.total
    found = graph.frozen_parameters()
    assert sorted(found.values()) == sorted(wanted.frozen.values()), found
    for part, parameters in wanted.frozen.items():
        assert [v for k, v in found.items() if part in k] == [parameters], f"{part}: {found}"


@pytest.mark.parametrize("name", EXPORTS)
def test_every_frozen_axis_has_an_expected_reason(name: str) -> None:
    graph, parts = graph_of(name), EXPORTS[name].reasons
    assert_nothing_is_lost(graph)
    assert_every_rule_fits(graph)
    axes = [a for n in graph.weights for a in graph.values[n].axes]
    found = {d.frozen.text for a in axes for d in iterate_dims(a) if d.frozen and not is_trivial(d)}
    assert {t for t in found if not any(p in t for p in parts)} == set()
    assert {p for p in parts if not any(p in t for t in found)} == set()


@pytest.mark.parametrize("name", PRUNABLE)
def test_prune_equals_mask(name: str) -> None:
    graph, effects = graph_of(name), []
    for seed in range(3):
        masks = random_masks(graph, np.random.default_rng(seed), share=1.0 if seed == 0 else 0.7)
        error, effect = compare(graph, masks, seed, side=seed % 2)
        assert error < TOLERANCE
        effects.append(effect)
    assert max(effects) > VISIBLE, "the plan has no effect on the output: the check has no power"


def signature(path: Path) -> list[tuple[str, str, list[str | int | None]]]:
    """Names, types and shapes of inputs and outputs, as onnxruntime sees them."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [(v.name, v.type, v.shape) for v in (*session.get_inputs(), *session.get_outputs())]


@pytest.mark.parametrize("of", ["macs", "channels"])
@pytest.mark.parametrize("name", PRUNABLE)
def test_half_can_go(name: str, of: str, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    options = Options(ratio=0.5, of=of, criterion="l2", latency=False, quality=False, threads=1)
    report = compile_file(path_of(name), out, options).report
    assert report["verification"]["prune_equals_mask"]["error"] <= TOLERANCE
    assert report["reached"][of] >= 0.4
    assert signature(out) == signature(path_of(name))
    if of == "channels":
        assert error_of_compiling_again(out, options) <= TOLERANCE


def error_of_compiling_again(path: Path, options: Options) -> float:
    """The error of compiling a compiled model again; 0 where one channel of each group is left."""
    try:
        again = compile_file(path, None, replace_options(options, ratio=0.2)).report
    except NothingToPrune:
        return 0.0
    return float(again["verification"]["prune_equals_mask"]["error"])


@pytest.mark.parametrize("name", EXPORTS)
def test_ratio_0_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """Where nothing goes without loss: five of them have a product by constants that a weight takes over."""
    options = Options(ratio=0.0, latency=False, quality=False, threads=1)
    found = compile_file(path_of(name), tmp_path / "out.onnx", options).report["analysis"]
    exact = found["erased_channels"] or found["redirected"] or found["folded_maps"]
    assert ((tmp_path / "out.onnx").read_bytes() == path_of(name).read_bytes()) == (not exact)


@pytest.mark.parametrize("name", PRUNABLE)
def test_the_default_pipeline(name: str, tmp_path: Path) -> None:
    options = Options(ratio=0.5, latency=False, quality=False, samples=16, threads=1)
    report = compile_file(path_of(name), tmp_path / "out.onnx", options).report
    assert report["verification"]["prune_equals_mask"]["error"] <= TOLERANCE
    assert report["reached"]["macs"] >= 0.4
