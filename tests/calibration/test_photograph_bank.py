"""The bank of photographs: what it holds and may be given away, crops by seed, and the choice among them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import __version__ as pillow

from networks import graph_of
from spa_compiler.calibration import inputs as calibration_inputs
from spa_compiler.calibration.inputs import draw_calibration
from spa_compiler.calibration.picture_choice import choose_balanced, choose_different
from spa_compiler.calibration.priors.photograph_bank import crops, draw_recipes, load_photographs, render
from spa_compiler.calibration.priors.photographs import pixel_bounds
from tools.banks import photographs as script
from zoo import Case

SOURCES = os.environ.get("SPA_BANK_SOURCES", "")
PICTURES = Case(
    "(float[N,3,64,64] x) => (float[N,4] y) { a = Conv <strides = [8,8]> (x, w1, b1)  r = Relu(a)"
    "  p = GlobalAveragePool(r)  f = Flatten(p)  y = Gemm <transB = 1> (f, w2, b2) }",
    {"w1": (8, 3, 8, 8), "b1": (8,), "w2": (4, 8), "b2": (4,)},
    None,
)


def test_the_bank_is_what_the_script_states() -> None:
    stated = {f"{p.name}.webp": p.digest for p in script.PHOTOGRAPHS}
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in script.BANK.glob("*.webp")}
    assert found == stated
    assert sum(p.stat().st_size for p in script.BANK.iterdir()) < 1_500_000
    assert (script.BANK / "LICENSE.md").read_text() == script.describe_licences()


def test_every_licence_allows_to_give_the_photographs_away() -> None:
    assert {p.licence for p in script.PHOTOGRAPHS} <= {"CC0", "public domain", "CC BY 2.0", "CC BY 4.0"}
    assert all(p.author for p in script.PHOTOGRAPHS)


@pytest.mark.skipif(not SOURCES or pillow != script.PILLOW, reason="the sources are not at hand, or another Pillow")
def test_the_script_makes_the_same_bytes_again() -> None:
    for name, data in script.make_bank(Path(SOURCES)).items():
        assert data == (script.BANK / name).read_bytes(), name


def test_the_photographs_can_be_decoded() -> None:
    assert len(load_photographs()) == len(script.PHOTOGRAPHS) >= 24
    assert all(max(p.size) <= script.LONG_SIDE and p.mode == "RGB" for p in load_photographs())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_crops_stay_between_black_and_white(channels: int) -> None:
    x = crops(20, channels, 24, 40, np.random.default_rng(0))
    low, high = pixel_bounds(channels)
    assert x.shape == (20, channels, 24, 40) and x.dtype == np.float32
    assert (x >= low - 1e-5).all() and (x <= high + 1e-5).all()


def test_a_recipe_says_all_of_a_crop() -> None:
    recipes = draw_recipes(9, np.random.default_rng(3))
    np.testing.assert_array_equal(render(recipes, 3, 32, 32)[4:6], render(recipes[4:6], 3, 32, 32))
    np.testing.assert_array_equal(render(recipes, 3, 32, 32), crops(9, 3, 32, 32, np.random.default_rng(3)))


def test_the_chosen_span_what_the_pool_spans() -> None:
    """Of many alike and few of other classes the few are taken."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 0.01, (200, 6))
    logits[:, 0] += 3
    for row, c in zip((17, 50, 90, 140), (1, 2, 3, 4), strict=True):
        logits[row] += 6 * np.eye(6)[c] - 3 * np.eye(6)[0]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = choose_different(p, 20, rng)
    assert {17, 50, 90, 140} <= set(rows.tolist()) and len(set(rows.tolist())) == 20
    assert len(choose_different(p, 200, rng)) == 200 and len(choose_balanced(p[:0], 3, rng)) == 0


def test_pictures_of_photographs_are_chosen_by_their_outputs() -> None:
    graph = graph_of(PICTURES)
    first, again, other = (draw_calibration(graph, samples=24, seed=s) for s in (0, 0, 1))
    assert "(photographs; seed 0), those of 288 crops whose outputs differ most" in first.source
    for a, b, c in zip(first.feeds, again.feeds, other.feeds, strict=True):
        np.testing.assert_array_equal(a["x"], b["x"])
        assert not np.array_equal(a["x"], c["x"])


def test_without_an_output_to_choose_by_crops_are_taken_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PICTURES.text.replace("(float[N,4] y)", "(float[N,8,8,8] y)").split("p = Global")[0].replace("r = ", "y = ")
    graph = graph_of(Case(text + "}", {n: PICTURES.inits[n] for n in ("w1", "b1")}, None))
    monkeypatch.setattr(calibration_inputs, "CROPS_PER_INPUT", 2)
    found = draw_calibration(graph, samples=8)
    assert found.samples == 8 and "crops as they come: the first output is no vector" in found.source
