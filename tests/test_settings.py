"""Settings: each has a unit, a source and a row of the experiment table that says the same; nothing else is tuned."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spa_compiler.scoring.settings import SCORING
from spa_compiler.settings import UNRECORDED, Evidence, list_settings

ROOT = Path(__file__).resolve().parent.parent
PAGE, EXPERIMENTS = ROOT / "docs" / "settings.md", ROOT / "docs" / "experiments.md"
TUNED = ("interpreter", "calibration", "statistics", "scoring", "compensation", "planning")
"""Packages whose numbers can change which channels go and what the others become; passes, too."""
JUDGES = ("quality",)
"""Packages whose numbers can change what is said of a model, not the model."""
SOURCES = sorted(
    p
    for p in [
        *(f for t in (*TUNED, *JUDGES) for f in (ROOT / "spa_compiler" / t).rglob("*.py")),
        *(ROOT / "passes").glob("*.py"),
    ]
    if p.name != "settings.py"
)
LIMITS = {
    "interpreter.body_recorder.TAP_BYTES": "memory",
    "interpreter.chunks.LARGE_ARRAY": "memory",
    "interpreter.node_runner.SMALL_ARRAY": "time",
    "interpreter.node_runner.PARALLEL_ELEMENTS": "time",
    "interpreter.body_taps.OUTPUT_SLOT": "a mark",
    "calibration.class_probabilities.LEAST_MASS": "a tolerance",
    "calibration.class_probabilities.MOST_CLASSES": "what a classifier is",
    "calibration.bn_matching.OLDEST_OPSET": "a fact of ONNX",
    "calibration.bn_matching.COPIES_IN_MEMORY": "memory",
    "calibration.bn_matching.COPIES_ALONE": "memory",
    "calibration.bn_matching.PHOTOGRAPH_MACS": "time",
    "calibration.front_end_choice.INPUTS_PER_CLASS": "what a classifier is",
    "calibration.front_end_choice.LARGEST_CEPSTRA": "facts of formats",
    "calibration.front_end_choice.SPOKEN_BY": "time",
    "calibration.front_end_choice.TRIALS": "time",
    "compensation.norm_solver.LEAST_SCALE": "keeps what is divided by it finite",
    "calibration.bn_matching.STEP_WORK": "time, measured",
    "calibration.bn_matching.MATCHING_MACS": "time",
    "calibration.inputs.SEPARATE_RUNS": "time",
    "calibration.inputs.CROPS_PER_INPUT": "time",
    "calibration.inputs.CHOICE_MACS": "time",
    "calibration.inputs.POPULATION_KINDS": "a set of words",
    "calibration.inputs.MOST_LEFT": "memory",
    "calibration.inputs.PICTURE_SIDE": "what a picture is at least",
    "calibration.inputs.MOST_CLIPS": "time",
    "calibration.picture_choice.ROWS_AT_ONCE": "memory",
    "calibration.picture_choice.LEAST_NOVELTY": "a tolerance",
    "calibration.priors.front_ends.HOPS": "facts of formats",
    "calibration.priors.front_ends.FRAME_LENGTHS": "facts of formats",
    "calibration.priors.front_ends.USUAL_OVERLAP": "facts of formats",
    "calibration.priors.front_ends.LONGEST_SECOND": "facts of formats",
    "calibration.priors.front_ends.FEWEST_IN_SECOND": "facts of formats",
    "calibration.priors.front_ends.CEPSTRA_BANDS": "facts of formats",
    "calibration.priors.front_ends.LEAST_MAGNITUDE": "a tolerance",
    "calibration.priors.front_ends.WHOLE": "a fact of 16-bit sound",
    "calibration.priors.front_ends.CUSTOMARY_COLUMNS": "facts of formats",
    "calibration.priors.photograph_bank.LEAST_AREA": "how crops vary: those of the study",
    "calibration.priors.photograph_bank.CONTRAST_RANGE": "how crops vary: those of the study",
    "calibration.priors.photograph_bank.BRIGHTNESS_RANGE": "how crops vary: those of the study",
    "calibration.priors.photograph_bank.TINT": "how crops vary: those of the study",
    "calibration.priors.photograph_bank.SHUFFLED": "how crops vary: those of the study",
    "calibration.priors.photograph_bank.RECIPE": "types of numbers",
    "calibration.priors.photograph_bank.LUMA": "a fact of colours",
    "calibration.priors.photograph_bank.ORDERS": "orders of three channels",
    "calibration.priors.photograph_bank.LEAST_SIDE": "pixels below which a crop is no picture",
    "calibration.priors.sound_bank.RATE": "a fact of the bank",
    "calibration.priors.sound_bank.STEP": "a fact of the bank",
    "calibration.priors.sound_bank.EDGES": "a fact of the bank",
    "calibration.priors.sound_bank.COARSENESS": "size of the bank",
    "calibration.priors.sound_bank.LOUDNESS_UNIT": "size of the bank",
    "calibration.priors.sound_bank.FILLING": "how a voice sounds: never compared",
    "calibration.priors.sound_bank.SILENT_SHARE": "how a clip sounds: never compared",
    "calibration.priors.sound_bank.ROOM_SHARE": "how a clip sounds: never compared",
    "calibration.priors.sound_bank.ROOM_SAMPLES": "how a clip sounds: never compared",
    "calibration.priors.sound_bank.ROOMS": "time",
    "calibration.priors.sound_bank.NOISES": "time",
    "calibration.priors.sound_bank.CLIPS_AT_ONCE": "memory",
    "calibration.sentences.LETTERS_PER_ID": "how long a sentence is",
    "calibration.sentences.PAIR_SHARE": "how texts are: never compared",
    "calibration.user_inputs.APART_SHARE": "how sure an estimate is, by its standard error",
    "calibration.user_inputs.CHECKED_ROWS": "time",
    "calibration.user_inputs.COLOURS": "a fact of colours",
    "calibration.user_inputs.FAR_SPAN": "between customary scales",
    "calibration.user_inputs.LEAST_MEASURED": "how sure an estimate is, by its standard error",
    "calibration.user_inputs.MOST_APART": "how sure an estimate is, by its standard error",
    "calibration.user_inputs.ORDER_ROWS": "time",
    "calibration.user_inputs.SAME_ANSWERS": "a note, no decision",
    "calibration.user_inputs.UNKNOWN_COUNT": "stands for no number",
    "calibration.user_inputs.WIDE_SPAN": "between customary scales",
    "calibration.language_model.LENGTH_ELEMENTS": "time",
    "calibration.language_model.TRIED_ROWS": "time",
    "calibration.language_model.CAUSAL_TOLERANCE": "a tolerance",
    "calibration.language_model.MOST_LOGITS": "memory",
    "calibration.pixel_scale.CHUNK_ELEMENTS": "memory",
    "calibration.pixel_scale.TRIED_PICTURES": "time",
    "calibration.pixel_scale.ALIVE_VALUES": "memory",
    "calibration.pixel_scale.MOST_AT_ONCE": "memory",
    "calibration.pixel_scale.CUSTOMARY_INTERVALS": "facts of formats",
    "calibration.priors.kinds.NORMALISED": "a fact of ImageNet",
    "calibration.priors.kinds.KINDS": "units",
    "calibration.priors.photographs.PIXEL_MEAN": "a fact of ImageNet",
    "calibration.priors.photographs.PIXEL_DEVIATION": "a fact of ImageNet",
    "calibration.priors.photographs.GREY_MEAN": "a fact of ImageNet",
    "calibration.priors.photographs.GREY_DEVIATION": "a fact of ImageNet",
    "calibration.priors.photographs._EIGENVALUES": "a fact of ImageNet",
    "calibration.priors.photographs._EIGENVECTORS": "a fact of ImageNet",
    "calibration.priors.photographs._BATCH_PIXELS": "memory",
    "calibration.priors.photographs._REFERENCE": "the size at which settings were compared",
    "calibration.priors.photographs._ARCS": "an array's size",
    "calibration.priors.photographs._POINTS": "an array's size",
    "calibration.sample_budget.MOST_MACS": "time",
    "statistics.covariance.WIDE_COLUMNS": "memory",
    "statistics.covariance.BAND_ROWS": "time",
    "statistics.covariance.BATCH_ENTRIES": "memory",
    "statistics.covariance.BATCH_ROWS": "time",
    "statistics.wide_columns.COLUMNS_AT_ONCE": "memory",
    "statistics.wide_columns.LARGEST_COVARIANCE": "time",
    "statistics.wide_columns.MOST_ROWS": "time",
    "statistics.wide_columns.ROW_ENTRIES": "memory",
    "statistics.expert_tables.NO_EXPERT": "a mark",
    "scoring.obs.WIDE_GROUP": "time",
    "scoring.obs.DENSE_SHARE": "time",
    "scoring.obs.BAND_COLUMNS": "time",
    "planning.search.MOST_REMOVED": "what a share is at most",
    "planning.search.RATIO_DIGITS": "a tolerance",
    "planning.search.MOST_TRIALS": "time",
    "planning.search.NEAR": "a tolerance",
    "planning.search.FIRST_RATIO": "time",
    "planning.search.LEAST_CUT": "time",
    "planning.search.KNEE_STEP": "a tolerance",
    "planning.budget_repair.EXCHANGES": "time",
    "planning.budget_repair.FREE_SHARE": "a tolerance",
    "planning.budget_repair.HALF_BLOCK": "a fact of onnxruntime",
    "planning.budget_repair.HALVES_SLACK": "a tolerance",
    "planning.budget_repair.ROUNDS": "time",
    "planning.cost_tracker.BUDGET_TOLERANCE": "a tolerance",
    "planning.budget_check.MEASUREMENTS": "time",
    "planning.latency_model.SECONDS": "time",
    "planning.density_widths.MODERATION": "a tolerance",
    "passes.repeat.SCHEDULES": "formulas",
    "planning.part_budgets.PART_HALVINGS": "time",
    "planning.part_budgets.PART_ROUNDS": "time",
    "planning.shares.HALVINGS": "time",
    "planning.shares.LEAST_VALUE": "a tolerance",
    "planning.width_ladder.LEAST_OF_STATISTIC": "what a deviation needs",
    "planning.kernel_times.LEAST_KERNEL": "a fact of onnxruntime",
    "planning.measured_budget.MOST_MEASURED": "time",
    "planning.measured_budget.HIGHEST_SHARE": "where the search ends",
    "planning.measured_budget.NEAR_ENOUGH": "time",
    "planning.measured_budget.INNER_PART": "time",
    "passes.allocate.MISSED_SHARE": "a tolerance",
    "planning.dynamic_programming.COST_STEPS": "time",
    "planning.dynamic_programming.LINEARISATIONS": "time",
    "planning.dynamic_programming.MOST_COMBINATIONS": "memory",
    "planning.dynamic_programming.SLACK": "a tolerance",
    "planning.dynamic_programming.STEPS_PER_GROUP": "time",
    "planning.plan.LARGEST_GROUP": "memory",
    "planning.plan.PLAN_FORMAT": "a version",
    "quality.estimate.MOST_DROP": "a unit",
    "quality.estimate.MOST_UNEXPLAINED": "what is lost as a whole",
    "quality.evidence.LEAST_PROBABILITY": "a tolerance",
    "quality.inputs.FAR_SCALE": "between customary scales",
    "quality.inputs.FEWEST_INPUTS": "how sure an estimate is, by its standard error",
    "quality.inputs.MOST_INPUTS": "how sure an estimate is, by its standard error",
    "quality.inputs.MOST_OUTPUT_BYTES": "memory",
    "quality.inputs.MOST_WORK": "time",
    "quality.verdict.GOOD_DROP": "what the word means",
    "quality.verdict.POOR_DROP": "what the word means",
}
"""Constants outside of the settings, and why they are none: nobody chose them by the accuracy of a model."""
FRACTIONS = {
    "calibration.bn_matching": {1e-4: "a variance that is no zero", 1e-5: "ONNX's default"},
    "calibration.class_probabilities": {1e-2: "a tolerance"},
    "calibration.pixel_scale": {
        0.449: "GREY_MEAN",
        0.226: "GREY_DEVIATION",
        114.0: "the same in 0..255",
    },
    "calibration.priors.photographs": {
        "*": "how a picture of its kind looks: never compared but as a whole (E66), settings apart"
    },
    "calibration.priors.front_ends": {"*": "facts of mel scales and windows"},
    "calibration.priors.sound_bank": {"*": "how a clip sounds: never compared"},
    "calibration.user_inputs": {1.5: "between scales of 0..1 and 0..255"},
    "calibration.priors.kinds": {"*": "how an utterance sounds: never compared"},
    "interpreter.activation_maps": {1e-5: "ONNX's default"},
    "statistics.residual_branch": {1e-5: "ONNX's default"},
    "quality.verdict": {9.95: "rounding"},
}
"""Fractions inside of functions that are no settings, by module, and why; "*" is all of a module."""
PLAIN = {0.0, 0.5, 1.0, 2.0}
TINY = 1e-6
"""Up to this a number keeps a division from zero."""


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settings_tool", ROOT / "tools" / "settings.py")
    assert spec is not None and spec.loader is not None
    sys.modules["settings_tool"] = made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


TOOL = load_tool()
SETTINGS: dict[str, tuple[Any, Evidence]] = {
    f"{group}.{name}": pair
    for group, found in TOOL.find_settings().items()
    for name, pair in list_settings(found).items()
}


def read_rows() -> dict[str, dict[str, str]]:
    """Rows of the experiment table by their names, each by column."""
    lines = [line for line in EXPERIMENTS.read_text().splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if not line.startswith("|---")]
    assert len({len(row) for row in cells}) == 1
    rows = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
    assert [r["row"] for r in rows] == [f"E{k}" for k in range(1, len(rows) + 1)]
    return {r["row"]: r for r in rows}


ROWS = read_rows()


def decided_in(row: str) -> dict[str, Any]:
    """Settings that a row decides, and the values that it gives them."""
    return {n: ast.literal_eval(v) for n, v in re.findall(r"`([A-Z]+\.\w+)` = ([^;]+)", ROWS[row]["decides"])}


def name_of(path: Path) -> str:
    base = ROOT if path.parent.name == "passes" else ROOT / "spa_compiler"
    return ".".join(path.relative_to(base).with_suffix("").parts)


def test_every_package_that_tunes_has_settings() -> None:
    held = {type(v).__module__.removeprefix("spa_compiler.").removesuffix(".settings") for v in find_groups()}
    assert held == {*TUNED, "calibration.priors"}


def find_groups() -> list[Any]:
    return list(TOOL.find_settings().values())


def test_settings_are_frozen_defaults() -> None:
    for group in find_groups():
        assert group == type(group)()
        with pytest.raises(FrozenInstanceError):
            setattr(group, fields(group)[0].name, 0)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    evidence = SETTINGS[name][1]
    assert evidence.about and evidence.unit and evidence.source and evidence.rows
    assert not evidence.chosen_on or evidence.source != UNRECORDED


@pytest.mark.parametrize("name", SETTINGS)
def test_the_rows_of_a_setting_decide_its_value_on_its_models(name: str) -> None:
    value, evidence = SETTINGS[name]
    assert all(decided_in(row)[name] == value for row in evidence.rows)
    for models, column in ((evidence.chosen_on, "chosen on"), (evidence.confirmed_on, "confirmed on")):
        assert all(any(m in ROWS[row][column] for row in evidence.rows) for m in models), column


@pytest.mark.parametrize("row", ROWS)
def test_a_row_decides_settings_that_name_it(row: str) -> None:
    assert {n for n in decided_in(row) if row not in SETTINGS[n][1].rows} == set()
    assert ROWS[row]["decides"].count("=") == len(decided_in(row))


def test_every_setting_is_used() -> None:
    text = "\n".join(p.read_text() for p in SOURCES)
    assert not {n for n in SETTINGS if not re.search(rf"\b{re.escape(n)}\b", text)}


def test_the_page_lists_them_all() -> None:
    assert PAGE.read_text().splitlines() == list(TOOL.write_page()), "run: python -m tools.settings > docs/settings.md"


def numbers_in(node: ast.AST) -> Iterator[float]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and type(inner.value) in (int, float):
            yield inner.value


def constants_in(path: Path) -> Iterator[str]:
    """Constants of a module whose values hold a number."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and any(numbers_in(node.value)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
            yield from (n for n in names if re.fullmatch(r"_?[A-Z][A-Z0-9_]+", n))


def is_plain(value: float) -> bool:
    return value in PLAIN or 0 < value <= TINY


def fractions_in(path: Path) -> set[float]:
    """Fractions inside of the functions and classes of a module; not those that stand for nothing."""
    tree = ast.parse(path.read_text())
    bodies = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return {v for body in bodies for v in numbers_in(body) if isinstance(v, float) and not is_plain(v)}


def test_constants_outside_of_the_settings_are_limits() -> None:
    found = {f"{name_of(p)}.{n}" for p in SOURCES for n in constants_in(p)}
    assert found == set(LIMITS)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_fraction_inside_of_a_function_is_tuned(path: Path) -> None:
    known = FRACTIONS.get(name_of(path), {})
    assert "*" in known or fractions_in(path) <= set(known)


def test_the_exceptions_are_needed() -> None:
    found = {name_of(p): fractions_in(p) for p in SOURCES}
    for module, known in FRACTIONS.items():
        assert found[module] if "*" in known else set(known) <= found[module]


def test_a_setting_is_read_where_it_is_used() -> None:
    assert SCORING.known_share == SETTINGS["SCORING.known_share"][0] == 1 / 8
