"""Devices by name: those of any distribution are found through the entry points `spa_compiler.devices`.

    find_device("avx2").convolution       # 8: channels in a block of its convolution kernels
    find_host().name                      # the device that this machine is

A device decides which widths pay. The machine that compiles is one of them, and need not be the target.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from typing import Any

from spa_compiler.errors import UsageError
from spa_compiler.plugins import find_entry_points

HOST = "host"
"""The name that stands for the device that this machine is."""


def is_nowhere() -> bool:
    """Is this machine such a device? No machine is one that says nothing."""
    return False


@dataclass(frozen=True, kw_only=True)
class Device:
    """A processor or an accelerator: widths in multiples of these numbers of channels fill its kernels.

    `convolution` is for what convolutions read, `matrix` for what matrix products read, `integers` for both where the
    weights are integers (0: the same). Where these are too coarse for a budget, widths in multiples of `finest` are
    taken. `source` says where the numbers are from, `is_here` whether this machine is one;
    of several the one with the lowest `rank` is taken. `name` is that of the entry point.
    """

    name: str = ""
    title: str = ""
    convolution: int = 1
    matrix: int = 1
    integers: int = 0
    finest: int = 4
    source: str = ""
    rank: int = 100
    is_here: Callable[[], bool] = is_nowhere

    def find_step(self, kernel: str, integers: bool) -> int:
        """Channels that widths are multiples of, for a class of kernels (`operators.traits`)."""
        by_kernel = {"convolution": self.convolution, "transposed": self.convolution, "matrix": self.matrix}
        step = by_kernel.get(kernel, 1)
        return self.integers if integers and self.integers and kernel in by_kernel else step

    def describe(self) -> str:
        """Which widths it wants, in words."""
        parts = [f"convolutions in blocks of {self.convolution} channels"] * (self.convolution > 1)
        parts += [f"matrix products in multiples of {self.matrix}"] * (self.matrix > 1)
        parts += [f"{self.integers} with weights that are integers"] * (self.integers > 0)
        return ", ".join(parts) or "any width"

    def document(self) -> dict[str, Any]:
        """As a dictionary for the report."""
        return {
            "name": self.name, "title": self.title, "is_here": self == find_host(),
            "convolution": self.convolution, "matrix": self.matrix, "integers": self.integers,
            "widths": self.describe(), "source": self.source,
        }  # fmt: skip


@functools.cache
def find_device_points() -> Mapping[str, EntryPoint]:
    """Entry points of devices by name. Raises UsageError when two distributions use one name."""
    return find_entry_points("spa_compiler.devices", "device")


@functools.cache
def find_devices() -> Mapping[str, Device]:
    """Devices by name, by their rank, without those that cannot be loaded."""
    loaded = []
    for name in find_device_points():
        try:
            loaded.append(_load_device(name))
        except UsageError:  # only who asks for it by name has to know
            continue
    return {d.name: d for d in sorted(loaded, key=lambda d: (d.rank, d.name))}


def _load_device(name: str) -> Device:
    point = find_device_points()[name]
    try:
        found = point.load()
    except Exception as e:
        raise UsageError(f"the device '{name}' ({point.value}) cannot be loaded: {e}") from e
    if not isinstance(found, Device):
        raise UsageError(f"the device '{name}' ({point.value}) is no Device")
    return replace(found, name=name, title=found.title or name)


def list_device_names() -> list[str]:
    """Names that may be asked for."""
    return [HOST, *find_devices(), *sorted(find_device_points().keys() - find_devices().keys())]


def find_device(name: str) -> Device:
    """A device by name; `host` is the one that this machine is. Raises UsageError with the names that there are."""
    if name == HOST:
        return find_host()
    if name not in find_device_points():
        raise UsageError(f"no device is called '{name}'; there are {', '.join(list_device_names())}")
    return find_devices().get(name) or _load_device(name)


def find_host() -> Device:
    """The device that this machine is; where nothing that is registered is it, one on which any width pays."""
    here = next((d for d in find_devices().values() if d.is_here()), None)
    return here or Device(name=HOST, title=platform.machine(), source="no device that is registered is this machine")


def check_measurable(device: Device, asked: str) -> None:
    """Raise UsageError where milliseconds of another device than this machine's are asked for."""
    if device != find_host():
        raise UsageError(
            f"{asked}: this machine is {find_host().name}, and milliseconds of --device {device.name} cannot be "
            "measured here; ask for a share of the MACs, or leave --device out for those of this machine"
        )
