"""`--preprocess resize=256,crop=224,mean=0.485,0.456,0.406,std=0.229,0.224,0.225`: how files become inputs.

>>> parse_preprocess("scale=1/255,mean=0.5,std=0.5").values.describe()
'scale=1/255,mean=0.5,std=0.5'
>>> parse_preprocess("mean=104,117,123,order=BGR").values.describe()
'scale=1,mean=104,117,123,order=BGR'

A value v becomes (v * scale - mean) / std, channel by channel in the order of the model. Pixels count from 0 to 255;
where `scale` is not said it is 1/255, or 1 where a mean is above 2, which only means of pixels are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.errors import UsageError

Array = NDArray[Any]
KEYS = ("resize", "crop", "scale", "mean", "std", "order", "layout", "rate")
VALUE_KEYS = ("scale", "mean", "std", "order")
PIXEL_KEYS = ("resize", "crop", "layout")
LEAST_PIXEL_MEAN = 2.0
"""A mean above it is one of pixels from 0 to 255: scaled ones lie in -1..1."""
MOST_SIDE, MOST_RATE = 1 << 14, 1 << 20
EXAMPLE = "resize=256,crop=224,mean=0.485,0.456,0.406,std=0.229,0.224,0.225"


@dataclass(frozen=True)
class ValueMap:
    """A map of values: (v * scale - mean) / std per channel; `bgr` reverses the channels first."""

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    bgr: bool = False

    @property
    def is_identity(self) -> bool:
        """Does it leave values as they are?"""
        return self.scale == 1 and not any(self.mean) and all(s == 1 for s in self.std) and not self.bgr

    def apply(self, x: Array, axis: int) -> Array:
        """The values as the model takes them; `axis` is that of the channels. Raises UsageError for a wrong number."""
        x = np.flip(x, axis) if self.bgr else x
        shape = [1] * x.ndim
        for key, entries in (("mean", self.mean), ("std", self.std)):
            if len(entries) not in (0, 1, x.shape[axis]):
                raise UsageError(
                    f"--preprocess {key}: {len(entries)} numbers, and the input has {x.shape[axis]} channels: "
                    "give one number, or one for each channel"
                )
        shape[axis] = -1
        mean, std = (
            np.reshape(np.asarray(given, np.float32), shape if len(given) > 1 else [1] * x.ndim)
            for given in (self.mean or (0.0,), self.std or (1.0,))
        )
        return np.asarray((x.astype(np.float32) * np.float32(self.scale) - mean) / std, np.float32)

    def describe(self) -> str:
        """As --preprocess has it."""
        parts = [f"scale={_format(self.scale)}"]
        parts += [f"mean={','.join(map(_format, self.mean))}"] * any(self.mean)
        parts += [f"std={','.join(map(_format, self.std))}"] * any(s != 1 for s in self.std)
        return ",".join(parts + ["order=BGR"] * self.bgr)


@dataclass(frozen=True)
class Preprocess:
    """Everything that --preprocess can say; `said` are the keys that it says."""

    resize: tuple[int, ...] = ()  # the shorter side, or height and width
    crop: tuple[int, ...] = ()  # height and width
    values: ValueMap = field(default_factory=ValueMap)
    layout: str = ""
    rate: int = 0
    said: tuple[str, ...] = ()

    @property
    def has_values(self) -> bool:
        """Does it say how values are scaled?"""
        return any(k in self.said for k in VALUE_KEYS[:3])

    def refuse(self, keys: tuple[str, ...], name: str, reason: str) -> None:
        """Raise UsageError for keys that mean nothing for what `name` holds."""
        if said := [k for k in keys if k in self.said]:
            raise UsageError(f"--preprocess {', '.join(said)}: {name} {reason}; leave it out")


def parse_preprocess(text: str) -> Preprocess:
    """The text as it is typed. Raises UsageError for an unknown key and for a value that is none."""
    said = _split_text(text)
    numbers = {k: tuple(_read_number(k, v) for v in said[k].split(",")) for k in ("mean", "std") if k in said}
    mean, std = numbers.get("mean", ()), numbers.get("std", ())
    if not all(std) or any(s < 0 for s in std):
        raise UsageError(f"--preprocess std={said['std']}: values are divided by it, so it is above 0")
    default = 1.0 if not {"mean", "std"} & set(said) or any(m > LEAST_PIXEL_MEAN for m in mean) else 1 / 255
    scale = _read_number("scale", said["scale"]) if "scale" in said else default
    if not scale:
        raise UsageError("--preprocess scale=0: nothing would be left of the values")
    values = ValueMap(scale, mean, std, _read_choice("order", said, ("RGB", "BGR")) == "BGR")
    crop = _read_sides("crop", said)
    layout = _read_choice("layout", said, ("NCHW", "NHWC"))
    rate = _read_whole("rate", said["rate"], MOST_RATE) if "rate" in said else 0
    return Preprocess(
        _read_sides("resize", said), crop * (3 - len(crop)) if crop else (), values, layout, rate, tuple(said)
    )


def _split_text(text: str) -> dict[str, str]:
    """Values by key; what has no `=` goes on with the list before it."""
    out: dict[str, str] = {}
    last = ""
    for part in (p.strip() for p in text.split(",")) if text.strip() else ():
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals and last in ("mean", "std"):
            out[last] += f",{part}"
            continue
        if not equals or not value:
            raise UsageError(f"--preprocess {text}: expected KEY=VALUE at '{part}', as in {EXAMPLE}")
        if key not in KEYS:
            raise UsageError(f"--preprocess {part}: no key is called '{key}'; there are {', '.join(KEYS)}")
        if key in out:
            raise UsageError(f"--preprocess {text}: it says {key} twice")
        out[key], last = value, key
    return out


def _read_number(key: str, text: str) -> float:
    """A number or a fraction."""
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError) as e:
        raise UsageError(f"--preprocess {key}={text}: expected a number like 0.485 or 1/255") from e
    if not math.isfinite(value):
        raise UsageError(f"--preprocess {key}={text}: expected a finite number")
    return value


def _read_whole(key: str, text: str, most: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise UsageError(f"--preprocess {key}={text}: expected a whole number from 1 to {most}")
    return int(text)


def _read_sides(key: str, said: dict[str, str]) -> tuple[int, ...]:
    """One side, or height x width; nothing where the key is not said."""
    parts = said[key].lower().split("x") if key in said else []
    if len(parts) > 2:
        raise UsageError(f"--preprocess {key}={said[key]}: expected 256, or HEIGHTxWIDTH as in 256x320")
    return tuple(_read_whole(key, p, MOST_SIDE) for p in parts)


def _read_choice(key: str, said: dict[str, str], choices: tuple[str, ...]) -> str:
    value = said.get(key, "").upper()
    if key in said and value not in choices:
        raise UsageError(f"--preprocess {key}={said[key]}: expected {' or '.join(choices)}")
    return value


def _format(value: float) -> str:
    """1/255 as that, other numbers in six digits where these are enough."""
    inverse = 1 / value if value else 0.0
    if (
        float(f"{value:g}") != value
        and abs(value) < 1
        and abs(inverse) > 2
        and abs(inverse * 2 - round(inverse * 2)) < 1e-9
    ):
        return f"1/{inverse:g}"
    return f"{value:g}"


__all__ = ["KEYS", "PIXEL_KEYS", "VALUE_KEYS", "Preprocess", "ValueMap", "parse_preprocess"]
