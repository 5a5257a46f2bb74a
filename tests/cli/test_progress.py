"""Progress: steps, items and seconds on a terminal, plain lines elsewhere, nothing where that is asked for."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import click
import pytest
from rich.console import Console

import spa_compiler
from commands import QUICK, run
from spa_compiler.cli.colours import paint
from spa_compiler.cli.progress import Steps, show_progress
from spa_compiler.execution.item_counts import count_items, listen_to_items


class Clock:
    """Seconds that somebody sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_step_says_how_far_it_is_and_how_long_the_rest_takes() -> None:
    shown, done, clock = list[str](), list[str](), Clock()
    steps = Steps(["calibrate", "score", "allocate"], shown.append, done.append, clock)
    steps.tell("calibrate")
    steps.tell("calibrate: photographs")
    clock.now = 10.0
    steps.count(20, 50)
    steps.tell("score")
    clock.now = 10.5
    steps.count(1, 4)  # too early to guess
    steps.end()
    assert shown == [
        "step 1 of 3: calibrate", "step 1 of 3: calibrate: photographs",
        "step 1 of 3: calibrate: photographs, 20 of 50 (10 s, about 15 s left)", "step 2 of 3: score",
        "step 2 of 3: score, 1 of 4 (0.5 s)",
    ]  # fmt: skip
    assert done == ["step 1 of 3: calibrate, 10 s", "step 2 of 3: score, 0.5 s"]


def test_steps_that_are_left_out_count_as_done_and_one_that_comes_again_does_not() -> None:
    shown = list[str]()
    steps = Steps(["load", "fold", "analyze", "erase", "analyze", "compare"], shown.append, lambda text: None)
    for name in ("load", "analyze", "analyze", "load", "search", "compare"):
        steps.tell(name)
    assert [text.split()[1] for text in shown] == ["1", "3", "5", "5", "5", "6"]


def test_on_a_terminal_steps_that_are_done_stay_as_lines() -> None:
    out = io.StringIO()
    with show_progress(
        ["load", "calibrate", "score"], False, Console(file=out, force_terminal=True, width=100)
    ) as tell:
        for name in ("load", "calibrate", "score"):
            tell(name)
            tell(f"{name}: of a[/folder] [with brackets]")
            list(count_items(range(3), 3))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert re.findall(r"  step \d of 3: (\w+), \d+\.\d s", text) == ["load", "calibrate", "score"]


def test_elsewhere_there_is_a_plain_line_a_step_on_standard_error(source: Path) -> None:
    result = run(source, "--ratio", 0.3, *QUICK)
    lines = [line for line in result.stderr.splitlines() if line.startswith("spa-compile: step ")]
    words = [re.sub(r"step \d+ of \d+: |, [\d.]+ s$", "", line) for line in lines]
    assert words[:3] == [f"spa-compile: {n}" for n in ("load", "normalize", "analyze")] and "compare" in words[-1]
    assert all("\x1b" not in line for line in lines)
    counts = [tuple(map(int, re.findall(r"(\d+) of (\d+)", line)[0])) for line in lines]
    assert counts[0][0] == 1 and counts[-1][0] == counts[-1][1] and counts == sorted(counts)
    assert "step" not in result.stdout
    for option in ("-q", "--json"):
        assert "step" not in run(source, "--ratio", 0.3, option, *QUICK).stderr


def test_judgements_have_a_colour_on_a_terminal_unless_that_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    painted = paint("UNPROVEN | quality POOR (no UNPROVENANCE) | latency 1 -> 2 ms (SLOWER)")
    assert [click.unstyle(w) for w in re.findall(r"\x1b\[3\dm\x1b\[1m(.*?)\x1b\[0m", painted)] == [
        "UNPROVEN", "quality POOR", "SLOWER",
    ]  # fmt: skip
    for value, is_plain in (("1", True), ("", False)):  # empty is as if it were not there
        monkeypatch.setenv("NO_COLOR", value)
        assert (paint("VERIFIED") == "VERIFIED") == is_plain


def test_what_is_no_terminal_gets_no_colour(source: Path) -> None:
    done, failed = run(source, "--ratio", 0.3, *QUICK), run(source.with_name("none.onnx"), "--ratio", 0.3)
    assert "\x1b" not in done.output + failed.output and "spa-compile: error: " in failed.stderr


def test_python_hears_of_steps_by_logging(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "spa_compiler"):
        spa_compiler.compile(source, 0.3, criterion="l2", latency=False, quality=False)
    assert {"load", "normalize", "analyze", "remove", "verify"} <= {r.message for r in caplog.records}


def test_whoever_listens_hears_of_every_item_and_nobody_else_does() -> None:
    heard = list[tuple[int, int]]()
    with listen_to_items(lambda done, of: heard.append((done, of))):
        assert list(count_items("abc", 3)) == ["a", "b", "c"]
    assert list(count_items("de", 2)) == ["d", "e"]
    assert heard == [(1, 3), (2, 3), (3, 3)]
