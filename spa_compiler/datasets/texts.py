"""Texts from files, as the ids that a `tokenizer.json` gives: ids, attention mask, types, positions by input.

A line is a text; where sub-folders are classes, a file is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spa_compiler.datasets.fitting import InputSpec
from spa_compiler.errors import UsageError

Array = NDArray[Any]
INSTALL_TOKENIZERS = "pip install 'spa-compile[text]'"
TOKENIZER = "tokenizer.json"
MOST_TOKENS = 128
"""Tokens of a text where the model takes any number."""
LOOKED_AT = 256
"""Texts whose longest gives the number of tokens, where the model takes any."""
MOST_TEXT_BYTES = 1 << 28


@dataclass(frozen=True)
class TextRows:
    """Ids of texts for every input of the model. The inputs are told apart by their names."""

    texts: Sequence[str]
    tokenizer: Any
    length: int
    specs: Sequence[InputSpec]

    def encode(self, text: str) -> dict[str, Array]:
        """One text as a row by input."""
        found = self.tokenizer.encode(text)
        ids, n = found.ids[: self.length], min(len(found.ids), self.length)
        fill = [0] * (self.length - n)
        rows = {
            "ids": ids + fill, "mask": [1] * n + fill,
            "types": found.type_ids[: self.length] + fill, "positions": range(self.length),
        }  # fmt: skip
        return {s.name: np.asarray(rows[name_role(s.name)], s.dtype) for s in self.specs}


def name_role(name: str) -> str:
    """The role of an input that takes texts, by its name."""
    low = name.lower()
    for role, parts in {"mask": ("mask",), "types": ("type", "segment"), "positions": ("position",)}.items():
        if any(p in low for p in parts):
            return role
    return "ids"


def find_tokenizer(folders: Sequence[Path]) -> Path:
    """The tokenizer of a model or of texts. Raises UsageError where there is none."""
    for folder in folders:
        if (folder / TOKENIZER).is_file():
            return folder / TOKENIZER
    looked = " or ".join(str(f) for f in dict.fromkeys(folders))
    raise UsageError(f"texts need the model's {TOKENIZER}: none is in {looked}; put it there, or give ids as .npz")


def load_tokenizer(path: Path) -> Any:
    """The tokenizer without padding. Raises UsageError where it cannot be read, or nothing is installed to read it."""
    try:
        import tokenizers
    except ImportError as e:
        raise UsageError(f"{path}: texts need the package tokenizers: {INSTALL_TOKENIZERS}") from e
    try:
        found = tokenizers.Tokenizer.from_file(str(path))
    except Exception as e:
        raise UsageError(f"{path}: not a tokenizer ({e})") from e
    found.no_padding()
    return found


def read_text(path: Path) -> str:
    """A file of text. Raises UsageError for anything else."""
    try:
        if path.stat().st_size > MOST_TEXT_BYTES:
            raise UsageError(f"{path}: more than {MOST_TEXT_BYTES >> 20} MB of text: split it")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: not a text in UTF-8 ({e})") from e


def make_text_rows(texts: Sequence[str], tokenizer: Path, specs: Sequence[InputSpec], where: str) -> TextRows:
    """Rows of texts for these inputs. Raises UsageError where the inputs take no ids."""
    if odd := [s.name for s in specs if s.dtype.kind not in "iuf" or len(s.dims) != 2]:
        raise UsageError(f"{where}: texts are for models of ids [texts, tokens]; the input '{odd[0]}' is none")
    roles = [name_role(s.name) for s in specs]
    if roles.count("ids") != 1:
        raise UsageError(f"{where}: which input takes the ids? There are {[s.name for s in specs]}; give them as .npz")
    loaded = load_tokenizer(tokenizer)
    fixed = next((s.dims[1] for s in specs if s.dims[1]), 0)
    longest = max((len(loaded.encode(t).ids) for t in texts[:LOOKED_AT]), default=1)
    return TextRows(texts, loaded, fixed or max(1, min(longest, MOST_TOKENS)), specs)


def check_ids(where: str, rows: Mapping[str, Array], specs: Sequence[InputSpec]) -> None:
    """Raise UsageError for ids that the model does not have: the tokenizer is another model's."""
    for s in specs:
        if s.limit and rows[s.name].size and rows[s.name].max() >= s.limit:
            raise UsageError(
                f"{where}: the tokenizer gives the id {rows[s.name].max()} and '{s.name}' takes ids below {s.limit}: "
                f"its {TOKENIZER} is not this model's"
            )
