"""Make the bank of photographs that calibration inputs are cropped from, in spa_compiler/calibration/priors/banks.

    python -m tools.banks.photographs SOURCES          # writes the bank and its LICENSE.md, and checks the hashes
    python -m tools.banks.photographs --list           # where each source is found

SOURCES is a folder with the unpacked packages (`pip download`, `apt-get download` and unzip or dpkg -x side by side);
every photograph names the end of its path there. Only works in the public domain, under CC0 or under CC BY are taken.
Pillow encodes WebP by libwebp, whose encoder may change: the hashes are those of the version that PILLOW names.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

BANK = Path(__file__).resolve().parents[2] / "spa_compiler/calibration/priors/banks/photographs"
PILLOW = "13.0.0"
"""The version of Pillow that the hashes were made with."""
LONG_SIDE, QUALITY = 512, 86
"""Pixels of the longer side, and WebP's quality."""
SKIMAGE, SKLEARN = "scikit-image 0.26.0 (PyPI)", "scikit-learn 1.9.1 (PyPI)"
SCIPY, PYWAVELETS, MATPLOTLIB = "scipy 1.11.4 (PyPI)", "PyWavelets 1.9.0 (PyPI)", "matplotlib 3.11.2 (PyPI)"
CSS_EXAMPLES = "github.com/mdn/css-examples at 24f80637"
LOMIRI = "lomiri-wallpapers-16.04 20.04.0-2 (Debian 12)"


@dataclass(frozen=True)
class Photograph:
    """One source: its name in the bank, the end of its path, where that comes from, its author and licence."""

    name: str
    path: str
    package: str
    author: str
    licence: str
    digest: str


PHOTOGRAPHS = (
    Photograph("astronaut", "skimage/data/astronaut.png", SKIMAGE, "NASA", "public domain", "724f0bd5d256d252"),
    Photograph(
        "balcony",
        "backgrounds/friends_by_Aitzol_Berasategi.jpg",
        LOMIRI,
        "Aitzol Berasategi",
        "CC BY 4.0",
        "10e93c372c5d541d",
    ),
    Photograph(
        "balloon",
        "css-examples/howto/balloon.jpg",
        CSS_EXAMPLES,
        "the authors of mdn/css-examples",
        "CC0",
        "7f5865fc1c8dc2cd",
    ),
    Photograph(
        "balloons",
        "css-examples/learn/images/balloons.jpg",
        CSS_EXAMPLES,
        "the authors of mdn/css-examples",
        "CC0",
        "4747134373142eda",
    ),
    Photograph("brick", "skimage/data/brick.png", SKIMAGE, "CC0Textures.com (Bricks25)", "CC0", "e41cb92d1e9d70ee"),
    Photograph(
        "brushes",
        "backgrounds/Picture_1A_by_freespace.jpg",
        LOMIRI,
        'Trevor "Freespace"',
        "CC BY 4.0",
        "5a01b38d65333bd6",
    ),
    Photograph(
        "butterfly",
        "css-examples/object-fit-gallery/images/pic13.jpg",
        CSS_EXAMPLES,
        "the authors of mdn/css-examples",
        "CC0",
        "0b7b074c21c276db",
    ),
    Photograph("cat", "skimage/data/chelsea.png", SKIMAGE, "Stefan van der Walt", "CC0", "c33bf7fbffa3f417"),
    Photograph("cellar", "backgrounds/Wine_by_Jakkub_Mede.jpg", LOMIRI, "Jakub Mede", "CC BY 4.0", "d5b4276325a29d88"),
    Photograph("coffee", "skimage/data/coffee.png", SKIMAGE, "Rachel Michetti", "CC0", "07e128b8678b8cd5"),
    Photograph(
        "dandelion",
        "backgrounds/seeding_by_Clements_Engelhardt.jpg",
        LOMIRI,
        "Clemens Engelhardt",
        "CC0",
        "f73a04d4a0b59a2c",
    ),
    Photograph(
        "drums",
        "css-examples/object-fit-gallery/images/pic3.jpg",
        CSS_EXAMPLES,
        "the authors of mdn/css-examples",
        "CC0",
        "d9d283c2fe51fca4",
    ),
    Photograph(
        "fig", "backgrounds/Picture_0B_by_freespace.jpg", LOMIRI, 'Trevor "Freespace"', "CC BY 4.0", "86c37c709a22cff0"
    ),
    Photograph(
        "flower",
        "sklearn/datasets/images/flower.jpg",
        SKLEARN,
        "vultilion (flickr.com/photos/vultilion/6056698931)",
        "CC BY 2.0",
        "e516fc5b99ffd838",
    ),
    Photograph(
        "galaxies", "skimage/data/hubble_deep_field.jpg", SKIMAGE, "NASA, ESA", "public domain", "22bd9851236c3d53"
    ),
    Photograph("grass", "skimage/data/grass.png", SKIMAGE, "Linolafett (DataBase textures)", "CC0", "0ad4bb7ab59b6535"),
    Photograph("gravel", "skimage/data/gravel.png", SKIMAGE, "CC0Textures.com (Gravel04)", "CC0", "fbc6a36f86b6e21b"),
    Photograph(
        "hill",
        "backgrounds/aitzgorri_by_Aitzol_Berasategi.jpg",
        LOMIRI,
        "Aitzol Berasategi",
        "CC BY 4.0",
        "c96e667aaaa0873a",
    ),
    Photograph(
        "manatee",
        "css-examples/object-fit-gallery/images/pic16.jpg",
        CSS_EXAMPLES,
        "the authors of mdn/css-examples",
        "CC0",
        "fb46f20d68cf3f01",
    ),
    Photograph(
        "mountain",
        "backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg",
        LOMIRI,
        "Aitzol Berasategi",
        "CC BY 4.0",
        "69dba2a89435d334",
    ),
    Photograph(
        "murals",
        "css-examples/object-fit-gallery/images/pic8.jpg",
        CSS_EXAMPLES,
        "the authors of mdn/css-examples",
        "CC0",
        "9defb617b35086af",
    ),
    Photograph(
        "officer",
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        MATPLOTLIB,
        "James S. Davis, United States Navy",
        "public domain",
        "5d8a42554f998165",
    ),
    Photograph(
        "pansies",
        "css-examples/learn/tasks/overflow/flowers.jpg",
        CSS_EXAMPLES,
        "the authors of mdn/css-examples",
        "CC0",
        "95b403571f3a9869",
    ),
    Photograph("photographer", "skimage/data/camera.png", SKIMAGE, "Lav Varshney", "CC0", "22e9ed508c292a88"),
    Photograph(
        "raccoon",
        "scipy/misc/face.dat",
        SCIPY,
        "public-domain-image.com (raccoon-procyon-lotor)",
        "public domain",
        "dc2af24ccf6b76ba",
    ),
    Photograph("retina", "skimage/data/retina.jpg", SKIMAGE, "Mikael Haeggstroem", "CC0", "782f742c328d0a24"),
    Photograph(
        "ride",
        "css-examples/object-fit-gallery/images/pic2.jpg",
        CSS_EXAMPLES,
        "the authors of mdn/css-examples",
        "CC0",
        "9ccf2cb17fe06f89",
    ),
    Photograph(
        "rock",
        "css-examples/object-fit-gallery/images/pic6.jpg",
        CSS_EXAMPLES,
        "the authors of mdn/css-examples",
        "CC0",
        "afb7bede8259cea8",
    ),
    Photograph("rocket", "skimage/data/rocket.jpg", SKIMAGE, "SpaceX", "public domain", "6c9af88c561f185f"),
    Photograph(
        "stairs",
        "pywt/data/ascent.npz",
        PYWAVELETS,
        "public-domain-image.com (accent-to-the-top)",
        "public domain",
        "3667c38c5a598d5b",
    ),
    Photograph(
        "stream",
        "backgrounds/life_by_Aitzol_Berasategi.jpg",
        LOMIRI,
        "Aitzol Berasategi",
        "CC BY 4.0",
        "d6b17584a7f30b64",
    ),
    Photograph(
        "sunset",
        "backgrounds/sunset_by_Aitzol_Berasategi.jpg",
        LOMIRI,
        "Aitzol Berasategi",
        "CC BY 4.0",
        "4c3f9a5658a76af0",
    ),
    Photograph(
        "temple",
        "sklearn/datasets/images/china.jpg",
        SKLEARN,
        "danielbuechele (flickr.com/photos/danielbuechele/6061409035)",
        "CC BY 2.0",
        "d3d4972460516fca",
    ),
    Photograph(
        "train",
        "css-examples/learn/tasks/grid/balloons2.jpg",
        CSS_EXAMPLES,
        "the authors of mdn/css-examples",
        "CC0",
        "c23b7645a169599d",
    ),
    Photograph(
        "turtle",
        "css-examples/object-fit-gallery/images/pic15.jpg",
        CSS_EXAMPLES,
        "the authors of mdn/css-examples",
        "CC0",
        "446a0c9de49d81a2",
    ),
)


def read_picture(path: Path) -> Image.Image:
    """A source as RGB."""
    if path.suffix == ".dat":  # scipy.misc.face
        pixels = np.frombuffer(bz2.decompress(path.read_bytes()), np.uint8).reshape(768, 1024, 3)
        return Image.fromarray(pixels)
    if path.suffix == ".npz":
        return Image.fromarray(np.load(path)["data"].astype(np.uint8)).convert("RGB")
    return Image.open(path).convert("RGB")


def encode_picture(picture: Image.Image) -> bytes:
    """The picture as a small WebP file."""
    scale = min(1.0, LONG_SIDE / max(picture.size))
    width, height = (max(1, round(scale * side)) for side in picture.size)
    buffer = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def find_source(folder: Path, end: str) -> Path:
    """The file below the folder whose path ends so."""
    found = sorted(p for p in folder.rglob(Path(end).name) if p.as_posix().endswith(f"/{end}"))
    if not found:
        raise SystemExit(f"{folder}: no {end}")
    return found[0]


def make_bank(folder: Path) -> dict[str, bytes]:
    """All files of the bank by name."""
    files = {f"{p.name}.webp": encode_picture(read_picture(find_source(folder, p.path))) for p in PHOTOGRAPHS}
    return {**files, "LICENSE.md": describe_licences().encode()}


def describe_licences() -> str:
    """The text of LICENSE.md."""
    rows = [f"| {p.name}.webp | {p.author} | {p.licence} | {p.package}: {p.path} |" for p in PHOTOGRAPHS]
    head = (
        "# Photographs and their licences\n\n"
        f"Scaled down to {LONG_SIDE} pixels and encoded as WebP by tools/banks/photographs.py; nothing else was\n"
        "changed. CC BY (https://creativecommons.org/licenses/by/4.0/, .../by/2.0/) asks that the author is\n"
        "named; CC0 and the public domain ask for nothing.\n\n"
        "| file | author | licence | source |\n|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


def main() -> None:
    """Write the bank, or list its sources."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, nargs="?")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list or arguments.sources is None:
        print(describe_licences())
        return
    BANK.mkdir(parents=True, exist_ok=True)
    for name, data in make_bank(arguments.sources).items():
        (BANK / name).write_bytes(data)
    stated = {f"{p.name}.webp": p.digest for p in PHOTOGRAPHS}
    for name, digest in stated.items():
        found = hashlib.sha256((BANK / name).read_bytes()).hexdigest()[:16]
        print(f"{name}: {found}{'' if found == digest else ', not the stated ' + (digest or 'hash')}")


if __name__ == "__main__":
    main()
