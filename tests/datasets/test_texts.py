"""Texts: ids by the tokenizer that lies beside the model or the texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.datasets.dataset import open_dataset
from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.datasets.rows import Block, join_blocks
from spa_compiler.errors import UsageError
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import from_proto

pytest.importorskip("tokenizers")
WORDS = ["[UNK]", "a", "b", "c", "d"]


def encoder(folder: Path, vocabulary: int = len(WORDS)) -> Model:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (int64[N,4] input_ids, int64[N,4] attention_mask) => (float[N,4,3] y)
        { e = Gather(w, input_ids) m = Cast <to = 1> (attention_mask) u = Unsqueeze(m, axis) y = Mul(e, u) }"""
    model = onnx.parser.parse_model(text)
    w = np.random.default_rng(0).standard_normal((vocabulary, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "axis"))
    return normalize(from_proto(model, folder / "m.onnx"))[0]


def save_tokenizer(folder: Path) -> None:
    vocabulary = {w: k for k, w in enumerate(WORDS)}
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))


def read(folder: Path, name: str = "t.txt", **given: int) -> Block:
    data = open_dataset(folder / name, encoder(folder, **given), parse_preprocess(""))
    data.check()
    return join_blocks(data.read_batches())


def test_each_line_is_a_text_cut_and_filled(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "t.txt").write_text("a b\n\nd c b a a\nnever\n", encoding="utf-8")
    found = read(tmp_path).inputs
    assert found["input_ids"].tolist() == [[1, 2, 0, 0], [4, 3, 2, 1], [0, 0, 0, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_in_folders_of_classes_each_file_is_a_text(tmp_path: Path) -> None:
    for name in ("good/1.txt", "good/2.txt", "poor/1.txt"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text("a\nb\n")
    save_tokenizer(tmp_path / "texts")
    found = read(tmp_path, "texts")
    assert found.inputs["input_ids"].tolist() == [[1, 2, 0, 0]] * 3
    assert found.labels is not None and found.labels.tolist() == [0, 0, 1]


def test_texts_without_a_tokenizer_say_where_one_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a")
    with pytest.raises(UsageError, match=r"need the model's tokenizer\.json: none is in "):
        read(tmp_path)


def test_a_tokenizer_of_another_model_is_noticed(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "t.txt").write_text("a d")
    with pytest.raises(UsageError, match=r"gives the id 4 and 'input_ids' takes ids below 3"):
        read(tmp_path, vocabulary=3)


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfe\x00binary"])
def test_a_file_without_text_is_named(tmp_path: Path, content: bytes) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"t\.txt: (it holds no text|not a text)"):
        read(tmp_path)
