"""The report's words on inputs that somebody gave: how many, from where, in which range, and a few to look at."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spa_compiler.datasets.dataset import Dataset, list_spread
from spa_compiler.datasets.fitting import PICTURE_CHANNELS, InputSpec, find_channel_axis
from spa_compiler.datasets.pictures import PictureForm, find_picture_form, read_size
from spa_compiler.datasets.preprocess import ValueMap
from spa_compiler.datasets.rows import Block

Array = NDArray[Any]
Json = None | bool | int | float | str | list[Any] | Mapping[str, Any]
THUMBNAILS, THUMBNAIL_SIDE = 8, 64
LISTED_SIZES = 3
MOST_CHANNELS = 8
"""Channels whose ranges are listed one by one."""


def summarize_dataset(
    data: Dataset, blocks: Sequence[Block], rows: list[int] | None, apart: int, of: int | None
) -> dict[str, Json]:
    """The section of the report: `blocks` are what was taken, `rows` their numbers, `of` how many there were.

    Shapes, ranges and pictures are those of the first block.
    """
    block = blocks[0]
    return {
        "name": data.name,
        "kind": data.kind,
        "rows": sum(b.rows for b in blocks),
        "of": of,
        "apart": apart,
        "sizes": _describe_sizes(data, rows),
        "treatment": data.treatment or "; ".join(block.notes) or "taken as they are",
        "values": data.values.describe() if data.values is not None else ValueMap().describe(),
        "decided": data.decided or "the caller",
        "labels": data.label_rule,
        "ranges": {n: measure_ranges(a[None] if block.is_run else a) for n, a in block.inputs.items()},
        "thumbnails": list(make_thumbnails(data, block)),
    }


def measure_ranges(array: Array) -> dict[str, Json]:
    """Shape of a row, type, and the lowest and highest value of each channel."""
    found: dict[str, Json] = {"shape": list(array.shape[1:]), "dtype": str(array.dtype)}
    if array.dtype.kind not in "biuf" or not array.size:
        return found
    axis = find_channel_axis(array.shape)
    each = axis and array.ndim == 4 and array.shape[axis] <= MOST_CHANNELS
    others = tuple(i for i in range(array.ndim) if i != axis) if each else None
    low, high = (np.atleast_1d(f(array, axis=others)).astype(float) for f in (np.min, np.max))
    return found | {"low": [round(float(v), 6) for v in low], "high": [round(float(v), 6) for v in high]}


def _describe_sizes(data: Dataset, rows: list[int] | None) -> str:
    """Sizes of the files in pixels, the most frequent first."""
    if data.kind != "pictures":
        return ""
    files = [data.files[k] for k in (rows if rows is not None else range(len(data.files)))]
    counts = Counter("{}x{}".format(*read_size(f)) for f in files)
    shown = [f"{size} ({n})" for size, n in counts.most_common(LISTED_SIZES)]
    return ", ".join(shown + [f"{len(counts) - LISTED_SIZES} more sizes"] * (len(counts) > LISTED_SIZES))


def make_thumbnails(data: Dataset, block: Block) -> list[str]:
    """Some of the rows as small pictures, as the model takes them: data URIs of JPEG."""
    spec = data.specs[0]
    form = None if data.is_whole else _find_form(data, spec, block)
    if form is None:
        return []
    return [_make_thumbnail(block.inputs[spec.name][k], form) for k in list_spread(block.rows, THUMBNAILS)]


def _find_form(data: Dataset, spec: InputSpec, block: Block) -> PictureForm | None:
    """How rows are pictures; None where they are not, or hardly."""
    if isinstance(data.form, PictureForm):
        return data.form
    shape = block.inputs[spec.name].shape
    is_picture = (
        len(shape) == 4
        and (shape[1] in PICTURE_CHANNELS or shape[3] in PICTURE_CHANNELS)
        and min(sorted(shape[1:])[1:]) >= 8
    )
    return find_picture_form(shape, data.preprocess) if is_picture else None


def _make_thumbnail(row: Array, form: PictureForm) -> str:
    """One row, its values spread from black to white, as a data URI."""
    x = row.astype(np.float32).reshape(form.row if len(form.row) == 3 else _find_grid(form))
    x = x if form.is_last and len(form.row) != 2 else np.moveaxis(x, 0, 2)
    low, high = float(x.min()), float(x.max())
    pixels = ((x - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3])
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _find_grid(form: PictureForm) -> tuple[int, ...]:
    """Channels, height and width of a row that is flat."""
    last = (form.height, form.width, form.channels)
    return last if form.is_last and len(form.row) == 1 else (form.channels, form.height, form.width)
