"""Sentences as the ids of a model's own tokenizer, where its tokenizer.json lies beside it.

written = write_sentences(model, inputs, rng)                   # inputs with ids of sentences; None without tokenizer
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.calibration.language_model import find_companions
from spa_compiler.calibration.priors.text_bank import draw_passages
from spa_compiler.execution.index_limits import find_index_limits
from spa_compiler.ir.model import Model

Array = NDArray[Any]
TOKENIZER_FILE = "tokenizer.json"
"""The file of a tokenizer, in the folder of the model."""
LETTERS_PER_ID = 12
"""Letters that surely give an id: texts are cut to the number of ids."""
PAIR_SHARE = 1 / 3
"""Texts that are a question and an answer, where the model takes types of tokens."""


def write_sentences(model: Model, inputs: Mapping[str, Array], rng: np.random.Generator) -> dict[str, Array] | None:
    """The inputs with the ids of sentences in place of drawn ones, and types where they have some."""
    tokenizer, _ = open_tokenizer(model)
    if tokenizer is None:
        return None
    out, companions, limits = dict(inputs), find_companions(model, inputs), find_index_limits(model)
    types = [n for n, told in companions.items() if told == "type"]
    for name in [n for n in inputs if n in limits and n not in companions and inputs[n].ndim == 2]:
        ids = inputs[name]
        coded = _encode_passages(tokenizer, ids.shape[0], ids.shape[1], bool(types), rng)
        if any(len(c.ids) != ids.shape[1] or max(c.ids) >= limits[name] for c in coded):
            return None
        out[name] = np.array([c.ids for c in coded], ids.dtype)
        for other in types:
            if inputs[other].shape == ids.shape:
                out[other] = np.minimum(np.array([c.type_ids for c in coded]), limits[other] - 1).astype(ids.dtype)
    return out


def explain_unused_tokenizer(model: Model) -> str:
    """Why a tokenizer that lies beside the model is not used, or ''."""
    return open_tokenizer(model)[1]


def open_tokenizer(model: Model) -> tuple[Any, str]:
    """The tokenizer beside the model; else None, and why it is not used where there is one."""
    path = model.folder / TOKENIZER_FILE
    if not path.is_file():
        return None, ""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None, f"for sentences in place of drawn ids by {TOKENIZER_FILE}: pip install 'spa-compile[text]'"
    try:
        return Tokenizer.from_file(str(path)), ""
    except Exception as e:  # tokenizers raises nothing more special
        return None, f"{TOKENIZER_FILE} cannot be read: {e}"


def _encode_passages(tokenizer: Any, rows: int, length: int, paired: bool, rng: np.random.Generator) -> list[Any]:
    """Encodings of `length` ids, with the special ones that the tokenizer adds."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(length, strategy="only_second")
    pairs = round(rows * PAIR_SHARE) if paired and length >= 16 else 0
    short = draw_passages(pairs, length, rng)
    long = draw_passages(rows, LETTERS_PER_ID * length, rng)
    first = [(a[:length], b) for a, b in zip(short, long, strict=False)]
    coded = list(tokenizer.encode_batch(first)) if first else []
    tokenizer.enable_truncation(length)
    coded += tokenizer.encode_batch(long[pairs:])
    return [coded[i] for i in rng.permutation(rows)]
