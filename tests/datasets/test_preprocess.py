"""--preprocess: its text, and the values that follow."""

from __future__ import annotations

import numpy as np
import pytest

from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.errors import UsageError


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("size=3", "no key is called 'size'; there are resize"),
        ("resize", "KEY=VALUE at 'resize'"),
        ("224", "KEY=VALUE at '224'"),
        ("resize=256,", "KEY=VALUE at ''"),
        ("resize=256,resize=224", "says resize twice"),
        ("resize=1x2x3", "HEIGHTxWIDTH"),
        ("resize=-3", "whole number"),
        ("crop=99999999", "whole number"),
        ("mean=a", "expected a number"),
        ("mean=0.5,b", "expected a number"),
        ("scale=1/0", "expected a number"),
        ("scale=nan", "finite"),
        ("scale=0", "nothing would be left"),
        ("std=0", "above 0"),
        ("std=0.5,-1", "above 0"),
        ("order=GRB", "RGB or BGR"),
        ("layout=CHW", "NCHW or NHWC"),
        ("rate=16k", "whole number"),
    ],
)
def test_a_text_that_makes_no_sense_is_refused_in_plain_words(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"^--preprocess .*{says}"):
        parse_preprocess(text)


def test_values_are_scaled_then_centred_then_divided() -> None:
    values = parse_preprocess("scale=1/255,mean=0.5,0.25,0,std=0.5,1,2").values
    x = np.full((2, 3, 1, 1), 255.0)
    assert values.apply(x, 1).ravel().tolist() == [1.0, 0.75, 0.5] * 2
    assert values.apply(np.moveaxis(x, 1, 3), 3).ravel().tolist() == [1.0, 0.75, 0.5] * 2


def test_means_of_pixels_need_no_scale() -> None:
    assert parse_preprocess("mean=104,117,123,order=BGR").values.scale == 1
    assert parse_preprocess("mean=0.5,std=0.5").values.scale == pytest.approx(1 / 255)
    assert parse_preprocess("order=BGR").values.scale == 1 and not parse_preprocess("order=BGR").has_values


def test_bgr_turns_the_channels_before_the_means_count() -> None:
    values = parse_preprocess("scale=1,mean=1,2,3,order=BGR").values
    assert values.apply(np.array([[10.0, 20.0, 30.0]]), 1).tolist() == [[29.0, 18.0, 7.0]]


@pytest.mark.parametrize("text", ["scale=1/255,mean=0.485,0.456,0.406,std=0.229,0.224,0.225", "scale=1/127.5,mean=1"])
def test_a_map_is_described_as_it_is_said(text: str) -> None:
    assert parse_preprocess(text).values.describe() == text


def test_as_many_means_as_channels() -> None:
    with pytest.raises(UsageError, match="2 numbers, and the input has 3 channels"):
        parse_preprocess("mean=1,2").values.apply(np.ones((1, 3, 2, 2)), 1)
