"""The scale of picture inputs: from the graph's first operators, from the first response, from what outputs tell."""

from __future__ import annotations

import numpy as np
import pytest

from networks import graph_of
from spa_compiler.calibration.pixel_scale import find_leading_affine, list_scales, rescale_source
from spa_compiler.calibration.priors.kinds import Synthetic
from spa_compiler.interpreter.interpreter import Walk
from zoo_base import Case

HEAD = "r = Relu(a)  p = GlobalAveragePool(r)  f = Flatten(p)  y = Gemm <transB = 1> (f, w2, b2) }"
CLASSIFIER = Case(
    "(float[N,3,16,16] x) => (float[N,3] y) { a = Conv <pads = [1,1,1,1]> (x, w1, b1) " + HEAD,
    {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (3, 8), "b2": (3,)},
    None,
)
RNG = np.random.default_rng(0)
W1 = (RNG.standard_normal((8, 3, 3, 3)) / 5).astype(np.float32)
SOURCE = Synthetic("photographs", (3, 16, 16))


def scaled(first: str, **values: tuple[int, ...]) -> Case:
    text = "(float[N,3,16,16] x) => (float[N,3] y) { " + first + " a = Conv <pads = [1,1,1,1]> (s, w1, b1) " + HEAD
    return Case(text, {**CLASSIFIER.inits, **values}, None)


def test_the_first_contraction_tells_pixels_from_normalised_values() -> None:
    small = rescale_source(graph_of(CLASSIFIER, w1=W1 / 58), "x", SOURCE).scale
    unit = rescale_source(graph_of(CLASSIFIER, w1=W1), "x", SOURCE).scale
    assert small is not None and small.high == 255
    assert unit is not None and unit.high == 1 and unit.mean


@pytest.mark.parametrize(
    ("first", "values", "expected"),
    [
        ("d = Sub(x, half)  s = Mul(d, fine)", {"half": 128.0, "fine": 1 / 128}, (0.0, 255.0)),
        ("d = Mul(x, two)  s = Sub(d, one)", {"two": 2.0, "one": 1.0}, (0.0, 1.0)),
        ("s = Div(x, large)", {"large": 255.0}, (0.0, 255.0)),
    ],
)
def test_the_first_operators_say_what_they_take(
    first: str, values: dict[str, float], expected: tuple[float, float]
) -> None:
    arrays = {n: np.full((1,), v, np.float32) for n, v in values.items()}
    graph = graph_of(scaled(first, **dict.fromkeys(values, (1,))), w1=W1, **arrays)
    scale = rescale_source(graph, "x", SOURCE).scale
    assert scale is not None and (scale.low, scale.high) == expected and not scale.mean


def test_the_leading_map_is_composed_in_order() -> None:
    case = scaled("d = Sub(one, x)  s = Mul(d, two)", one=(1,), two=(1,))
    graph = graph_of(case, one=np.ones(1, np.float32), two=np.full(1, 2, np.float32))
    assert find_leading_affine(Walk(graph.model), "x") == (-2.0, 2.0)
    assert find_leading_affine(Walk(graph_of(CLASSIFIER).model), "x") is None


def test_outputs_that_hardly_vary_ask_for_a_wider_scale() -> None:
    """Biases of the size of 0..255: at 0..1 all inputs look alike, though the first response would do."""
    big = graph_of(CLASSIFIER, w1=W1, b1=np.zeros(8, np.float32), w2=(RNG.standard_normal((3, 8)) / 20).astype("f"))
    scale = rescale_source(big, "x", SOURCE).scale
    assert scale is not None and scale.high == 255


def test_channels_last_are_not_normalised_by_channel() -> None:
    narrow, wide = list_scales(Synthetic("photographs", (16, 16, 3)))
    assert not wide[0].mean and (narrow[0].high, narrow[0].mean) == (1, ())
    narrow, wide = list_scales(SOURCE)
    assert wide[0].mean and narrow[0].mean


def test_channels_last_take_the_unit_interval_where_the_response_allows_it() -> None:
    case = Case(
        "(float[N,16,16,3] x) => (float[N,3] y) { t = Transpose <perm = [0,3,1,2]> (x)"
        "  a = Conv <pads = [1,1,1,1]> (t, w1, b1) " + HEAD,
        CLASSIFIER.inits,
        None,
    )
    source = Synthetic("photographs", (16, 16, 3))
    weak, usual = (rescale_source(graph_of(case, w1=W1 * by), "x", source).scale for by in (1 / 58, 1))
    assert weak is not None and weak.high == 255
    assert usual is not None and usual.high == 1 and not usual.mean
