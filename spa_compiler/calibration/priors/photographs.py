"""Synthetic images: priors for photographs and handwriting, drawn by numpy alone.

Photographs are drawn in opponent coordinates (luminance first, then colour differences), given the contrast of a
photograph and turned into channels along the principal axes of natural colour:

>>> object_scenes(2, 3, 32, 32, np.random.default_rng(0)).shape
(2, 3, 32, 32)

All are float32 of shape [n, channels, height, width] and *normalised*: pixel value minus MEAN over DEVIATION, so black
and white lie near -2 and 2.3 (`pixel_bounds`). Strokes alone are 0..1. The constants of the object scenes were compared
on CIFAR-10 networks at 32 x 32 pixels only; what depends on resolution follows the scale invariance of natural images
(Ruderman 1994; Lee, Mumford and Huang 2001). Every draw depends on the generator and the shape, on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy

from spa_compiler.calibration.priors.settings import PRIORS

Array = npt.NDArray[np.float32]
Prior = Callable[..., Array]

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet pixels in 0..1, red, green, blue."""

GREY_MEAN, GREY_DEVIATION = 0.449, 0.226
"""The same for images without three channels: the average over the colours."""

_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array([[0.5675, 0.7192, 0.4009], [0.5808, -0.0045, -0.8140], [0.5836, -0.6948, 0.4203]])
"""Principal components of ImageNet colours (Krizhevsky et al. 2012, section 4.1; constants of fb.resnet.torch)."""

_BATCH_PIXELS = 1 << 16
"""Pixels drawn at once: what stays in the processor's cache. Part of the definition of a draw, so a constant."""

_REFERENCE = 32
"""Side in pixels at which the constants of the object scenes were compared."""


def colour_axes(channels: int) -> npt.NDArray[np.float64]:
    """Matrix [channels, coordinates] from opponent coordinates of unit variance to normalised channels.

    Three channels use the ImageNet axes, sqrt(eigenvalue) long, with luminance scaled to about one. Other numbers get
    cosine axes (all alike, then ever finer differences) whose lengths fall as those of colour do.
    """
    if channels == 3:
        axes = _EIGENVECTORS * np.sqrt(_EIGENVALUES / _EIGENVALUES[0])
    else:
        k = np.arange(channels)
        axes = np.cos(np.pi * (k[:, None] + 0.5) * k / channels)
        axes /= np.linalg.norm(axes, axis=0) * np.concatenate([[1], PRIORS.chroma_fall * k[1:]])
    return np.asarray(axes * np.sqrt(channels), np.float64)


def pixel_statistics(channels: int) -> tuple[Array, Array]:
    """Mean and deviation per channel, [channels, 1, 1], by which a pixel value in 0..1 is normalised."""
    mean = PIXEL_MEAN if channels == 3 else (GREY_MEAN,) * channels
    deviation = PIXEL_DEVIATION if channels == 3 else (GREY_DEVIATION,) * channels
    return np.array(mean, np.float32)[:, None, None], np.array(deviation, np.float32)[:, None, None]


def pixel_bounds(channels: int) -> tuple[Array, Array]:
    """Normalised black and white per channel, each [channels, 1, 1]."""
    mean, deviation = pixel_statistics(channels)
    return -mean / deviation, (1 - mean) / deviation


def finish(x: Array, rng: np.random.Generator) -> Array:
    """Opponent coordinates [n, k, h, w] to normalised channels of the same shape: contrast, mean, colour, pixel range.

    Luminance gets a deviation of its own per image, the other coordinates keep their size relative to it.
    """
    n, channels = x.shape[:2]
    x = x - x.mean((2, 3), keepdims=True)
    contrast = np.clip(rng.normal(PRIORS.contrast, PRIORS.contrast_spread, (n, 1, 1, 1)), *PRIORS.contrast_range)
    x *= (contrast / (x[:, :1].std((2, 3), keepdims=True) + 1e-3)).astype(np.float32)
    x += _normal(rng, 0, PRIORS.mean_spread, n, channels, 1, 1)
    mixed: Array = np.matmul(colour_axes(channels).astype(np.float32), x.reshape(n, channels, -1)).reshape(x.shape)
    np.clip(mixed, *pixel_bounds(channels), out=mixed)
    return mixed


def object_scenes(n: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Array:
    """Photographs of a thing: a background and one object of 2 to 8 correlated, shaded, textured parts.

    Backgrounds are a sky over a ground, plain or soft; parts are superellipses around the object's centre, most of them
    along its axes and in its colour. As calibration inputs, class-balanced, about 8 points of accuracy better than dead
    leaves and pink noise when a CIFAR-10 ResNet-20 loses half of its inner channels.
    """
    return in_batches(_scene_batch, (n, channels, height, width), rng)


def dead_leaves(n: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Array:
    """Occluding ellipses whose radii fall as r^-3, each of its own colour and roughness (Lee et al. 2001)."""
    return in_batches(_leaf_batch, (n, channels, height, width), rng)


def pink_noise(
    n: int, channels: int, height: int, width: int, rng: np.random.Generator, slope: float | None = None
) -> Array:
    """Gaussian noise with amplitude 1/f^slope per coordinate; by default each image draws its slope from 0.8 to 1.4."""

    def batch(n: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Array:
        slopes = rng.uniform(0.8, 1.4, n) if slope is None else np.full(n, slope)
        return finish(textures(slopes, channels, height, width, rng), rng)

    return in_batches(batch, (n, channels, height, width), rng)


def white_noise(n: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Array:
    """Independent N(0, 1) per pixel and channel, not clipped: the baseline of the structured priors."""
    return rng.standard_normal((n, channels, height, width), np.float32)


def scenes(n: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Array:
    """Small pictures in random order: object scenes, with dead leaves and pink noise as a hedge."""
    kinds = rng.choice(3, n, p=PRIORS.mixture)
    out = np.empty((n, channels, height, width), np.float32)
    for kind, prior in enumerate((object_scenes, dead_leaves, pink_noise)):
        rows = np.flatnonzero(kinds == kind)
        out[rows] = prior(len(rows), channels, height, width, rng)
    return out


def textures(
    slopes: npt.NDArray[np.float64], channels: int, height: int, width: int, rng: np.random.Generator
) -> Array:
    """Random-phase fields of unit deviation, [n, channels, h, w], with amplitude 1/f^slope; one slope per image.

    The constant term is that of the lowest frequency, so a texture also shifts its part's colour a little.
    """
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1 / max(height, width)
    fall = np.exp(-slopes[:, None, None].astype(np.float32) * np.log(frequency).astype(np.float32))
    shape = (len(slopes), channels, height, width // 2 + 1)
    spectrum = rng.standard_normal((*shape, 2), np.float32).view(np.complex64)[..., 0]
    field: Array = scipy.fft.irfft2(spectrum * fall[:, None], s=(height, width))
    field /= field.std((2, 3), keepdims=True) + np.float32(1e-6)
    return field


def in_batches(batch: Prior, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Fill `shape` by calls of batch(rows, *shape[1:], rng) on as many rows as the cache holds."""
    out = np.empty(shape, np.float32)
    step = max(1, _BATCH_PIXELS // math.prod(shape[2:]))
    for start in range(0, shape[0], step):
        out[start : start + step] = batch(min(step, shape[0] - start), *shape[1:], rng)
    return out


def _normal(rng: np.random.Generator, mean: float, deviation: float, *shape: int) -> Array:
    return (mean + deviation * rng.standard_normal(shape)).astype(np.float32)


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Array:
    return rng.uniform(low, high, shape).astype(np.float32)


def _choose_rows(rng: np.random.Generator, chance: float, yes: Array, no: Array | float) -> Array:
    """`yes` with the given chance, else `no`, row by row."""
    chosen = rng.random(len(yes)) < chance
    return np.where(chosen.reshape(-1, *(1,) * (yes.ndim - 1)), yes, no).astype(np.float32)


def _grid(height: int, width: int) -> tuple[Array, Array]:
    """Rows [h, 1] and columns [w] of an image in -1..1."""
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return rows, np.linspace(-1, 1, width, dtype=np.float32)


def _step(x: Array) -> Array:
    """Logistic step, in place: a soft edge in x of width about one."""
    np.negative(np.clip(x, -60, 60, out=x), out=x)
    np.exp(x, out=x)
    x += 1
    np.reciprocal(x, out=x)
    return x


def _focus(height: int, width: int) -> np.float32:
    """Factor on edge sharpness that keeps edges as sharp in pixels as at the reference size, as cameras do."""
    return np.float32(max(1, height / _REFERENCE, width / _REFERENCE))


def _scene_batch(n: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Array:
    image = _background(n, channels, height, width, rng)
    rough = textures(rng.uniform(*PRIORS.texture_slopes, n), channels, height, width, rng)
    rough *= _uniform(rng, *PRIORS.texture_sizes, n, 1, 1, 1)
    _paint_object(image, rough, rng)
    return finish(image, rng)[rng.permutation(n)]


def _background(n: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Array:
    """A third each: sky over ground with a wavy horizon, plain, soft noise; all textured and shaded from above."""
    rows, columns = _grid(height, width)
    image = np.broadcast_to(_normal(rng, 0, 1, n, channels, 1, 1), (n, channels, height, width)).copy()
    kind = rng.integers(3, size=n)
    sky, soft = np.flatnonzero(kind == 0), np.flatnonzero(kind == 1)
    waves = np.sin(columns * _uniform(rng, 1, 5, len(sky), 1, 1) + _uniform(rng, 0, 6, len(sky), 1, 1))
    edge = _uniform(rng, 0.02, 0.2, len(sky)) / _focus(height, width)
    ground = _step((rows - _uniform(rng, -0.5, 0.7, len(sky), 1, 1) - np.float32(0.1) * waves) / edge[:, None, None])
    image[sky] += ground[:, None] * (_normal(rng, 0, 1, len(sky), channels, 1, 1) - image[sky])
    image[soft] += np.float32(0.7) * textures(rng.uniform(1.3, 2, len(soft)), channels, height, width, rng)
    rough = textures(rng.uniform(0.8, 1.6, n), channels, height, width, rng)
    image += rough * _uniform(rng, 0.02, 0.5, n, 1, 1, 1)
    image[:, 0] += _normal(rng, 0, 0.4, n, 1, 1) * rows
    return image


def _paint_object(image: Array, rough: Array, rng: np.random.Generator) -> None:
    """Paint one object per scene, back to front, in place; scenes are sorted by the number of parts, most first."""
    n, channels = image.shape[:2]
    colour = _normal(rng, 0, PRIORS.object_colour, n, channels)
    centre, size = _normal(rng, 0, PRIORS.object_spread, n, 2), _uniform(rng, *PRIORS.object_sizes, n)
    upright, tilt = PRIORS.object_tilt
    angle = _choose_rows(rng, upright, _normal(rng, 0, tilt, n), _uniform(rng, 0, 2 * np.pi, n))
    fewest, most = PRIORS.part_counts
    counts = np.sort(rng.integers(fewest, most + 1, n))[::-1]
    (along, tilt), (alike, spread) = PRIORS.part_tilt, PRIORS.part_colour
    for part in range(int(counts[0])):
        k = int(np.count_nonzero(counts > part))
        place, radius = centre[:k], size[:k]
        if part:
            place = place + _normal(rng, 0, 1, k, 2) * np.array(PRIORS.object_places, np.float32) * radius[:, None]
            radius = radius * _uniform(rng, *PRIORS.part_sizes, k)
        turn = angle[:k] + _choose_rows(rng, along, _normal(rng, 0, tilt, k), np.pi / 2)
        shift = _choose_rows(rng, alike, _normal(rng, 0, spread, k, channels), _normal(rng, 0, 1, k, channels))
        _paint_part(image[:k], rough[:k], place, radius, turn, colour[:k] + shift, rng)


def _paint_part(
    image: Array, rough: Array, place: Array, radius: Array, turn: Array, colour: Array, rng: np.random.Generator
) -> None:
    """Blend a superellipse |a/r|^q + |b/(r e)|^q < 1 into every image, shaded along its minor axis b."""
    n, _, height, width = image.shape
    rows, columns = _grid(height, width)
    x, y = columns - place[:, :1], rows[:, 0] - place[:, 1:]
    cosine, sine, scale = np.cos(turn)[:, None], np.sin(turn)[:, None], radius[:, None]
    along = (cosine * x / scale)[:, None, :] + (sine * y / scale)[:, :, None]
    across = (cosine * y / scale)[:, :, None] - (sine * x / scale)[:, None, :]
    paint = rough + colour[:, :, None, None]
    paint[:, 0] += _normal(rng, 0, PRIORS.part_shade, n, 1, 1) * across
    distance = along**2, (across / _uniform(rng, *PRIORS.part_flatness, n, 1, 1)) ** 2
    power = rng.choice([2, 2, 4, 8], n)
    for above in (2, 4):
        for square in distance:
            square[power > above] **= 2
    sharpness = _uniform(rng, *PRIORS.edge_sharpness, n) * _focus(height, width)
    cover = _step((1 - distance[0] - distance[1]) * sharpness[:, None, None])
    paint -= image
    paint *= cover[:, None]
    image += paint


def _leaf_batch(n: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Array:
    """Labels are drawn at twice the resolution and averaged, so that edges are as soft as a camera's."""
    rough = textures(rng.uniform(0.8, 1.6, n), channels, height, width, rng)
    out = np.empty((n, channels, height, width), np.float32)
    for i in range(n):
        labels, leaves = _leaf_labels(2 * height, 2 * width, rng)
        colours = _normal(rng, 0, 0.5, 1, channels) + _normal(rng, 0, 1, leaves, channels)
        roughness = _uniform(rng, 0.02, 0.5, leaves)
        both = np.concatenate([colours, roughness[:, None]], axis=1)[labels]
        smooth = both.reshape(height, 2, width, 2, channels + 1).mean((1, 3)).transpose(2, 0, 1)
        out[i] = smooth[:channels] + smooth[channels] * rough[i]
    return finish(out, rng)


def _leaf_labels(height: int, width: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.intp], int]:
    """Index of the topmost leaf per pixel, and the number of leaves; their areas add up to about three images."""
    side, labels = max(height, width), np.zeros((height, width), np.intp)
    smallest, largest = max(3.0, side / 24), max(4.0, side / 2)
    mean_area = 2 * np.pi * 0.7 * np.log(largest / smallest) / (smallest**-2 - largest**-2)
    leaves = int(np.ceil(3 * height * width / mean_area))
    # Inverse of the cumulative distribution of p(r) ~ r^-3 between the two radii.
    radius = (smallest**-2 - rng.random(leaves) * (smallest**-2 - largest**-2)) ** -0.5
    row, column = rng.random(leaves) * height, rng.random(leaves) * width
    turn, flat = rng.random(leaves) * np.pi, rng.uniform(0.4, 1, leaves)
    cosine, sine = np.cos(turn), np.sin(turn)
    top, left = np.maximum(row - radius, 0).astype(int), np.maximum(column - radius, 0).astype(int)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    for i in range(leaves):
        y = rows[top[i] : int(row[i] + radius[i]) + 1] - row[i]
        x = columns[left[i] : int(column[i] + radius[i]) + 1] - column[i]
        along, across = x * cosine[i] + y * sine[i], y * cosine[i] - x * sine[i]
        inside = along**2 + (across / flat[i]) ** 2 < radius[i] ** 2
        labels[top[i] : top[i] + len(y), left[i] : left[i] + len(x)][inside] = i + 1
    return labels, leaves + 1


def strokes(n: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Array:
    """Handwriting: a pen path of 1 to 4 arcs with corners and jumps, in 0..1 on a background of 0, channels alike.

    The longer side of the path's bounding box is centred and spans 20 of 28 pixels as in MNIST (LeCun et al. 1998), or
    all but a pixel of smaller images, as in the digits of the UCI repository.
    """
    return in_batches(_stroke_batch, (n, channels, height, width), rng)


_ARCS, _POINTS = 4, 13


def _stroke_batch(n: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Array:
    side = min(height, width)
    path, arcs = _pen_paths(n, rng)
    path *= 20 / 28 if side >= 20 else max(1 - 1 / side, 0.5)
    rows, columns = _grid(height, width)
    nearest = np.full((n, height, width), np.inf, np.float32)
    for arc in range(_ARCS):
        drawn = np.flatnonzero(arcs > arc)
        for i in range(_POINTS - 1):
            square = _squared_distance(rows, columns, path[drawn, arc, i], path[drawn, arc, i + 1])
            nearest[drawn] = np.minimum(nearest[drawn], square)
    pen = _uniform(rng, 0.04, 0.1, n, 1, 1) + 1 / side
    ink = np.clip((pen - np.sqrt(nearest)) * (side / 2) + 0.5, 0, 1).astype(np.float32)
    return np.repeat(ink[:, None], channels, axis=1)


def _squared_distance(rows: Array, columns: Array, start: Array, end: Array) -> Array:
    """Of every pixel [h, w] to the line segments from start to end [n, 2] (x, y), as [n, h, w]."""
    x, y = columns - start[:, 0, None, None], rows - start[:, 1, None, None]
    dx, dy = (end - start).T[:, :, None, None]
    along = np.clip((x * dx + y * dy) / (dx**2 + dy**2 + np.float32(1e-9)), 0, 1)
    square: Array = (x - along * dx) ** 2 + (y - along * dy) ** 2
    return square


def _pen_paths(n: int, rng: np.random.Generator) -> tuple[Array, npt.NDArray[np.int64]]:
    """Points [n, arcs, points, 2] whose bounding box spans -1..1 at its longer side, and how many arcs are drawn."""
    turns, shape = (0, 1, np.pi, 2 * np.pi), (n, _ARCS)
    bend = rng.choice(turns, shape, p=(0.35, 0.25, 0.25, 0.15)) * rng.choice([-1, 1], shape) + rng.normal(0, 0.3, shape)
    corner = rng.normal(0, 1.2, shape)
    corner[:, 0] = rng.uniform(0, 2 * np.pi, n)
    start = np.cumsum(corner + bend, axis=1) - bend
    heading = start[..., None] + bend[..., None] * np.linspace(0, 1, _POINTS)
    step = np.stack([np.cos(heading), np.sin(heading)], axis=-1) * rng.uniform(0.4, 1.6, (*shape, 1, 1)) / _POINTS
    step[:, :, 0] = (rng.random((*shape, 1)) < 0.25) * rng.normal(0, 0.5, (*shape, 2))
    path = np.cumsum(step.reshape(n, -1, 2), axis=1).reshape(step.shape)
    arcs = rng.choice(np.arange(1, _ARCS + 1), n, p=(0.15, 0.3, 0.35, 0.2))
    drawn = (np.arange(_ARCS) < arcs[:, None])[..., None, None]
    low = np.where(drawn, path, np.inf).min((1, 2), keepdims=True)
    high = np.where(drawn, path, -np.inf).max((1, 2), keepdims=True)
    wide = (high - low)[..., 0] > (high - low)[..., 1]
    path = (2 * path - low - high) / (high - low).max(-1, keepdims=True)
    # Script stands upright: four in five of the paths that lie are turned.
    upright = np.where((wide & (rng.random((n, 1, 1)) < 0.8))[..., None], path[..., ::-1], path)
    return upright.astype(np.float32), arcs
