"""Some cases of `python -m tools.fuzz`: the command keeps its promises on random, hostile and broken models."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tools.fuzz.cases import MODEL, OUTPUT, list_cases, make_case
from tools.fuzz.judge import judge, read_folder
from tools.fuzz.oracle import Differs, compare
from tools.fuzz.worker import Worker

CASES, CHUNKS = 200, 10


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A command that is imported once; every case is a process that is forked from it."""
    found = Worker(sys.executable, None, 0)
    yield found
    found.close()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_command_keeps_its_promises(worker: Worker, chunk: int) -> None:
    names = list_cases(0, CASES)[chunk::CHUNKS]
    rows = [worker.work(name) for name in names]
    assert not {r["case"]: (r["signature"], r["text"]) for r in rows if r["level"] == "fault"}


def test_a_case_follows_from_its_kind_and_seed() -> None:
    for name in list_cases(1000, 40):
        one, two = make_case(*name), make_case(*name)
        assert one == two


@pytest.fixture(scope="module")
def compiled(worker: Worker) -> Path:
    """A folder with a drawn model and what the command made of it."""
    folder = worker.make_folder()
    case = make_case("images", 1)
    (folder / MODEL).write_bytes(case.files[MODEL])
    assert worker.command.run([MODEL, *case.argv], folder).exit == 0
    return folder


def test_the_reference_agrees_with_a_right_file(compiled: Path) -> None:
    case = make_case("images", 1)
    found = compare(compiled / MODEL, compiled / OUTPUT, case.inputs, None, exact=True, half=False)
    assert found.sizes
    assert found.error < 1e-4


def test_the_reference_sees_two_channels_exchanged(compiled: Path, tmp_path: Path) -> None:
    case, model = make_case("images", 1), onnx.load(compiled / OUTPUT)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4 and t.dims[0] > 1)
    weight.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(weight), 1, axis=0), weight.name))
    onnx.save(model, tmp_path / OUTPUT)
    with pytest.raises(Differs):
        compare(compiled / MODEL, tmp_path / OUTPUT, case.inputs, None, exact=True, half=False)


def test_a_run_that_takes_too_long_or_too_much_is_a_fault(worker: Worker) -> None:
    case = make_case("images", 1)
    ran, _ = worker.run(case)
    ends = {"hang": {"late": True}, "memory": {"memory": 1 << 40}, "signal": {"exit": -11}, "exit 70": {"exit": 70}}
    for outcome, end in ends.items():
        assert judge(case, dataclasses.replace(ran, **end), worker.folder / "case", {}).outcome == outcome


def test_another_file_that_is_written_is_a_fault(worker: Worker) -> None:
    case = make_case("images", 1)
    ran, _ = worker.run(case)
    folder = worker.folder / "case"
    before = {MODEL: read_folder(folder)[MODEL]}
    (folder / "more.txt").write_text("more")
    assert judge(case, ran, folder, before).outcome == "wrote more"
