"""Crops of a bank of real photographs, which the package carries: the prior for pictures of 64 pixels and more.

>>> crops(2, 3, 64, 64, np.random.default_rng(0)).shape                  # normalised, like the drawn priors
(2, 3, 64, 64)
>>> recipes = draw_recipes(1000, np.random.default_rng(0))               # a pool costs nothing until it is rendered
>>> render(recipes[:2], 3, 64, 64).shape
(2, 3, 64, 64)

A few dozen varied photographs are enough: sixteen kept as much accuracy of MobileNetV2 as 138 (docs/experiments.md).
banks/photographs/LICENSE.md lists authors and licences, tools/banks/photographs.py makes the bank.
"""

from __future__ import annotations

import importlib.resources
import math
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from spa_compiler.calibration.priors.photographs import pixel_statistics

Array = npt.NDArray[Any]
FOLDER = "banks/photographs"
LEAST_AREA = 0.03
"""Share of the largest rectangle of the wanted shape that a crop covers at least; logarithms are uniform."""
LEAST_SIDE = 40
"""Pixels of a crop's shorter side at least."""
CONTRAST_RANGE, BRIGHTNESS_RANGE, TINT = (0.6, 1.4), (0.7, 1.3), 12.0
"""Factors on the deviation from the mean colour and on the mean, and the deviation of a colour added, of 255."""
SHUFFLED = 0.3
"""Chance that the colours change places."""
ORDERS = np.array(list(permutations(range(3))))
LUMA = (0.299, 0.587, 0.114)
RECIPE = np.dtype(
    [
        ("photograph", np.int64), ("area", np.float64), ("place", np.float64, 2), ("mirrored", np.bool_),
        ("contrast", np.float64), ("brightness", np.float64), ("tint", np.float64, 3), ("order", np.int64),
    ]
)  # fmt: skip
"""All that makes one crop: which photograph, how much of it and where, and how its colours change."""


@cache
def load_photographs() -> tuple[Image.Image, ...]:
    """The photographs of the bank, in the order of their names."""
    folder = importlib.resources.files("spa_compiler.calibration.priors").joinpath(FOLDER)
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".webp")), key=lambda f: f.name)
    opened = []
    for file in files:
        with file.open("rb") as stream:
            opened.append(Image.open(stream).convert("RGB"))
    return tuple(opened)


def draw_recipes(n: int, rng: np.random.Generator) -> Array:
    """Recipes of n crops."""
    out = np.empty(n, RECIPE)
    out["photograph"] = rng.integers(len(load_photographs()), size=n)
    out["area"] = np.exp(rng.uniform(math.log(LEAST_AREA), 0, n))
    out["place"] = rng.random((n, 2))
    out["mirrored"] = rng.random(n) < 0.5
    out["contrast"] = rng.uniform(*CONTRAST_RANGE, n)
    out["brightness"] = rng.uniform(*BRIGHTNESS_RANGE, n)
    out["tint"] = TINT * rng.standard_normal((n, 3))
    out["order"] = np.where(rng.random(n) < SHUFFLED, rng.integers(len(ORDERS), size=n), 0)
    return out


def render(recipes: Array, channels: int, height: int, width: int) -> Array:
    """The crops [n, channels, height, width], normalised: luminance for one channel, else colours in turn."""
    out = np.empty((len(recipes), channels, height, width), np.float32)
    mean, deviation = pixel_statistics(channels)
    for i, recipe in enumerate(recipes):
        pixels = _change_colours(_cut(recipe, height, width), recipe)
        if channels == 3:
            planes = pixels.transpose(2, 0, 1)
        else:
            grey = pixels @ np.array(LUMA)
            planes = np.stack([grey, *(pixels[..., k % 3] for k in range(channels - 1))])
        out[i] = (planes / 255 - mean) / deviation
    return out


def _cut(recipe: Array, height: int, width: int) -> Array:
    """The part of the photograph in the wanted shape, [height, width, 3] in 0..255."""
    image = load_photographs()[int(recipe["photograph"])]
    largest = min(image.width / width, image.height / height)
    scale = min(largest, max(largest * math.sqrt(float(recipe["area"])), LEAST_SIDE / min(height, width)))
    wide, high = scale * width, scale * height
    across, down = (float(f) for f in recipe["place"])
    left, top = across * (image.width - wide), down * (image.height - high)
    box = (left, top, min(left + wide, image.width), min(top + high, image.height))
    made = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(made, np.float32)
    return pixels[:, ::-1] if recipe["mirrored"] else pixels


def _change_colours(pixels: Array, recipe: Array) -> Array:
    mean, factor = pixels.mean((0, 1)), np.float32(recipe["contrast"])
    shift = mean * (recipe["brightness"] - factor) + recipe["tint"]
    changed = pixels * factor + shift.astype(np.float32)
    return np.asarray(np.clip(changed, 0, 255, out=changed)[..., ORDERS[int(recipe["order"])]])


def crops(n: int, channels: int, height: int, width: int, rng: np.random.Generator | Array) -> Array:
    """Random crops of photographs, mirrored, of other contrast, brightness and tint: 3 to 100 % of their area.

    Or those of given recipes in place of a generator.
    """
    recipes = draw_recipes(n, rng) if isinstance(rng, np.random.Generator) else rng
    return render(recipes, channels, height, width)


__all__ = ["crops", "draw_recipes", "load_photographs", "render"]
