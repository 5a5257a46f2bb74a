"""Synthetic inputs for use without data: `draw` knows one prior per kind of input.

>>> rng = np.random.default_rng(0)
>>> draw("photographs", (8, 3, 32, 32), rng).shape                                    # normalised, NCHW
(8, 3, 32, 32)
>>> draw("photographs", (8, 64, 64, 3), rng, scale=Scale(0, 255)).shape               # NHWC is seen from the shape
(8, 64, 64, 3)
>>> Synthetic("mfcc", (490,), grid=(49, 10)).draw(8, rng).shape                       # the model takes it flattened
(8, 490)
>>> Synthetic("tokens", (16,), dtype="int32", options={"vocabulary": 30522}).draw(8, rng).dtype
dtype('int32')

`KINDS` lists every kind with its units and options. Each names the interval of its values that stands for 0..1, and a
`Scale` maps that interval to what the model expects, so `Scale(0, 255)` means the same for all of them.
All draws depend on the generator, the shape and the options only. The correlations between the columns of `features`
and between the channels of `series` are drawn once per call: draw a pool at once, not sample by sample.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import scipy

from spa_compiler.calibration.priors import photograph_bank, photographs
from spa_compiler.calibration.priors.settings import PRIORS
from spa_compiler.errors import UsageError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Bounds = Callable[[int], tuple[Array | float, Array | float]]


class Source(Protocol):
    """Anything that inputs can be drawn from; real data fits as well as `Synthetic`."""

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n inputs, [n, ...], as the model takes them."""
        ...


@dataclass(frozen=True)
class Scale:
    """The affine map to the model's values: 0..1 to low..high, then (x - mean) / std per channel, in the model's order.

    `bgr` reverses the channels first. Scale(0, 1) is torchvision's ToTensor, NORMALISED its ImageNet normalisation,
    Scale(-1, 1) TensorFlow's MobileNet, Scale(0, 255, mean=(104, 117, 123), bgr=True) Caffe, Scale(-128, 127) int8.
    """

    low: float = 0.0
    high: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    bgr: bool = False

    def apply(self, x: Array) -> Array:
        """Map x [n, channels, ...] in 0..1. UsageError if mean or std has neither one entry nor one per channel."""
        x = (x[:, ::-1] if self.bgr else x) * (self.high - self.low) + self.low
        for name, given in (("mean", self.mean), ("std", self.std)):
            if len(given) > 1 and len(given) != x.shape[1]:
                raise UsageError(f"scale: {name} has {len(given)} entries, but the input has {x.shape[1]} channels")
        column = (-1, *(1,) * (x.ndim - 2))
        mean, std = (np.reshape(np.array(given, np.float32), column) for given in (self.mean or (0,), self.std or (1,)))
        return np.asarray((x - mean) / std, np.float32)


NORMALISED = Scale(0, 1, photographs.PIXEL_MEAN, photographs.PIXEL_DEVIATION)


@dataclass(frozen=True)
class Kind:
    """One prior. `axes` are the letters of the shape it draws: n samples, c channels, h w space, t time, f frequency.

    The prior is called with those sizes and the generator, or, where `axes` is empty, with any shape and the generator.
    `bounds` gives, for a number of channels, the values that stand for 0 and 1; None where there is no scale.
    """

    about: str
    axes: str
    prior: Callable[..., Array]
    bounds: Bounds | None


@dataclass(frozen=True)
class Synthetic:
    """A `Source`: one kind of input in one shape. `shape` is that of one sample, without the batch.

    `grid` is the shape to draw where the model takes the input flattened; for pictures a square one is guessed.
    Whole numbers and flags (`dtype` "uint8") are rounded and cut to their range and the scale's. `least`: sizes,
    from that on.
    """

    kind: str
    shape: Shape
    grid: Shape = ()
    axes: str = ""
    scale: Scale | None = None
    dtype: str = "float32"
    options: Mapping[str, float] = field(default_factory=dict)
    least: float = 0.0

    def draw(self, n: int, rng: np.random.Generator | Array) -> Array:
        """Draw n inputs [n, *shape], or render recipes of photographs. Errors are those of `draw`."""
        shape = (n, *(self.grid or square_grid(self.kind, self.shape)))
        x = draw(self.kind, shape, rng, axes=self.axes, scale=self.scale, **self.options).reshape(n, *self.shape)
        dtype = np.dtype(self.dtype)
        if x.dtype.kind == "f" and (dtype.kind in "iu" or (dtype.kind == "b" and self.scale)):
            least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            scale = self.scale if self.scale and not (self.scale.mean or self.scale.std) else Scale(least, most)
            low, high = math.ceil(scale.low), math.floor(scale.high)  # whole numbers of the range, both ends among them
            x = np.clip(np.rint(x.astype(np.float64)), max(low, least), min(high, most))
        return (np.maximum(np.abs(x), self.least) if self.least else x).astype(dtype)


def draw(
    kind: str, shape: Shape, rng: np.random.Generator | Array, *, axes: str = "", scale: Scale | None = None,
    **options: float,
) -> Array:  # fmt: skip
    """Draw `shape[0]` inputs of a kind; float32, or int64 for token ids. `rng` may be recipes of photographs.

    `axes` names the axes of `shape` by the kind's letters, as "nhwc" or "nft"; by default they are guessed
    (`guess_axes`). Without a scale, values come in the kind's own units. `options` go to the prior.
    UsageError if the kind is unknown, or the shape, the options or the scale do not fit it.
    """
    entry = _find_kind(kind)
    axes = axes or guess_axes(kind, shape)
    if sorted(axes) != sorted(set(axes) & set(entry.axes)) or (axes and len(axes) != len(shape)):
        raise UsageError(f"axes {axes!r} do not fit shape {list(shape)} of kind {kind!r} with axes {entry.axes!r}")
    full = [shape[axes.index(axis)] if axis in axes else 1 for axis in entry.axes]
    arguments = (*full, rng) if axes else (tuple(shape), rng)
    try:
        bound = inspect.signature(entry.prior).bind(*arguments, **options)
    except TypeError as error:
        raise UsageError(f"kind {kind!r} ({entry.about}): {error}") from error
    x = _apply_scale(kind, entry.prior(*bound.args, **bound.kwargs), scale)
    if not axes:
        return x
    order = [axis for axis in entry.axes if axis in axes]
    x = x.reshape([shape[axes.index(axis)] for axis in order])
    return np.ascontiguousarray(x.transpose([order.index(axis) for axis in axes]))


def guess_axes(kind: str, shape: Shape) -> str:
    """Letters for the axes of `shape`, the batch first; the channel axis may be missing.

    Channels come last where that axis is shorter than all others, time is longer than frequency: give `axes` where this
    is wrong. Empty for kinds that take any shape. UsageError if there are too many or too few axes.
    """
    letters = _find_kind(kind).axes
    if not letters:
        return ""
    if len(shape) not in (len(letters), len(letters) - 1):
        raise UsageError(f"shape {list(shape)} does not fit kind {kind!r}, which has axes {letters!r}: give a grid")
    if len(shape) < len(letters):
        letters = letters.replace("c", "")
    elif shape[-1] < min(shape[1:-1]):
        letters = letters.replace("c", "") + "c"
    if "f" in letters and shape[letters.index("f")] > shape[letters.index("t")]:
        letters = letters.translate(str.maketrans("tf", "ft"))
    return letters


def square_grid(kind: str, shape: Shape) -> Shape:
    """Shape of one sample to draw: `shape` itself, or for a flattened picture the square one, grey or in colour."""
    size = math.prod(shape)
    if _find_kind(kind).axes == "nchw" and len(shape) <= 2 and max(shape, default=0) == size:
        for channels in (1, 3):
            side = math.isqrt(size // channels)
            if channels * side * side == size:
                return (channels, side, side)
    return shape


def _find_kind(kind: str) -> Kind:
    if kind not in KINDS:
        raise UsageError(f"unknown kind of input {kind!r}; known are {', '.join(KINDS)}")
    return KINDS[kind]


def _apply_scale(kind: str, x: Array, scale: Scale | None) -> Array:
    if scale is None:
        return x
    bounds = KINDS[kind].bounds
    if bounds is None:
        raise UsageError(f"inputs of kind {kind!r} cannot be scaled")
    low, high = bounds(x.shape[1] if x.ndim > 1 else 1)
    return scale.apply((x - low) / (high - low))


def fields(shape: Shape, rng: np.random.Generator, slope: float = 1.0) -> Array:
    """Gaussian fields of unit variance, amplitude 1/f^slope over all axes behind [n, channels], or [n] of two."""
    space = shape[2:] or shape[1:]
    if not space:
        return rng.standard_normal(shape, np.float32)
    grids = np.meshgrid(*map(np.fft.fftfreq, space), indexing="ij", sparse=True)
    frequency = np.sqrt(sum((np.square(grid) for grid in grids), np.zeros(())))
    # The constant term is that of the lowest frequency, so samples differ in their mean.
    frequency[(0,) * len(space)] = 1 / max(2, *space)
    fall = frequency**-slope / np.sqrt(np.mean(frequency ** (-2 * slope)))
    axes = range(len(shape) - len(space), len(shape))
    spectrum = scipy.fft.rfftn(rng.standard_normal(shape, np.float32), axes=axes)
    spectrum *= fall[..., : space[-1] // 2 + 1].astype(np.float32)
    return np.asarray(scipy.fft.irfftn(spectrum, s=space, axes=axes), np.float32)


def log_mel(n: int, channels: int, frames: int, bands: int, rng: np.random.Generator, hop: float = 0.02) -> Array:
    """Log-mel spectra of an utterance in noise, [n, channels, frames, bands]: natural logarithms of magnitudes.

    Syllables, about three a second, are vowels (three gliding formants, harmonics resolved in the low bands) and
    fricatives; `hop` is the seconds between frames. Speech and noise are modulated by 1/f in time and frequency (Voss
    and Clarke 1975). Levels suit waveforms in -1..1 and windows of some hundred samples: formants near 1, noise 1.5 to
    7 below speech. Further channels are time derivatives of the one before.
    """
    return photographs.in_batches(partial(_log_mel_batch, hop=hop), (n, channels, frames, bands), rng)


def _log_mel_batch(n: int, channels: int, frames: int, bands: int, rng: np.random.Generator, hop: float) -> Array:
    f = np.linspace(0, 1, bands, dtype=np.float32)
    voiced, unvoiced = _syllables(n, frames, frames * hop, rng)
    speech = np.logaddexp(voiced[..., None] + _vowels(n, frames, f, rng), unvoiced[..., None] + _fricatives(n, f, rng))
    speech += 0.5 * fields((n, 1, frames, bands), rng)[:, 0]
    noise = rng.normal(-1, 1, (n, 1, 1)) * f - rng.uniform(1.5, 7, (n, 1, 1)) + 0.7 * fields((n, 1, bands), rng, 1.5)
    x = np.logaddexp(speech, noise) + rng.normal(-1.5, 1.5, (n, 1, 1))
    # The energy of noise in a band scatters, most in the narrow low bands.
    x += (0.6 - 0.4 * f) * rng.standard_normal((n, frames, bands), np.float32)
    stack = [x]
    for _ in range(channels - 1):
        stack.append(np.gradient(stack[-1], axis=1) if frames > 1 else np.zeros_like(x))
    return np.stack(stack, axis=1).astype(np.float32)


def _syllables(n: int, steps: int, seconds: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Log loudness of vowels and of the fricatives that open some of them, each [n, steps], at most about 0."""
    t = np.linspace(0, seconds, steps, dtype=np.float32)
    counts = 1 + rng.poisson(3 * seconds, n)
    voiced, unvoiced = np.full((2, n, steps), np.exp(-9), np.float32)
    for k in range(int(counts.max(initial=0))):
        low, high = (-0.05, 0.04, -1.5, -2), (seconds + 0.05, 0.14, 0, 0.5)
        centre, width, loud, hiss = rng.uniform(low, high, (n, 4)).T[..., None]
        spoken = counts[:, None] > k
        voiced += spoken * np.exp(loud - 0.5 * ((t - centre) / width) ** 2)
        opened = spoken & (rng.random((n, 1)) < 0.6)
        unvoiced += opened * np.exp(loud + hiss - 0.5 * ((t - centre + 1.5 * width) / (0.6 * width)) ** 2)
    return np.log(voiced), np.log(unvoiced)


def _vowels(n: int, frames: int, f: Array, rng: np.random.Generator) -> Array:
    """Log envelope [n, frames, bands]: formants on a falling slope, with a ripple of harmonics that fades upwards."""
    glide = fields((n, 4, frames), rng, 1.5)[..., None]
    x = -3 * f * rng.uniform(0.5, 1.5, (n, 1, 1))
    for k, place in enumerate((0.22, 0.48, 0.7)):
        formant = place + 0.08 * rng.standard_normal((n, 1, 1)) + 0.04 * glide[:, k]
        x = x + rng.uniform(1, 3.5, (n, 1, 1)) * np.exp(-0.5 * ((f - formant) / 0.07) ** 2)
    harmonics = rng.uniform(5, 14, (n, 1, 1)) * (1 + 0.1 * glide[:, 3])
    return np.asarray(x + rng.uniform(0.2, 1, (n, 1, 1)) * np.exp(-3 * f) * np.cos(2 * np.pi * f * harmonics))


def _fricatives(n: int, f: Array, rng: np.random.Generator) -> Array:
    """Log envelope [n, 1, bands] of hissing: a broad hump in the upper bands."""
    return np.asarray(2 - 5 * (f - rng.uniform(0.6, 1.1, (n, 1, 1))) ** 2 / 0.3 - 1.5)


def mfcc(n: int, channels: int, frames: int, coefficients: int, rng: np.random.Generator, hop: float = 0.02) -> Array:
    """Cepstra of `log_mel` in 40 bands, or as many as coefficients: DCT-II times sqrt(2 / bands), as in TensorFlow."""
    bands = max(40, coefficients)
    cepstra = scipy.fft.dct(log_mel(n, channels, frames, bands, rng, hop), axis=-1)[..., :coefficients]
    return np.asarray(cepstra * np.sqrt(0.5 / bands), np.float32)


def waveforms(n: int, channels: int, samples: int, rng: np.random.Generator, rate: float = 16000) -> Array:
    """Voiced and hissing syllables in pink noise, [n, channels, samples] in -1..1; `rate` in samples a second.

    Harmonics of 80 to 300 Hz follow 1/k and three resonances; peaks are 0.05 to 0.95. Channels differ in gain, noise.
    """
    return photographs.in_batches(partial(_waveform_batch, rate=rate), (n, channels, samples), rng)


def _waveform_batch(n: int, channels: int, samples: int, rng: np.random.Generator, rate: float) -> Array:
    voiced, unvoiced = _syllables(n, samples, samples / rate, rng)
    pitch = rng.uniform(80, 300, (n, 1))
    phase = 2 * np.pi / rate * np.cumsum(pitch * np.exp(0.1 * fields((n, samples), rng, 1.5)), axis=1)
    formants, now = rng.uniform((300, 800, 2000), (800, 2000, 3500), (n, 3)), np.cos(phase)
    before, twice, voice = np.ones_like(now), 2 * now, np.zeros_like(now)
    for k in range(1, 31):
        resonance = np.exp(-0.5 * ((k * pitch - formants) / 150) ** 2).sum(1, keepdims=True)
        voice += (k * pitch < rate / 2.5) * (resonance + 0.3) / k**0.5 * now
        # Chebyshev's recurrence: cos((k+1) x) = 2 cos(x) cos(k x) - cos((k-1) x).
        now, before = twice * now - before, now
    hiss = np.diff(rng.standard_normal((n, samples + 1), np.float32), axis=1)
    speech = np.exp(voiced) * voice + 0.5 * np.exp(unvoiced) * hiss
    gain = rng.uniform(0.6, 1, (n, channels, 1)) if channels > 1 else 1.0
    noise = np.exp(rng.uniform(-6, -1, (n, 1, 1))) * fields((n, channels, samples), rng, 0.5)
    x = gain * speech[:, None] + noise
    return np.asarray(x * rng.uniform(0.05, 0.95, (n, 1, 1)) / np.abs(x).max((1, 2), keepdims=True), np.float32)


def series(n: int, channels: int, steps: int, rng: np.random.Generator, slope: float = 1.0) -> Array:
    """Sensor readings [n, channels, steps] of unit variance: half common 1/f factors, half 1/f of their own."""
    common = fields((n, -(-channels // 3), steps), rng, slope)
    loads = _draw_loadings(common.shape[1], channels, rng)
    return np.asarray(np.sqrt(0.5) * (loads.T @ common + fields((n, channels, steps), rng, slope)), np.float32)


def features(shape: Shape, rng: np.random.Generator, shared: float = PRIORS.shared_variance) -> Array:
    """Table rows [n, ...] of N(0, 1) columns; a share of the variance is of common factors, one for four columns."""
    columns = math.prod(shape[1:])
    factors = -(-columns // 4)
    common = rng.standard_normal((shape[0], factors)) @ _draw_loadings(factors, columns, rng)
    own = rng.standard_normal((shape[0], columns))
    return np.asarray(np.sqrt(shared) * common + np.sqrt(1 - shared) * own, np.float32).reshape(shape)


def _draw_loadings(factors: int, columns: int, rng: np.random.Generator) -> Array:
    loads = rng.standard_normal((factors, columns))
    return np.asarray(loads / np.linalg.norm(loads, axis=0))


def uniform(shape: Shape, rng: np.random.Generator) -> Array:
    """Independent U(0, 1), of any shape: for inputs of which only the range is known."""
    return rng.random(shape, np.float32)


def tokens(
    shape: Shape, rng: np.random.Generator, vocabulary: float, reserved: float = 0, exponent: float = 1.0
) -> Array:
    """Token ids, int64, in reserved..vocabulary-1, by Zipf's law p ~ (rank + 2.7)^-exponent (Mandelbrot 1953).

    Rank is the id's: vocabularies list frequent tokens first. Exponent 0 is uniform.
    """
    weights = np.cumsum((np.arange(int(vocabulary) - int(reserved)) + PRIORS.zipf_offset) ** -exponent)
    drawn = np.searchsorted(weights, rng.random(shape) * weights[-1], side="right")
    return np.asarray(int(reserved) + drawn, np.int64)


def _make_bounds(low: float, high: float) -> Bounds:
    return lambda _: (low, high)


KINDS: dict[str, Kind] = {
    "photographs": Kind("crops of real photographs", "nchw", photograph_bank.crops, photographs.pixel_bounds),
    "scenes": Kind("objects, leaves and pink mixed", "nchw", photographs.scenes, photographs.pixel_bounds),
    "objects": Kind("object scenes, normalised", "nchw", photographs.object_scenes, photographs.pixel_bounds),
    "leaves": Kind("dead leaves, normalised", "nchw", photographs.dead_leaves, photographs.pixel_bounds),
    "pink": Kind("1/f images, normalised; option slope", "nchw", photographs.pink_noise, photographs.pixel_bounds),
    "white": Kind("N(0, 1) pixels: the baseline", "nchw", photographs.white_noise, photographs.pixel_bounds),
    "strokes": Kind("handwriting, 0..1 on 0", "nchw", photographs.strokes, _make_bounds(0, 1)),
    "log_mel": Kind("speech spectra, natural logarithms; option hop", "nctf", log_mel, _make_bounds(-10, 5)),
    "mfcc": Kind("speech cepstra; option hop", "nctf", mfcc, _make_bounds(-120, 30)),
    "waveforms": Kind("speech in -1..1; option rate", "nct", waveforms, _make_bounds(-1, 1)),
    "series": Kind("sensor readings, unit variance; option slope", "nct", series, _make_bounds(-3, 3)),
    "fields": Kind("1/f volumes or vectors, unit variance; option slope, 0 is white", "", fields, _make_bounds(-3, 3)),
    "features": Kind("correlated N(0, 1) columns; option shared", "", features, _make_bounds(-3, 3)),
    "uniform": Kind("independent U(0, 1)", "", uniform, _make_bounds(0, 1)),
    "tokens": Kind("token ids; options vocabulary, reserved, exponent (1 Zipf, 0 uniform)", "", tokens, None),
}
"""Every kind of input that `draw` knows. An outside prior is one more entry of the same form."""
