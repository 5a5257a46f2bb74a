"""Nothing that loads may crash: mutated files and fields give a result or one of our errors."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws import random_masks
from spa_compiler.analysis.dependency_graph import analyze
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.errors import ModelError, SpaError
from spa_compiler.ir.reader import load
from spa_compiler.rewriting.masked_model import make_masked_model
from spa_compiler.rewriting.prune import rewrite
from tools.fuzz.damage import damage_bytes, damage_fields
from zoo import CASES, build

SMALL = ("residual", "grouped_conv", "multi_head_attention", "shuffle", "if_captured", "qlinear_conv")
SHIPPED = ("digits_gru", "digits_mobilenet", "digits_vit")


def survive(data: bytes, folder: Path) -> bool:
    """Read, analyse and rewrite bytes as a model file. True: it worked, False: it was refused with an error of ours."""
    path = folder / "model.onnx"
    path.write_bytes(data)
    try:
        model, _ = normalize(load(path))
        graph = analyze(model)
        masks = random_masks(graph, np.random.default_rng(0))
        rewrite(graph, masks).proto()
        make_masked_model(graph, masks).proto()
    except SpaError as e:
        assert str(e)
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all mutated files: each overwrites the last."""
    return tmp_path_factory.mktemp("mutated")


@settings(max_examples=250)
@given(st.sampled_from(SMALL), st.integers(0, 1 << 30))
def test_mutated_bytes(folder: Path, name: str, seed: int) -> None:
    survive(damage_bytes(build(CASES[name]).SerializeToString(), random.Random(seed)), folder)


@settings(max_examples=350)
@given(st.sampled_from(SMALL), st.integers(0, 1 << 30))
def test_mutated_fields(folder: Path, name: str, seed: int) -> None:
    model = build(CASES[name])
    damage_fields(model, random.Random(seed))
    survive(model.SerializeToString(), folder)


@settings(max_examples=25)
@given(st.sampled_from(SHIPPED), st.booleans(), st.integers(0, 1 << 30))
def test_mutated_files(folder: Path, models: Path, name: str, fields: bool, seed: int) -> None:
    data = (models / f"{name}.onnx").read_bytes()
    if fields:
        model = onnx.ModelProto.FromString(data)
        damage_fields(model, random.Random(seed))
        data = model.SerializeToString()
    else:
        data = damage_bytes(data, random.Random(seed))
    survive(data, folder)


@pytest.mark.parametrize("name", SMALL)
def test_what_is_not_mutated_survives(folder: Path, name: str) -> None:
    assert survive(build(CASES[name]).SerializeToString(), folder)


BROKEN_PLACES = {
    b"Conv": r"graph\.node\[0\]\.op_type",
    b"w1": r"graph\.node\[0\]\.input\[1\]",
    b"group": r"graph\.node\[\d+\]\.attribute\[0\]\.name",
    b"pytorch": "producer_name",
}


@pytest.mark.parametrize("text", BROKEN_PLACES)
def test_text_that_is_not_utf_8_is_refused_with_its_place(text: bytes, tmp_path: Path) -> None:
    model = build(CASES["grouped_conv"])
    model.producer_name = "pytorch"
    data = model.SerializeToString()
    assert text in data
    (tmp_path / "model.onnx").write_bytes(data.replace(text, text[:-1] + b"\xb7"))
    with pytest.raises(ModelError, match=rf"model\.onnx: .*'{BROKEN_PLACES[text]}' is not UTF-8"):
        load(tmp_path / "model.onnx")
