"""The page of a report: what it holds, and what a browser makes of it, wide, on a phone and in the dark."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands import run, run_spa
from spa_compiler.report.contractions import summarize_contractions
from spa_compiler.report.page import format_page
from spa_compiler.report.pictures import LABEL_LENGTH, shorten

BROWSER = next((found for n in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(n))), "")
needs_browser = pytest.mark.skipif(not BROWSER, reason="no chromium: apt-get install chromium")
SIZES = {"wide": (1200, 900), "phone": (500, 900)}
DARK = "--blink-settings=preferredColorScheme=0"
MOST_BYTES = 1_500_000
PROBE = """<script>
const root = document.documentElement, boxes = [...document.querySelectorAll("h1,h2,p,pre,table,.wide,details")];
const far = boxes.filter(b => b.getBoundingClientRect().right > root.clientWidth + 1 && !b.closest(".wide"));
const ink = getComputedStyle(document.body);
document.body.setAttribute("data-probe", JSON.stringify({
  overflow: root.scrollWidth - root.clientWidth, far: far.map(b => b.textContent.slice(0, 40)),
  text: ink.color, back: ink.backgroundColor, empty: boxes.filter(b => b.matches("h2") && b.clientHeight === 0).length,
}));
</script>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, models: Path) -> dict[str, Path]:
    """Pages of a convolutional network, a transformer and a sweep, with pictures given as inputs."""
    folder = tmp_path_factory.mktemp("pages")
    out = {}
    for name in ("digits_mobilenet", "digits_vit"):
        source = shutil.copy(models / f"{name}.onnx", folder)
        out[name] = folder / f"{name}.html"
        done = run(source, "--ratio", 0.5, "--data", models / "digits_test.npz", "--report", out[name], "--samples", 32)
        assert done.exit_code == 0, done.output
    out["sweep"] = folder / "sweep.html"
    done = run_spa(
        "sweep", folder / "digits_vit.onnx", "--ratios", "0.2,0.4", "--report", out["sweep"], "--criterion", "l2"
    )
    assert done.exit_code == 0, done.output
    return out


def browse(page: Path, size: tuple[int, int], *options: str) -> str:
    width, height = size
    argv = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={width},{height}",
    ]
    done = subprocess.run([*argv, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def probe(page: Path, size: tuple[int, int], *options: str) -> dict[str, Any]:
    """The page as a browser lays it out: how far it is wider than the window, and its colours."""
    copy = page.with_suffix(".probe.html")
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    found = re.search(r'data-probe="([^"]*)"', browse(copy, size, "--dump-dom", *options))
    assert found is not None
    told: dict[str, Any] = json.loads(html.unescape(found[1]))
    return told


def measure_brightness(colour: str) -> float:
    red, green, blue = (int(n) for n in re.findall(r"\d+", colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@needs_browser
@pytest.mark.parametrize("name", ["digits_mobilenet", "digits_vit", "sweep"])
@pytest.mark.parametrize("size", SIZES)
def test_a_browser_shows_the_page_without_overflow(pages: dict[str, Path], name: str, size: str) -> None:
    told = probe(pages[name], SIZES[size])
    assert told["overflow"] <= 0 and told["far"] == [] and told["empty"] == 0
    assert measure_brightness(told["back"]) > 200 > measure_brightness(told["text"])


@needs_browser
def test_the_page_is_dark_where_the_reader_wants_that(pages: dict[str, Path]) -> None:
    told = probe(pages["digits_vit"], SIZES["wide"], DARK)
    assert measure_brightness(told["back"]) < 60 < 180 < measure_brightness(told["text"])


@needs_browser
def test_every_section_has_a_screenshot(pages: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(os.environ.get("TEST_ARTIFACTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        sections = re.findall(r'<section id="([^"]+)">', page.read_text(encoding="utf-8"))
        assert sections
        for section in sections:
            copy = page.with_name(f"{name}.{section}.html")  # the part alone: a fragment would need a scroll
            hidden = f"<style>section:not(#{section}) {{ display: none }}</style></body>"
            copy.write_text(page.read_text(encoding="utf-8").replace("</body>", hidden), encoding="utf-8")
            picture = folder / f"{name}.{section}.png"
            browse(copy, SIZES["wide"], f"--screenshot={picture}")
            assert picture.stat().st_size > 2000


def test_a_page_needs_nothing_but_itself(pages: dict[str, Path]) -> None:
    for page in pages.values():
        text = page.read_text(encoding="utf-8")
        assert len(text) < MOST_BYTES
        assert "<script" not in text and "<link" not in text and "@import" not in text
        assert set(re.findall(r"https?://[^\s\"'<>]+", text)) <= {
            "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
        }  # fmt: skip
        assert text.startswith("<!doctype html>") and text.count("<svg") >= 1


def test_the_page_tells_what_the_report_has(pages: dict[str, Path], source: Path) -> None:
    text = html.unescape(pages["digits_vit"].read_text(encoding="utf-8"))
    report = json.loads(text[text.index("<pre>{") + 5 : text.rindex("}</pre>") + 1])
    assert report["command"] in text and report["environment"]["processor"] in text
    assert summarize_contractions(report) in text
    assert all(g["label"] in text for g in report["groups"])
    assert all(reason in text for reason in report["analysis"]["frozen_parameters"])
    assert sum(row["dense_macs"] for row in report["layers"]) == report["dense"]["macs"]
    assert sum(row["compiled_macs"] for row in report["layers"]) == report["compiled"]["macs"]
    names = {row["name"] for row in report["layers"]}
    assert all(set(row["after"]) <= names for row in report["layers"])
    timed = [row["dense_ms"] for row in report["layers"]]
    assert all(ms is not None for ms in timed) and sum(timed) + report["other_nodes"]["dense_ms"] > 0
    for size in ("width", "kept"):
        assert all(row[size] is None or row[size] >= 0 for row in report["layers"])


def test_a_page_without_pictures_says_what_they_need(pages: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    text = html.unescape(pages["digits_mobilenet"].read_text(encoding="utf-8"))
    report = json.loads(text[text.index("<pre>{") + 5 : text.rindex("}</pre>") + 1])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = format_page(report)
    assert "<svg" not in page and "spa-compile[report]" in page


def test_long_names_keep_their_end() -> None:
    assert shorten("conv") == "conv"
    assert shorten("x" * 50 + "end").endswith("end") and len(shorten("x" * 50)) == LABEL_LENGTH
