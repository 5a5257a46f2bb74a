"""Sounds from files: WAV through the standard library, FLAC and other WAVs where soundfile is installed.

Values lie in -1..1. Only as much of a file is read as the input takes; shorter ones are followed by silence.
"""

from __future__ import annotations

import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from spa_compiler.errors import UsageError

Array = NDArray[Any]
INSTALL_SOUNDFILE = "pip install 'spa-compile[audio]'"
MARGIN = 64
"""Samples beyond the end that a resampling filter looks at."""
LEAST_WAVE = 400
"""A last axis of fewer entries holds features, not a waveform."""
MOST_CHANNELS = 8


@dataclass(frozen=True)
class SoundForm:
    """How an input takes a sound: channels, samples, and the shape of its row, channels last or not."""

    channels: int
    samples: int
    is_last: bool
    row: tuple[int, ...]


def find_sound_form(dims: Sequence[int], rate: int) -> SoundForm | None:
    """How an input of these sizes (the rows first, 0: any) takes a waveform; None where it takes none.

    A length that may be any is a second.
    """
    row = tuple(n or (rate or 16000 if i == len(dims) - 2 else 1) for i, n in enumerate(dims[1:]))
    if len(row) == 2 and row[1] <= MOST_CHANNELS and row[0] >= LEAST_WAVE:
        return SoundForm(row[1], row[0], True, row)
    if 1 <= len(row) <= 3 and row[-1] >= LEAST_WAVE and math.prod(row[:-1]) <= MOST_CHANNELS:
        return SoundForm(math.prod(row[:-1]), row[-1], False, row)
    return None


def read_rate(path: Path) -> int:
    """Samples a second of a file. Raises UsageError that names it."""
    return _read(path, 0)[1]


def decode_sound(path: Path, form: SoundForm, rate: int) -> Array:
    """Channels x samples, float32, at `rate` (0: as it is). Raises UsageError that names the file."""
    own = read_rate(path) if rate else 0
    frames = math.ceil(form.samples * own / rate) + MARGIN if rate else form.samples
    x, own = _read(path, frames)
    if not x.size:
        raise UsageError(f"{path}: it holds no sound; take it out")
    if not np.isfinite(x).all():
        raise UsageError(f"{path}: it holds NaN or infinity; take it out")
    x = _mix(path, x, form.channels)
    if rate and own != rate:
        shared = math.gcd(rate, own)
        x = scipy.signal.resample_poly(x, rate // shared, own // shared, axis=1)
    out = np.zeros((form.channels, form.samples), np.float32)
    out[:, : min(form.samples, x.shape[1])] = x[:, : form.samples]
    return out


def _mix(path: Path, x: Array, channels: int) -> Array:
    """Channels (first) as many as the input takes: their mean, or one of them for all."""
    if len(x) == channels:
        return x
    if channels == 1:
        return np.asarray(x.mean(0, keepdims=True))
    if len(x) == 1:
        return np.repeat(x, channels, 0)
    raise UsageError(f"{path}: {len(x)} channels, the model takes {channels}")


def _read(path: Path, frames: int) -> tuple[Array, int]:
    """The first frames of a file, channels x frames, and its rate."""
    try:
        if path.suffix.lower() == ".wav":
            return _read_wave(path, frames)
    except FileNotFoundError as e:
        raise UsageError(f"{path}: no such file") from e
    except (wave.Error, EOFError):  # floating point, compressed, or no WAV at all
        pass
    return _read_other(path, frames)


def _read_wave(path: Path, frames: int) -> tuple[Array, int]:
    with wave.open(str(path), "rb") as file:
        width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
        if width > 4 or not channels or not 1 <= rate <= 1 << 20:
            raise wave.Error("unusual")
        raw = np.frombuffer(file.readframes(frames), np.uint8)
    raw = raw[: len(raw) - len(raw) % (width * channels)].reshape(-1, width)
    if width == 1:
        values = (raw[:, 0].astype(np.float32) - 128) / 128
    else:  # little endian: put into the upper bytes of 32 bits
        wide = np.zeros((len(raw), 4), np.uint8)
        wide[:, 4 - width :] = raw
        values = (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return values.reshape(-1, channels).T, rate


def _read_other(path: Path, frames: int) -> tuple[Array, int]:
    try:
        import soundfile
    except (ImportError, OSError) as e:
        raise UsageError(f"{path}: not a WAV of whole numbers; soundfile reads more kinds: {INSTALL_SOUNDFILE}") from e
    try:
        with soundfile.SoundFile(str(path)) as file:
            return file.read(frames, dtype="float32", always_2d=True).T, int(file.samplerate)
    except MemoryError:
        raise
    except Exception as e:
        raise UsageError(f"{path}: not a sound that can be read ({e}): replace it or take it out") from e
