"""Ids that are computed with before they index: their ranges are followed, and every draw lies in the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from commands import last, run
from spa_compiler.canonicalize.pipeline import normalize
from spa_compiler.errors import UsageError
from spa_compiler.execution.index_ranges import find_index_ranges
from spa_compiler.execution.inputs import parse_ranges
from spa_compiler.execution.session import open_session
from spa_compiler.ir.model import Model
from spa_compiler.ir.reader import from_proto
from spa_compiler.verification.feeds import count_draws, draw_inputs

ROWS = 60


def make_proto(body: str, inputs: str = "int64[N,3] c", rows: int = ROWS, **numbers: Any) -> onnx.ModelProto:
    """A table that the value `i` indexes, behind it a small network."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[N,3,5] y) {{
        {body}  e = Gather(table, i)  h = MatMul(e, w1)  r = Relu(h)  y = MatMul(r, w2) }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    arrays = {
        n: rng.standard_normal(s).astype(np.float32) for n, s in [("table", (rows, 4)), ("w1", (4, 8)), ("w2", (8, 5))]
    }
    arrays |= {n: np.asarray(a) for n, a in numbers.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    return model


def make_model(body: str, inputs: str = "int64[N,3] c", rows: int = ROWS, **numbers: Any) -> Model:
    return normalize(from_proto(make_proto(body, inputs, rows, **numbers), Path("m.onnx")))[0]


FORMS: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "as they are": ("i = Identity(c)", {}, (0, 60)),
    "an offset a column": ("i = Add(c, o)", {"o": [0, 5, 12]}, (0, 48)),
    "an offset in front": ("i = Add(o, c)", {"o": [20]}, (0, 40)),
    "counted from one": ("i = Sub(c, o)", {"o": [1]}, (1, 61)),
    "counted from a thousand": ("i = Sub(c, o)", {"o": [1000]}, (1000, 1060)),
    "counted down": ("i = Sub(o, c)", {"o": [59]}, (0, 60)),
    "counted down from above": ("i = Sub(o, c)", {"o": [99]}, (40, 100)),
    "every other": ("i = Mul(c, o)", {"o": [2]}, (0, 30)),
    "halves": ("i = Div(c, o)", {"o": [2]}, (0, 120)),
    "remainders": ("i = Mod(c, o)", {"o": [60]}, (0, 60)),
    "remainders and an offset": ("m = Mod(c, o)  i = Add(m, p)", {"o": [50], "p": [10]}, (0, 60)),
    "remainders that are too many": ("i = Mod(c, o)", {"o": [90]}, (0, 60)),
    "no more than the last": ("i = Min(c, o)", {"o": [59]}, (0, 60)),
    "no less than the first": ("i = Max(c, o)", {"o": [3]}, (0, 60)),
    "cut at both ends": ("i = Clip(c, o, p)", {"o": 0, "p": 59}, (0, 60)),
    "cut below": ("s = Sub(c, o)  i = Clip(s, p)", {"o": [100], "p": 0}, (0, 160)),
    "chosen by a comparison": ("l = Less(c, o)  i = Where(l, c, o)", {"o": [59]}, (0, 60)),
    "in floats": ("f = Cast <to = 1> (c)  s = Mul(f, o)  k = Floor(s)  i = Cast <to = 7> (k)", {"o": np.float32(0.5)},
                  (0, 120)),
    "moved behind": ("a = Add(c, o)  t = Transpose <perm = [1, 0]> (a)  i = Transpose <perm = [1, 0]> (t)", {"o": [30]},
                     (0, 30)),
    "parts joined": ("a = Slice(c, z, p, p)  b = Slice(c, p, q, p)  d = Add(b, o)  i = Concat <axis = 1> (a, d)",
                     {"z": [0], "p": [1], "q": [3], "o": [20]}, (0, 40)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_range_of_ids_is_the_widest_whose_indices_are_in_the_table(form: str) -> None:
    body, numbers, ids = FORMS[form]
    assert find_index_ranges(make_model(body, **numbers)) == {"c": ids}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_drawn_runs_and_names_every_id(form: str) -> None:
    body, numbers, (least, limit) = FORMS[form]
    model = make_model(body, **numbers)
    session = open_session(model.proto(), model.folder)
    feeds = [draw_inputs(model, {"N": 9}, seed) for seed in range(5)]
    for feed in feeds:
        session.run(None, feed)
    seen = {int(v) for f in feeds[: count_draws(model, {"N": 9}, feeds[0])] for v in f["c"].ravel()}
    assert seen == set(range(least, limit)) or limit - least > 135


def test_of_two_inputs_that_make_an_index_both_have_room() -> None:
    """A row times the width and a column: the largest of both is in the table."""
    found = find_index_ranges(make_model("r = Mul(c, o)  i = Add(r, d)", "int64[N,3] c, int64[N,3] d", o=[10]))
    (_, rows), (_, columns) = found["c"], found["d"]
    assert rows > 1 and columns > 1 and (rows - 1) * 10 + columns - 1 < ROWS


def test_a_limit_as_an_id_itself_holds_beside_a_computed_one() -> None:
    model = make_model("k = Gather(short, c)  a = Add(c, o)  i = Add(k, a)", o=[10], short=[0, 1] * 15)
    assert find_index_ranges(model) == {"c": (0, 30)}


@pytest.mark.parametrize(
    ("body", "numbers"),
    [("s = CumSum(c, o)  i = Sub(s, s)", {"o": 1}), ("a = Add(c, o)  i = Min(a, p)", {"o": [900], "p": [950]})],
    ids=["no interval", "never in the table"],
)
def test_an_index_of_which_nothing_is_known_says_nothing(body: str, numbers: dict[str, Any]) -> None:
    assert find_index_ranges(make_model(body, **numbers)) == {}


def test_masks_beside_ids_stay_masks() -> None:
    model = make_model(
        "b = Cast <to = 9> (m)  p = Where(b, c, z)  i = Add(p, o)", "int64[N,3] c, int64[N,3] m", o=[1], z=[0]
    )
    assert find_index_ranges(model) == {"c": (0, 59)}


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_features_in_one_table_compile_by_default(kind: str, tmp_path: Path) -> None:
    offsets = np.array([0, 5, 12], kind)
    onnx.save(make_proto("i = Add(c, o)", f"{kind}[N,3] c", 15, o=offsets), tmp_path / "m.onnx")
    result = run(tmp_path / "m.onnx", "--ratio", 0.3, "--no-latency")
    assert result.exit_code == 0, result.output
    assert "VERIFIED" in last(result)


def test_an_index_that_is_in_no_table_names_the_option(tmp_path: Path) -> None:
    """Whole numbers whose sum indexes: nothing says how large each may be."""
    onnx.save(make_proto("s = CumSum(c, o)  i = Identity(s)", rows=2, o=1), tmp_path / "m.onnx")
    result = run(tmp_path / "m.onnx", "--ratio", 0.3, "--no-latency", "--criterion", "l2")
    assert result.exit_code == 3 and "--input-range c:LOW,HIGH" in " ".join(result.output.split())
    assert run(tmp_path / "m.onnx", "--ratio", 0.3, "--no-latency", "--input-range", "c:0,0").exit_code == 0


def test_a_range_may_be_a_single_number() -> None:
    model = make_model("p = Mul(c, m)  i = Identity(p)", "int64[N,3] c, int64[N,3] m")
    assert parse_ranges(("m:1,1",), model) == {"m": (1.0, 1.0)}
    assert (draw_inputs(model, {"N": 9}, 0, {"m": (1.0, 1.0)})["m"] == 1).all()
    with pytest.raises(UsageError, match="LOW no higher than HIGH"):
        parse_ranges(("m:1,0",), model)
