"""Pictures from files: JPEG, PNG and WebP, turned as EXIF says, resized and cropped to what the input takes.

Sizes are read from the header and compared before memory is taken. The resized picture is cut from the region of the
source that it shows, so that a long strip costs no more than a square.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from spa_compiler.datasets.fitting import PICTURE_CHANNELS
from spa_compiler.datasets.preprocess import Preprocess
from spa_compiler.errors import UsageError

Array = NDArray[Any]
FORMATS = ("JPEG", "PNG", "WEBP")
MOST_PIXELS = 1 << 27
"""Pixels of a file that is decoded: 400 MB in colour, and more than any camera's."""
CROPPED_SIDE = 64
"""Square inputs of this side and more are cropped from the middle of a picture, as classifiers of photographs are
measured; smaller ones (CIFAR, digits) take the whole."""
SHORTER_SIDE = 256 / 224
"""The shorter side before the crop, in sides of the input: what ImageNet networks are measured with."""
DEFAULT_SIDE = 224
"""Of inputs that take any size."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
EXIF_TURNED = (5, 6, 7, 8)
"""Orientations that exchange width and height."""
ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class PictureForm:
    """How an input takes a picture: sizes, channels, and the shape of its row (`row`), channels first or last."""

    height: int
    width: int
    channels: int
    is_last: bool
    row: tuple[int, ...]


@dataclass(frozen=True)
class Resizing:
    """The shorter side, or both sides, and what is cut from the middle of that."""

    sides: tuple[int, ...]
    crop: tuple[int, int]
    is_said: bool

    def describe(self) -> str:
        """In a report's words."""
        size = "x".join(map(str, self.sides))
        first = f"shorter side resized to {size}" if len(self.sides) == 1 else f"resized to {size}"
        cut = "x".join(map(str, self.crop))
        return f"{first}, {cut} cut from the middle" if len(self.sides) == 1 or self.sides != self.crop else first

    def find_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a picture of this size that is shown. Raises ValueError where the crop does not fit in."""
        across, down = self.sides[::-1] if len(self.sides) == 2 else (self.sides[0] / min(width, height),) * 2
        if len(self.sides) == 2:
            across, down = across / width, down / height
        w, h = self.crop[1] / across, self.crop[0] / down
        if w > width + 1e-6 or h > height + 1e-6:
            raise ValueError
        left, top = max(0.0, (width - w) / 2), max(0.0, (height - h) / 2)
        return left, top, min(float(width), left + w), min(float(height), top + h)


def find_picture_form(dims: Sequence[int], preprocess: Preprocess) -> PictureForm | None:
    """How an input of these sizes (the rows first, 0: any) takes a picture; None where it takes none."""
    row = tuple(dims[1:])
    side = preprocess.crop or (preprocess.resize * 2)[:2] or (DEFAULT_SIDE, DEFAULT_SIDE)
    if len(row) == 3:
        first = row[0] in PICTURE_CHANNELS and not (row[2] in PICTURE_CHANNELS and row[2] > row[0])
        if not first and row[2] not in PICTURE_CHANNELS:
            return None
        is_last = not first if not preprocess.layout else preprocess.layout == "NHWC"
        channels = row[2] if is_last else row[0]
        height, width = row[:2] if is_last else row[1:]
        height, width = height or side[0], width or side[1]
        full = (height, width, channels) if is_last else (channels, height, width)
        return PictureForm(height, width, channels, is_last, full) if channels in MODES else None
    if len(row) == 2 and min(row) > 1:
        return PictureForm(row[0], row[1], 1, False, row)
    size = math.prod(row) if all(row) else 0
    for channels in (1, 3):
        flat = math.isqrt(size // channels)
        if size and channels * flat * flat == size and flat > 1:
            return PictureForm(flat, flat, channels, preprocess.layout == "NHWC", row)
    return None


def plan_resizing(form: PictureForm, preprocess: Preprocess) -> Resizing:
    """As it is said, else as is usual. Raises UsageError where it does not give what the input takes."""
    crop = (form.height, form.width)
    if preprocess.crop and preprocess.crop != crop:
        said = "x".join(map(str, preprocess.crop))
        raise UsageError(f"--preprocess crop={said}: the model takes {form.height}x{form.width}; leave it out")
    if preprocess.resize:
        if len(preprocess.resize) == 2 and any(s < c for s, c in zip(preprocess.resize, crop, strict=True)):
            raise UsageError(f"--preprocess resize: less than the {form.height}x{form.width} that the model takes")
        if len(preprocess.resize) == 1 and preprocess.resize[0] < min(crop):
            raise UsageError(f"--preprocess resize={preprocess.resize[0]}: the model takes {form.height}x{form.width}")
        return Resizing(preprocess.resize, crop, True)
    if form.height == form.width >= CROPPED_SIDE:
        return Resizing((round(SHORTER_SIDE * form.height),), crop, False)
    return Resizing(crop, crop, False)


def read_size(path: Path) -> tuple[int, int]:
    """Width and height as the picture is looked at. Raises UsageError that names the file."""
    with _open(path) as image:
        turned = _read_orientation(image) in EXIF_TURNED
        return image.size[::-1] if turned else image.size


def decode_picture(path: Path, form: PictureForm, resizing: Resizing) -> Array:
    """Height x width x channels, float32 in 0..255. Raises UsageError that names the file."""
    with _open(path) as image:
        try:
            target = 2 * max(*resizing.sides, *resizing.crop)
            image.draft(image.mode, (target, target))  # a JPEG may be decoded at a half, a quarter ...
            upright = ImageOps.exif_transpose(image)
            found = _resize(_convert(upright, form.channels), resizing)
        except ValueError as e:
            raise UsageError(f"{path}: {_describe_decoding(path, resizing, e)}") from e
        except MemoryError:
            raise
        except Exception as e:  # decoders raise whatever a broken file leads them to
            raise UsageError(f"{path}: the picture is broken or cut off ({e}): replace it or take it out") from e
    return found


def _describe_decoding(path: Path, resizing: Resizing, e: ValueError) -> str:
    width, height = read_size(path)
    try:
        resizing.find_box(width, height)
    except ValueError:
        sides, crop = ("x".join(map(str, s)) for s in (resizing.sides, resizing.crop))
        return f"{width}x{height} pixels, resized to {sides}, do not leave {crop}: give a larger --preprocess resize"
    return f"the picture is broken ({e}): replace it or take it out"


def _open(path: Path) -> Image.Image:
    """The file with its header read. Raises UsageError for another kind of file, and for too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limit below is the one that counts
            image = Image.open(path, formats=FORMATS)
    except FileNotFoundError as e:
        raise UsageError(f"{path}: no such file") from e
    except Image.DecompressionBombError as e:
        raise UsageError(f"{path}: {e}: no photograph is that large; take it out") from e
    except MemoryError:
        raise
    except Exception as e:
        raise UsageError(f"{path}: not a picture (JPEG, PNG or WebP): replace it or take it out") from e
    if math.prod(image.size) > MOST_PIXELS:
        size = "x".join(map(str, image.size))
        image.close()
        raise UsageError(f"{path}: {size} pixels, at most {MOST_PIXELS >> 20} million are decoded: make it smaller")
    return image


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # broken EXIF data: the picture is taken as it lies
        return 1


def _convert(image: Image.Image, channels: int) -> list[Image.Image]:
    """One image of the channels asked for, or the planes of one with more than 8 bits."""
    if image.mode.startswith("I"):  # 16 bits, which is what these formats hold at most
        deep = np.asarray(image).astype(np.float32)
        grey = Image.fromarray(deep * np.float32(255 / 65535))
        alpha = Image.fromarray(np.full_like(deep, 255))
        return [grey] if channels == 1 else [grey] * 3 + [alpha] * (channels == 4)
    if "transparency" in image.info and image.mode in ("P", "L", "RGB", "1"):
        image = image.convert("RGBA")
    return [image.convert(MODES[channels])]


def _resize(planes: list[Image.Image], resizing: Resizing) -> Array:
    width, height = planes[0].size
    box, size = resizing.find_box(width, height), resizing.crop[::-1]
    small = [np.asarray(p.resize(size, Image.Resampling.BILINEAR, box=box)) for p in planes]
    stacked = np.stack(small, -1) if len(small) > 1 or small[0].ndim == 2 else small[0]
    return np.asarray(stacked, np.float32)
