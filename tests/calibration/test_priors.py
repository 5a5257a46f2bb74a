"""The synthetic priors: what they promise about shape, units and statistics, and that a seed fixes them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import kurtosis

from spa_compiler.calibration.priors import kinds as kinds_module
from spa_compiler.calibration.priors import photographs
from spa_compiler.calibration.priors.kinds import (
    KINDS,
    NORMALISED,
    Scale,
    Source,
    Synthetic,
    draw,
    guess_axes,
    square_grid,
)
from spa_compiler.errors import UsageError

Array = npt.NDArray[np.float32]
Prior = Callable[[int, int, int, int, np.random.Generator], Array]

SHAPES = {
    "photographs": (5, 3, 20, 24),
    "scenes": (5, 3, 20, 24),
    "objects": (5, 3, 20, 24),
    "leaves": (5, 3, 20, 24),
    "pink": (5, 3, 20, 24),
    "white": (5, 3, 20, 24),
    "strokes": (5, 1, 28, 28),
    "log_mel": (5, 1, 49, 40),
    "mfcc": (5, 1, 49, 10),
    "waveforms": (5, 1, 2000),
    "series": (5, 7, 30),
    "fields": (5, 2, 6, 8, 10),
    "features": (5, 13),
    "uniform": (5, 3, 4),
    "tokens": (5, 16),
}
PHOTOGRAPHS = [photographs.object_scenes, photographs.dead_leaves, photographs.pink_noise, photographs.scenes]


def options(kind: str) -> dict[str, Any]:
    return {"vocabulary": 100} if kind == "tokens" else {}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_every_kind_has_a_test_shape() -> None:
    assert SHAPES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_finite_and_fixed_by_its_seed(kind: str) -> None:
    first, again, other = (draw(kind, SHAPES[kind], np.random.default_rng(s), **options(kind)) for s in (7, 7, 8))
    assert first.shape == SHAPES[kind]
    assert first.dtype == (np.int64 if kind == "tokens" else np.float32)
    assert np.isfinite(first).all()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert all(row.std() > 0 for row in first)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].axes])
@pytest.mark.parametrize("sizes", [(0, 1, 8, 8), (1, 1, 1, 1), (2, 5, 3, 1), (3, 2, 9, 16)], ids=str)
def test_degenerate_shapes_are_drawn(kind: str, sizes: tuple[int, ...], rng: np.random.Generator) -> None:
    shape = sizes[: len(KINDS[kind].axes)]
    x = draw(kind, shape, rng, axes=KINDS[kind].axes)
    assert x.shape == shape
    assert np.isfinite(x).all()


def test_a_draw_does_not_touch_the_global_generator() -> None:
    before = pickle.dumps(np.random.get_state())  # noqa: NPY002 - the global generator is what this test is about
    draw("photographs", (4, 3, 16, 16), np.random.default_rng(0))
    assert pickle.dumps(np.random.get_state()) == before  # noqa: NPY002


# Photographs


@pytest.mark.parametrize("prior", PHOTOGRAPHS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_photographs_stay_between_black_and_white(prior: Prior, channels: int, rng: np.random.Generator) -> None:
    x = prior(40, channels, 16, 16, rng)
    low, high = photographs.pixel_bounds(channels)
    assert (x >= low).all()
    assert (x <= high).all()


def test_the_bounds_of_pixels_are_those_of_imagenet() -> None:
    low, high = photographs.pixel_bounds(3)
    assert low.ravel() == pytest.approx([-2.118, -2.036, -1.804], abs=1e-3)
    assert high.ravel() == pytest.approx([2.249, 2.429, 2.640], abs=1e-3)


@pytest.mark.parametrize("prior", PHOTOGRAPHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_and_mean_are_those_of_photographs(prior: Prior, channels: int, rng: np.random.Generator) -> None:
    x = prior(600, channels, 32, 32, rng)
    contrast, mean = x.mean(1).std((1, 2)), x.mean((1, 2, 3))
    # Clipping takes a little of the 0.86, and chroma does not add to the mean over the channels.
    assert contrast.mean() == pytest.approx(0.82, abs=0.06)
    assert contrast.std() == pytest.approx(0.22, abs=0.05)
    assert mean.mean() == pytest.approx(0, abs=0.1)
    assert mean.std() == pytest.approx(0.57, abs=0.08)


@pytest.mark.parametrize("prior", PHOTOGRAPHS)
def test_colours_lie_along_the_principal_axes_of_imagenet(prior: Prior, rng: np.random.Generator) -> None:
    x = prior(600, 3, 32, 32, rng)
    values, vectors = np.linalg.eigh(np.cov(x.transpose(1, 0, 2, 3).reshape(3, -1)))
    ratio = values[::-1] / values[-1]
    # ImageNet has 1 : 0.086 : 0.021; chroma is wider here, as single parts of an object take odd colours.
    assert 0.06 < ratio[1] < 0.16
    assert 0.015 < ratio[2] < 0.05
    assert np.abs(vectors[:, -1]) == pytest.approx([0.5675, 0.5808, 0.5836], abs=0.03)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 9])
def test_colour_axes_are_orthogonal_and_led_by_luminance(channels: int) -> None:
    axes = photographs.colour_axes(channels)
    lengths = np.linalg.norm(axes, axis=0)
    assert axes.T @ axes == pytest.approx(np.diag(lengths**2), abs=1e-2)
    assert axes[:, 0] == pytest.approx(np.ones(channels), abs=0.03)
    assert (np.diff(lengths) < 0).all()


def spectral_slope(x: Array) -> float:
    """Exponent of the mean amplitude spectrum over the middle radial frequencies of images [n, h, w]."""
    amplitude = np.sqrt((np.abs(np.fft.rfft2(x)) ** 2).mean(0))
    frequency = np.hypot(np.fft.fftfreq(x.shape[1])[:, None], np.fft.rfftfreq(x.shape[2]))
    middle = (frequency > 2 / x.shape[1]) & (frequency < 0.4)
    return -float(np.polyfit(np.log(frequency[middle]), np.log(amplitude[middle]), 1)[0])


@pytest.mark.parametrize("slope", [0.0, 1.0, 1.5])
def test_pink_noise_has_the_slope_that_is_asked_for(slope: float, rng: np.random.Generator) -> None:
    fields = photographs.textures(np.full(200, slope), 1, 64, 64, rng)[:, 0]
    assert spectral_slope(fields) == pytest.approx(slope, abs=0.03)
    finished = draw("pink", (200, 1, 64, 64), rng, slope=slope)[:, 0]
    assert spectral_slope(finished) == pytest.approx(slope, abs=0.12)


@pytest.mark.parametrize("prior", [photographs.object_scenes, photographs.dead_leaves])
def test_scenes_have_edges(prior: Prior, rng: np.random.Generator) -> None:
    """Natural images fall as 1/f too, but unlike noise their differences are heavy-tailed (Ruderman 1994)."""
    x = prior(200, 1, 64, 64, rng)[:, 0]
    assert 0.8 < spectral_slope(x) < 1.6
    assert kurtosis(np.diff(x).ravel()) > 5
    assert kurtosis(np.diff(photographs.pink_noise(200, 1, 64, 64, rng, slope=1.0)).ravel()) < 3


def test_objects_stand_in_the_middle(rng: np.random.Generator) -> None:
    x = photographs.object_scenes(600, 1, 32, 32, rng)[:, 0]
    away = np.abs(x - np.median(x, axis=(1, 2), keepdims=True)).mean(0)
    assert away[12:20, 12:20].mean() > 1.3 * away[:, [0, -1]].mean()


def test_larger_scenes_are_as_sharp_in_pixels(rng: np.random.Generator) -> None:
    """The steepest step between neighbours does not shrink with the resolution, as if images were scaled up."""
    small, large = (photographs.object_scenes(60, 1, side, side, rng)[:, 0] for side in (32, 128))
    steepest = [np.quantile(np.abs(np.diff(x)).max((1, 2)), 0.5) for x in (small, large)]
    assert steepest[1] > 0.7 * steepest[0]


def test_photographs_mix_the_priors_in_any_part_of_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, name in enumerate(("object_scenes", "dead_leaves", "pink_noise")):
        monkeypatch.setattr(
            photographs, name, lambda n, *sizes, value=value: np.full((n, *sizes[:3]), value, np.float32)
        )
    kinds = photographs.scenes(1000, 1, 2, 2, np.random.default_rng(0))[:, 0, 0, 0]
    for part in (kinds[:500], kinds[500:]):
        assert np.bincount(part.astype(int)) / 500 == pytest.approx([0.6, 0.2, 0.2], abs=0.06)


def test_strokes_are_thin_ink_in_a_margin(rng: np.random.Generator) -> None:
    x = photographs.strokes(300, 1, 28, 28, rng)[:, 0]
    assert x.min() == 0
    assert x.max() == 1
    assert 0.05 < x.mean() < 0.2
    assert (x.max((1, 2)) > 0.9).all()
    assert x[:, [0, 1, -2, -1]].max() == 0
    extent = [np.ptp(np.flatnonzero(row.any(axis))) + 1 for row in x > 0.5 for axis in (0, 1)]
    assert np.reshape(extent, (-1, 2)).max(1).mean() == pytest.approx(22, abs=1.5)
    assert photographs.strokes(300, 1, 8, 8, rng).mean() > 0.15


# Other kinds


def test_fields_have_unit_variance_in_any_number_of_dimensions(rng: np.random.Generator) -> None:
    for shape in ((4000, 1, 31), (4000, 24), (500, 1, 16, 17), (300, 1, 8, 9, 10), (4000,)):
        assert kinds_module.fields(shape, rng).std() == pytest.approx(1, abs=0.05)


def test_spectra_are_modulated_by_syllables(rng: np.random.Generator) -> None:
    x = draw("log_mel", (300, 98, 40), rng)
    loudness = x.mean(2) - x.mean((1, 2))[:, None]
    assert loudness.std() > 0.7
    assert np.diff(loudness).std() < 0.6 * loudness.std()
    bands = np.corrcoef((x - x.mean((1, 2), keepdims=True)).reshape(-1, 40).T)
    assert bands[10, 11] > 0.6
    assert bands[10, 11] > bands[10, 14] > bands[5, 35]


def test_cepstra_decay_and_start_with_the_energy(rng: np.random.Generator) -> None:
    x = draw("mfcc", (300, 49, 10), rng)
    deviation = x.std((0, 1))
    assert deviation[0] > 4 * deviation[1]
    assert deviation[1:4].min() > deviation[6:].max()
    assert x[..., 0].mean() < -10
    energy = draw("log_mel", (300, 49, 40), np.random.default_rng(5)).mean(2)
    first = draw("mfcc", (300, 49, 10), np.random.default_rng(5))[..., 0]
    assert first == pytest.approx(energy * 40 * np.sqrt(2 / 40), rel=1e-3, abs=1e-3)


def test_further_channels_of_spectra_are_derivatives(rng: np.random.Generator) -> None:
    x = draw("log_mel", (4, 3, 30, 20), rng)
    assert x[:, 1] == pytest.approx(np.gradient(x[:, 0], axis=1), abs=1e-5)
    assert x[:, 2] == pytest.approx(np.gradient(x[:, 1], axis=1), abs=1e-5)


def test_waveforms_are_voiced_speech_within_one(rng: np.random.Generator) -> None:
    x = draw("waveforms", (60, 16000), rng)
    peaks = np.abs(x).max(1)
    assert 0.05 <= peaks.min() < peaks.max() <= 0.95
    power = (np.abs(np.fft.rfft(x)) ** 2).sum(0)
    assert power[:4000].sum() > 0.8 * power.sum()
    # Amplitude modulation: the loudest tenth of a second against the median one.
    loudness = x.reshape(60, 10, 1600).std(2)
    assert np.median(loudness.max(1) / np.median(loudness, axis=1)) > 1.3
    # Voiced: the autocorrelation peaks again within the periods of 80 to 300 Hz.
    spectrum = np.abs(np.fft.rfft(x, 32000)) ** 2
    periodic = np.fft.irfft(spectrum)[:, 53:200].max(1) / np.fft.irfft(spectrum)[:, 0]
    assert np.median(periodic) > 0.4


def test_features_are_correlated_standard_normals(rng: np.random.Generator) -> None:
    x = draw("features", (4000, 12), rng)
    assert x.std(0) == pytest.approx(np.ones(12), abs=0.06)
    correlation = np.abs(np.corrcoef(x.T)[np.triu_indices(12, 1)])
    independent = draw("features", (4000, 12), rng, shared=0.0)
    assert correlation.mean() > 0.15
    assert np.abs(np.corrcoef(independent.T)[np.triu_indices(12, 1)]).max() < 0.08


def test_series_drift_together(rng: np.random.Generator) -> None:
    x = draw("series", (500, 6, 64), rng)
    assert x.std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(x[..., :-1].ravel(), x[..., 1:].ravel())[0, 1] > 0.5
    assert np.abs(np.corrcoef(x.transpose(1, 0, 2).reshape(6, -1))[np.triu_indices(6, 1)]).max() > 0.3


def test_tokens_follow_zipf_or_are_uniform(rng: np.random.Generator) -> None:
    x = draw("tokens", (400, 250), rng, vocabulary=1000, reserved=100)
    assert x.min() == 100
    assert x.max() <= 999
    counts = np.bincount(x.ravel() - 100, minlength=900)
    assert counts[0] / counts[[20, 21]].mean() == pytest.approx((20.5 + 2.7) / 2.7, rel=0.2)
    flat = np.bincount(draw("tokens", (400, 250), rng, vocabulary=1000, exponent=0).ravel(), minlength=1000)
    assert flat.min() > 50
    assert flat.max() < 160


# Shapes and scales


@pytest.mark.parametrize(
    ("kind", "shape", "axes"),
    [
        ("objects", (2, 3, 32, 32), "nchw"),
        ("objects", (2, 32, 32, 3), "nhwc"),
        ("objects", (2, 1, 28, 28), "nchw"),
        ("objects", (2, 28, 28), "nhw"),
        ("objects", (2, 64, 8, 8), "nchw"),
        ("mfcc", (2, 1, 49, 10), "nctf"),
        ("mfcc", (2, 49, 10, 1), "ntfc"),
        ("log_mel", (2, 80, 3000), "nft"),
        ("log_mel", (2, 1, 40, 98), "ncft"),
        ("waveforms", (2, 16000), "nt"),
        ("waveforms", (2, 16000, 1), "ntc"),
        ("series", (2, 12, 500), "nct"),
        ("features", (2, 1, 1, 5), ""),
    ],
)
def test_axes_are_guessed_from_the_shape(kind: str, shape: tuple[int, ...], axes: str) -> None:
    assert guess_axes(kind, shape) == axes


def test_the_order_of_the_axes_only_moves_the_data() -> None:
    def one(shape: tuple[int, ...], **keywords: str) -> Array:
        return np.asarray(draw(keywords.pop("kind"), shape, np.random.default_rng(1), **keywords))  # type: ignore[arg-type]

    planes = one((3, 3, 12, 16), kind="objects")
    assert np.array_equal(one((3, 12, 16, 3), kind="objects").transpose(0, 3, 1, 2), planes)
    assert np.array_equal(one((3, 16, 12, 3), kind="objects", axes="nwhc").transpose(0, 3, 2, 1), planes)
    assert np.array_equal(one((3, 20, 49), kind="log_mel").transpose(0, 2, 1), one((3, 49, 20), kind="log_mel"))
    assert np.array_equal(one((3, 49, 20, 1), kind="log_mel")[..., 0], one((3, 1, 49, 20), kind="log_mel")[:, 0])


def scaled(kind: str, shape: tuple[int, ...], scale: Scale | None) -> Array:
    return np.asarray(draw(kind, shape, np.random.default_rng(2), scale=scale))


def test_scales_map_black_and_white_to_what_the_model_expects() -> None:
    shape = (30, 3, 16, 16)
    normalised, unit = scaled("objects", shape, None), scaled("objects", shape, Scale())
    assert unit.min() == pytest.approx(0, abs=1e-6)
    assert unit.max() == pytest.approx(1, abs=1e-6)
    assert scaled("objects", shape, NORMALISED) == pytest.approx(normalised, abs=1e-5)
    assert scaled("objects", shape, Scale(0, 255)) == pytest.approx(255 * unit, abs=1e-3)
    assert scaled("objects", shape, Scale(-1, 1)) == pytest.approx(2 * unit - 1, abs=1e-5)
    caffe = scaled("objects", shape, Scale(0, 255, mean=(104, 117, 123), bgr=True))
    assert caffe[:, 0] == pytest.approx(255 * unit[:, 2] - 104, abs=1e-3)
    last = scaled("objects", (30, 16, 16, 3), Scale(0, 1, std=(0.1, 0.2, 0.5)))
    assert last[..., 2] == pytest.approx(unit[:, 2] / 0.5, abs=1e-5)
    assert scaled("strokes", (9, 28, 28), Scale(0, 255)).max() == 255
    assert scaled("uniform", (2000, 5), Scale(-3, 7)).mean() == pytest.approx(2, abs=0.2)


def test_a_synthetic_source_reshapes_and_casts() -> None:
    source: Source = Synthetic("strokes", (784, 1))
    x = source.draw(6, np.random.default_rng(0))
    assert x.shape == (6, 784, 1)
    assert np.array_equal(x.reshape(6, 1, 28, 28), draw("strokes", (6, 1, 28, 28), np.random.default_rng(0)))
    pixels = Synthetic("photographs", (8, 8, 3), scale=Scale(0, 255), dtype="uint8").draw(20, np.random.default_rng(0))
    assert pixels.dtype == np.uint8
    assert pixels.min() < 10
    assert pixels.max() > 245
    assert Synthetic("mfcc", (490,), grid=(49, 10), dtype="float16").draw(2, np.random.default_rng(0)).shape == (2, 490)
    spectra = Synthetic("mfcc", (49, 10, 1), scale=Scale(-128, 127), dtype="int8", options={"hop": 0.03})
    assert spectra.draw(2, np.random.default_rng(0)).dtype == np.int8


@pytest.mark.parametrize(
    ("kind", "shape", "grid"),
    [
        ("strokes", (784,), (1, 28, 28)),
        ("objects", (3072,), (3, 32, 32)),
        ("objects", (784, 1), (1, 28, 28)),
        ("objects", (28, 28), (28, 28)),
        ("objects", (790,), (790,)),
        ("features", (784,), (784,)),
    ],
)
def test_flattened_pictures_are_square(kind: str, shape: tuple[int, ...], grid: tuple[int, ...]) -> None:
    assert square_grid(kind, shape) == grid


@pytest.mark.parametrize(
    ("kind", "shape", "keywords", "message"),
    [
        ("cats", (2, 3, 8, 8), {}, "unknown kind of input 'cats'; known are photographs"),
        ("objects", (2, 490), {}, "give a grid"),
        ("objects", (2, 3, 8, 8), {"axes": "nchz"}, "do not fit"),
        ("objects", (2, 3, 8, 8), {"axes": "nhw"}, "do not fit"),
        ("features", (2, 8), {"axes": "nc"}, "do not fit"),
        ("objects", (2, 3, 8, 8), {"slope": 1.0}, "slope"),
        ("tokens", (2, 8), {}, "vocabulary"),
        ("tokens", (2, 8), {"vocabulary": 9, "scale": Scale()}, "cannot be scaled"),
        ("objects", (2, 3, 8, 8), {"scale": Scale(mean=(1, 2))}, "2 entries, but the input has 3 channels"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(
    kind: str, shape: tuple[int, ...], keywords: dict[str, Any], message: str, rng: np.random.Generator
) -> None:
    with pytest.raises(UsageError, match=message):
        draw(kind, shape, rng, **keywords)
