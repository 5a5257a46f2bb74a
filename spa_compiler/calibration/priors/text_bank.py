"""Sentences of the package, and passages made of them.

    draw_passages(8, 300, np.random.default_rng(0))                    # 8 texts of at least 300 letters

The bank is written by tools/banks/texts.py.
"""

from __future__ import annotations

import functools
import importlib.resources

import numpy as np

TEXTS_FILE = "texts.txt"
"""The file of the sentences beside the others in `banks`."""


@functools.cache
def load_sentences() -> tuple[str, ...]:
    """The sentences of the bank; those that follow one another are of one subject."""
    file = importlib.resources.files("spa_compiler.calibration.priors").joinpath("banks", TEXTS_FILE)
    return tuple(file.read_text("utf-8").splitlines())


def draw_passages(n: int, letters: int, rng: np.random.Generator) -> list[str]:
    """Texts of at least so many letters: two or three sentences in a row from here, then from there."""
    sentences, out = load_sentences(), []
    for _ in range(n):
        parts: list[str] = []
        while sum(map(len, parts)) < max(letters, 1):
            start = int(rng.integers(len(sentences)))
            parts += sentences[start : start + int(rng.integers(2, 4))]
        out.append(" ".join(parts))
    return out
