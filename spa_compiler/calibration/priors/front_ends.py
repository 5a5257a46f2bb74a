"""Front ends of sound: what a model is given of a waveform, and inputs that the bank of words gives behind them.

    source = Spoken("mfcc", (490,), FrontEnd(cepstra=True), frames=49, bands=10)
    x = source.draw(8, np.random.default_rng(0))                                  # [8, 490]

Frames, their hop and the length of the clip follow from the number of frames (`choose_frames`); conventions differ
in the range of frequencies, the unit of logarithms, the transform to cepstra and normalisation (`list_front_ends`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from spa_compiler.calibration.priors.sound_bank import CLIPS_AT_ONCE, RATE, draw_clips

Array = NDArray[Any]
HOPS = 128, 160, 200, 240, 256, 320, 400, 480, 512, 640
"""Customary samples from one frame to the next."""
FRAME_LENGTHS = 256, 320, 400, 480, 512, 640, 1024
"""Customary samples of a frame."""
USUAL_OVERLAP = 2.0
"""Length of a frame in hops that is most usual."""
LONGEST_SECOND = 130
"""From more frames on, they are ten milliseconds apart, and a clip is longer than a second."""
FEWEST_IN_SECOND = 20
"""Of fewer frames, ten milliseconds apart, a clip is shorter than a second."""
CEPSTRA_BANDS = 40
"""Bands of the spectrum that cepstra are made of."""
LEAST_MAGNITUDE = 1e-6
"""Added before logarithms."""
WHOLE = 32768.0
"""Size of samples where they are taken as 16-bit numbers."""
NORMALISERS = ("", "columns", "clip", "clip columns", "unit")
"""Ways to normalise: none; every column by the bank's statistics; a clip by its own; every column of a clip by its
own; a clip to 0..1."""


@dataclass(frozen=True)
class FrontEnd:
    """How a waveform becomes numbers [frames, columns]: the logarithms of magnitudes in bands, times `unit`.

    `unit` 0 takes magnitudes as they are; 1 is in nepers, 2 natural logarithms of powers, 20 / ln 10 decibels. `shift`
    is added (a clip in 16-bit numbers). Without `mel` bands are bins of the transform. `cepstra`: the cosine transform
    of the bands; `orthonormal` makes it one, otherwise the first column is larger by the square root of two, as in
    TensorFlow.
    """

    mel: bool = True
    low: float = 20.0
    high: float = 4000.0
    unit: float = 1.0
    shift: float = 0.0
    cepstra: bool = False
    orthonormal: bool = False
    normaliser: str = ""
    told: str = "nepers"

    def count_samples(self, frames: int) -> int:
        """Samples of a clip that gives so many frames."""
        hop, window = choose_frames(frames)
        return (frames - 1) * hop + window

    def compute(self, x: Array, frames: int, columns: int) -> Array:
        """Clips [n, samples] as [n, frames, columns], before what needs the statistics of many clips."""
        hop, window = choose_frames(frames)
        size = max(1 << (window - 1).bit_length(), 1)
        if not self.mel:
            size = max(size, 2 * (columns - 1))
        cut = np.lib.stride_tricks.sliding_window_view(x, window, axis=1)[:, ::hop][:, :frames]
        spectrum = np.abs(scipy.fft.rfft(cut * np.hanning(window + 1)[:-1].astype(np.float32), size)).astype(np.float32)
        bands = max(CEPSTRA_BANDS, columns) if self.cepstra else columns
        y = spectrum @ make_bands(bands, size, self.low, self.high).T if self.mel else spectrum[..., :columns]
        if not self.unit:
            return np.asarray(y)
        y = self.unit * np.log(y + LEAST_MAGNITUDE) + self.shift
        if not self.cepstra:
            return np.asarray(y, np.float32)
        y = scipy.fft.dct(y, axis=-1, norm="ortho")[..., :columns]
        if not self.orthonormal:
            y[..., 0] *= math.sqrt(2)
        return np.asarray(y, np.float32)

    def normalise(self, y: Array) -> Array:
        """The result of `compute` for many clips, normalised."""
        axes = {"columns": (0, 1), "clip": (1, 2), "clip columns": (1,), "unit": (1, 2)}.get(self.normaliser)
        if axes is None:
            return y
        if self.normaliser == "unit":
            low, high = y.min(axes, keepdims=True), y.max(axes, keepdims=True)
            return np.asarray((y - low) / np.maximum(high - low, 1e-6), np.float32)
        mean, std = y.mean(axes, keepdims=True), y.std(axes, keepdims=True)
        return np.asarray((y - mean) / np.maximum(std, 1e-6), np.float32)


@dataclass(frozen=True)
class Samples:
    """The waveform itself, every sample a frame of one column: in -1..1 times `size`, or each clip standardised."""

    size: float = 1.0
    standardised: bool = False
    told: str = "samples in -1..1"

    def count_samples(self, frames: int) -> int:
        """As many as frames."""
        return frames

    def compute(self, x: Array, frames: int, columns: int) -> Array:
        """Clips [n, samples] as [n, samples, 1]."""
        return np.asarray(x[:, :, None] * np.float32(self.size))

    def normalise(self, y: Array) -> Array:
        """The result of `compute`, each clip of mean 0 and deviation 1 where that is asked for."""
        if not self.standardised:
            return y
        return np.asarray((y - y.mean(1, keepdims=True)) / np.maximum(y.std(1, keepdims=True), 1e-6), np.float32)


@dataclass(frozen=True)
class Spoken:
    """A source of inputs of one `shape` (of one sample): words behind a front end.

    `order` says what the axes of the shape are when those of size 1 are left out: "tf" has frames first, "ft" last;
    deltas: further channels are derivatives in time, an axis "c". A shape of one axis is that of the others in a row.
    """

    kind: str
    shape: tuple[int, ...]
    front_end: FrontEnd | Samples
    frames: int
    columns: int
    order: str = "tf"
    dtype: str = "float32"
    channels: int = 1

    @property
    def samples(self) -> int:
        """Samples of a clip."""
        return self.front_end.count_samples(self.frames)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n inputs [n, *shape]."""
        return self.draw_spoken(n, rng)[0]

    def draw_spoken(self, n: int, rng: np.random.Generator, among: Array | None = None) -> tuple[Array, Array]:
        """The inputs, and which recording each of them has (`sound_bank.Clips`)."""
        clips = draw_clips(n, self.samples, rng, among)
        return self.shape_clips(clips.samples), clips.recordings

    def shape_clips(self, x: Array) -> Array:
        """Inputs from clips."""
        parts = [x[at : at + CLIPS_AT_ONCE] for at in range(0, len(x), CLIPS_AT_ONCE)]
        y = np.concatenate([self.front_end.compute(p, self.frames, self.columns) for p in parts])
        stack = [self.front_end.normalise(y)]
        while len(stack) < self.channels:
            stack.append(np.gradient(stack[-1], axis=1))
        y = np.stack(stack, axis=1)
        axes = [0, *("ctf".index(a) + 1 for a in (self.order if "c" in self.order else "c" + self.order))]
        return np.ascontiguousarray(y.transpose(axes)).reshape(len(x), *self.shape).astype(self.dtype)


def choose_frames(frames: int) -> tuple[int, int]:
    """Hop and window in samples for a number of frames: customary ones that make so many of a second, if there are."""
    if frames > LONGEST_SECOND or frames < FEWEST_IN_SECOND:
        return 160, 400
    fitting = [(h, w) for h in HOPS for w in FRAME_LENGTHS if w >= h and 1 + (RATE - w) // h == frames]
    centred = [(h, w) for h in HOPS for w in FRAME_LENGTHS if w >= h and 1 + RATE // h == frames]
    if fitting or centred:
        return min(fitting or centred, key=lambda p: abs(p[1] / p[0] - USUAL_OVERLAP))
    hop = min(HOPS, key=lambda h: abs(h * frames - RATE))
    return hop, min(FRAME_LENGTHS, key=lambda w: abs(w / hop - USUAL_OVERLAP))


def make_bands(bands: int, size: int, low: float, high: float) -> Array:
    """Triangles on the mel scale, [bands, bins] of a transform of `size` samples."""
    mel = 1127 * np.log1p(np.fft.rfftfreq(size, 1 / RATE) / 700)
    edges = np.linspace(1127 * math.log1p(low / 700), 1127 * math.log1p(high / 700), bands + 2)[:, None]
    rising, falling = (mel - edges[:-2]) / (edges[1] - edges[0]), (edges[2:] - mel) / (edges[1] - edges[0])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)), np.float32)


def list_front_ends(kind: str) -> Iterator[FrontEnd | Samples]:
    """Conventions of a kind ("mfcc", "log_mel", "spectrogram", "waveforms"), the most usual first."""
    if kind == "waveforms":
        yield Samples()
        yield Samples(standardised=True, told="each clip standardised")
        yield Samples(WHOLE, told="16-bit samples")
        return
    decibels, whole = 20 / math.log(10), 2 * math.log(WHOLE)
    scales = [("nepers", 1.0, 0.0), ("decibels", decibels, 0.0), ("powers", 2.0, 0.0), ("16-bit powers", 2.0, whole)]
    if kind == "spectrogram":
        yield FrontEnd(mel=False, unit=0, told="magnitudes")
        scales = scales[:2]
    for told, unit, shift in scales:
        for high in (4000.0, 7600.0):
            if kind == "mfcc":
                yield FrontEnd(high=high, unit=unit, shift=shift, cepstra=True, orthonormal=unit != 1, told=told)
            elif kind == "log_mel" or high == 4000:
                yield FrontEnd(kind != "spectrogram", high=high, unit=unit, shift=shift, told=told)
    for normaliser in ("columns", "clip columns") if kind == "mfcc" else NORMALISERS[1:]:
        yield FrontEnd(
            kind != "spectrogram",
            high=7600.0,
            cepstra=kind == "mfcc",
            normaliser=normaliser,
            told=f"normalised by {normaliser}",
        )


CUSTOMARY_COLUMNS = 10, 12, 13, 20, 26, 32, 40, 64, 80, 128, 129, 257
"""Numbers of cepstra, bands and bins that are usual."""


def is_customary(frames: int, columns: int) -> bool:
    """Are so many frames a second of sound, and so many columns usual for them?"""
    hop, window = choose_frames(frames)
    exact = FEWEST_IN_SECOND <= frames <= LONGEST_SECOND and frames in (1 + (RATE - window) // hop, 1 + RATE // hop)
    return exact and columns in CUSTOMARY_COLUMNS and columns != frames
