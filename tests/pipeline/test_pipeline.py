"""The text form of pipelines, their errors, and that a run can be made again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spa_compiler
from spa_compiler.compiler import compile_file
from spa_compiler.errors import SpaError, UsageError
from spa_compiler.ir.reader import load
from spa_compiler.pipeline.options import Options, pipeline_of
from spa_compiler.pipeline.passes import Pipeline, find_passes, format_pass, make_pass
from spa_compiler.pipeline.state import State
from spa_compiler.planning.device import find_device, find_host

NAMES = sorted(find_passes())
TEXT = "normalize,erase,score{criterion=l2},allocate{ratio=0.4},remove,verify"


@pytest.mark.parametrize(
    "text",
    [
        "normalize",
        TEXT,
        "allocate{ratio=0.5,align=8,exclude=conv1|*.bias}",
        "normalize,score,protect{floor=0.3}(allocate{ratio=0.5},remove,verify),erase",
        'normalize{input_shape="x:1,3,224,224"}',
        'plan{file="a plan, {new}.json"}',
        'score{file="größe \\\\ \\"1\\".npz"}',
    ],
)
def test_a_pipeline_reads_back_as_it_is_written(text: str) -> None:
    first = Pipeline.parse(text)
    assert Pipeline.parse(str(first)) == first


@given(
    st.lists(st.text(min_size=1, max_size=8), max_size=3),
    st.floats(0, 0.99),
    st.integers(0, 64),
    st.text(max_size=12),
)
def test_any_options_survive_the_text(patterns: list[str], ratio: float, align: int, name: str) -> None:
    steps = (
        make_pass("score", file=name),
        make_pass("allocate", ratio=ratio, align=align, exclude=tuple(patterns)),
        make_pass("normalize", input_shape=tuple(patterns)),
    )
    assert Pipeline.parse(str(Pipeline(steps))).passes == steps


def test_spaces_and_empty_braces_do_not_matter() -> None:
    tight = Pipeline.parse("normalize,score{criterion=l1,seed=3}")
    assert Pipeline.parse(" normalize{} , score{ criterion = l1 , seed = 3 } ") == tight


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert format_pass(make_pass("score", criterion="l2", seed=7)) in ("score{seed=7}", "score{criterion=l2,seed=7}")
    assert format_pass(make_pass("erase")) == "erase"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "expected the name of a pass"),
        ("normalize,", "after the last ','"),
        ("normalize,,erase", "expected the name of a pass at ',erase'"),
        ("normalize erase", "expected ',' before 'erase'"),
        ("score{criterion}", r"expected key=value in score\{"),
        ("score{criterion=l2", r"expected key=value in score\{"),
        ("score{seed=1,seed=2}", "says seed twice"),
        ('score{criterion="l\\2"}', "not a JSON string"),
        ("prune{ratio=0.5}", r"no pass is called 'prune'; there are .*allocate"),
        ("score{colour=red}", r"'score' has no option colour; it has criterion"),
        ("remove{x=1}", "'remove' has no option x; it has none"),
        ("score{seed=many}", r"score\.seed='many' is not a int"),
        ("allocate{ratio=half}", r"allocate\.ratio='half'"),
        ("plan", "'plan' needs file"),
        ("protect(allocate{ratio=0.5}", r"expected '\)' after the passes of protect"),
        ("normalize)", r"'\)' without '\('"),
        ("protect(remove,)", "after the last ','"),
        ("protect()", "expected the name of a pass"),
        ("erase(remove)", "'erase' holds no passes"),
        ("protect{inner=remove}", "cannot be given as text|has no option inner"),
    ],
)
def test_text_that_makes_no_sense_says_where(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        Pipeline.parse(text)


def test_every_pass_has_a_name_a_docstring_and_options_that_can_be_text() -> None:
    for name in NAMES:
        kind = find_passes()[name].load()
        assert kind.name == name
        assert kind.__doc__
        if name != "plan":
            assert Pipeline.parse(format_pass(kind())).passes == (kind(),)


def test_a_pipeline_is_a_pass(models: Path) -> None:
    inner = Pipeline.parse("normalize,erase")
    whole = Pipeline((inner, make_pass("score", criterion="l1")))
    assert str(whole) == "normalize,erase,score{criterion=l1}"
    state = whole.run(State.of(load(models / "digits_gru.onnx")))
    assert state.scores
    assert {"normalize", "erase", "score"} <= set(state.seconds)
    assert [p.name for p in state.done] == ["normalize", "analyze", "erase", "score"]


def test_passes_in_parentheses_are_run_again_as_those_before_are(models: Path, tmp_path: Path) -> None:
    """Older texts have `protect` behind the passes that it repeats."""
    begin = "normalize,calibrate{source=white,samples=32},score{criterion=obspa},"
    repeated = "allocate{ratio=0.5},remove,verify,compensate"
    texts = (f"{begin}{repeated},protect{{floor=2,rounds=1}}", f"{begin}protect{{floor=2,rounds=1}}({repeated})")
    states = [Pipeline.parse(t).run(State.of(load(models / "digits_gru.onnx"))) for t in texts]
    assert len(states[0].results["protection"]["explained_variance"]) == 2
    assert states[0].results["protection"] == states[1].results["protection"]
    assert states[0].plan.digest() == states[1].plan.digest()
    assert states[1].done[-1].name == "protect"


def test_what_a_pass_in_parentheses_lacks_is_found_before_anything_is_run() -> None:
    with pytest.raises(UsageError, match="pass 'allocate' needs the scores of an earlier pass: put `score` before it"):
        Pipeline.parse("normalize,protect(allocate{ratio=0.5},remove,verify)").complete()


@dataclass(frozen=True)
class Fail:
    """A pass that refuses."""

    why: str = "no"
    name: ClassVar[str] = "fail"

    def run(self, state: State) -> State:
        raise UsageError(self.why)


def test_an_error_names_the_passes_that_it_came_from(models: Path) -> None:
    whole = Pipeline((Pipeline((Fail("not today"),)),))
    with pytest.raises(UsageError, match="not today") as e:
        whole.run(State.of(load(models / "digits_gru.onnx")))
    assert e.value.__notes__[0] == 'in pass fail{why="not today"}'


def test_passes_do_not_change_the_state_that_they_get(models: Path) -> None:
    before = State.of(load(models / "digits_gru.onnx"))
    bytes_before = before.model.proto().SerializeToString(deterministic=True)
    after = Pipeline.parse(TEXT).run(before)
    assert before == State.of(before.source, before.progress)
    assert before.model.proto().SerializeToString(deterministic=True) == bytes_before
    assert not after.plan.is_empty


@pytest.mark.parametrize("passes", ["score", "allocate{ratio=0.5}", "remove", "erase", "verify", "normalize,verify"])
def test_a_pass_that_lacks_an_earlier_one_says_which(models: Path, passes: str) -> None:
    with pytest.raises(SpaError, match=r"put `\w+` before it|nothing"):
        Pipeline.parse(passes).run(State.of(load(models / "digits_gru.onnx")))


@pytest.mark.parametrize(
    "options",
    [
        Options(ratio=0.5),
        Options(ratio=0.3, criterion="l2", of="params", scope="global", exclude=("a b", "c|d"), group_ratio=("x=0.2",)),
        Options(target="1.2 GMACs", scores="s.npz", seed=4, input_range=("x:0,1",)),
        Options(plan="p.json", input_shape=("x:1,1,8,8",)),
        Options(ratio=0),
    ],
)
def test_options_make_a_pipeline_that_its_text_makes_again(options: Options) -> None:
    steps = pipeline_of(options)
    assert Pipeline.parse(str(steps)) == steps
    assert pipeline_of(Options(pipeline=str(steps))) == steps


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(ratio=0.5, target="1MB"),
        Options(ratio=0.5, plan="p.json"),
        Options(ratio=0.5, pipeline="normalize"),
    ],
)
def test_options_that_say_nothing_or_two_things_are_refused(options: Options) -> None:
    with pytest.raises(UsageError):
        pipeline_of(options)


@pytest.mark.parametrize(
    ("name", "criterion"), [("digits_gru", "obspa"), ("digits_vit", "l1"), ("digits_resnet", "random")]
)
def test_compiling_twice_gives_the_same_bytes(tmp_path: Path, models: Path, name: str, criterion: str) -> None:
    for out in ("a.onnx", "b.onnx"):
        source = models / f"{name}.onnx"
        fewer = {"samples": 24} if criterion == "obspa" else {}
        spa_compiler.compile(source, 0.4, tmp_path / out, criterion=criterion, latency=False, quality=False, **fewer)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits_gru", {"samples": 64}),
        ("digits_resnet", {"samples": 32, "scope": "uniform"}),
        ("digits_vit", {"criterion": "random", "seed": 3}),
    ],
)
def test_what_ratios_have_in_common_is_done_once_and_gives_the_same(
    tmp_path: Path, models: Path, name: str, options: dict[str, Any]
) -> None:
    source, known, steps = models / f"{name}.onnx", dict[str, State](), list[str]()

    def made(ratio: float, **more: Any) -> bytes:
        out = tmp_path / "o.onnx"
        compile_file(source, out, Options(ratio=ratio, latency=False, quality=False, **options), **more)
        return out.read_bytes()

    ratios = (0.5, 0.0, 0.2, 0.5)
    assert [made(r, progress=steps.append, known=known) for r in ratios] == [made(r) for r in ratios]
    assert [steps.count(s) for s in ("load", "score", "allocate", "verify")] == [4, 1, 3, 4]
    assert steps.count("calibrate") == ("samples" in options)


def test_the_file_says_how_it_was_made_and_the_text_makes_it_again(tmp_path: Path, models: Path) -> None:
    source = models / "digits_gru.onnx"
    result = spa_compiler.compile(source, 0.4, tmp_path / "a.onnx", criterion="l2", latency=False, quality=False)
    said = {p.key: p.value for p in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert said["spa_compile.version"] == spa_compiler.__version__
    assert said["spa_compile.source_sha256"] == result.report["input"]["sha256"]
    assert said["spa_compile.plan_sha256"] == result.report["plan_sha256"]
    assert said["spa_compile.seed"] == "0"
    spa_compiler.compile(
        source, pipeline=said["spa_compile.pipeline"], output=tmp_path / "b.onnx", latency=False, quality=False
    )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("block", [8, 16])
def test_the_recorded_pipeline_makes_the_same_file_on_another_processor(
    block: int, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = models / "digits_resnet.onnx", {"latency": False, "quality": False}
    devices = {8: find_device("avx2"), 16: find_device("avx512")}
    monkeypatch.setattr("spa_compiler.planning.device.find_host", lambda: devices[block])
    first = compile_file(source, tmp_path / "a.onnx", Options(ratio=0.4, criterion="l2", **options))
    text = first.report["pipeline"]
    assert f"device={devices[block].name}" in text
    monkeypatch.setattr("spa_compiler.planning.device.find_host", lambda: devices[24 - block])
    compile_file(source, tmp_path / "b.onnx", Options(pipeline=text, **options))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("criterion", ["l2", "obspa"])
def test_threads_change_no_byte(criterion: str, source: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{k}.onnx" for k in (0, 1, 3)]
    for file in files:
        options = Options(ratio=0.4, criterion=criterion, threads=int(file.stem), quality=False)
        compile_file(source, file, options)
    assert len({f.read_bytes() for f in files}) == 1


def test_a_pipeline_that_is_resolved_says_what_it_says_once_more() -> None:
    text = "normalize,score{criterion=l2},protect(allocate{ratio=0.5,threads=3},remove,verify)"
    once = Pipeline.parse(text).resolve()
    assert once.resolve() == once == Pipeline.parse(str(once))
    assert "threads" not in str(once) and f"device={find_host().name}" in str(once)
    assert "device" not in str(Pipeline.parse("allocate{ratio=0.5,align=8,device=avx2}").resolve())
    old = "allocate{ratio=0.5,block=16}"
    assert str(Pipeline.parse(old).resolve()) == old
    assert "threads=3" in str(Pipeline.parse("allocate{target=5ms,threads=3}").resolve())
