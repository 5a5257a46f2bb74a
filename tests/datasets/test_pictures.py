"""Pictures: each kind of file gives the pixels that it shows, at the size that the input takes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from inputs import graph_of_classifier, load_classifier, save_picture
from spa_compiler.calibration.user_inputs import decide_scale
from spa_compiler.datasets.dataset import open_dataset
from spa_compiler.datasets.preprocess import parse_preprocess
from spa_compiler.datasets.rows import Block, join_blocks
from spa_compiler.errors import UsageError

COLOUR, GREY, LAST = ["N", 3, 8, 8], ["N", 1, 8, 8], ["N", 8, 8, 3]


def read(path: Path, shape: list[int | str], text: str = "scale=1", **given: object) -> Block:
    data = open_dataset(path, load_classifier(shape, **given), parse_preprocess(text))
    data.check()
    return join_blocks(data.read_batches())


def save_plain(path: Path, colour: tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (20, 10)) -> Path:
    Image.new(mode, size, colour if len(colour) > 1 else colour[0]).save(path)
    return path


@pytest.mark.parametrize("end", ["png", "webp", "jpg"])
def test_every_format_gives_its_colour(tmp_path: Path, end: str) -> None:
    x = read(save_plain(tmp_path / f"a.{end}", (250, 120, 10)), COLOUR).inputs["x"]
    assert x.shape == (1, 3, 8, 8) and x.dtype == np.float32
    np.testing.assert_allclose(x[0].mean((1, 2)), [250, 120, 10], atol=3)


def test_the_layout_is_that_of_the_input(tmp_path: Path) -> None:
    file = save_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(read(file, LAST).inputs["x"][0], np.moveaxis(read(file, COLOUR).inputs["x"][0], 0, 2))


def test_bgr_is_rgb_turned_round(tmp_path: Path) -> None:
    file = save_picture(tmp_path / "a.png")
    turned = read(file, COLOUR, "scale=1,order=BGR").inputs["x"]
    np.testing.assert_array_equal(turned, read(file, COLOUR).inputs["x"][:, ::-1])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("shape", [COLOUR, GREY, ["N", 4, 8, 8], ["N", 64]], ids=str)
def test_every_mode_goes_into_every_number_of_channels(tmp_path: Path, mode: str, shape: list[int | str]) -> None:
    x = read(save_picture(tmp_path / "a.png", mode=mode), shape).inputs["x"]
    assert list(x.shape[1:]) == shape[1:]
    assert 20 < x.mean() < 235 and x.min() >= 0 and x.max() <= 255


@pytest.mark.parametrize("value", [0, 13, 200, 255])
def test_sixteen_bits_are_scaled_down_and_not_cut_off(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.full((10, 10), value * 257, np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read(tmp_path / "deep.png", COLOUR).inputs["x"], value, atol=0.01)


def test_a_turned_photograph_is_set_upright(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = 255  # white on the left: after a quarter turn clockwise it is above
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    x = read(tmp_path / "a.jpg", COLOUR).inputs["x"][0, 0]
    assert x[:3].mean() > 240 and x[5:].mean() < 15


def test_large_square_inputs_take_the_middle_and_small_ones_all(tmp_path: Path) -> None:
    pixels = np.zeros((224, 448, 3), np.uint8)
    pixels[:, 112:336] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", ["N", 3, 64, 64]).inputs["x"].mean() > 250
    assert 100 < read(tmp_path / "a.png", ["N", 3, 32, 32]).inputs["x"].mean() < 155


def test_the_middle_is_what_resizing_and_cropping_gives(tmp_path: Path) -> None:
    y, x = np.mgrid[:300, :500]
    pixels = np.stack([x / 2, y * 0.8, (x + y) / 4], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png", ["N", 3, 112, 112], "scale=1,resize=128").inputs["x"][0]
    whole = Image.fromarray(pixels).resize((round(500 * 128 / 300), 128), Image.Resampling.BILINEAR)
    left = (whole.width - 112) // 2
    expected = np.moveaxis(np.asarray(whole.crop((left, 8, left + 112, 120)), np.float32), 2, 0)
    assert np.abs(found - expected).mean() < 1


@pytest.mark.parametrize("sizes", [(1, 200), (200, 1), (1, 1), (7, 3)])
def test_pictures_of_odd_sizes_are_resized(tmp_path: Path, sizes: tuple[int, int]) -> None:
    assert read(save_picture(tmp_path / "a.png", *sizes), ["N", 3, 64, 64]).inputs["x"].shape == (1, 3, 64, 64)


def test_integers_take_pixels_as_they_are(tmp_path: Path) -> None:
    file = save_plain(tmp_path / "a.png", (200, 100, 0))
    x = read(file, COLOUR, "", kind=onnx.TensorProto.UINT8).inputs["x"]
    assert x.dtype == np.uint8 and x[0, :, 0, 0].tolist() == [200, 100, 0]
    x = read(file, COLOUR, "", kind=onnx.TensorProto.INT8).inputs["x"]
    assert x.dtype == np.int8 and x[0, :, 0, 0].tolist() == [72, -28, -128]


def test_the_scale_is_found_where_nobody_says_it(tmp_path: Path) -> None:
    """A graph that divides by 255 first takes pixels as they are."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,8,8] x) => (float[N,4,8,8] y) <float s = {255}> { a = Div(x, s) y = Conv(a, w) }""")
    w = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    onnx.save(model, tmp_path / "m.onnx")
    from spa_compiler.ir.reader import load
    from spa_compiler.pipeline.options import Options, make_front_end
    from spa_compiler.pipeline.state import State

    graph = make_front_end(Options()).run(State.of(load(tmp_path / "m.onnx"))).require_graph()
    data = open_dataset(save_picture(tmp_path / "a.png"), graph.model, parse_preprocess(""))
    assert data.is_unscaled
    data = decide_scale(graph, data)
    assert data.values is not None and data.values.is_identity and data.decided == "the graph's first operators"
    said = decide_scale(graph, open_dataset(tmp_path / "a.png", graph.model, parse_preprocess("")), {"x": (-1.0, 1.0)})
    assert said.values is not None and said.values.describe() == "scale=1/127.5,mean=1"


def test_a_picture_for_what_takes_none_is_refused(tmp_path: Path) -> None:
    file = save_picture(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.png: pictures, and 'x' takes \[0, 7, 9, 9\]"):
        read(file, ["N", 7, 9, 9])


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header says a size, and that holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(12000, 12000), (60000, 60000), (1 << 30, 1)])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of_size(*size))
    with pytest.raises(UsageError, match=r"bomb\.png: .*pixels"):
        read(tmp_path / "bomb.png", COLOUR)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.02])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, share: float) -> None:
    whole = save_picture(tmp_path / "a.jpg", 200, 200).read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UsageError, match=r"a\.jpg: .*(broken|not a picture)"):
        read(tmp_path / "a.jpg", COLOUR)


@pytest.mark.parametrize("content", [b"", b"no picture", b"GIF89a" + bytes(20)])
def test_a_file_that_is_called_a_picture_is_looked_at(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.png: not a picture"):
        read(tmp_path / "a.png", COLOUR)


@pytest.mark.parametrize(
    ("text", "says"),
    [("crop=100", "the model takes 8x8"), ("resize=4", "the model takes 8x8"), ("resize=4x9", "less than the 8x8"),
     ("rate=16000", "holds pictures; leave it out"), ("layout=NHWC", "which is no picture")],
)  # fmt: skip
def test_what_does_not_fit_the_input_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read(save_picture(tmp_path / "a.png"), COLOUR, text)


def test_a_picture_is_no_input_of_a_model_with_two(tmp_path: Path) -> None:
    graph = graph_of_classifier(COLOUR)
    graph.model.header.graph.input.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1]))
    with pytest.raises(UsageError, match="the model has 2 \\('x', 'z'\\)"):
        open_dataset(save_picture(tmp_path / "a.png"), graph.model, parse_preprocess(""))
