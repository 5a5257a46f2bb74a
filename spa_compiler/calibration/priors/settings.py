"""Settings of the priors. The other numbers of a prior say how its pictures or sounds look, and were never compared."""

from __future__ import annotations

from dataclasses import dataclass

from spa_compiler.settings import setting

DECIDED = ("ResNet-20 folded",)
CONFIRMED = ("ResNet-32, ResNet-56 folded",)
TOGETHER = "top-1 of the scenes as a whole"


@dataclass(frozen=True)
class PriorSettings:
    """Settings of `photographs` and `kinds`. Pairs are ranges, or a chance and a deviation where that is said."""

    mixture: tuple[float, float, float] = setting(
        (0.6, 0.2, 0.2),
        "object scenes, dead leaves and pink noise among photographs",
        unit="share",
        source="top-1",
        chosen_on=DECIDED,
        rows=("E68",),
    )

    # contrast and colour of all photographs
    contrast: float = setting(
        0.86,
        "deviation of luminance within an image",
        unit="normalised pixels",
        source="top-1, CIFAR-10 training pictures",
        chosen_on=DECIDED,
        rows=("E67",),
    )
    contrast_spread: float = setting(
        0.26,
        "its deviation over images",
        unit="normalised pixels",
        source="top-1",
        chosen_on=DECIDED,
        rows=("E67",),
    )
    contrast_range: tuple[float, float] = setting(
        (0.2, 2.0), "its bounds", unit="normalised pixels", source="top-1", chosen_on=DECIDED, rows=("E67",)
    )
    mean_spread: float = setting(
        0.6,
        "deviation of an image's mean in each coordinate",
        unit="normalised pixels",
        source="top-1, CIFAR-10 training pictures",
        chosen_on=DECIDED,
        rows=("E67",),
    )
    chroma_fall: float = setting(
        3.4,
        "how much smaller the first colour difference is than luminance where there are not three channels",
        unit="times",
        rows=("E87",),
    )

    # the object of a scene
    object_sizes: tuple[float, float] = setting(
        (0.35, 0.9), "radius of the first part", unit="half sides", source="top-1", chosen_on=DECIDED, rows=("E67",)
    )
    object_spread: float = setting(
        0.2,
        "deviation of the object's centre from that of the picture",
        unit="half sides",
        source=TOGETHER,
        chosen_on=DECIDED,
        confirmed_on=CONFIRMED,
        rows=("E66",),
    )
    object_tilt: tuple[float, float] = setting(
        (0.7, 0.5),
        "chance that an object is upright, and the deviation of its angle then",
        unit="chance, radians",
        source=TOGETHER,
        chosen_on=DECIDED,
        confirmed_on=CONFIRMED,
        rows=("E66",),
    )
    object_colour: float = setting(
        1.3,
        "deviation of its colour",
        unit="opponent coordinates",
        source=TOGETHER,
        chosen_on=DECIDED,
        confirmed_on=CONFIRMED,
        rows=("E66",),
    )
    object_places: tuple[float, float] = setting(
        (0.5, 0.4),
        "deviation of the parts' places from the object's centre, across and down",
        unit="radii of the first part",
        source=TOGETHER,
        chosen_on=DECIDED,
        confirmed_on=CONFIRMED,
        rows=("E66",),
    )

    # its parts
    part_counts: tuple[int, int] = setting(
        (2, 8), "fewest and most of them", unit="parts", source="top-1", chosen_on=DECIDED, rows=("E67",)
    )
    part_sizes: tuple[float, float] = setting(
        (0.12, 0.6),
        "radius of a further part",
        unit="radii of the first part",
        source=TOGETHER,
        chosen_on=DECIDED,
        confirmed_on=CONFIRMED,
        rows=("E66",),
    )
    part_tilt: tuple[float, float] = setting(
        (0.6, 0.3),
        "chance that a part lies along the object (else across), and the deviation of its angle then",
        unit="chance, radians",
        source=TOGETHER,
        chosen_on=DECIDED,
        confirmed_on=CONFIRMED,
        rows=("E66",),
    )
    part_colour: tuple[float, float] = setting(
        (0.6, 0.25),
        "chance that a part has the object's colour (else one of its own), and the deviation from it then",
        unit="chance, opponent coordinates",
        source=TOGETHER,
        chosen_on=DECIDED,
        confirmed_on=CONFIRMED,
        rows=("E66",),
    )
    part_shade: float = setting(
        0.5,
        "deviation of the slope of luminance along its minor axis",
        unit="a radius",
        source=TOGETHER,
        chosen_on=DECIDED,
        confirmed_on=CONFIRMED,
        rows=("E66",),
    )
    part_flatness: tuple[float, float] = setting(
        (0.3, 1.0),
        "minor over major axis",
        unit="share",
        source=TOGETHER,
        chosen_on=DECIDED,
        confirmed_on=CONFIRMED,
        rows=("E66",),
    )
    edge_sharpness: tuple[float, float] = setting(
        (4.0, 14.0), "slope of its edge", unit="a radius", source="top-1", chosen_on=DECIDED, rows=("E67",)
    )
    texture_slopes: tuple[float, float] = setting(
        (1.0, 1.6),
        "fall of the spectrum of its texture",
        unit="power of the frequency",
        source="top-1",
        chosen_on=DECIDED,
        rows=("E67",),
    )
    texture_sizes: tuple[float, float] = setting(
        (0.05, 0.5),
        "deviation of its texture",
        unit="opponent coordinates",
        source="top-1",
        chosen_on=DECIDED,
        rows=("E67",),
    )

    # tables and texts
    shared_variance: float = setting(
        0.6, "what the columns of a table have in common", unit="of the variance", rows=("E86",)
    )
    zipf_offset: float = setting(
        2.7,
        "what is added to the rank of a token id in Zipf's law",
        unit="ranks",
        source="Mandelbrot 1953",
        rows=("E86",),
    )


PRIORS = PriorSettings()
