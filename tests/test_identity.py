"""tools/measure/identity.py: compiles are identical where their files are, but for two metadata entries."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
Change = Callable[[onnx.ModelProto], object]


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measure_identity", ROOT / "tools" / "measure" / "identity.py")
    assert spec is not None and spec.loader is not None
    sys.modules["measure_identity"] = made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


TOOL = _tool()


def model() -> onnx.ModelProto:
    """A Gemm and a Relu, with metadata."""
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    gemm = helper.make_node("Gemm", ["x", "w"], ["h"], "fc", alpha=1.0)
    relu = helper.make_node("Relu", ["h"], ["y"], "act")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", s]) for n, s in (("x", 2), ("y", 3))]
    made = helper.make_model(helper.make_graph([gemm, relu], "g", ends[:1], ends[1:], [weight]))
    for key in ("spa_compile.version", "spa_compile.pipeline", "spa_compile.seed"):
        made.metadata_props.add(key=key, value="0")
    return made


def save(folder: Path, change: Change = lambda m: None, data: str = "") -> Path:
    folder.mkdir()
    made = model()
    change(made)
    if data:
        onnx.save(made, folder / TOOL.TARGET, save_as_external_data=True, location=data, size_threshold=0)
    else:
        (folder / TOOL.TARGET).write_bytes(made.SerializeToString(deterministic=True))
    return folder


def ending(folder: Path, code: int | None = 0, said: str = "") -> object:
    """A compile that ended like this."""
    folder.mkdir(exist_ok=True)
    return TOOL.Compile(code=code, lines=("", said), seconds=1.0, folder=folder)


def set_weight(made: onnx.ModelProto, *, at: int = 0, to: float = 0.5) -> None:
    values = numpy_helper.to_array(made.graph.initializer[0]).copy()
    values.flat[at] = to
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))


def set_metadata(made: onnx.ModelProto, key: str) -> None:
    next(p for p in made.metadata_props if p.key == key).value = "1"


def store_as_floats(made: onnx.ModelProto) -> None:
    weight = made.graph.initializer[0]
    weight.float_data.extend(numpy_helper.to_array(weight).flat)
    weight.ClearField("raw_data")


SAME: dict[str, Change] = {
    "nothing": lambda m: None,
    "version": lambda m: set_metadata(m, "spa_compile.version"),
    "pipeline": lambda m: set_metadata(m, "spa_compile.pipeline"),
    "an entry less": lambda m: m.metadata_props.pop(0),
}
DIFFERENT: dict[str, Change] = {
    "graph, initializer 'w', 1 of 6 values differ, by 0.5 at most": set_weight,
    "graph, initializer 'w', 1 of 6 values differ, by 0 at most": lambda m: set_weight(m, to=-0.0),
    "metadata entry 'spa_compile.seed', value '0' in base, '1' now": lambda m: set_metadata(m, "spa_compile.seed"),
    "metadata entry 'k' only now (1 in base, 2 now)": lambda m: m.metadata_props.add(key="k"),
    "graph, node 'fc' (Gemm), attribute 'alpha', f 1.0 in base, 2.0 now":
        lambda m: setattr(m.graph.node[0].attribute[0], "f", 2.0),
    "graph, node 1 is node 'act' (Relu) in base, node 'act' (Tanh) now":
        lambda m: setattr(m.graph.node[1], "op_type", "Tanh"),
    "graph, node 'fc' (Gemm), input[1] 'w' in base, 'v' now": lambda m: m.graph.node[0].input.__setitem__(1, "v"),
    "graph, node 'act' (Relu) only in base (2 in base, 1 now)": lambda m: m.graph.node.pop(),
    "graph, initializer 'w', FLOAT[2, 3] in base, FLOAT[2] now":
        lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "w")),
    "graph, node 'fc' (Gemm), attribute 'alpha', t only now":
        lambda m: m.graph.node[0].attribute[0].t.SetInParent(),
    "ir_version 10 in base, 3 now": lambda m: setattr(m, "ir_version", 3),
    "the same content is written in other bytes": store_as_floats,
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_version_and_pipeline_may_differ(name: str, tmp_path: Path) -> None:
    assert TOOL.compare_folders(save(tmp_path / "base"), save(tmp_path / "now", SAME[name])) == ""


@pytest.mark.parametrize("words", DIFFERENT)
def test_the_first_difference_is_named(words: str, tmp_path: Path) -> None:
    base = save(tmp_path / "base", lambda m: setattr(m, "ir_version", 10))
    now = save(tmp_path / "now", lambda m: (setattr(m, "ir_version", 10), DIFFERENT[words](m)))
    assert TOOL.compare_folders(base, now) == words


def test_a_file_is_the_sum_of_its_fields() -> None:
    data = model().SerializeToString()
    assert b"".join(record for _, record, _ in TOOL.split_fields(data)) == data
    assert len(TOOL.strip_metadata(data)) < len(data)


def test_external_data_count_like_what_they_hold(tmp_path: Path) -> None:
    base = save(tmp_path / "base", data="a.data")
    assert TOOL.compare_folders(base, save(tmp_path / "same", data="a.data")) == ""
    words = TOOL.compare_folders(base, save(tmp_path / "weight", set_weight, data="a.data"))
    assert words == "graph, initializer 'w', 1 of 6 values differ, by 0.5 at most"
    assert TOOL.compare_folders(base, save(tmp_path / "name", data="b.data")) == "file 'a.data' only in base"


def test_without_files_the_ends_are_compared(tmp_path: Path) -> None:
    nothing, file = tmp_path / "nothing", save(tmp_path / "file")
    refused = ending(nothing, 5, "nothing can be pruned")
    assert TOOL.compare_compiles(refused, refused) == (
        True, "neither writes a file: exit 5, no file: nothing can be pruned"
    )  # fmt: skip
    assert TOOL.compare_compiles(ending(file), ending(file, said="another line")) == (True, "")
    for other in (ending(nothing, 4, "nothing can be pruned"), ending(nothing, 5, "nothing"), ending(file)):
        is_identical, words = TOOL.compare_compiles(refused, other)
        assert not is_identical and words == f"base: {refused}; now: {other}"


def test_a_process_that_ends_early_is_a_difference(tmp_path: Path) -> None:
    lost = ending(tmp_path / "lost", None, "exit -9")
    assert not TOOL.compare_compiles(lost, lost)[0]


def test_a_table_is_continued_by_the_code_that_began_it(tmp_path: Path) -> None:
    table = TOOL.Table(tmp_path / "table.md", "one setting")
    rows = [TOOL.Row("m", "l2", "0.5", "no", "a | b", 1.25, 2.5), TOOL.Row("m", TOOL.START, "", "", "", 1.0, 2.0)]
    table.replace_rows("m", rows)
    again = TOOL.Table(table.path, table.setting)
    again.resume()
    assert again.rows == rows
    assert again.has_all("m", [("l2", "0.5")]) and not again.has_all("m", [("l2", "0.3")])
    sums = "2.25 base, 4.50 now, now / base 2.0000; without the start: 1.25 base, 2.50 now, now / base 2.0000"
    assert again.summary()[1] == f"CPU seconds: {sums}."
    assert again.differences() == 1
    with pytest.raises(ValueError, match="other code"):
        TOOL.Table(table.path, "another setting").resume()


def test_a_version_is_identical_to_itself() -> None:
    (row, start) = TOOL.measure_model(
        "mlp", ROOT / "tests" / "exports" / "mlp.jax2onnx.onnx", [("l2", "0.5")], (sys.executable,) * 2, True
    )
    assert (row.identical, row.difference) == ("yes", "")
    assert start.method == TOOL.START and min(row.base, row.now, start.base, start.now) > 0
