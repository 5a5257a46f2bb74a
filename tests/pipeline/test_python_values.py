"""Options in Python: typed for editors, patterns in the forms that Python has, models in memory, values checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import spa_compiler
from spa_compiler import Options, SpaError
from spa_compiler.errors import UsageError
from tools.option_values import write_module

QUICK: dict[str, Any] = {"criterion": "l2", "latency": False, "quality": False}


def test_the_types_of_options_are_those_that_passes_declare() -> None:
    import spa_compiler.pipeline.option_values as module

    text = Path(module.__file__).read_text(encoding="utf-8")
    assert text.splitlines() == list("\n".join(write_module()).splitlines()), "run: python -m tools.option_values"


@pytest.mark.parametrize(("name", "value", "texts"), [
    ("exclude", "layer1*", ("layer1*",)),
    ("exclude", ["a", "b:0"], ("a", "b:0")),
    ("group_ratio", {"layer1*": 0.2, "fc": "0.5"}, ("layer1*=0.2", "fc=0.5")),
    ("input_shape", {"x": (1, 3, 32, 32), "n": 4}, ("x:1,3,32,32", "n:4")),
    ("input_range", {"x": np.array([0, 1])}, ("x:0,1",)),
    ("fail_under", {"cosine": 0.9}, ("cosine=0.9",)),
])  # fmt: skip
def test_patterns_are_texts_lists_or_dictionaries(name: str, value: Any, texts: tuple[str, ...]) -> None:
    assert getattr(Options(**{name: value}), name) == texts
    assert Options(**{name: value}) == Options(**{name: texts})


def test_preprocessing_and_paths_are_read_too() -> None:
    assert Options(preprocess={"resize": 256, "mean": (0.5, 0.5, 0.5)}).preprocess == "resize=256,mean=0.5,0.5,0.5"
    assert Options(plan=Path("p.json")).plan == "p.json"


@pytest.mark.parametrize("wrong", [
    {"ratio": "half"}, {"samples": 1.5}, {"samples": True}, {"scope": "none"}, {"of": "flowers"}, {"min_keep": 0},
    {"max_group_ratio": 2},
    {"matching": float("nan")}, {"ratio": float("inf")}, {"time_limit": "1"},
    {"align": -8}, {"exclude": 3}, {"exclude": [3]}, {"latency": "no"}, {"memory": 2},
], ids=str)  # fmt: skip
def test_a_value_that_an_option_cannot_have_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))!r}".replace("[", r"\[")):
        Options(**wrong)


def test_a_model_may_be_a_path_bytes_or_a_proto(source: Path) -> None:
    proto = onnx.load(source)
    before = proto.SerializeToString()
    results = [spa_compiler.compile(m, ratio=0.4, **QUICK) for m in (source, source.read_bytes(), proto)]
    assert proto.SerializeToString() == before
    assert len({r.model.graph.SerializeToString() for r in results}) == 1
    assert len({r.plan.digest() for r in results}) == 1
    assert results[0].report["plan_sha256"] == results[0].plan.digest()


def test_a_model_in_memory_leaves_no_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    result = spa_compiler.compile(source.read_bytes(), ratio=0.4, **QUICK)
    assert result.state.require_graph().model.proto().graph.node
    del result
    with pytest.raises(SpaError):
        spa_compiler.compile(b"no model", ratio=0.4, **QUICK)
    assert not list(folder.iterdir())
