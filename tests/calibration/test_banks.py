"""Banks of words and sentences: what lies in them, what is made of them, and which front end a model is given."""

from __future__ import annotations

import hashlib
import importlib.resources
import lzma
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from networks import graph_of
from spa_compiler.analysis.dependency_graph import DependencyGraph, analyze
from spa_compiler.calibration.front_end_choice import choose_front_end, measure_word_share
from spa_compiler.calibration.inputs import choose_source, draw_calibration
from spa_compiler.calibration.priors import sound_bank
from spa_compiler.calibration.priors.front_ends import FrontEnd, Samples, Spoken, choose_frames, is_customary
from spa_compiler.calibration.priors.sound_bank import draw_clips, invert_transform, load_words, transform
from spa_compiler.calibration.priors.text_bank import draw_passages, load_sentences
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.ir.reader import load
from spa_compiler.ir.symbols import make_input_types
from tools.banks import speech, texts
from zoo import Case

BANKS = importlib.resources.files("spa_compiler.calibration.priors").joinpath("banks")


def test_banks_are_those_that_their_scripts_write() -> None:
    data = lzma.decompress(BANKS.joinpath(sound_bank.SPEECH_FILE).read_bytes())
    assert hashlib.sha256(data).hexdigest() == speech.DIGEST
    assert BANKS.joinpath("texts.txt").read_bytes() == texts.make_bank()
    assert hashlib.sha256(texts.make_bank()).hexdigest() == texts.DIGEST


def test_banks_are_small_and_say_their_licence() -> None:
    assert len(BANKS.joinpath(sound_bank.SPEECH_FILE).read_bytes()) <= 1_250_000
    for name in ("speech", "texts"):
        assert "Apache-2.0" in BANKS.joinpath(f"{name}.licence.txt").read_text()


@pytest.mark.skipif(not (shutil.which("espeak-ng") and shutil.which("flite")), reason="no synthesisers")
def test_a_recording_is_what_the_synthesisers_say() -> None:
    version = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True).stdout
    if " 1.51 " not in version:
        pytest.skip("another espeak-ng")
    for k in (0, 5, 300):
        word, voice = speech.list_recordings()[k]
        recorded = load_words()[k]
        spoken = speech.trim(speech.speak(word, voice, k))[: len(recorded.samples)]
        assert (recorded.word, recorded.voice) == (word, voice)
        assert np.corrcoef(spoken[: len(recorded.samples)], recorded.samples[: len(spoken)])[0, 1] > 0.8


def test_a_transform_is_undone_where_steps_overlap() -> None:
    x = np.random.default_rng(0).standard_normal(3200)
    np.testing.assert_allclose(invert_transform(transform(x))[320:-320], x[320:-320], atol=1e-12)


def test_clips_depend_on_the_seed_alone() -> None:
    a, b, c = (draw_clips(5, 8000, np.random.default_rng(s)).samples for s in (1, 1, 2))
    assert (a == b).all() and (a != c).any() and np.abs(a).max() <= 1 and np.isfinite(a).all()


@pytest.mark.parametrize(
    ("frames", "hop", "window"), [(49, 320, 640), (25, 640, 640), (98, 160, 400), (61, 256, 512), (101, 160, 320)]
)
def test_frames_make_a_second(frames: int, hop: int, window: int) -> None:
    assert choose_frames(frames) == (hop, window)
    assert is_customary(frames, 13) and not is_customary(frames, 14)


@pytest.mark.parametrize(
    ("shape", "order", "channels"),
    [((1, 49, 10), "tf", 1), ((10, 49), "ft", 1), ((490,), "tf", 1), ((49, 10, 3), "tfc", 3)],
)
def test_words_come_in_the_order_of_the_axes(shape: tuple[int, ...], order: str, channels: int) -> None:
    plain = Spoken("mfcc", (49, 10), FrontEnd(cepstra=True), 49, 10).draw(3, np.random.default_rng(0))
    x = Spoken("mfcc", shape, FrontEnd(cepstra=True), 49, 10, order, channels=channels).draw(
        3, np.random.default_rng(0)
    )
    assert x.shape == (3, *shape)
    y = x.reshape(3, 10, 49).swapaxes(1, 2) if order == "ft" else x.reshape(3, 49, 10, channels)[..., 0]
    np.testing.assert_array_equal(y, plain)


def test_normalised_columns_have_no_mean_and_unit_deviation() -> None:
    x = Spoken("mfcc", (49, 10), FrontEnd(cepstra=True, normaliser="columns"), 49, 10).draw(9, np.random.default_rng(0))
    np.testing.assert_allclose(x.mean((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std((0, 1)), 1, atol=1e-4)


def test_predictions_of_words_alone_share_everything() -> None:
    groups = np.repeat(np.arange(4), 8)
    assert measure_word_share(np.eye(4)[groups], groups) == pytest.approx(1)
    assert measure_word_share(np.eye(4)[np.tile(np.arange(4), 8)], groups) == pytest.approx(0)
    assert measure_word_share(np.full((32, 4), 0.25), groups) == 0


def analyze_file(path: Path) -> DependencyGraph:
    return analyze(normalize(load(path))[0])


def make_nearest_word(tmp_path: Path, front_end: FrontEnd, words: int = 12) -> Path:
    """A classifier of 25 x 10 features: the word whose mean, behind a front end, is nearest."""
    source = Spoken("mfcc", (250,), front_end, 25, 10)
    bank = load_words()
    means, squares = [], []
    for word in list(dict.fromkeys(r.word for r in bank))[:words]:
        spoken = [k for k, r in enumerate(bank) if r.word == word]
        x, _ = source.draw_spoken(48, np.random.default_rng(1), np.resize(spoken, 48))
        means.append(x.mean(0))
        squares.append(x.var(0))
    m, v = np.array(means), np.mean(squares, 0)
    w, b = (m / v).T / 2, -(m**2 / v).sum(1) / 4
    arrays = {"w": w.astype(np.float32), "b": b.astype(np.float32)}
    graph = oh.make_graph(
        [oh.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "g",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 250])],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, ["N", words])],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    path = tmp_path / "words.onnx"
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_flat_features_of_sound_are_recognised(tmp_path: Path) -> None:
    decibels = FrontEnd(unit=20 / np.log(10), cepstra=True, orthonormal=True, told="decibels")
    graph = analyze_file(make_nearest_word(tmp_path, decibels))
    source = choose_front_end(
        graph, "x", choose_source(graph, "x", make_input_types(graph.model, {"N": 2})["x"], None, "")
    )
    assert isinstance(source, Spoken) and (source.frames, source.columns, source.order) == (25, 10, "tf")
    assert source.front_end.told == "decibels"


def make_loudest_bands(tmp_path: Path, size: float, words: int = 8) -> Path:
    """A classifier of a row of 8,000 samples of this size: the word whose loudness, band by band, is nearest."""
    filters = np.cos(np.outer(2 ** np.linspace(-4, 1.4, 12), np.arange(64)))[:, None, :] / size
    arrays = {"f": filters.astype(np.float32), "axes": np.array([1])}
    nodes = [
        oh.make_node("Unsqueeze", ["x", "axes"], ["row"]),
        oh.make_node("Conv", ["row", "f"], ["bands"], strides=[32]),
        oh.make_node("Mul", ["bands", "bands"], ["power"]),
        oh.make_node("AveragePool", ["power"], ["parts"], kernel_shape=[31], strides=[31]),
        oh.make_node("Add", ["parts", "one"], ["more"]),
        oh.make_node("Log", ["more"], ["loud"]),
        oh.make_node("Flatten", ["loud"], ["features"]),
    ]
    arrays["one"] = np.float32(1e-4)

    def save(name: str, columns: int) -> Path:
        made = [oh.make_tensor_value_info(name, TensorProto.FLOAT, ["N", columns])]
        heard = [oh.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8000])]
        stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()]
        model = oh.make_model(
            oh.make_graph(nodes, "g", heard, made, stored), opset_imports=[oh.make_opsetid("", 17)], ir_version=8
        )
        onnx.save(model, path := tmp_path / f"{name}.onnx")
        return path

    session = ort.InferenceSession(save("features", 96))
    source, bank = Spoken("waveforms", (8000,), Samples(size), 8000, 1), load_words()
    means, squares = [], []
    for word in list(dict.fromkeys(r.word for r in bank))[:words]:
        spoken = [k for k, r in enumerate(bank) if r.word == word]
        x, _ = source.draw_spoken(32, np.random.default_rng(1), np.resize(spoken, 32))
        y = session.run(None, {"x": x})[0]
        means.append(y.mean(0))
        squares.append(y.var(0))
    m, v = np.array(means), np.mean(squares, 0)
    arrays |= {"w": (m / v).T.astype(np.float32), "b": (-(m**2 / v).sum(1) / 2).astype(np.float32)}
    nodes.append(oh.make_node("Gemm", ["features", "w", "b"], ["y"]))
    return save("y", words)


@pytest.mark.parametrize(("size", "told"), [(1.0, "samples in -1..1"), (32768.0, "16-bit samples")])
def test_the_size_of_samples_is_the_one_at_which_words_are_told_apart(tmp_path: Path, size: float, told: str) -> None:
    graph = analyze_file(make_loudest_bands(tmp_path, size))
    drawn = choose_source(graph, "x", make_input_types(graph.model, {"N": 2})["x"], None, "")
    source = choose_front_end(graph, "x", drawn)
    assert isinstance(source, Spoken) and source.kind == "waveforms" and source.shape == (8000,)
    assert source.front_end.told == told


def test_samples_are_given_as_they_are_sized_or_standardised() -> None:
    def draw(samples: Samples) -> NDArray[Any]:
        return Spoken("waveforms", (1, 800), samples, 800, 1).draw(16, np.random.default_rng(0))

    plain = draw(Samples())
    assert plain.shape == (16, 1, 800) and np.abs(plain).max() <= 1
    np.testing.assert_allclose(draw(Samples(32768.0)), plain * 32768, rtol=1e-6)
    alike = draw(Samples(standardised=True))
    assert np.abs(alike.mean(-1)).max() < 1e-4 and np.abs(alike.std(-1) - 1).max() < 1e-2


ROWS = "(float[N,{n}] x) => (float[N,C,T] y) {{ r = {op}(x, s) y = Conv<strides = [4]>(r, w) }}"


@pytest.mark.parametrize(
    ("n", "op", "operand", "weights", "kind"),
    [
        (1024, "Unsqueeze", [1], (8, 1, 512), "waveforms"),
        (1024, "Reshape", [0, 1, -1], (8, 1, 64), "waveforms"),
        (16000, "Unsqueeze", [1], (8, 1, 10), "waveforms"),
        (1024, "Unsqueeze", [1], (8, 1, 9), "strokes"),  # short kernels read any row
        (1024, "Reshape", [0, 4, -1], (8, 4, 64), "strokes"),  # several channels are no row
    ],
)
def test_a_row_that_long_kernels_read_is_a_waveform(
    n: int, op: str, operand: list[int], weights: tuple[int, ...], kind: str
) -> None:
    arrays = {"s": np.array(operand), "w": np.ones(weights, np.float32)}
    graph = graph_of(Case(ROWS.format(n=n, op=op), arrays, None))
    assert choose_source(graph, "x", make_input_types(graph.model, {"N": 2})["x"], None, "").kind == kind


def test_a_model_that_gives_its_input_again_hears_nothing() -> None:
    graph = graph_of(Case("(float[N,640] x) => (float[N,640] y) { y = MatMul(x, w) }", {"w": (640, 640)}, None))
    drawn = choose_source(graph, "x", make_input_types(graph.model, {"N": 2})["x"], None, "")
    assert choose_front_end(graph, "x", drawn) is drawn


def test_inputs_that_are_kept_apart_are_others_of_the_same_source(tmp_path: Path) -> None:
    calibration = draw_calibration(analyze_file(make_nearest_word(tmp_path, FrontEnd(cepstra=True))), samples=32)
    assert calibration.apart is not None
    again = calibration.apart(40)
    x, y = (np.concatenate([f["x"] for f in feeds]) for feeds in (calibration.feeds, again))
    assert y.shape == (40, 250)
    assert not (x[:, None] == y[None]).all(-1).any()


def test_passages_are_long_enough_and_of_the_bank() -> None:
    passages = draw_passages(4, 300, np.random.default_rng(0))
    assert all(len(p) >= 300 and any(p.startswith(s) for s in load_sentences()) for p in passages)
