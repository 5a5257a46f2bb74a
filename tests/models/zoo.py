"""All test models: `CASES` by name, `build` makes the ONNX model, `feeds` random inputs. See zoo_base for the rules."""

from __future__ import annotations

import importlib

from zoo_base import Case, build, feeds

__all__ = ["CASES", "Case", "build", "feeds"]

THEMES = ("conv", "linear", "norm", "shape", "reshape", "attention", "recurrent", "control", "misc", "contrib")

CASES: dict[str, Case] = {}
for _theme in THEMES:
    for _name, _case in importlib.import_module(f"zoo_{_theme}").CASES.items():
        if _name in CASES:
            raise ValueError(f"two test models are called {_name!r}")
        CASES[_name] = _case
