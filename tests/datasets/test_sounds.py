"""Sounds: rate, channels and length as the model takes them."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs import load_classifier, save_sound
from spa_compiler.datasets.dataset import open_dataset
from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.datasets.rows import Block, join_blocks
from spa_compiler.errors import UsageError

WAVE: list[int | str] = ["N", 1, 1000]


def read(path: Path, shape: list[int | str] = WAVE, text: str = "") -> Block:
    data = open_dataset(path, load_classifier(shape), parse_preprocess(text))
    data.check()
    return join_blocks(data.read_batches())


def tone(seconds: float, rate: int, hertz: float = 440.0, channels: int = 1) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * hertz * t)] * channels, 1)


def test_stereo_is_mixed_where_the_model_takes_one_channel(tmp_path: Path) -> None:
    both = np.stack([np.full(1000, 0.5), np.full(1000, -0.25)], 1)
    x = read(save_sound(tmp_path / "a.wav", both)).inputs["x"]
    np.testing.assert_allclose(x, np.full((1, 1, 1000), 0.125), atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "row"), [(["N", 2, 1000], (2, 1000)), (["N", 1000, 2], (1000, 2)), (["N", 1000], (1000,))]
)
def test_channels_lie_where_the_model_has_them(tmp_path: Path, shape: list[int | str], row: tuple[int, ...]) -> None:
    both = np.stack([np.full(1000, 0.5), np.full(1000, 0.25)], 1)
    x = read(save_sound(tmp_path / "a.wav", both), shape).inputs["x"][0]
    assert x.shape == row
    if len(row) == 2:
        np.testing.assert_allclose(sorted({float(v) for v in x.ravel().round(3)}), [0.25, 0.5], atol=1e-3)


def test_a_sound_is_cut_or_filled_with_silence(tmp_path: Path) -> None:
    short = read(save_sound(tmp_path / "short.wav", np.full((300, 1), 0.5))).inputs["x"][0, 0]
    assert (short[:300] > 0.4).all() and not short[300:].any()
    assert read(save_sound(tmp_path / "long.wav", np.full((5000, 1), 0.5))).inputs["x"].shape == (1, 1, 1000)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_every_rate_becomes_the_one_that_is_asked_for(tmp_path: Path, rate: int) -> None:
    file = save_sound(tmp_path / "a.wav", tone(0.2, rate), rate)
    x = read(file, ["N", 1, 3000], "rate=16000").inputs["x"][0, 0]
    expected = tone(0.2, 16000)[:3000, 0]
    assert np.abs(x - expected)[100:-100].max() < 0.02


def test_flac_and_floating_point_are_read_by_soundfile(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.flac", tone(0.1, 16000), 16000)
    soundfile.write(tmp_path / "b.wav", tone(0.1, 16000), 16000, subtype="FLOAT")
    x = read(tmp_path / "a.flac").inputs["x"], read(tmp_path / "b.wav").inputs["x"]
    np.testing.assert_allclose(x[0], x[1], atol=1e-4)


def test_without_soundfile_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = builtins.__import__

    def refuse(name: str, *args: Any, **more: Any) -> Any:
        if name == "soundfile":
            raise ImportError(name)
        return given(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert read(save_sound(tmp_path / "a.wav", tone(0.1, 16000))).rows == 1
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    with pytest.raises(UsageError, match=r"a\.flac: .*pip install 'spa-compile\[audio\]'"):
        read(tmp_path / "a.flac")


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all"])
def test_a_file_that_is_no_sound_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.wav: not a"):
        read(tmp_path / "a.wav")


def test_a_sound_without_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.wav: it holds no sound"):
        read(save_sound(tmp_path / "a.wav", np.zeros((0, 1))))


@pytest.mark.parametrize(("shape", "text", "says"), [
    (["N", 49, 10], "", "no waveform: give what the model takes"), (WAVE, "resize=3", "holds sounds; leave it out"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, shape: list[int | str], text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read(save_sound(tmp_path / "a.wav", tone(0.1, 16000)), shape, text)
