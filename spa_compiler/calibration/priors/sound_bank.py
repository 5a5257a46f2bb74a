"""Spoken words of the package, and one-second clips made of them: rooms, noise, microphones, levels, silence.

    words = load_words()                                       # some hundreds of recordings of synthetic voices
    clips = draw_clips(8, 16000, np.random.default_rng(0))     # Clips: waveforms [8, 16000], words and loudness

The bank is written by tools/banks/speech.py: modified discrete cosine transforms of 16 kHz recordings, whose bands are
divided by their loudness and rounded. What was rounded to nothing is filled with noise of the loudness that is kept.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import lzma
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[Any]
RATE = 16000
"""Samples a second of the recordings."""
SPEECH_FILE = "speech.bank"
"""The file of the recordings beside the others in `banks`."""
STEP = 320
"""Samples from one transform to the next, and its number of coefficients."""
EDGES = (0, 4, 8, 12, 16, 20, 24, 28, 32, 37, 42, 48, 56, 64, 74, 86, 100, 116, 136, 160, 190, 230, 276, 320)
"""Borders of the bands, in coefficients of 25 Hz."""
COARSENESS = (0.9,) * 12 + (1.2,) * 7 + (2.0,) * 4
"""Unit that coefficients of each band are rounded to, in its loudness: speech above 4 kHz is as good as noise."""
LOUDNESS_UNIT = 2.0
"""Steps of a band's loudness in an octave (of 6 dB)."""
FILLING = 0.3
"""Largest size of noise in place of coefficients that were rounded to nothing, in roundings."""


@dataclass(frozen=True)
class Recording:
    """One word by one voice, [samples] in -1..1."""

    word: str
    voice: str
    samples: Array


@functools.cache
def load_words() -> tuple[Recording, ...]:
    """The recordings of the bank, always in the same order."""
    data = importlib.resources.files("spa_compiler.calibration.priors").joinpath("banks", SPEECH_FILE).read_bytes()
    return decode_bank(lzma.decompress(data))


def decode_bank(data: bytes) -> tuple[Recording, ...]:
    """Recordings from a line of JSON, the loudness of all bands and the rounded coefficients, band by band."""
    line, _, body = data.partition(b"\n")
    entries = json.loads(line)
    total = sum(n for _, _, n in entries)
    bands = len(EDGES) - 1
    loud = np.cumsum(np.frombuffer(body, np.int8, total * bands).reshape(bands, total), 1, dtype=np.int8).T
    rounded = np.frombuffer(body, np.int8, total * STEP, total * bands).reshape(STEP, total).T
    widths = np.diff(EDGES)
    coarse = np.repeat(COARSENESS, widths)
    noise = np.random.default_rng(0).random(rounded.shape, np.float32) * (2 * FILLING) - FILLING
    scale = np.repeat(np.where(loud > 0, 2.0 ** (loud / LOUDNESS_UNIT), 0.0).astype(np.float32), widths, axis=1)
    spectrum = np.where(rounded == 0, noise, rounded) * coarse.astype(np.float32) * scale
    out, at = [], 0
    for word, voice, n in entries:
        x = invert_transform(spectrum[at : at + n])
        out.append(Recording(word, voice, (x / max(float(np.abs(x).max()), 1e-9)).astype(np.float32)))
        at += n
    return tuple(out)


def invert_transform(spectrum: Array) -> Array:
    """Samples of the coefficients [frames, STEP] of overlapping modified discrete cosine transforms."""
    folded = scipy.fft.dct(spectrum, 4) / (2 * STEP)
    left, right = folded[:, STEP // 2 :], folded[:, : STEP // 2]
    pieces = np.concatenate([left, -left[:, ::-1], -right[:, ::-1], -right], axis=1) * _make_window()
    x = np.zeros((len(spectrum) + 1, STEP), pieces.dtype)
    x[:-1] += pieces[:, :STEP]
    x[1:] += pieces[:, STEP:]
    return np.asarray(2 * x.ravel())


def transform(samples: Array) -> Array:
    """Coefficients [frames, STEP] of samples, of which a last incomplete step is left out; see `invert_transform`."""
    steps = samples[: len(samples) - len(samples) % STEP].reshape(-1, STEP)
    a, b, c, d = np.split(np.concatenate([steps[:-1], steps[1:]], axis=1) * _make_window(), 4, axis=1)
    return np.asarray(scipy.fft.dct(np.concatenate([-c[:, ::-1] - d, a - b[:, ::-1]], axis=1), 4) / 2)


@functools.cache
def _make_window() -> Array:
    return np.asarray(np.sin(np.pi / (2 * STEP) * (np.arange(2 * STEP) + 0.5)))


@dataclass(frozen=True)
class Clips:
    """Sounds [n, samples] in -1..1, and the number of the recording that each has; -1 where nobody speaks."""

    samples: Array
    recordings: Array


SILENT_SHARE = 0.08
"""Clips without a word."""
ROOM_SHARE = 0.6
"""Clips that are spoken in a room that is heard."""
ROOM_SAMPLES = 2400
"""Length of what a room adds to a sound."""
ROOMS, NOISES = 32, 24
"""Rooms and noises that are drawn for one call."""
CLIPS_AT_ONCE = 64
"""Clips that are made together."""


def draw_clips(n: int, samples: int, rng: np.random.Generator, among: Array | None = None) -> Clips:
    """Clips at 16 kHz: a word at a random place, level, speed and colour, in a room, with noise.

    Clips of more than a second have a word for every second. `among`: the recordings to take for each clip.
    """
    bank = load_words()
    taken = rng.integers(len(bank), size=n) if among is None else among
    if among is None:
        taken = np.where(rng.random(n) < SILENT_SHARE, -1, taken)
    rooms, noises = _draw_rooms(rng), _draw_noises(samples, rng)
    out = np.empty((n, samples), np.float32)
    for at in range(0, n, CLIPS_AT_ONCE):
        spoken = np.stack([_place_words(k, samples, rng) for k in taken[at : at + CLIPS_AT_ONCE]])
        out[at : at + len(spoken)] = _record(spoken, rooms, noises, rng)
    return Clips(out, np.asarray(taken))


def _place_words(first: int, samples: int, rng: np.random.Generator) -> Array:
    """Words in silence, the first of them given; nothing but silence where it is negative."""
    x, bank = np.zeros(samples, np.float32), load_words()
    words = max(1, round(samples / RATE))
    for i in range(words if first >= 0 else 0):
        word = bank[first if i == 0 else int(rng.integers(len(bank)))].samples
        speed = np.exp(rng.uniform(-0.16, 0.16))
        said = np.interp(np.arange(0, len(word) - 1, speed), np.arange(len(word)), word).astype(np.float32)
        room = samples // words
        low, high = sorted((-(len(said) // 8), room - len(said) * 7 // 8))
        start = i * room + int(rng.integers(low, high + 1))
        begin, end = max(start, 0), min(start + len(said), samples)
        if end > begin:
            x[begin:end] += said[begin - start : end - start]
    return x


def _record(x: Array, rooms: Array, noises: Array, rng: np.random.Generator) -> Array:
    """Words [n, samples] as a microphone in a room hears them."""
    n, samples = x.shape
    size = scipy.fft.next_fast_len(samples + ROOM_SAMPLES, True)
    spectrum = scipy.fft.rfft(x, size)
    heard = rng.random((n, 1)) < ROOM_SHARE
    chosen = scipy.fft.rfft(rooms, size)[rng.integers(ROOMS, size=n)]
    spectrum = np.where(heard, spectrum * chosen, spectrum)
    x = scipy.fft.irfft(spectrum, size)[:, :samples].astype(np.float32)
    x *= 10 ** rng.uniform(-1.6, -0.1, (n, 1)) / (np.abs(x).max(1, keepdims=True) + 1e-9)
    places = [(int(rng.integers(NOISES)), int(rng.integers(noises.shape[1] - samples + 1))) for _ in range(n)]
    noise = np.stack([noises[k, at : at + samples] for k, at in places])
    x = x + noise * 10 ** rng.uniform(-4.5, -1.7, (n, 1))
    knots = 0.35 * rng.standard_normal((n, 9))
    points: Array = np.linspace(0, 8, size // 2 + 1)
    low = np.minimum(points, 7).astype(np.intp)
    colour = np.exp(knots[:, low] * (1 - points + low) + knots[:, low + 1] * (points - low))
    y = scipy.fft.irfft(scipy.fft.rfft(x.astype(np.float32), size) * colour.astype(np.float32), size)[:, :samples]
    return np.asarray(np.clip(y, -1, 1), np.float32)


def _draw_rooms(rng: np.random.Generator) -> Array:
    """Impulse responses: the sound itself, then noise that fades in 10 to 50 milliseconds."""
    t = np.arange(ROOM_SAMPLES)
    rooms = rng.standard_normal((ROOMS, ROOM_SAMPLES)) * np.exp(-t / rng.uniform(150, 700, (ROOMS, 1)))
    rooms[:, 0] = rng.uniform(4, 12, ROOMS)
    return rooms.astype(np.float32)


def _draw_noises(samples: int, rng: np.random.Generator) -> Array:
    """Noises of unit deviation, longer than a clip, from white to brown."""
    size = scipy.fft.next_fast_len(samples + RATE, True)
    f = np.arange(size // 2 + 1) * (RATE / size) + 20
    white = scipy.fft.rfft(rng.standard_normal((NOISES, size)))
    noises = scipy.fft.irfft(white * f ** -rng.uniform(0, 1, (NOISES, 1)), size)
    return np.asarray(noises / noises.std(1, keepdims=True), np.float32)
